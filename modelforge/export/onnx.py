"""ONNX with a cache of keys and values, written and run by onnxruntime-genai."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.errors import Problem, RunError
from modelforge.evaluation.opened import Named
from modelforge.export import transformers_folder
from modelforge.export.merge import Base
from modelforge.export.proof import Bound, Case, answers_differ, compared
from modelforge.export.reference import Reference

if TYPE_CHECKING:
    import torch

_WHERE = "--format onnx"
_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai")
_MODEL = "model.onnx"
#: Weights in blocks of so many that share a scale, as GGUF's q8_0 and q4_0 have them.
BLOCK = 32


def missing() -> list[str]:
    """The packages that write and run it and are not installed, as `pip` calls them."""
    return [name.replace("_", "-") for name in _PACKAGES if importlib.util.find_spec(name) is None]


def problems(found: Named) -> list[Problem]:
    """Why none can be made and proven here."""
    wrong = []
    if names := missing():
        what = "what writes and runs it is not installed"
        wrong.append(Problem(_WHERE, what, f"run `pip install {' '.join(names)}`"))
    if found.scores:
        what = "onnxruntime-genai writes no score head"
        wrong.append(Problem(_WHERE, what, "use --format merged"))
    return wrong


def write(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """Merge in 32 bits, and have onnxruntime-genai's builder write it for the CPU."""
    whole = folder / ".merged"
    transformers_folder.write_merged(found, whole, kind="f32", base=base)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    command += ["-i", str(whole), "-o", str(folder), "-c", str(folder / ".cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(whole)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if done.returncode or not (folder / _MODEL).is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        what = f"onnxruntime-genai's builder cannot write it: {' '.join(last)}"
        raise RunError(Problem(found.said, what, "use --format merged"))
    if kind != "f32":
        _round(folder, bits={"int8": 8, "int4": 4}[kind])


def _round(folder: Path, *, bits: int) -> None:
    """Round the weights of the matrix products, in place; sums stay in 32 bits.

    Weights alone: activations in 8 bits too, a channel each, broke the answers on a processor
    without VNNI.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # It names each product that it rounds, on stderr.
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    path = folder / _MODEL
    rounding = MatMulNBitsQuantizer(onnx.load(path), bits=bits, block_size=BLOCK, is_symmetric=True)
    rounding.process()
    data = path.with_name(f"{_MODEL}.data")
    for old in (path, data):
        old.unlink(missing_ok=True)
    rounding.model.save_model_to_file(str(path), True)
    shutil.copymode(path, data)  # it is written for this user's eyes alone


def differences(
    found: Named, folder: Path, reference: Reference, *, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """Ask onnxruntime-genai what the trained model was asked.

    Returns:
        The figures, and what is wrong in words.
    """
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    stops = config["model"]["eos_token_id"]
    stops = stops if isinstance(stops, list) else [stops]
    wrong = []
    if sorted(stops) != sorted(reference.stops):
        wrong.append(f"answers end at the tokens {stops}, and in training at {reference.stops}")
    logps, answers = [], []
    cases = reference.cases
    for case in track(cases, "asking onnxruntime", len(cases), unit="prompts"):
        logps.append(_logps(genai, model, case))
        answers.append(answers_differ(case, _answer(genai, model, case), bound))
    proof = compared(cases, logps, bound)
    wrong += proof.wrong(bound)
    if answers.count("other"):
        wrong.append(f"{answers.count('other')} of {len(answers)} answers are others")
    return proof.to_dict(), [*wrong, *_chat(genai.Tokenizer(model), cases)]


def _generator(genai: Any, model: Any, case: Case) -> Any:
    import numpy as np

    asked = genai.GeneratorParams(model)
    asked.set_search_options(do_sample=False, max_length=len(case.ids) + len(case.answer) + 1)
    generator = genai.Generator(model, asked)
    generator.append_tokens(np.array([case.ids], dtype=np.int32))
    return generator


def _logps(genai: Any, model: Any, case: Case) -> torch.Tensor:
    """(T, V): its log probabilities before each token of the trained model's answer."""
    import numpy as np
    import torch

    generator = _generator(genai, model, case)
    rows = []
    for token in case.answer:
        logits = np.asarray(generator.get_logits()).reshape(-1, case.logps.shape[1])[-1]
        rows.append(torch.from_numpy(logits.copy()).float().log_softmax(-1))
        generator.append_tokens(np.array([[token]], dtype=np.int32))
    return torch.stack(rows)


def _answer(genai: Any, model: Any, case: Case) -> list[int]:
    """Its own greedy answer, as long as the trained model's, the token that ended it included."""
    generator = _generator(genai, model, case)
    ids: list[int] = []
    while not generator.is_done() and len(ids) < len(case.answer):
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return ids


def _chat(tokenizer: Any, cases: list[Case]) -> list[str]:
    """Its own rendering of the chat template and its own tokens, against those of training."""
    asked = [case for case in cases if not isinstance(case.prompt, str)]
    others = 0
    for case in asked:
        text = tokenizer.apply_chat_template(
            json.dumps(case.prompt, ensure_ascii=False), add_generation_prompt=True
        )
        others += [int(token) for token in tokenizer.encode(text)] != case.ids
    if not others:
        return []
    of = f"{others} of {len(asked)}"
    return [f"its chat template makes {of} prompts into other tokens than in training"]
