"""The saved model against the trained one: loaded by plain transformers and PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelforge.common.console import say
from modelforge.errors import Problem, RunError
from modelforge.models.saved import load_saved

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from modelforge.data.encoded import Encoded
    from modelforge.models.attach import Head

# Parameters up to which a second copy of the model costs neither time nor memory worth a thought.
_SMALL = 100_000_000
_ROWS, _TOKENS = 2, 128
# The most that logits may differ, of their largest, by the type that the base is in: the same
# arithmetic in another order. A wrong weight, head or pad token differs by far more.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


def see_that_it_loads(
    model: Any,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Encoded],
    *,
    head: Head,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Load the saved model as its card says, and hold it against the trained one on a few rows.

    A large model is not loaded again; then its tokenizer is, and each saved weight is compared.

    Args:
        model: The trained model, in evaluation mode and without gradients.
        folder: Where it was saved.
        tokenizer: As it trained.
        rows: In tokens; a few are enough.
        head: ``causal-lm`` or ``reward``.
        trust_remote_code: Whether the model's own code may run, as in training.

    Returns:
        For ``results.json``: how many parameters were loaded again (0: none were), and the largest
        difference of a logit or score.

    Raises:
        RunError: If they differ, with what is different.
    """
    from transformers import AutoTokenizer

    saved: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    lost = [
        name
        for name in ("pad_token", "eos_token", "bos_token", "chat_template")
        if getattr(saved, name) != getattr(tokenizer, name)
    ]
    if lost:
        _refuse(folder, f"the saved tokenizer has another {', '.join(lost)} than training had")
    size = sum(p.numel() for p in model.parameters())
    if size > _SMALL:
        others, same = _compared(folder, model)
        if others or not same:
            what = f"{len(others)} saved weights are others than the trained ones: {_few(others)}"
            _refuse(folder, what if others else "no saved weight has the name of a trained one")
        say(f"{same} saved weights are the trained ones; nothing of the model was loaded again")
        return {"loaded": 0, "difference": None}
    batch = _batch(rows, saved, model.device)
    trained = _outputs(model, batch)
    reloaded = _reloaded(folder, model, saved, head=head, trust_remote_code=trust_remote_code)
    loaded = _outputs(reloaded, batch)
    difference = (trained - loaded).abs().max().item()
    dtype = str(model.config.dtype).removeprefix("torch.")
    # Not a comparison that NaN passes.
    if not difference <= _TOLERANCE.get(dtype, 5e-2) * max(1.0, trained.abs().max().item()):
        kind = "a score" if head == "reward" else "a logit"
        what = "loaded by plain transformers and PEFT, it differs from the model that was trained "
        what += f"by up to {difference:.3g} in {kind}: {_cause(model, reloaded)}"
        _refuse(folder, what)
    say("the saved model was loaded again by plain transformers and PEFT, and is the same")
    return {"loaded": size, "difference": difference}


def _reloaded(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Head,
    trust_remote_code: bool,
) -> Any:
    return load_saved(
        folder,
        tokenizer=tokenizer,
        head=head,
        dtype=model.config.dtype,
        device=model.device,
        quantization=getattr(model.config, "quantization_config", None),
        trust_remote_code=trust_remote_code,
    )


def _refuse(folder: Path, what: str) -> NoReturn:
    fix = "do not use it before the cause is found; the checkpoints hold the trained weights"
    raise RunError(Problem(str(folder), what, fix))


def _cause(trained: Any, loaded: Any) -> str:
    """What is not the same: weights, or keys of the config."""
    import torch

    own = dict(trained.named_parameters())
    others = [
        name
        for name, value in loaded.named_parameters()
        if name not in own
        or value.shape != own[name].shape
        or not torch.equal(value.to(own[name]), own[name])
    ]
    if others:
        return f"{len(others)} weights are others, such as {_few(others)}"
    before, after = (model.config.to_dict() for model in (trained, loaded))
    keys = [
        key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)
    ]
    keys = [key for key in keys if key not in ("_name_or_path", "use_cache", "architectures")]
    if keys:
        return f"the weights are the same, and of the config {_few(keys)} is not"
    return "the weights and the config are the same, so that the code of the model is not"


def _compared(folder: Path, model: Any) -> tuple[list[str], int]:
    """The weights in a folder that are not those of the model, and how many are.

    Those that the model does not know by the names there are neither.
    """
    import torch
    from safetensors import safe_open

    if (folder / "adapter_config.json").is_file():
        from peft import get_peft_model_state_dict

        held = get_peft_model_state_dict(model)
    else:
        held = model.state_dict()
    found, same = [], 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names: Any = file.keys()
            for name in names:
                # transformers saves the experts of some mixtures under other names.
                if name not in held:
                    continue
                saved = file.get_tensor(name)
                if torch.equal(saved, held[name].cpu().to(saved)):
                    same += 1
                else:
                    found.append(name)
    return found, same


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _batch(
    rows: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, device: Any
) -> dict[str, torch.Tensor]:
    """A few sequences of different length, right-padded as they are scored."""
    ids = [sequence[-_TOKENS:].tolist() for row in rows[:_ROWS] for sequence in row.ids]
    padded = tokenizer.pad(
        {"input_ids": ids}, padding_side="right", return_attention_mask=True, return_tensors="pt"
    )
    return {key: padded[key].to(device) for key in ("input_ids", "attention_mask")}


def _outputs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scores, or the logits of the tokens that are no padding; in float32."""
    logits = model(**batch).logits
    if logits.dim() == 3:
        logits = logits[batch["attention_mask"].bool()]
    return logits.float()
