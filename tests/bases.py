"""The tiny model in the forms that bases come in: with and without a pad token, tied and untied."""

import json
import shutil
from pathlib import Path

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"


def base(folder, *, pad="<|pad|>", tied=True, tokens=(), **config):
    """A copy of the tiny model.

    Args:
        folder: Where to make it.
        pad: Its pad token; None for none.
        tied: Whether its head is its embedding; else it has one of its own, slightly changed.
        tokens: Tokens that its tokenizer has beyond the embedding's rows.
        config: Keys of its config.json.
    """
    shutil.copytree(TINY, folder)
    _edit(folder / "tokenizer_config.json", pad_token=pad)
    known = {"<|pad|>": 0, "<|eos|>": 2, None: None}
    _edit(folder / "config.json", pad_token_id=known[pad], tie_word_embeddings=tied, **config)
    _edit(folder / "generation_config.json", pad_token_id=known[pad])
    if not tied:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 1.1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if tokens:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(tokens))
        tokenizer.save_pretrained(folder)
    return folder


def _edit(path, **values):
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
