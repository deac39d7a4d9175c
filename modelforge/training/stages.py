"""RLHF from Python: the stages of strategy `rlhf`, one by one or all of them.

>>> from modelforge import RLHFConfig, RLHFTrainer
>>> config = RLHFConfig(model_name="…", dataset="pairs.jsonl")  # doctest: +SKIP
>>> RLHFTrainer(config).run()  # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.common.console import headline
from modelforge.common.files import digest, file_digest, missing_folders, remove_empty
from modelforge.common.libraries import libraries_heard
from modelforge.common.paths import file_of, find_path, paths_in
from modelforge.config import LORA_KEYS, REWARD_MODEL, Choice, Config
from modelforge.configfile import schema
from modelforge.configfile.load import load_config, under
from modelforge.errors import ConfigError, Interrupted, Problem, RunError, UserError
from modelforge.evaluation.stages import write_whole
from modelforge.machine.environment import prepare_environment
from modelforge.models.source import find_model
from modelforge.rewards.callables import StandIn, code_of
from modelforge.rewards.functions import names_module, source_of
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.strategies.rewarded import Rewarded
from modelforge.strategies.rlhf import OF_THE_WHOLE, trained_models
from modelforge.training.effects import without_effect
from modelforge.training.prepare import prepare, refuse_no_step, told_once
from modelforge.training.prompts import record
from modelforge.training.read import read
from modelforge.training.resolve import resolve
from modelforge.training.reward_stage import kind_of, look_at, numbered, together
from modelforge.training.run import run_once

if TYPE_CHECKING:
    from modelforge.data import Data
    from modelforge.runs.result import Result
    from modelforge.strategy import Strategy

RewardFunction = Callable[..., Any]

# What decides which rows there are, and which of them are held out.
_ROWS = (
    *("dataset", "dataset_split", "columns", "max_samples", "eval_dataset", "eval_split"),
    *("held_out_as", "seed", "system_prompt"),
)


class RLHFTrainer:
    """Runs the stages, each in a folder of its own inside the run's.

    A stage that is finished, and whose config, data and models are as they were, is not run
    again. One that was stopped resumes from its last checkpoint.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config,
        *,
        rewards: Sequence[RewardFunction | tuple[RewardFunction, float]] = (),
    ) -> None:
        """Nothing is loaded yet.

        Args:
            config: A config file, its keys, or an `RLHFConfig`.
            rewards: Reward functions in TRL's form (or a `modelforge.rewards.model.RewardModel`),
                alone or with a weight; added to those of the config.

        Raises:
            ConfigError: If the config's strategy has no stages, or the config is wrong.
        """
        self.config = config if isinstance(config, Config) else load_config(config)
        strategy = registry.get_strategy(self.config.settings.strategy)
        if not strategy().stages(self.config):
            what = f"is '{self.config.settings.strategy}'"
            raise ConfigError(Problem(f"{self.config.name}: strategy", what, "set rlhf"))
        self.functions = [r if isinstance(r, tuple) else (r, 1.0) for r in rewards]
        self.settings: Any = self.config.settings
        self.root = _root(self.config)
        self.done: dict[str, Result] = {}
        self._held_out: Sequence[int] | None = None  # of the whole: a fingerprint of each prompt

    def train_sft(self) -> Result:
        """Fine-tune on the chosen answers; later stages start from that model."""
        return self._stage("sft")

    def train_reward_model(self) -> Result:
        """Train a reward model on the pairs, and see whether it is worth optimising against.

        Of several (``reward_models``) each is looked at; the last one's result is given.

        Raises:
            RunError: If it is not.
        """
        for name in numbered("reward", self.settings.reward_models):
            result = self._stage(name)
            look_at(result, self.settings.min_reward_accuracy, self.config.name)
        return result

    def train_ppo(self) -> Result:
        """Train the policy by ``algorithm`` (PPO by default) on the pairs' prompts.

        Raises:
            RunError: If there is nothing that rewards it yet.
        """
        given = self.settings.reward_model or self.settings.rewards or self.functions
        if "reward" not in self.done and not given:
            fix = "call train_reward_model() first, set reward_model, or pass rewards"
            raise RunError(Problem("train_ppo", "there is no reward", fix))
        return self._stage(self.settings.algorithm)

    def train_dpo(self) -> Result:
        """Train on the pairs directly (DPO), for comparison or instead."""
        return self._stage("dpo")

    @libraries_heard()
    def run(self) -> Result:
        """All stages of the config; the result is the last one's.

        Raises:
            UserError: If the config, data, model or machine cannot be used. Where this can be
                known beforehand, it is raised before the first stage.
        """
        prepare_environment()
        strategy: Any = registry.get_strategy(self.settings.strategy)
        strategy = strategy(self.functions)
        stages = strategy.stages(self.config)
        headline(f"── {strategy.name}: {', '.join(stages)} ──")
        calls = {"sft": self.train_sft, "reward": self.train_reward_model}
        with told_once():
            self._held_out = _drawn(prepare(self.config, strategy).data)
            self.check(stages[1:])  # the first is next, and prepares itself
            with self._left_if_begun():
                self._write_stages()  # with the config: the folder alone is enough to resume
                return [calls.get(stage, self.train_ppo)() for stage in stages][-1]

    train = run  # as trainers have it

    @libraries_heard()
    def check(self, stages: Sequence[str] | None = None) -> None:
        """Prepare stages, each on the base in place of the models that stages before it train.

        Args:
            stages: Those to prepare; by default all of the config.

        Raises:
            UserError: If one cannot be run, as far as config, data, tokenizer and shape tell.
        """
        all_stages = registry.get_strategy(self.settings.strategy)().stages(self.config)
        for name in all_stages if stages is None else stages:
            headline(f"── {name}: check ──")
            before = all_stages[: all_stages.index(name)]
            try:
                config, strategy = self._ready(name, awaited="reward" in before, begun=False)
                refuse_no_step(prepare(config, strategy))
            except UserError as error:
                problems = [replace(p, where=f"stage {name}: {p.where}") for p in error.problems]
                raise type(error)(*problems) from error

    @contextmanager
    def _left_if_begun(self) -> Iterator[None]:
        """A failure before the first stage's first step takes the folder away, if it was made."""
        made = missing_folders(self.root)
        try:
            yield
        except BaseException:
            ours = {files.STAGES, files.PROMPTS}
            if made and {path.name for path in self.root.glob("*")} <= ours:
                for name in ours:
                    (self.root / name).unlink(missing_ok=True)
                remove_empty(made)
            raise

    def _ready(
        self, name: str, *, awaited: bool = False, begun: bool = True
    ) -> tuple[Config, Strategy]:
        """A stage's config and strategy.

        Args:
            name: The stage's.
            awaited: Whether a stage that has not run yet trains a reward model for it.
            begun: Whether it is run now; before that nothing is written.
        """
        kind, number = kind_of(name)
        strategy: Any = registry.get_strategy(kind)
        rewarded = issubclass(strategy, Rewarded)
        values = stage_values(self.config, kind, strategy)
        values |= self._inputs(name, values, rewarded=rewarded)
        if kind != "reward" and "sft" in self.done:
            # The adapter of the stage before is trained further; a whole model has no revision.
            decided = LORA_KEYS if _is_adapter(self.done["sft"]) else ("model_revision",)
            values = {key: value for key, value in values.items() if key not in decided}
        if begun:
            values = self._held_out_alike(values)
        if number > 1:
            values["seed"] = values.get("seed", self.settings.seed) + number - 1
        functions = self.functions if rewarded else []
        if rewarded and awaited:
            functions = [*functions, *[(StandIn(REWARD_MODEL), 1.0)] * trained_models(self.config)]
        # All stages share this process, and after Unsloth there is no PPO in it.
        values["provider"] = "huggingface"
        values["run_name"] = f"{name}-{self._digest(values, functions)}"
        values["output_dir"] = str(self.root)
        loaded = load_config(values, trust_remote_code=self.settings.trust_remote_code)
        config = replace(loaded, path=self.config.path, base_dir=self.config.base_dir)
        return config, strategy(functions) if rewarded else strategy()

    def _stage(self, name: str) -> Result:
        """One ordinary run."""
        config, strategy = self._ready(name)
        headline(f"── {name} ──")
        try:
            result = run_once(config, strategy)
        except Interrupted as stopped:
            raise Interrupted(self.root, stopped.step) from None  # the whole is resumed
        self.done[name] = result
        from modelforge.training.recovery import free_memory

        free_memory()  # before the next stage loads its model
        self._write_stages()
        return result

    def _held_out_alike(self, values: dict[str, Any]) -> dict[str, Any]:
        """A stage's values, with which it holds out the prompts that the whole does.

        Each stage leaves out other rows and would draw others. So the policy would be measured on
        prompts that its reward model was trained on.
        """
        said = self.config.request()
        if any(values.get(key) != said.get(key) for key in _ROWS):
            return values  # of its own
        if self._held_out is None:
            strategy: Any = registry.get_strategy(self.settings.strategy)
            self._held_out = _drawn(read(resolve(self.config, strategy(self.functions))).data)
        if not self._held_out:
            return values
        run = RunDir(self.root)
        run.write_json(files.PROMPTS, record((), self._held_out))
        kept = {key: value for key, value in values.items() if key != "eval_split"}
        return kept | {"held_out_as": str((run.path / files.PROMPTS).resolve())}

    def _inputs(self, name: str, values: Mapping[str, Any], *, rewarded: bool) -> dict[str, Any]:
        """What a stage takes from those before it."""
        inputs: dict[str, Any] = {}
        if kind_of(name)[0] == "reward":
            # On the base, whatever adapter the policy begins with: so they can share it.
            source = find_model(
                values["model_name"],
                base_dir=self.config.base_dir,
                revision=self.settings.model_revision,
                where=f"{self.config.name}: model_name",
            )
            inputs["model_name"] = source.base
        elif name != "sft" and "sft" in self.done:
            inputs["model_name"] = str(self.done["sft"].run_dir.resolve())
        if rewarded and "reward" in self.done:
            given = values.get("reward_model") or []
            given = given if isinstance(given, list) else [given]
            trained = [
                self.done[each].run_dir for each in self.done if kind_of(each)[0] == "reward"
            ]
            average = self.settings.average_reward_models
            inputs["reward_model"] = [*given, *together(trained, self.root, average=average)]
        return inputs

    def _digest(
        self, values: Mapping[str, Any], functions: Sequence[tuple[RewardFunction, float]]
    ) -> str:
        """A short name of all that a stage is made from: keys, data, models, code."""
        settings = registry.get_strategy(values["strategy"]).settings
        places = [place for place in paths_in(settings, values) if place.beside_config]
        paths = [find_path(file_of(place.text), self.config.base_dir) for place in places]
        modules = [place.text for place in places if names_module(place.text)]
        paths += [source_of(name, self.config.base_dir)[0] for name in modules]
        contents = [_contents(path) for path in paths if path is not None]
        code = [[*code_of(function), weight] for function, weight in functions]
        return digest([values, contents, code])[:8]

    def _write_stages(self) -> None:
        rows = {
            name: {
                "run": result.run_dir.name,
                "before": dict(result.before),
                "after": dict(result.after),
            }
            for name, result in self.done.items()
        }
        run = RunDir(self.root)
        run.remove(files.RESULTS)
        run.write_json(files.STAGES, {"said": self.config.request(), "stages": rows})
        stages = registry.get_strategy(self.settings.strategy)().stages(self.config)
        counts = {"reward": self.settings.reward_models}
        wanted = [each for name in stages for each in numbered(name, counts.get(name, 1))]
        if list(self.done) == wanted:
            folders = {name: result.run_dir.name for name, result in self.done.items()}
            write_whole(self.root, folders, self.settings.strategy)


def stage_values(config: Config, name: str, strategy: type[Strategy]) -> dict[str, Any]:
    """The config of one stage: what the whole says and that strategy knows.

    The policy's stage takes every key it knows. The others take those that mean the same to them
    (and not the policy's learning rate), and then their own section.

    Args:
        config: Of the whole.
        name: ``sft``, ``reward``, ``dpo`` or the policy's algorithm.
        strategy: The stage's.
    """
    staged = registry.get_strategy(config.settings.strategy)
    whole, known = (schema.load(s)["properties"] for s in (staged, strategy))
    policy = issubclass(strategy, Rewarded)
    said = config.request()
    values: dict[str, Any] = {"strategy": name}
    for key, value in said.items():
        alike = policy or (key != "learning_rate" and known.get(key) == whole.get(key))
        if key in known and key not in OF_THE_WHOLE and alike:
            values[key] = value
    section = dict(said.get(f"{name}_stage", {}))
    values = under(values, section) | section
    # What counts for another stage may not count for this one.
    stage = load_config(values, trust_remote_code=config.settings.trust_remote_code)
    defaults = {k: Choice(v, "strategy", why) for k, (v, why) in strategy.defaults.items()}
    idle = set(without_effect(stage.with_defaults(defaults), strategy()))
    idle -= {*section, *LORA_KEYS, "bnb_4bit_quant_type", "use_double_quant"}
    return {key: value for key, value in values.items() if key not in idle}


def _drawn(data: Data) -> Sequence[int]:
    """What the held-out rows ask, where they were taken out of the rows to train on."""
    return data.eval_prompts if data.drawn else ()


def _is_adapter(result: Result) -> bool:
    return (result.model_dir / "adapter_config.json").is_file()


def _root(config: Config) -> Path:
    """The folder of the whole: the user's, or one named after model and data.

    Not after every key: so a change of PPO's settings finds the reward model again.
    """
    settings = config.settings
    name = settings.run_name
    if name is None:
        said = [config.portable()[key] for key in ("model_name", "dataset")]
        model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(settings.model_name).name).strip("-.")
        name = f"{settings.strategy}-{model or 'model'}-{digest(said)[:6]}"
    root = Path(settings.output_dir).expanduser() / name
    number = 1
    while settings.resume == "never" and root.exists():
        number += 1
        root = root.with_name(f"{name}-{number}")
    return root


def _contents(path: Path) -> list[list[str]]:
    """Each file that is read of a file or folder, with the digest of its bytes."""
    if path.is_file():
        return [[path.name, file_digest(path)]]
    run = (path / files.CHOICES).is_file() and (path / files.MODEL).is_dir()
    folder = path / files.MODEL if run else path
    # Of a data folder only the files in it are read: others may hold the runs themselves.
    model = (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()
    found = sorted(file for file in folder.glob("**/*" if model else "*") if file.is_file())
    card = folder / "README.md" if run else None
    return [[str(f.relative_to(folder)), file_digest(f)] for f in found if f != card]
