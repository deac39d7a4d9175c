"""Makes the tiny model: tokenizer and weights, from the base text of `make_data`.

    OMP_NUM_THREADS=2 python -m modelforge.tiny.make_model

writes ``examples/tiny/model`` again: a Llama of 0.85 M parameters with a byte-level BPE tokenizer
and a chat template, and ``figures.json`` with what was measured on it. Ten to fifteen minutes on
two cores. The data are the same to the byte on every machine; the weights are not, since float sums
depend on the processor and the number of threads.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modelforge.tiny import card
from modelforge.tiny.evaluate import MODEL, base_figures
from modelforge.tiny.make_data import SEED, base_documents, held_out_texts, make_files

DOCUMENTS = 150_000
VOCABULARY = 512
WINDOW = 128  # tokens in a training row; documents are joined end to end
BATCH = 16
LEARNING_RATE = 3e-3

SPECIAL = {
    "pad_token": "<|pad|>",
    "bos_token": "<|bos|>",
    "eos_token": "<|eos|>",
    "unk_token": "<|unk|>",
}
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
# Qwen2's split: digits stand alone, so that numbers are spelt and not memorised as words.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("unknown role: " + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}
    {%- else %}
        {{- message['content'] | trim }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def make_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE (nothing is unknown to it) that puts BOS in front, as Llama's does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL.values(), *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bos = SPECIAL["bos_token"]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, bpe.token_to_id(bos))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        additional_special_tokens=ROLES,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the smallest shape that 4-bit blocks of 64 fit."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def to_text(tokenizer: PreTrainedTokenizerFast, document: list[dict[str, str]] | str) -> str:
    """A document as the model reads it, BOS in front and EOS at its end."""
    if isinstance(document, str):
        return f"{tokenizer.bos_token}{document}{tokenizer.eos_token}"
    return str(tokenizer.apply_chat_template(document, tokenize=False))


def train(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """One pass of next-token prediction over rows of `WINDOW` tokens; the last 100 losses' mean."""
    rows = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW)
    steps = len(rows) // BATCH
    optimiser = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1.0, (s + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * s / steps)) / 2),
    )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    model.train()
    recent: list[float] = []
    start = time.monotonic()
    for step in range(steps):
        batch = rows[order[step * BATCH : (step + 1) * BATCH]]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        recent = [*recent[-99:], loss.item()]
        if step % 100 == 99 or step == steps - 1:
            mean, spent = sum(recent) / len(recent), time.monotonic() - start
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {spent:.0f} s", flush=True)
    return sum(recent) / len(recent)


def main() -> None:
    start = time.monotonic()
    documents = list(base_documents(DOCUMENTS, held_out=held_out_texts(make_files())))
    contents = (
        text
        for document in documents
        for text in ([document] if isinstance(document, str) else [m["content"] for m in document])
    )
    tokenizer = make_tokenizer(contents)
    texts = [to_text(tokenizer, document) for document in documents]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([i for ids in encoded for i in ids])
    model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens", flush=True)
    loss = train(model, tokens)
    model.eval()
    model.generation_config.max_length = None
    tokenizer.save_pretrained(MODEL)
    model.save_pretrained(MODEL)
    figures: dict[str, Any] = {
        "seed": SEED,
        "date": datetime.date.today().isoformat(),
        "parameters": model.num_parameters(),
        "base_tokens": len(tokens),
        "base_text_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "base_train_loss": loss,
        "seconds": round(time.monotonic() - start),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "base": base_figures(model, tokenizer),
    }
    (MODEL / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    card.main()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
