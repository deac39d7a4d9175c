"""Folders that transformers and PEFT load: the merged model, or the adapter as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from modelforge.errors import Problem
from modelforge.evaluation.opened import Named, trained_dtype
from modelforge.evaluation.samples import eos_ids
from modelforge.export.merge import Base, merged
from modelforge.export.proof import Bound, Difference, answers_differ, compared, logps_of
from modelforge.export.reference import Reference, compute_in_32_bits, scores_differ, scores_of
from modelforge.export.rounding import Rounding
from modelforge.inference.answers import Sampling, answer_all, prompt_ids
from modelforge.inference.trained import Trained, load_tokenizer, weights_of
from modelforge.models.providers.huggingface import make_savable
from modelforge.models.saved import load_saved

_NOT_LEARNED = ("README.md", "training_args.bin")
_BATCH = 8


def adapter_problems(found: Named, kind: str) -> list[Problem]:
    """A model of all weights has no adapter."""
    if found.source.adapter is not None:
        return []
    return [Problem("--format adapter", f"{found.said} holds all weights", "use --format merged")]


def write_adapter(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """The adapter's files, as they were saved."""
    assert found.source.adapter is not None
    shutil.copytree(
        found.source.adapter, folder, dirs_exist_ok=True, ignore=lambda *_: set(_NOT_LEARNED)
    )


def write_merged(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """Weights with the adapter in them, tokenizer, chat template and every stop token."""
    import torch
    from transformers import GenerationConfig

    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    model = merged(found, base=base, dtype=dtype)
    tokenizer = load_tokenizer(found)
    own = Path(weights_of(found), "generation_config.json")
    if own.is_file():
        model.generation_config = GenerationConfig.from_pretrained(own.parent)
    if found.scores:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    else:
        # Every server reads it there; some read the tokenizer's EOS alone, some this alone.
        model.generation_config.eos_token_id = eos_ids(model, tokenizer)
    make_savable(getattr(model, "generation_config", None))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rounding(kind: str) -> Rounding:
    """Its weights; and on a card, where the proof computes in the export's type, inputs too."""
    from modelforge.machine.hardware import detect_hardware

    computed = kind if detect_hardware().device != "cpu" and kind != "f32" else None
    return Rounding(kind, inputs=computed)


def differences(
    found: Named, folder: Path, reference: Reference, *, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """Load a folder by plain transformers and PEFT, and hold it against the trained model.

    Returns:
        The figures, and what is wrong in words.
    """
    exported = _loaded(found, folder)
    tokenizer: Any = exported.tokenizer
    if reference.scores is not None:
        scores = scores_of(exported, reference.texts)
        return scores_differ(tokenizer, scores, reference, bound)
    wrong = []
    if tokenizer.chat_template != reference.template:
        return {}, ["its chat template is another than in training"]
    if eos_ids(exported.model, tokenizer) != reference.stops:
        wrong.append(
            f"answers end at the tokens {eos_ids(exported.model, tokenizer)}, and in training at "
            f"{reference.stops}"
        )
    others = [case for case in reference.cases if prompt_ids(exported, case.prompt) != case.ids]
    if others:
        of = f"{len(others)} of {len(reference.cases)}"
        wrong.append(f"{of} prompts become other tokens than in training")
    logps = [logps_of(exported.model, case.ids, case.answer) for case in reference.cases]
    proof = compared(reference.cases, logps, bound)
    wrong += proof.wrong(bound)
    if not wrong:
        wrong += _answers(exported, reference, bound)
    return proof.to_dict(), wrong


def _answers(exported: Trained, reference: Reference, bound: Bound) -> list[str]:
    """Its own answers, in batches; a difference at a near tie is none."""
    found: list[Difference] = []
    cases = sorted(reference.cases, key=lambda case: len(case.ids))
    for i in range(0, len(cases), _BATCH):
        asked = cases[i : i + _BATCH]
        sampling = Sampling(max_new_tokens=max(len(case.answer) for case in asked))
        answers = answer_all(exported, [case.ids for case in asked], sampling)
        found += [answers_differ(c, a.ids, bound) for c, a in zip(asked, answers, strict=True)]
    beyond = found.count("other")
    if not beyond:
        return []
    return [f"in batches of {_BATCH}, {beyond} of {len(found)} answers are others than in training"]


def _loaded(found: Named, folder: Path) -> Trained:
    """By its own runtime. Weights of 16 bits are multiplied in 32 where the machine has no card."""
    import torch
    from transformers import AutoTokenizer

    from modelforge.evaluation.opened import quantised
    from modelforge.machine.hardware import detect_hardware

    adapter = (folder / "adapter_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=found.source.trust_remote_code
    )
    device = detect_hardware().device
    dtype = trained_dtype(found) if adapter else torch.float32 if device == "cpu" else "auto"
    model = load_saved(
        folder,
        tokenizer=tokenizer,
        head="reward" if found.scores else "causal-lm",
        dtype=dtype,
        device=device,
        quantization=quantised(found) if adapter else None,
        trust_remote_code=found.source.trust_remote_code,
    )
    compute_in_32_bits(model)
    return Trained(found, model, tokenizer)
