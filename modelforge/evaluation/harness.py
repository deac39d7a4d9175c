"""`modelforge benchmark`: the tasks of lm-evaluation-harness on a model of ours, in this process.

lm-eval gets the model as it was trained: the adapter on its base, in 4-bit where the run was. It is
an extra (``eval``). Tasks whose data lies in files need no network.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from modelforge.common.console import say, warn
from modelforge.common.files import write_whole, writing
from modelforge.errors import ConfigError, ModelError, Problem, RunError, did_you_mean
from modelforge.evaluation import kept
from modelforge.evaluation.harness_kept import read_harness
from modelforge.evaluation.harness_quiet import quiet
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.opened import Bench, Named, fingerprint, load_tokenizer, named
from modelforge.machine.versions import install

OUTPUT = Path("runs/benchmark")
# The answers of a benchmark that has not ended.
_ANSWERS = ".answers"
# What lm-eval raises where a task cannot be had, or does not fit its rows or the model.
_NOT_HAD = (
    *(OSError, ImportError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(jinja2.TemplateError, yaml.YAMLError),
)


@dataclass(frozen=True)
class Asked:
    """What is asked of a benchmark.

    Attributes:
        tasks: Names of lm-eval's tasks and groups.
        include: A folder of task files (YAML) of the user's own.
        task_data: Task → a file that holds its rows, in place of those on the hub.
        limit: The most rows of each task.
        few_shot: Examples before each question; None for the task's own number.
        max_new_tokens: The longest answer, in tokens; None for the task's own.
        batch_size: Rows at once.
        chat: Whether questions are put in the model's chat template; None: where it has one.
        output_dir: Where results are kept.
    """

    tasks: Sequence[str]
    include: Path | None = None
    task_data: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    few_shot: int | None = None
    max_new_tokens: int | None = None
    batch_size: int = 8
    chat: bool | None = None
    output_dir: Path = OUTPUT


def benchmark(model: str, asked: Asked) -> Evaluation:
    """Run tasks and keep what lm-eval found, or read what was kept before.

    A run that was killed goes on: lm-eval keeps each answer as it comes.

    Args:
        model: A run's folder, a model's or an adapter's folder, or a hub id.
        asked: What is asked.

    Returns:
        The figures and the rows. Its folder holds lm-eval's ``results.json`` and
        ``samples_TASK.jsonl``.

    Raises:
        UserError: If lm-eval is not installed, or model or tasks cannot be used.
    """
    found = _checked(model, asked)
    folder = kept.place(
        asked.output_dir, found.name, "-".join(asked.tasks)[:60], _key(found, asked)
    )
    done = read_harness(folder, found.name)
    if done is not None:
        return done
    with quiet() as heard:
        manager = _manager(asked)
        specs = _specs(asked, manager)
        _refuse_idle_length(asked, specs)
        results = _asked_of(found, asked, specs, manager, folder)
    if heard.cuts:
        warn(
            f"lm-eval warned {heard.cuts} times: prompts were longer than the model reads, and "
            "cut from the left"
        )
    _keep(folder, found, results)
    ended = read_harness(folder, found.name)
    assert ended is not None, "it was written just now"
    return ended


def _checked(model: str, asked: Asked) -> Named:
    """The model, where all that is asked can be asked.

    Raises:
        UserError: With every problem found.
    """
    if importlib.util.find_spec("lm_eval") is None:
        what = "needs the package lm-eval"
        raise ConfigError(Problem("modelforge benchmark", what, install("eval")))
    problems = []
    if not asked.tasks:
        problems.append(Problem("--tasks", "names no task", "name some, such as gsm8k,ifeval"))
    bounds = {"limit": 1, "few_shot": 0, "batch_size": 1, "max_new_tokens": 1}
    for name, least in bounds.items():
        value = getattr(asked, name)
        if value is not None and value < least:
            where = f"--{name.replace('_', '-')}"
            problems.append(Problem(where, f"is {value}", f"set {least} or more"))
    if asked.include is not None and not asked.include.is_dir():
        problems.append(Problem(f"--include {asked.include}", "is no folder"))
    for task, file in asked.task_data.items():
        where = f"--task-data {task}={file}"
        if task not in asked.tasks:
            fix = did_you_mean(task, asked.tasks) or f"name it in --tasks: {task}"
            problems.append(Problem(where, "is of a task that is not asked for", fix))
        if not Path(file).is_file():
            problems.append(Problem(where, "there is no such file", "check the path"))
    if problems:
        raise ConfigError(*problems)
    found = named(model)
    if found.scores:
        fix = "use `modelforge evaluate` with pairs"
        raise ModelError(Problem("MODEL", f"{model} is a reward model, and answers nothing", fix))
    return found


def _key(found: Named, asked: Asked) -> list[Any]:
    """What a benchmark is made from; two of the same give the same figures."""
    own = [] if asked.include is None else kept.of_data(str(asked.include))
    data = {task: kept.of_data(file) for task, file in asked.task_data.items()}
    how = [asked.limit, asked.few_shot, asked.max_new_tokens, asked.chat]
    return [sorted(asked.tasks), own, data, how, fingerprint(found)]


def _manager(asked: Asked) -> Any:
    """lm-eval's index of tasks; of the user's own folder alone where that has all of them."""
    from lm_eval.tasks import TaskManager

    if asked.include is None:
        return TaskManager()
    say(f"tasks of {asked.include}: what their files name as functions is run")
    own = TaskManager(include_path=str(asked.include), include_defaults=False)
    if set(asked.tasks) <= set(own.all_tasks):
        return own
    return TaskManager(include_path=str(asked.include))


def _specs(asked: Asked, manager: Any) -> list[Any]:
    """The tasks and groups with their rows, read before a model is loaded.

    Raises:
        UserError: If one is none, or its rows cannot be had.
    """
    known, single = set(manager.all_tasks), set(manager.all_subtasks)
    problems = [
        Problem(f"--tasks {name}", "is no task", did_you_mean(name, known) or "see lm-eval's list")
        for name in asked.tasks
        if name not in known
    ]
    problems += [
        Problem(f"--task-data {name}", "is a group of tasks", "name one of its tasks")
        for name in asked.task_data
        if name in known - single
    ]
    if problems:
        raise ConfigError(*problems)
    from datasets.exceptions import DatasetsError

    found: list[Any] = []
    for name in asked.tasks:
        file = asked.task_data.get(name)
        where = f"--tasks {name}" if file is None else f"--task-data {name}={file}"
        try:
            own = manager.load([name]) if file is None else _from_file(manager, name, file)
        except (*_NOT_HAD, DatasetsError, StopIteration) as error:  # the last: of an empty file
            raise _told(where, error) from error
        group = own["groups"].get(name)
        found += list(own["tasks"].values()) if group is None else [group]
    return found


def _refuse_idle_length(asked: Asked, specs: list[Any]) -> None:
    """See that ``--max-new-tokens`` has an effect; warn of each task on which it has none.

    Raises:
        ConfigError: If it has none on any.
    """
    from lm_eval.api.group import Group

    each = [spec.get_all_tasks() if isinstance(spec, Group) else [spec] for spec in specs]
    tasks = [task for some in each for task in some]
    idle = [task.task_name for task in tasks if task.OUTPUT_TYPE != "generate_until"]
    if asked.max_new_tokens is None or not idle:
        return
    if len(idle) == len(tasks):
        what = f"has no effect: no answer is written in {', '.join(idle[:5])}"
        raise ConfigError(Problem("--max-new-tokens", what, "leave it out"))
    for name in idle:
        warn(f"--max-new-tokens has no effect on {name}: no answer is written there")


def _from_file(manager: Any, task: str, file: str) -> Any:
    """A task with its rows in a file: examples come from there too, but never the row asked."""
    from lm_eval.tasks import TaskManager

    kind = {".csv": "csv", ".parquet": "parquet"}.get(Path(file).suffix, "json")
    changed = {
        "include": str(Path(manager.task_index[task].yaml_path).resolve()),
        "task": task,
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(Path(file).resolve())}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "test",
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "task.yaml").write_text(json.dumps(changed), encoding="utf-8")
        own = TaskManager(include_path=folder, include_defaults=False)
        return own.load([task])


def _asked_of(
    found: Named, asked: Asked, specs: list[Any], manager: Any, folder: Path
) -> dict[str, Any]:
    """What lm-eval finds.

    Raises:
        RunError: If a task cannot be had, or be asked of this model.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tokenizer = load_tokenizer(found)
    chat = asked.chat if asked.chat is not None else tokenizer.chat_template is not None
    longest = asked.max_new_tokens
    with writing(folder, "name another with --output-dir"):
        folder.mkdir(parents=True, exist_ok=True)
    with Bench().model(found) as opened:
        lm = HFLM(
            pretrained=opened,
            tokenizer=tokenizer,
            batch_size=asked.batch_size,
            chat_template_args=found.template_kwargs,
        )
        with _answers(lm, folder, asked):
            results = simple_evaluate(
                model=lm,
                tasks=specs,
                task_manager=manager,
                limit=asked.limit,
                num_fewshot=asked.few_shot,
                gen_kwargs=None if longest is None else {"max_gen_toks": longest},
                apply_chat_template=chat,
                system_instruction=found.recorded.get("system_prompt") if chat else None,
                use_cache=str(folder / _ANSWERS),
                log_samples=True,
            )
    assert results is not None, "the main process gets them"
    for task, shots in results["n-shot"].items():
        if asked.few_shot is not None and shots != asked.few_shot:
            warn(f"--few-shot has no effect on {task}: it is asked with {shots} examples")
    return dict(results)


@contextmanager
def _answers(lm: Any, folder: Path, asked: Asked) -> Iterator[None]:
    """Within it answers are kept, each as it comes.

    Raises:
        RunError: If they cannot be, or a task cannot be asked of this model.
    """
    try:
        try:
            yield
        finally:
            _close(lm, folder)
    except sqlite3.Error as error:
        fix = "free some space, or name another with --output-dir"
        raise RunError(Problem(str(folder), f"cannot keep answers: {error}", fix)) from None
    except _NOT_HAD as error:
        raise _told(f"--tasks {','.join(asked.tasks)}", error) from error


def _told(where: str, error: Exception) -> RunError:
    """What went wrong inside lm-eval, for a reader."""
    from datasets.exceptions import DatasetBuildError
    from pyarrow import ArrowInvalid

    unread = isinstance(error, DatasetBuildError | ArrowInvalid)
    # Its own text says no more than that it failed.
    said = error.__cause__ or error if unread else error
    why = " ".join(str(said).split())[:300] or type(error).__name__
    fix = "a task of lm-eval's downloads its data: name a file of it with --task-data TASK=FILE"
    if unread:
        fix = "give JSON Lines, CSV or Parquet"
    elif isinstance(error, ImportError):
        fix = "install what this task needs"
    elif isinstance(error, StopIteration):
        why, fix = "holds no rows", "give JSON Lines, CSV or Parquet"
    elif isinstance(error, TypeError | AttributeError):
        why = f"its task file asks for what is not there: {why}"
        fix = "look at its metric_list, filter_list and doc_to_text"
    elif isinstance(error, AssertionError):
        fix = "set a smaller --max-new-tokens"
    elif isinstance(error, LookupError | jinja2.TemplateError):
        why = f"its rows are not those that the task reads: {why}"
        fix = "give rows with its columns, or a task of your own with --include"
    return RunError(Problem(where, why, fix))


def _close(lm: Any, folder: Path) -> None:
    """Close the file of answers; without answers to go on from it goes, and its folder too."""
    answers = lm.cache_hook.dbdict
    if answers is not None:
        count = len(answers)
        answers.close()
        if not count:
            _forget(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def _forget(folder: Path) -> None:
    for path in folder.glob(f"{_ANSWERS}*"):
        path.unlink()


def _keep(folder: Path, found: Named, results: dict[str, Any]) -> None:
    """Write lm-eval's files, as it writes them itself."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    def line(row: dict[str, Any]) -> str:
        asked = {
            f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(each)}
            for i, each in enumerate(row["arguments"])
        }
        said = {name: sanitize_list(row[name]) for name in ("resps", "filtered_resps")}
        whole = row | {"arguments": asked, "target": str(row["target"])} | said
        return json.dumps(whole, ensure_ascii=False, default=handle_non_serializable) + "\n"

    samples = results.pop("samples", {})
    results["model_name"] = found.said
    results["config"] = results["config"] | {
        "model": "hf",
        "model_args": f"pretrained={found.said}",
    }
    with writing(folder, "name another with --output-dir"):
        for task, rows in samples.items():
            write_whole(folder / f"samples_{task}.jsonl", "".join(map(line, rows)))
        text = json.dumps(results, indent=2, ensure_ascii=False, default=handle_non_serializable)
        write_whole(folder / kept.RESULTS, text + "\n")
        _forget(folder)
