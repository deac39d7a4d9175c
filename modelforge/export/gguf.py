"""GGUF, written by llama.cpp's own converter and read again by llama.cpp itself."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.errors import Problem, RunError
from modelforge.evaluation.opened import Named
from modelforge.export import transformers_folder
from modelforge.export.merge import Base
from modelforge.export.proof import NEW_TOKENS, Bound, Case, answers_differ, compared
from modelforge.export.reference import Reference
from modelforge.export.rounding import Rounding

if TYPE_CHECKING:
    import torch

NAME = "model.gguf"
_K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m")  # that the converter does not write
TYPES = ("f16", "bf16", "q8_0", "f32", *_K_QUANTS)
CLONE = "LLAMA_CPP"  # an environment variable: a clone of llama.cpp
_SCRIPT = "convert_hf_to_gguf"
_WHERE = "--format gguf"
_GREEDY = {"temperature": 0, "cache_prompt": True}
_TOP = 512  # tokens whose probability is asked for at each place
# llama.cpp adds probabilities up in 32 bits: 512 came to 1 - 1.2e-5, and 49,152 to 1 - 2.4e-4.
_SUM = 2**-11


def converter() -> Path | None:
    """Where llama.cpp's converter lies: in the clone that ``LLAMA_CPP`` names, or installed."""
    if clone := os.environ.get(CLONE):
        path = Path(clone).expanduser()
        return path if (path / f"{_SCRIPT}.py").is_file() else None
    found = importlib.util.find_spec(_SCRIPT)
    return Path(found.origin).parent if found and found.origin else None


def quantizer() -> str | None:
    """Where llama-quantize lies: in the clone that ``LLAMA_CPP`` names, built, or on the path."""
    name = "llama-quantize"
    clone = os.environ.get(CLONE)
    built = shutil.which(name, path=str(Path(clone).expanduser() / "build/bin")) if clone else None
    return built or shutil.which(name)


def problems(found: Named, kind: str) -> list[Problem]:
    """Why no GGUF of a type can be made and proven here."""
    wrong = problems_of_machine()
    if kind in _K_QUANTS and quantizer() is None:
        fix = f"build llama.cpp, and set {CLONE} to its folder; or use --type q8_0"
        wrong.append(Problem(f"--type {kind}", "llama-quantize is not here, which writes it", fix))
    if found.scores:
        wrong.append(Problem(_WHERE, "a reward model's head has no place in it", "use merged"))
    return wrong


def problems_of_machine() -> list[Problem]:
    """What is missing here."""
    wrong = []
    if converter() is None:
        fix = f"clone llama.cpp, and set {CLONE} to its folder"
        wrong.append(Problem(_WHERE, f"llama.cpp's {_SCRIPT}.py is not here", fix))
    missing = [name for name in ("xllamacpp", "gguf", "sentencepiece") if not _installed(name)]
    if missing:
        what = "what converts the file and proves it is not installed"
        wrong.append(Problem(_WHERE, what, f"run `pip install {' '.join(missing)}`"))
    return wrong


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def rounding(kind: str) -> Rounding:
    """All matrices; and llama.cpp rounds what it multiplies them by, to the type or to 8 bits."""
    inputs = "q8_0" if kind in _K_QUANTS else None if kind == "f32" else kind
    return Rounding(kind, inputs=inputs)


def write(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """Merge, and have llama.cpp convert it."""
    whole = folder / ".merged"
    # The converter rounds to the nearest; a merge in the same 16 bits loses no small update.
    summed = kind if kind in ("f16", "bf16") else "f32"
    transformers_folder.write_merged(found, whole, kind=summed, base=base)
    place = converter()
    assert place is not None
    command = [sys.executable, "-m", "modelforge.export.convert", str(place), str(whole)]
    first = folder / (".f32.gguf" if kind in _K_QUANTS else NAME)
    outtype = "f32" if kind in _K_QUANTS else kind
    command += ["--outtype", outtype, "--outfile", str(first)]
    _made(found, "llama.cpp's converter", command, first)
    shutil.rmtree(whole)
    if first.name != NAME:
        command = [str(quantizer()), str(first), str(folder / NAME), kind.upper()]
        _made(found, "llama-quantize", command, folder / NAME)
        first.unlink()


def _made(found: Named, by: str, command: Sequence[str], target: Path) -> None:
    """Run what writes a file.

    Raises:
        RunError: If it does not.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not target.is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        what = f"{by} cannot write it: {' '.join(last)}"
        raise RunError(Problem(found.said, what, "use --format merged"))


def adds_bos(path: Path) -> bool:
    """Whether llama.cpp puts a BOS before a prompt by itself."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    said = fields.get("tokenizer.ggml.add_bos_token")
    if said is not None:
        return bool(said.contents())
    return bool(fields["tokenizer.ggml.model"].contents() == "llama")


def differences(
    found: Named, folder: Path, reference: Reference, *, bound: Bound
) -> tuple[dict[str, Any], list[str]]:
    """Ask llama.cpp what the trained model was asked.

    Returns:
        The figures, and what is wrong in words.
    """
    try:
        server = _server(folder / NAME, reference.cases)
    except RuntimeError:  # it says no more
        return {}, ["llama.cpp cannot load it"]
    wrong, answers, logps, endless = [], [], [], 0
    for case in track(reference.cases, "asking llama.cpp", len(reference.cases), unit="prompts"):
        logps.append(_logps(server, case))
        asked = {"prompt": case.ids, "n_predict": len(case.answer) + 1, "return_tokens": True}
        said = _asked(server, "/completion", _GREEDY | asked)
        ids = said["tokens"]
        answers.append(answers_differ(case, ids, bound))
        ended = said["stop_type"] == "eos" or case.finish_reason != "stop"
        endless += not ended and answers[-1] != "tie"  # from a tie on it is another answer
    proof = compared(reference.cases, logps, bound)
    wrong += proof.wrong(bound)
    if answers.count("other"):
        wrong.append(f"{answers.count('other')} of {len(answers)} answers are others")
    if endless:
        wrong.append(f"{endless} of {len(answers)} answers go on where the trained model ended")
    return proof.to_dict(), [*wrong, *_tokens(server, reference.cases)]


def _server(path: Path, cases: Sequence[Case]) -> Any:
    import torch
    import xllamacpp

    given = xllamacpp.CommonParams()
    given.model.path = str(path)
    given.n_parallel = 1
    given.n_ctx = max(len(case.ids) for case in cases) + NEW_TOKENS + 8
    given.warmup = False
    given.verbosity = -1
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = torch.get_num_threads()
    # Its cache of keys and values is of 16 bits otherwise, and the proof is of the file.
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(given)


def _logps(server: Any, case: Case) -> torch.Tensor:
    """(T, V): its log probabilities before each token of the trained model's answer.

    What it does not name shares what is left, in the proportions of the trained model. So the
    divergence is that of the named tokens and all others together, which can only be lower. What is
    left is the trained model's own where llama.cpp's sum cannot tell the two apart.
    """
    import torch

    rows = []
    for place, reference in enumerate(case.logps):
        # Probabilities are the model's, before the bias, and those of an end are among them. It
        # shows none for a token that ends an answer, or that is half a letter.
        asked = {"prompt": [*case.ids, *case.answer[:place]], "n_predict": 1, "n_probs": _TOP}
        said = _asked(server, "/completion", _GREEDY | asked | {"logit_bias": [["a", 1e4]]})
        (step,) = said["completion_probabilities"]
        named = step["top_logprobs"]
        ids = torch.tensor([token["id"] for token in named], dtype=torch.long)
        values = torch.tensor([token["logprob"] for token in named], dtype=torch.float64)
        others = torch.ones_like(reference, dtype=torch.bool)
        others[ids] = False
        row = reference.double().clone()
        own, rest = row[others].exp().sum(), 1 - values.exp().sum()
        # The reference's own sum is 1 within its rounding, which is no difference.
        named_mass = row[ids].exp().sum()
        if others.any() and (rest - own).abs() > _SUM:
            rest = rest.clamp(min=_SUM)
            row[others] += rest.log() - own.log()
            named_mass = 1 - rest
        row[ids] = values - values.logsumexp(0) + named_mass.log()
        rows.append(row.float())
    return torch.stack(rows)


def _tokens(server: Any, cases: Sequence[Case]) -> list[str]:
    """Its own chat template and its own tokenizer, against the tokens of training."""
    others = []
    for case in cases:
        text = case.prompt
        if not isinstance(text, str):
            text = _asked(server, "/apply-template", {"messages": case.prompt})["prompt"]
        said = {"content": text, "add_special": True, "parse_special": True}
        ids = _asked(server, "/tokenize", said)["tokens"]
        if ids != case.ids:
            others.append(_first(server, ids, case.ids))
        elif not isinstance(case.prompt, str):
            whole = {"messages": case.prompt, "max_tokens": 1}
            count = server.handle_chat_completions(whole)["usage"]["prompt_tokens"]
            if count != len(ids):  # such as a BOS that it puts before the template's own
                others.append(f"a chat of {len(ids)} tokens is taken as {count}")
    if not others:
        return []
    of = f"{len(others)} of {len(cases)}"
    return [f"llama.cpp makes {of} prompts into other tokens than in training: {others[0]}"]


def _first(server: Any, ids: Sequence[int], own: Sequence[int]) -> str:
    """Where two lists of tokens part, in words."""
    place = next((i for i, (a, b) in enumerate(zip(ids, own, strict=False)) if a != b), len(own))
    before, theirs, right = (
        _asked(server, "/detokenize", {"tokens": list(part)})["content"]
        for part in (own[max(0, place - 4) : place], ids[place : place + 1], own[place : place + 1])
    )
    return f"behind {before!r} stands {theirs!r}, and in training {right!r}"


def _asked(server: Any, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp answers on a route of its own."""
    sent = urllib.request.Request(
        server.listening_address + route,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(sent) as answer:
        return dict(json.load(answer))
