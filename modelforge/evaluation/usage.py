"""The lines that load what a run saved, as its model card shows them: plain transformers and PEFT.

The model they give is the one that was trained: the same base in the same type, the pad token that
decides which token a score is read at, and the tokens that end an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelforge.models.attach import rows_of_adapter

_ASK = '{"role": "user", "content": "What is 2 plus 2?"}'
_ANSWERS = ("4", "5")


def usage(
    folder: Path, *, head: str, config: Mapping[str, Any], dtype: str, chat: bool
) -> list[str]:
    """Blocks of Python: how to load and use a saved model, and how to merge an adapter.

    Args:
        folder: The saved model's.
        head: ``causal-lm`` or ``reward``.
        config: The run's, with every value.
        dtype: That the base was trained in, as torch calls it.
        chat: Whether the tokenizer has a chat template.
    """
    adapter = (folder / "adapter_config.json").is_file()
    quantised = _quantisation(config, dtype)
    use = _scores(chat) if head == "reward" else _answers(chat)
    blocks = ["\n".join([*_loading(folder, head, adapter, dtype, quantised), "", *use])]
    if adapter:
        blocks.append("\n".join(_merging(head, dtype, quantised, rows=rows_of_adapter(folder))))
    return blocks


def _loading(
    folder: Path, head: str, adapter: bool, dtype: str, quantised: str | None
) -> list[str]:
    library, kind = ("peft", "AutoPeftModelFor") if adapter else ("transformers", "AutoModelFor")
    kind += "SequenceClassification" if head == "reward" else "CausalLM"
    names = ["AutoTokenizer"]
    names += ["BitsAndBytesConfig"] if quantised else []
    names += ["GenerationConfig"] if adapter and head != "reward" else []
    imports = [f"from transformers import {', '.join(names)}"]
    imports.insert(0 if adapter else 1, f"from {library} import {kind}")
    if not adapter:
        imports = [f"from transformers import {', '.join([kind, *names])}"]
    arguments = ["folder", *(["num_labels=1"] if head == "reward" and adapter else [])]
    arguments += [f"dtype=torch.{dtype}"]
    arguments += [f"quantization_config={quantised}"] if quantised else []
    lines = [
        "import torch",
        *imports,
        "",
        f'folder = "{folder}"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {kind}.from_pretrained({', '.join(arguments)})",
    ]
    if head == "reward":
        lines.append("model.config.get_text_config().pad_token_id = tokenizer.pad_token_id")
    elif adapter:
        lines.append(
            "model.get_base_model().generation_config = GenerationConfig.from_pretrained(folder)"
        )
    return lines


def _answers(chat: bool) -> list[str]:
    ask = [
        f"messages = [{_ASK}]",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ").to(model.device)",
    ]
    if not chat:
        ask = ['inputs = tokenizer("What is 2 plus 2?", return_tensors="pt").to(model.device)']
    return [
        *ask,
        "output = model.generate(**inputs, max_new_tokens=64)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))',
    ]


def _scores(chat: bool) -> list[str]:
    texts = [
        f'    [{_ASK}, {{"role": "assistant", "content": "{answer}"}}],' for answer in _ANSWERS
    ]
    encode = "tokenizer.apply_chat_template(\n    texts, padding=True, return_dict=True, "
    encode += 'return_tensors="pt"\n).to(model.device)'
    if not chat:
        texts = [f'    "What is 2 plus 2? {a}" + tokenizer.eos_token,' for a in _ANSWERS]
        encode = 'tokenizer(texts, padding=True, return_tensors="pt").to(model.device)'
    return [
        "texts = [",
        *texts,
        "]",
        f"inputs = {encode}",
        "with torch.no_grad():",
        '    scores = model(inputs["input_ids"], inputs["attention_mask"]).logits[:, 0]',
        "print(scores)",
    ]


def _merging(head: str, dtype: str, quantised: str | None, *, rows: int) -> list[str]:
    kind = f"AutoModelFor{'SequenceClassification' if head == 'reward' else 'CausalLM'}"
    lines = ["merged = model.merge_and_unload()  # the adapter becomes part of the weights"]
    if quantised is not None:
        labels = "num_labels=1, " if head == "reward" else ""
        settings = (
            "model.config.get_text_config().pad_token_id = tokenizer.pad_token_id"
            if head == "reward"
            else "model.generation_config = GenerationConfig.from_pretrained(folder)"
        )
        lines = [
            "from peft import PeftConfig, PeftModel",
            f"from transformers import {kind}",
            "",
            "# Into the base as it was trained on; packed weights would round the adapter away.",
            "base = PeftConfig.from_pretrained(folder)",
            f"model = {kind}.from_pretrained(",
            "    base.base_model_name_or_path, revision=base.revision,",
            f"    {labels}dtype=torch.{dtype},",
            f"    quantization_config={quantised},",
            ").dequantize()",
            *_rows_for_tokens(rows),
            settings,
            "merged = PeftModel.from_pretrained(model, folder).merge_and_unload()",
        ]
    return [*lines, 'merged.save_pretrained("merged")', 'tokenizer.save_pretrained("merged")']


def _rows_for_tokens(rows: int) -> list[str]:
    """The base's embedding with rows for tokens that the adapter brings."""
    if not rows:
        return []
    return [
        f"rows = max({rows}, model.get_input_embeddings().num_embeddings)  # for new tokens",
        "model.resize_token_embeddings(rows)",
    ]


def _quantisation(config: Mapping[str, Any], dtype: str) -> str | None:
    if config.get("use_8bit"):
        return "BitsAndBytesConfig(load_in_8bit=True)"
    if not config.get("use_4bit"):
        return None
    return (
        "BitsAndBytesConfig(\n        load_in_4bit=True, "
        f'bnb_4bit_quant_type="{config["bnb_4bit_quant_type"]}",\n        '
        f"bnb_4bit_use_double_quant={config['use_double_quant']}, "
        f"bnb_4bit_compute_dtype=torch.{dtype},\n    )"
    )
