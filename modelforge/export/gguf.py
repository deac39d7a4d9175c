"""GGUF, written by llama.cpp's own converter and read again by llama.cpp itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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

if TYPE_CHECKING:
    import torch

NAME = "model.gguf"
CLONE = "LLAMA_CPP"  # an environment variable: a clone of llama.cpp
_SCRIPT = "convert_hf_to_gguf"
_WHERE = "--format gguf"
_TOP = 512  # tokens whose probability is asked for at each place


def converter() -> Path | None:
    """Where llama.cpp's converter lies: in the clone that ``LLAMA_CPP`` names, or installed."""
    if clone := os.environ.get(CLONE):
        path = Path(clone).expanduser()
        return path if (path / f"{_SCRIPT}.py").is_file() else None
    found = importlib.util.find_spec(_SCRIPT)
    return Path(found.origin).parent if found and found.origin else None


def problems(found: Named) -> list[Problem]:
    """Why no GGUF can be made and proven here."""
    wrong = problems_of_machine()
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


def write(found: Named, folder: Path, *, kind: str, base: Base) -> None:
    """Merge, and have llama.cpp convert it."""
    whole = folder / ".merged"
    transformers_folder.write_merged(found, whole, kind="f32", base=base)
    place = converter()
    assert place is not None
    command = [sys.executable, "-m", "modelforge.export.convert", str(place), str(whole)]
    command += ["--outtype", kind, "--outfile", str(folder / NAME)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for path in whole.iterdir():
        path.unlink()
    whole.rmdir()
    if done.returncode or not (folder / NAME).is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        what = f"llama.cpp's converter cannot write it: {' '.join(last)}"
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
    server = _server(folder / NAME, reference.cases)
    wrong, answers, logps, endless = [], [], [], 0
    for case in track(reference.cases, "asking llama.cpp", len(reference.cases), unit="prompts"):
        logps.append(_logps(server, case))
        said = _completed(server, {"prompt": case.ids, "n_predict": len(case.answer) + 1})
        ids = [step["id"] for step in said["logprobs"]["content"]]
        if said["finish_reason"] == "stop" and len(ids) < len(case.answer):
            ids.append(case.answer[-1])  # it keeps back the token that ended the answer
        answers.append(answers_differ(case, ids, bound))
        endless += case.finish_reason == "stop" and said["finish_reason"] != "stop"
    proof = compared(reference.cases, logps, bound)
    wrong += proof.wrong(bound)
    if answers.count("other"):
        wrong.append(f"{answers.count('other')} of {len(answers)} answers are others")
    if endless:
        wrong.append(f"{endless} of {len(answers)} answers go on where the trained model ended")
    return proof.to_dict(), [*wrong, *_chat(server, reference.cases)]


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


def _completed(server: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    greedy = {"temperature": 0, "n_probs": _TOP, "cache_prompt": True}
    choice: dict[str, Any] = server.handle_completions({**greedy, **asked})["choices"][0]
    return choice


def _logps(server: Any, case: Case) -> torch.Tensor:
    """(T, V): its log probabilities before each token of the trained model's answer.

    What it does not name shares what is left, in the proportions of the trained model. So the
    divergence is that of the named tokens and all others together, which can only be lower.
    """
    import torch

    rows = []
    for place, reference in enumerate(case.logps):
        asked = {"prompt": [*case.ids, *case.answer[:place]], "n_predict": 1}
        steps = _completed(server, asked)["logprobs"]["content"]
        named = steps[0]["top_logprobs"] if steps else []
        ids = torch.tensor([token["id"] for token in named], dtype=torch.long)
        values = torch.tensor([token["logprob"] for token in named], dtype=torch.float64)
        others = torch.ones_like(reference, dtype=torch.bool)
        others[ids] = False
        rest = torch.log((1 - values.exp().sum()).clamp(min=1e-12))
        row = reference.double().clone()
        if others.any():
            row[others] += rest - row[others].logsumexp(0)
        row[ids] = values
        rows.append(row.float())
    return torch.stack(rows)


def _chat(server: Any, cases: Sequence[Case]) -> list[str]:
    """Its own rendering of the chat template, by the number of tokens that a prompt becomes."""
    asked = [case for case in cases if not isinstance(case.prompt, str)]
    others = 0
    for case in asked:
        answer = server.handle_chat_completions({"messages": case.prompt, "max_tokens": 1})
        others += answer["usage"]["prompt_tokens"] != len(case.ids)
    if not others:
        return []
    of = f"{others} of {len(asked)}"
    return [f"its chat template makes {of} prompts into other tokens than in training"]
