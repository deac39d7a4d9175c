"""A JSON or YAML file → a checked `Config`, with every error at once.

Imports no ML library: ``modelforge check`` of a config with a typo answers at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from modelforge import registry
from modelforge.common.patch import drop
from modelforge.common.paths import Place, paths_in
from modelforge.config import Choice, Config, Settings
from modelforge.configfile import schema
from modelforge.configfile.adapters import keys_of_their_own, lora_problems
from modelforge.configfile.peers import project_of
from modelforge.constraints.of_a_run import constraint_problems
from modelforge.errors import ConfigError, Problem
from modelforge.machine.launch import group_problems
from modelforge.machine.precision import precision_problems
from modelforge.models.providers import get_provider
from modelforge.redact import secrets_in
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.strategy import Strategy


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: ``2e-4`` is a number (YAML 1.1 reads it as a string)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: a few lines of them expand to more than any memory holds."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="write the value out: no *alias", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that would silently replace another, as in JSON."""
        _refuse_duplicates([(key.value, None) for key, _ in node.value if _is_text(key)])
        return super().construct_mapping(node, deep)


def _is_text(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_config(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Iterable[str] = (),
    trust_remote_code: bool = False,
) -> Config:
    """Read, validate and type a config; no ML library is imported.

    Args:
        source: A ``.json``, ``.yaml`` or ``.yml`` file, the mapping itself, or a run's folder:
            the config that it began with, so that the run can be resumed there.
        overrides: ``key=value`` strings that win over the file (``--set``); a value is read as
            JSON where it parses, as a string otherwise; ``a.b=value`` reaches into a section.
        trust_remote_code: Allow the key of that name to be true: a config alone, which may come
            from elsewhere, cannot have a model's own code run.

    Raises:
        ConfigError: With every problem found, each with its key.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    raw = dict(source) if isinstance(source, Mapping) else raw_config(Path(source))
    where = path.name if path else "config"
    raw.pop("$schema", None)
    said = overridden(raw, overrides)
    if "strategy" not in said and (project := project_of(raw)):
        raise ConfigError(_theirs(project, path))
    strategy = _strategy({**raw, **said}, where)
    twice = [p for part in (raw, said) for p in keys_of_their_own(part, where=where)]
    if twice:
        raise ConfigError(*twice)
    for values in (raw, said):
        for key in schema.left_open(values, strategy):
            del values[key]
            raw.pop(key, None)  # --set key=null leaves open what the file sets
    choices = {key: Choice(value, "config") for key, value in under(raw, said).items()}
    choices |= {key: Choice(value, "--set") for key, value in said.items()}
    values = {key: choice.value for key, choice in choices.items()}
    own = strategy.settings.model_fields
    config = Config(
        settings=_typed(values, strategy, where),
        trl={k: v for k, v in values.items() if k not in own},
        said=values,
        choices=choices,
        base_dir=path.resolve().parent if path else Path.cwd(),
        path=path,
    )
    problems = list(_contradictions(config)) + list(strategy().check(config))
    if config.settings.trust_remote_code and not trust_remote_code:
        problems.append(
            Problem(
                f"{where}: trust_remote_code",
                "would run the model's own code on this machine, with your rights",
                "read that code, then say --trust-remote-code on the command line too "
                "(in Python: load_config(…, trust_remote_code=True))",
            )
        )
    if problems:
        raise ConfigError(*problems)
    return config


def _theirs(project: str, path: Path | None) -> Problem:
    """A config of another project, which one command carries over."""
    where = path.name if path else "config"
    name = path or "FILE"
    ours = path.with_suffix(".json").name if path and path.suffix != ".json" else "ours.json"
    fix = f"`modelforge init --from {name} -o {ours}` writes it as a config of ModelForge"
    return Problem(where, f"is a config of {project}", fix)


def _strategy(values: Mapping[str, Any], where: str) -> type[Strategy]:
    """The class of the strategy that a raw config names.

    Raises:
        ConfigError: If it names none that there is, with what else is wrong.
    """
    try:
        return registry.strategy_for(values, where=where)
    except ConfigError as error:
        others = schema.validate_without_strategy(values, where=where)
        raise ConfigError(*error.problems, *others) from None


def _typed(values: Mapping[str, Any], strategy: type[Strategy], where: str) -> Settings:
    """ModelForge's keys among the values, typed; TRL's are held against the schema too.

    Raises:
        ConfigError: With every value that is not what the schema says, or holds a secret.
    """
    problems = schema.validate(values, strategy, where=where)
    problems += [
        Problem(
            f"{where}: {key}",
            "holds a secret, and configs are stored with each run",
            "log in with `hf auth login`, or let your code read an environment variable",
        )
        for key in secrets_in(values)
    ]
    problems += [Problem(f"{where}: {key}", what) for key, what in _unusable(values, strategy)]
    if problems:
        raise ConfigError(*problems)
    own = strategy.settings.model_fields
    try:
        return strategy.settings.model_validate({k: v for k, v in values.items() if k in own})
    except ValidationError as error:  # what a schema cannot say: a float beyond any integer
        raise ConfigError(
            *(
                Problem(f"{where}: {'.'.join(map(str, found['loc']))}", found["msg"])
                for found in error.errors()
            )
        ) from None


def _request(folder: Path) -> dict[str, Any]:
    """The config that a run's folder began with, so that the run can be resumed there."""
    for name in (files.CHOICES, files.STAGES):
        if (folder / name).is_file():
            try:
                said = dict(json.loads((folder / name).read_text(encoding="utf-8"))["said"])
            except (OSError, ValueError, KeyError, TypeError):
                what = "is not what a run wrote"
                fix = "give the config that the run began with"
                raise ConfigError(Problem(str(folder / name), what, fix)) from None
            place = {"output_dir": str(folder.resolve().parent), "run_name": folder.resolve().name}
            return said | place | {"resume": "auto"}
    raise ConfigError(
        Problem(str(folder), "is a folder, and holds no run", "give a config, or a run's folder")
    )


def raw_config(path: Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file, or what a run's folder was asked for.

    Raises:
        ConfigError: If there is no such file, or no object of named keys in it.
    """
    if path.is_dir():
        return _request(path)
    if not path.is_file():
        found = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        fix = "files there: " + ", ".join(found[:5]) if found else "give the path of a JSON file"
        raise ConfigError(Problem(str(path), "no such config file", fix))
    if path.suffix in (".sh", ".py", ".ipynb"):
        fix = f"`modelforge init --from {path} -o ours.json` reads another trainer's script"
        raise ConfigError(Problem(path.name, "is a script, and no config", fix))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error}", "save as UTF-8")) from None
    return parsed(text, path)


def parsed(text: str, path: Path, *, fix: str = 'start with {"strategy": …}') -> dict[str, Any]:
    """The mapping in the text of a JSON or YAML file; the path names it in messages.

    Args:
        text: What the file holds.
        path: The file.
        fix: What to do about a file that holds something else than named keys.

    Raises:
        ConfigError: If it cannot be parsed, or holds no object of named keys.
    """
    try:
        if path.suffix in (".yaml", ".yml"):
            raw = yaml.load(text, Loader=_Loader)
        else:
            raw = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        where = f"{path.name}:{error.lineno}:{error.colno}"
        raise ConfigError(
            Problem(where, f"not valid JSON: {error.msg}", _json_advice(error))
        ) from None
    except RecursionError:
        raise ConfigError(Problem(path.name, "nested too deeply", "a config is flat")) from None
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        advice = "indent with blanks: YAML allows no tabs" if r"'\t'" in message else ""
        raise ConfigError(Problem(path.name, f"cannot be parsed: {message}", advice)) from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(Problem(path.name, "does not hold one object of named keys", fix))
    return raw


def _unusable(values: Mapping[str, Any], strategy: type[Strategy]) -> Iterator[tuple[str, str]]:
    """Texts that nothing can be given, and paths that no system knows: each key, and why."""
    texts = dict(_unusable_texts(values))
    yield from texts.items()
    for place in paths_in(strategy.settings, values):
        if place.key not in texts:
            yield from _unusable_path(place)


def _unusable_texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Texts that no file or process can be given."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unusable_texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unusable_texts(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        if "\0" in value:
            yield path, "holds a NUL character"
        elif any("\ud800" <= character <= "\udfff" for character in value):
            yield path, "holds half of a surrogate pair (\\ud800…\\udfff)"


def _unusable_path(place: Place) -> Iterator[tuple[str, str]]:
    """Why no system knows such a path."""
    if any(len(part.encode()) > 255 for part in place.text.split("/")) or len(place.text) > 4000:
        yield place.key, "is longer than a path can be"
    elif place.text.startswith("~"):
        try:
            Path(place.text).expanduser()
        except RuntimeError:
            yield place.key, f"there is no user {place.text.split('/')[0]}"


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key '{key}' stands twice; keep one")
        seen[key] = value
    return seen


def _json_advice(error: json.JSONDecodeError) -> str:
    before = error.doc[: error.pos].rstrip()
    if not error.doc[error.pos :].strip():
        return "the file ends too early: close each bracket and quote"
    if before.endswith(",") or error.doc[error.pos : error.pos + 1] in "]}":
        return "remove the comma before the closing bracket"
    if error.doc[error.pos : error.pos + 1] == "'":
        return 'use double quotes: "'
    return "check the comma and quotes before this place"


def overridden(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``["a=1", "b.c=x"]`` → ``{"a": 1, "b": {**raw["b"], "c": "x"}}``."""
    result: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        head, _, tail = key.strip().partition(".")
        if not equals or not head:
            raise ConfigError(Problem(f"--set {text}", "is not key=value", "e.g. --set lora_r=8"))
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if tail:
            section = result.get(head, raw.get(head)) or {}
            if not isinstance(section, dict):
                raise ConfigError(Problem(f"--set {text}", f"'{head}' is not a section"))
            parsed = {**section, tail: parsed}
        result[head] = parsed
    return result


#: Keys that say one thing in two ways: only one of them can count.
_EITHER = (
    ("warmup_ratio", "warmup_steps"),
    ("max_steps", "num_train_epochs"),
    ("eval_dataset", "eval_split"),
    ("eval_split", "held_out_as"),
    ("eval_dataset", "held_out_as"),
    ("use_4bit", "use_8bit"),
    ("chat_template", "prompt_layout"),
)


def under(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The values that still count beneath others, which say the same thing in another way.

    Args:
        values: Of a file, or of a run in stages.
        over: What wins: ``--set``, or the section of a stage.
    """
    pairs = [*_EITHER, *(pair[::-1] for pair in _EITHER)]
    replaced = {other for key, other in pairs if _counts(over.get(key)) and other not in over}
    return {key: value for key, value in values.items() if key not in replaced}


def _counts(value: Any) -> bool:
    """Whether a value asks for something: not null, false, 0, nor transformers' -1 for "no"."""
    return bool(value) and value != -1


def _contradictions(config: Config) -> Iterable[Problem]:
    """Keys that are each right and cannot stand together."""
    settings, where = config.settings, config.name
    for first, second in _EITHER:
        values = [config.said.get(key) for key in (first, second)]
        if all(_counts(value) for value in values):
            what = f"is {values[1]}, and {first} is {values[0]}: only one of the two can count"
            yield Problem(f"{where}: {second}", what, "keep one of the two")
    for key, fix in registry.get_strategy(settings.strategy).ignored.items():
        if _counts(config.said.get(key)):
            what = f"has no effect: the trainer of {settings.strategy} does not look at it"
            yield Problem(f"{where}: {key}", what, fix, drop([key]))
    backend = settings.distributed.backend
    for key in ("deepspeed", "fsdp", "fsdp_config"):
        if backend != "ddp" and _counts(config.said.get(key)):
            what = f"distributed.backend is {backend}, which sets it"
            yield Problem(f"{where}: {key}", what, "name your file in distributed.config")
    if backend == "ddp" and settings.distributed.config is not None:
        what = "has no effect: distributed.backend is ddp"
        yield Problem(
            f"{where}: distributed.config",
            what,
            "set zero2, zero3 or fsdp, or remove it",
            drop(["distributed", "config"]),
        )
    yield from group_problems(config)
    if config.said.get("max_steps") == 0:
        fix = "set it to 1 or more, or use `modelforge check` to stop before training"
        yield Problem(f"{where}: max_steps", "is 0, which trains nothing", fix)
    if settings.streaming and settings.max_samples is None:
        what = "reads the rows that the run trains on, and "
        if config.said.get("packing"):
            what += "packing says only as it goes how many these are"
            yield Problem(f"{where}: streaming", what, "set max_samples to the rows to read")
        elif (config.said.get("max_steps") or -1) < 0:
            what += "nothing says how many these are"
            yield Problem(f"{where}: streaming", what, "set max_steps, or max_samples")
    if settings.lora_r == 0 and (settings.use_4bit or settings.use_8bit):
        yield Problem(
            f"{where}: lora_r",
            "0 trains all weights, and quantised weights cannot be trained",
            "set lora_r to 8 or more, or use_4bit and use_8bit to false",
        )
    trained = registry.get_strategy(settings.strategy)()
    yield from lora_problems(config, reference=trained.uses_reference(config))
    if settings.provider != "auto":
        yield from get_provider(settings.provider)().config_problems(config)
    yield from constraint_problems(config)
    yield from precision_problems(config)
