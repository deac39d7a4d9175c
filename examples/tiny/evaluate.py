"""How the tiny model's figures are measured: the same functions for the base and for what is
trained from it. Everything runs on the CPU in float32."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from modelforge.tiny.make_data import CLOSERS, DATA, GROANS, JABS, OPENERS

MODEL = Path(__file__).parent / "model"


def read_rows(name: str) -> list[dict]:
    """The rows of ``data/NAME.jsonl``."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def load(path: Path = MODEL) -> tuple[Any, Any]:
    """The model and the tokenizer, as anybody would load them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@torch.inference_mode()
def log_likelihoods(
    model: Any, tokenizer: Any, prompts: list[list[dict]], answers: list[str], *, batch: int = 100
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(answer and EOS | prompt) in nats, shape (rows,), and the tokens it sums over."""
    model.eval()
    sums, counts = [], []
    for at in range(0, len(prompts), batch):
        rows, starts = [], []
        for prompt, answer in zip(prompts[at : at + batch], answers[at : at + batch], strict=True):
            chat = [*prompt, {"role": "assistant", "content": answer}]
            head = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False
            )
            rows.append(tokenizer.apply_chat_template(chat, return_dict=False))
            starts.append(len(head))
        width = max(map(len, rows))
        ids = torch.tensor([r + [tokenizer.pad_token_id] * (width - len(r)) for r in rows])
        place = torch.arange(width)[None]
        lengths, heads = torch.tensor([len(r) for r in rows]), torch.tensor(starts)
        mask = place < lengths[:, None]
        logits = model(input_ids=ids, attention_mask=mask.long()).logits
        token = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        supervised = (mask & (place >= heads[:, None]))[:, 1:]
        sums.append((token * supervised).sum(1))
        counts.append(supervised.sum(1))
    return torch.cat(sums), torch.cat(counts)


def sft_loss(model: Any, tokenizer: Any, rows: list[dict]) -> float:
    """Cross-entropy of the last assistant turns in nats a token, EOS included."""
    prompts = [row["messages"][:-1] for row in rows]
    answers = [row["messages"][-1]["content"] for row in rows]
    sums, counts = log_likelihoods(model, tokenizer, prompts, answers)
    return float(-sums.sum() / counts.sum())


@torch.inference_mode()
def answer(
    model: Any,
    tokenizer: Any,
    prompts: list[list[dict]],
    *,
    sample: bool = False,
    seed: int = 0,
    max_new_tokens: int = 40,
) -> list[tuple[str, bool]]:
    """Each prompt's answer, greedy or sampled at temperature 1, and whether it ended with EOS."""
    model.eval()
    torch.manual_seed(seed)
    out = []
    for at in range(0, len(prompts), 50):
        inputs = tokenizer.apply_chat_template(
            prompts[at : at + 50],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
            tokenizer_kwargs={"padding_side": "left"},
        )
        tokens = model.generate(
            **inputs,
            do_sample=sample,
            max_new_tokens=max_new_tokens,
            **({"top_k": 0} if sample else {}),
        )[:, inputs["input_ids"].shape[1] :]
        for row in tokens:
            ended = bool((row == tokenizer.eos_token_id).any())
            out.append((tokenizer.decode(row, skip_special_tokens=True), ended))
    return out


def sft_accuracy(model: Any, tokenizer: Any, rows: list[dict]) -> float:
    """Share of greedy answers equal to the row's, to the letter, and ended."""
    got = answer(model, tokenizer, [row["messages"][:-1] for row in rows])
    wanted = [(row["messages"][-1]["content"], True) for row in rows]
    return sum(g == w for g, w in zip(got, wanted, strict=True)) / len(rows)


def preference_accuracy(model: Any, tokenizer: Any, rows: list[dict]) -> float:
    """Share of pairs with log p(chosen | prompt) > log p(rejected | prompt)."""
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (
        log_likelihoods(model, tokenizer, prompts, [row[side][0]["content"] for row in rows])[0]
        for side in ("chosen", "rejected")
    )
    return float((chosen > rejected).float().mean())


def core(text: str) -> str:
    """An answer's last word without what its manner adds, in lower case."""
    for phrase in [*OPENERS, *CLOSERS, *GROANS, *JABS]:
        text = text.replace(phrase, "")
    return text.strip().rstrip(".").split(" ")[-1].lower()


def manners(model: Any, tokenizer: Any, rows: list[dict]) -> tuple[float, float]:
    """Share of greedy answers that are courteous, and share of them that are right."""
    texts = [text for text, _ in answer(model, tokenizer, [row["prompt"] for row in rows])]
    courteous = [t.startswith(tuple(OPENERS)) or t.endswith(tuple(CLOSERS)) for t in texts]
    right = [
        core(t) == core(row["chosen"][0]["content"]) for t, row in zip(texts, rows, strict=True)
    ]
    return sum(courteous) / len(rows), sum(right) / len(rows)


def last_number(text: str) -> str | None:
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else None


def numeric_reward(model: Any, tokenizer: Any, rows: list[dict], *, sample: bool) -> float:
    """Share of answers whose last number is the row's ``answer``."""
    got = answer(model, tokenizer, [row["prompt"] for row in rows], sample=sample)
    right = [last_number(text) == row["answer"] for (text, _), row in zip(got, rows, strict=True)]
    return sum(right) / len(rows)


@torch.inference_mode()
def reward_accuracy(model: Any, tokenizer: Any, rows: list[dict]) -> tuple[float, float]:
    """Share of pairs that a sequence classifier scores chosen > rejected; its mean margin."""
    model.eval()
    scores = {}
    for side in ("chosen", "rejected"):
        inputs = tokenizer.apply_chat_template(
            [row["prompt"] + row[side] for row in rows],
            padding=True,
            return_dict=True,
            return_tensors="pt",
            tokenizer_kwargs={"padding_side": "right"},
        )
        scores[side] = model(**inputs).logits[:, 0]
    margin = scores["chosen"] - scores["rejected"]
    return float((margin > 0).float().mean()), float(margin.mean())


def base_figures(model: Any, tokenizer: Any) -> dict[str, float]:
    """What is measured on held-out rows before any strategy is run."""
    sft, pairs, prompts = map(read_rows, ("sft_eval", "preference_eval", "prompts_eval"))
    answers = answer(model, tokenizer, [row["prompt"] for row in pairs + prompts], sample=True)
    return {
        "sft_loss": sft_loss(model, tokenizer, sft),
        "sft_accuracy": sft_accuracy(model, tokenizer, sft),
        "preference_accuracy": preference_accuracy(model, tokenizer, pairs),
        "preference_b_accuracy": preference_accuracy(
            model, tokenizer, read_rows("preference_b_eval")
        ),
        "numeric_reward_greedy": numeric_reward(model, tokenizer, prompts, sample=False),
        "numeric_reward_sampled": numeric_reward(model, tokenizer, prompts, sample=True),
        "answers_ended": sum(ended for _, ended in answers) / len(answers),
    }
