"""Answers to every prompt of a file, written row by row, so that a stopped job goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from modelforge.common.console import say
from modelforge.common.files import digest, file_digest, write_whole, writing
from modelforge.common.progress import track
from modelforge.constraints import Asked, Constraints, Violation
from modelforge.constraints.of_a_run import Asked as HeldTo
from modelforge.constraints.of_a_run import of_recorded
from modelforge.errors import DataError, Problem, RunError
from modelforge.evaluation.opened import Named, constraints_key
from modelforge.inference.answers import Answer, Sampling, answer_all, prompt_ids
from modelforge.inference.held import FILTERED, held_answer, steering_of, tell
from modelforge.inference.prompts import Asking, read_prompts
from modelforge.inference.trained import (
    Trained,
    find_trained,
    load_tokenizer,
    load_trained,
    weights_of,
)


@dataclass(frozen=True)
class Generated:
    """What a job wrote.

    Attributes:
        file: Where.
        rows: How many answers it holds.
        stopped: How many of them the model ended by itself.
        resumed: How many were there already.
    """

    file: Path
    rows: int
    stopped: int
    resumed: int


def generate(
    model: str,
    prompts: str,
    output: Path,
    *,
    sampling: Sampling | None = None,
    group: int = 1,
    batch_size: int = 8,
    system: str | None = None,
    base: bool = False,
    constraints: HeldTo = None,
    trust_remote_code: bool = False,
) -> Generated:
    """Answer every prompt of a file. A job that was stopped goes on behind its last whole row.

    Args:
        model: A run, a model's folder, or a hub id.
        prompts: A data file.
        output: A JSON Lines file: a row for each answer.
        sampling: How answers are drawn; greedy if not given.
        group: Answers to a prompt; more than one needs a temperature.
        batch_size: Prompts answered at once.
        system: The system message of prompts that have none; by default the run's.
        base: Answer with the base, without its adapter.
        constraints: What prompts and answers are held to: a file, entries, or ``none``; by default
            those that the run was trained with.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        UserError: If an option has no effect, a prompt is too long, or the output is another job's.
    """
    sampling = sampling or Sampling()
    found = find_trained(model, trust_remote_code=trust_remote_code)
    _refuse_idle(found, sampling, group=group, base=base)
    held_to = of_recorded(found.recorded, constraints, said=model)
    asked = _asked(found, prompts, system)
    return answer_each(found, asked, output, sampling=sampling, group=group, batch_size=batch_size,
                       base=base, held_to=held_to)  # fmt: skip


@contextmanager
def _loaded(found: Named) -> Iterator[Trained]:
    yield load_trained(found)


def answer_each(
    found: Named,
    prompts: Sequence[Asking],
    output: Path,
    *,
    sampling: Sampling,
    group: int = 1,
    batch_size: int = 8,
    base: bool = False,
    held_to: Constraints | None = None,
    opened: Callable[[Named], AbstractContextManager[Trained]] = _loaded,
) -> Generated:
    """Answer prompts that are read already. A job that was stopped goes on.

    Args:
        found: The model.
        prompts: With their system messages.
        output: See `generate`, as for what follows.
        sampling, group, batch_size, base: The same.
        held_to: The constraints, or None.
        opened: Opens the model; it is asked only where an answer is missing.

    Raises:
        UserError: If a prompt is too long, or the output is another job's.
    """
    asked, verdicts = _held(prompts, held_to)
    job = _of_model(found) | {
        "prompts": digest([each.prompt for each in asked]),
        "sampling": asdict(sampling),
        "group": group,
        "base": base,
        "constraints": None if held_to is None else constraints_key(held_to),
    }
    done = _done(output, job, group)
    resumed = len(done)
    if resumed:
        say(f"{output} holds {resumed} answers already")
    if resumed < len(asked) * group:
        rows = partial(_rows, asked=asked, verdicts=verdicts, held_to=held_to, group=group)
        left = range(resumed // group, len(asked))
        with opened(found) as trained:
            ids = _within(trained, asked, verdicts, sampling)
            steered = steering_of(trained.tokenizer, held_to)
            ask = partial(answer_all, trained, sampling=sampling, group=group, steered=steered)
            with trained.as_base() if base else nullcontext(), _going_on(output, job, done) as file:
                for batch, answers in _batches(ask, left, ids, batch_size):
                    done += _written(file, rows(batch, answers))
    tell(Violation(**each) for row in done for each in row.get("violations", ()))
    stopped = sum(row["finish_reason"] == "stop" for row in done)
    return Generated(output, len(done), stopped, resumed)


def _of_model(found: Named) -> dict[str, Any]:
    """What answers, for the record of a job."""
    places = (found.source.base, weights_of(found))
    return {"model": found.said, "weights": [weights_digest(Path(place)) for place in places]}


def _batches(
    ask: Callable[[list[list[int]]], list[Answer]],
    left: Sequence[int],
    ids: Mapping[int, list[int]],
    size: int,
) -> Iterator[tuple[Sequence[int], list[Answer]]]:
    """Batch after batch of prompts, and the answers to those of them that are answered."""
    batches = [left[i : i + size] for i in range(0, len(left), size)]
    for batch in track(batches, "answering", len(batches), unit="batches"):
        of_batch = [ids[i] for i in batch if i in ids]
        yield batch, ask(of_batch) if of_batch else []


def _asked(found: Named, prompts: str, system: str | None) -> list[Asking]:
    """The prompts as this model takes them: messages, or text where it has no chat template."""
    return read_prompts(
        prompts,
        system=system or found.recorded.get("system_prompt"),
        conversational=bool(load_tokenizer(found).chat_template),
    )


def _held(
    asked: Sequence[Asking], held_to: Constraints | None
) -> tuple[list[Asking], dict[int, Asked]]:
    """The prompts as the model may see them, and what was found of each."""
    if held_to is None:
        return list(asked), {}
    verdicts = {i: held_to.ask(each.prompt) for i, each in enumerate(asked)}
    return [replace(a, prompt=verdicts[i].prompt) for i, a in enumerate(asked)], verdicts


def _written(file: TextIO, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a batch, on the disk."""
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.flush()
    os.fsync(file.fileno())
    return rows


def _rows(
    batch: Sequence[int],
    answers: Sequence[Answer],
    *,
    asked: Sequence[Asking],
    verdicts: Mapping[int, Asked],
    held_to: Constraints | None,
    group: int,
) -> list[dict[str, Any]]:
    """The rows of a batch: each prompt's answers, held to the constraints."""
    rows, coming, unheld = [], iter(answers), Asked(None)
    for number in batch:
        for sample in range(group):
            verdict = verdicts.get(number, unheld)
            if verdict.blocked is not None:
                found = Answer(verdict.blocked.message, [], FILTERED)
                broken = verdict.violations
            else:
                found, of_answer = held_answer(next(coming), asked[number].prompt, held_to)
                broken = [*verdict.violations, *of_answer]
            row = _row(number, sample, asked, found)
            rows.append(row if held_to is None else row | {"violations": list(map(asdict, broken))})
    return rows


def _row(number: int, sample: int, asked: Sequence[Asking], found: Answer) -> dict[str, Any]:
    return {
        "row": number,
        "sample": sample,
        "prompt": asked[number].prompt,
        "reference": asked[number].reference,
        "completion": found.text,
        "finish_reason": found.finish_reason,
        "tokens": len(found.ids),
    }


def _refuse_idle(found: Named, sampling: Sampling, *, group: int, base: bool) -> None:
    """See that each option has an effect.

    Raises:
        RunError: If one has none.
    """
    if group > 1 and sampling.temperature == 0:
        what = "has no effect at temperature 0: all answers to a prompt would be the same"
        raise RunError(Problem("--num", what, "set a temperature, such as 0.7"))
    if base and found.source.adapter is None:
        what = f"has no effect: {found.said} holds all weights, and no adapter on a base"
        raise RunError(Problem("--base", what, "name the base model itself"))


def weights_digest(folder: Path) -> str:
    """Of a folder's weights; of a hub id, its name."""
    found = sorted(folder.glob("*.safetensors"))
    return digest([[path.name, file_digest(path)] for path in found] or str(folder))


def _done(output: Path, job: dict[str, Any], group: int) -> list[dict[str, Any]]:
    """The whole prompts' answers that are there already.

    Raises:
        RunError: If something else lies there.
    """
    if not output.exists():
        return []
    changed = _changed(_about(output), job)
    if changed is None or changed or not output.is_file():
        what = "is there already"
        if changed:
            what = f"holds the answers of another job, which differs in: {', '.join(changed)}"
        raise RunError(Problem(str(output), what, "name another file with --output, or delete it"))
    done: list[dict[str, Any]] = []
    # A kill can cut a line short, within a character too.
    for line in output.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            done.append(json.loads(line))
        except ValueError:
            break
    return done[: len(done) // group * group]


def _about(output: Path) -> Path:
    """Where it stands what the answers in a file are of."""
    return output.with_suffix(".job.json")


def _changed(about: Path, job: dict[str, Any]) -> list[str] | None:
    """What of a job is not as it was; None where nothing whole is known of it."""
    try:
        before = dict(json.loads(about.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return [key for key in job if job[key] != before.get(key)]


@contextmanager
def _going_on(output: Path, job: dict[str, Any], done: list[dict[str, Any]]) -> Iterator[TextIO]:
    """The file, behind the answers that are done.

    Raises:
        RunError: If the place takes no file, the disk is full, or a batch is too large.
    """
    import torch

    fix = "free some space, or name another place with --output; what is written stays"
    try:
        with writing(output, fix), _alone(output):
            write_whole(_about(output), json.dumps(job, indent=2) + "\n")
            write_whole(output, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in done))
            with output.open("a", encoding="utf-8") as file:
                yield file
    except torch.OutOfMemoryError:
        what = "out of memory; the answers so far are kept"
        fix = "run it again with a smaller --batch-size or --max-new-tokens"
        raise RunError(Problem(str(output), what, fix)) from None


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Within it no other process writes these answers; its end frees them, kill -9 too.

    Raises:
        RunError: If one does.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    place = output.with_name(f".{output.name}.lock")
    lock = FileLock(place)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        fix = "wait for it, stop it, or name another place with --output"
        raise RunError(Problem(str(output), "another process writes there", fix)) from None
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()


def _within(
    trained: Trained, asked: Sequence[Asking], verdicts: Mapping[int, Asked], sampling: Sampling
) -> dict[int, list[int]]:
    """The prompts in tokens, each with room for an answer, without those that are not answered.

    Raises:
        DataError: With those that have none.
    """
    free = [i for i in range(len(asked)) if i not in verdicts or not verdicts[i].blocked]
    ids = {i: prompt_ids(trained, asked[i].prompt) for i in free}
    if trained.context is None:
        return ids
    room = trained.context - sampling.max_new_tokens
    long = [
        Problem(
            asked[i].where,
            f"the prompt has {len(tokens)} tokens, and {room} fit before an answer",
            f"shorten it, or set --max-new-tokens below {sampling.max_new_tokens}",
        )
        for i, tokens in ids.items()
        if len(tokens) > room
    ]
    if long:
        raise DataError(*long[:10])
    return ids
