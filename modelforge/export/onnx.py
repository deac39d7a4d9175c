"""ONNX: a language model with a cache of keys and values, or a reward model with its score head.

onnxruntime-genai writes and runs the first. It knows no score head, so torch's own exporter writes
the second, for plain onnxruntime.
"""

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
from modelforge.export.reference import Reference, padded, scores_differ
from modelforge.export.rounding import Rounding
from modelforge.inference.trained import load_tokenizer
from modelforge.models.saved import load_saved

if TYPE_CHECKING:
    import torch

_WHERE = "--format onnx"
_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai")
_OF_SCORES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")
_MODEL = "model.onnx"
_INPUTS = ["input_ids", "attention_mask"]  # of a reward model
#: Weights in blocks of so many that share a scale, as GGUF's q8_0 and q4_0 have them.
BLOCK = 32


def missing(*, scores: bool = False) -> list[str]:
    """The packages that write and run it and are not installed, as `pip` calls them."""
    needed = _OF_SCORES if scores else _PACKAGES
    return [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]


def problems(found: Named, kind: str) -> list[Problem]:
    """Why none can be made and proven here."""
    names = missing(scores=found.scores)
    if not names:
        return []
    what = "what writes and runs it is not installed"
    return [Problem(_WHERE, what, f"run `pip install {' '.join(names)}`")]


def write(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """Merge in 32 bits, have it written, and round its weights."""
    whole = folder / ".merged"
    transformers_folder.write_merged(found, whole, kind="f32", base=base)
    if found.scores:
        _write_scores(found, whole, folder)
    else:
        _build(found, whole, folder)
    if kind != "f32":
        _round(folder, bits={"int8": 8, "int4": 4}[kind])


def _build(found: Named, whole: Path, folder: Path) -> None:
    """By onnxruntime-genai's builder, for the CPU.

    Raises:
        RunError: If it cannot.
    """
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    command += ["-i", str(whole), "-o", str(folder), "-c", str(folder / ".cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(whole)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if done.returncode or not (folder / _MODEL).is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        what = f"onnxruntime-genai's builder cannot write it: {' '.join(last)}"
        raise RunError(Problem(found.said, what, "use --format merged"))


def _write_scores(found: Named, whole: Path, folder: Path) -> None:
    """By torch's exporter: tokens and mask of (N, L) become scores of (N, 1), any N and L.

    Raises:
        RunError: If it cannot.
    """
    import torch

    tokenizer = load_tokenizer(found)
    model = load_saved(
        whole,
        tokenizer=tokenizer,
        head="reward",
        dtype=torch.float32,
        device="cpu",
        trust_remote_code=found.source.trust_remote_code,
    )

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            given = {"input_ids": input_ids, "attention_mask": attention_mask}
            return self.model(**given, use_cache=False).logits

    ids = torch.full((2, 8), model.config.get_text_config().pad_token_id)
    ids[0] = ids[1, :4] = ids[0, 0] + 1
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # The first warns of a package for pictures, which no text model needs; the others name each
    # node that they change.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        torch.onnx.export(
            Scores().eval(),
            (ids, mask),
            folder / _MODEL,
            input_names=_INPUTS,
            output_names=["scores"],
            dynamic_shapes=(free, free),
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        what = f"torch's exporter cannot write it: {first}"
        raise RunError(Problem(found.said, what, "use --format merged")) from None
    tokenizer.save_pretrained(folder)
    shutil.rmtree(whole)


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


def rounding(kind: str) -> Rounding:
    """The weights of products; sums and what is multiplied stay in 32 bits."""
    return Rounding(kind, products=True)


def differences(
    found: Named, folder: Path, reference: Reference, *, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """Ask onnxruntime what the trained model was asked.

    Returns:
        The figures, and what is wrong in words.
    """
    if reference.scores is not None:
        return _scores_differ(found, folder, reference, bound)
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


def _scores_differ(
    found: Named, folder: Path, reference: Reference, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """The same for a reward model, by the tokenizer that lies beside it."""
    import onnxruntime
    import torch
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=found.source.trust_remote_code
    )
    batch = padded(tokenizer, reference.texts)
    session = onnxruntime.InferenceSession(folder / _MODEL)
    scores = session.run(None, {name: batch[name].numpy() for name in _INPUTS})[0]
    return scores_differ(tokenizer, torch.from_numpy(scores)[:, 0], reference, bound)


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
