"""llama.cpp's converter, run in a process of its own with two repairs.

The converter knows a BPE tokenizer by a hash of what it does with one text, and refuses what is
not in its table. Many others split text by a rule that llama.cpp has under a name: then that name
is given.

llama.cpp splits text for models of Llama's first kind by the score of each token. A folder without
sentencepiece's own file has no scores, and the converter writes -1000 for all. llama.cpp then joins
letters in another order than the model was trained with. The order of the merges gives the scores.

The proof of the export sees whether both were right.

    python -m modelforge.export.convert FOLDER_OF_THE_CONVERTER MODEL --outtype f16 --outfile FILE
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
# Of llama.cpp's src/llama-vocab.cpp: the rule that each name stands for.
_RULES = {
    _SHORT + _LETTERS + r"\p{N}" + _MARKS: "qwen2",
    _SHORT + _LETTERS + r"\p{N}{1,3}" + _MARKS: "llama-bpe",
}
_GPT2 = {"ByteLevel"}  # with its own rule, which llama.cpp calls gpt-2


def rule_of(model: Path) -> str | None:
    """llama.cpp's name for the rule by which a tokenizer splits text, where it has one."""
    about = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    whole = about.get("pre_tokenizer") or {}
    parts = whole.get("pretokenizers", [whole])
    found = {_RULES.get(part.get("pattern", {}).get("Regex")) for part in parts} - {None}
    if not found and {part.get("type") for part in parts} == _GPT2:
        found = {"gpt-2"} if all(part.get("use_regex", True) for part in parts) else set()
    return found.pop() if len(found) == 1 else None


def scores_of(model: Path) -> dict[str, float]:
    """The score of each token that merges make, as sentencepiece gives it: earlier is higher."""
    about = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    found: dict[str, float] = {}
    for rank, pair in enumerate(about["model"].get("merges", ())):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        found.setdefault(left + right, -float(rank))
    return found


def _name_rule(model: Path) -> None:
    text_model: Any = importlib.import_module("conversion.base").TextModel
    by_hash = text_model.get_vocab_base_pre

    def by_hash_or_rule(self: Any, tokenizer: Any) -> Any:
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:  # what the converter raises for a hash it does not know
            found = rule_of(model)
            if found is None:
                raise
            return found

    text_model.get_vocab_base_pre = by_hash_or_rule


def _score_tokens(model: Path) -> None:
    vocabulary: Any = importlib.import_module("gguf").LlamaHfVocab
    scores = scores_of(model)
    lowest = min(scores.values(), default=0.0) - 1  # of what no merge makes

    def by_merge(self: Any, token_id: int) -> float:
        return scores.get(self.tokenizer.convert_ids_to_tokens(token_id), lowest)

    vocabulary.get_token_score = by_merge


def main(place: str, model: str, *options: str) -> None:
    """Convert one model's folder."""
    sys.path.insert(0, place)
    converter: Any = importlib.import_module("convert_hf_to_gguf")
    _name_rule(Path(model))
    _score_tokens(Path(model))
    sys.argv = ["convert_hf_to_gguf.py", model, *options]
    converter.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
