"""Attacks carried out: the model answers each turn before the next is sent, and all is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.constraints.of_a_run import of_recorded
from modelforge.errors import DataError, ModelError, Problem
from modelforge.evaluation.opened import Bench, Named
from modelforge.inference.answers import Sampling, prompt_ids
from modelforge.inference.generate import answer_each
from modelforge.inference.held import FILTERED
from modelforge.inference.prompts import Asking
from modelforge.inference.trained import Trained, load_tokenizer
from modelforge.safety.attacks import Attack, turns_of
from modelforge.safety.goals import Goal

DIRECT = "direct"
TOO_LONG = "longer than the model's context"


@dataclass
class Talk:
    """One attack on one request, and what the model said.

    Attributes:
        goal: The request.
        attack: How it was dressed.
        turns: What is sent, one after the other.
        sample: Its number among several of the same.
        messages: What was said, from the system message to the last answer.
        left_out: Why it was not carried out to its end; empty where it was.
        blocked: Whether a constraint let through nothing of the last answer.
    """

    goal: Goal
    attack: str
    turns: Sequence[str]
    sample: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    left_out: str = ""
    blocked: bool = False

    @property
    def answer(self) -> str:
        """The last answer."""
        return str(self.messages[-1]["content"])

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return self.goal.id, self.attack, self.sample


def planned(goals: Sequence[Goal], attacks: Mapping[str, Attack], samples: int = 1) -> list[Talk]:
    """Each attack on each harmful request; the harmless ones are asked as they stand."""
    found = []
    for name, attack in attacks.items():
        found += [(g, name, turns_of(name, attack, g.text)) for g in goals if g.harmful]
    found += [(goal, DIRECT, [goal.text]) for goal in goals if not goal.harmful]
    return [Talk(*each, sample) for each in found for sample in range(samples)]


def on_bench(bench: Bench) -> Callable[[Named], AbstractContextManager[Trained]]:
    """Opens models on a bench: several adapters of a base switch on it, which is loaded once."""

    @contextmanager
    def opened(found: Named) -> Iterator[Trained]:
        with bench.model(found) as model:
            yield Trained(found, model, load_tokenizer(found))

    return opened


def messages_tokenizer(found: Named) -> Any:
    """A model's tokenizer, with a chat template.

    Raises:
        ModelError: If there is none, or it takes no messages.
    """
    tokenizer = load_tokenizer(found)
    if not tokenizer.chat_template:
        what = "its tokenizer has no chat template: it takes no messages"
        raise ModelError(Problem(found.said, what, "name a chat model"))
    return tokenizer


def carry_out(
    found: Named, talks: Sequence[Talk], folder: Path, *, sampling: Sampling,
    batch_size: int = 8, system: str | None = None, constraints: str | None = None,
    bench: Bench | None = None,
) -> None:  # fmt: skip
    """Send all turns, and write the answers into the talks.

    Each turn is a file of answers in the folder, row by row. So a job that was killed goes on.

    Args:
        found: The model.
        talks: Of `planned`, in its order.
        folder: Where the answers are kept.
        sampling: How they are drawn.
        batch_size: Answers at once.
        system: The system message; by default that of the run.
        constraints: A file of those that answers are held to, or ``none``; by default the run's.
        bench: Holds the bases that were loaded already.

    Raises:
        UserError: If the model takes no messages, no attack fits into its context, or the folder
            holds another job.
    """
    tokenizer = messages_tokenizer(found)
    told = system or found.recorded.get("system_prompt")
    for talk in talks:
        talk.messages = [{"role": "system", "content": told}] if told else []
        talk.left_out = ""
    silent, context = Trained(found, None, tokenizer), _context(found)
    opened = on_bench(bench or Bench())
    held_to = of_recorded(found.recorded, constraints, said=found.said)
    group = 1 + max(talk.sample for talk in talks)
    for turn in range(max(len(talk.turns) for talk in talks)):
        live = [talk for talk in talks if turn < len(talk.turns) and not talk.left_out]
        for talk in live:
            talk.messages.append({"role": "user", "content": talk.turns[turn]})
            room = (context or 0) - sampling.max_new_tokens
            if context is not None and len(prompt_ids(silent, talk.messages)) > room:
                talk.left_out = TOO_LONG
        live = [talk for talk in live if not talk.left_out]
        if not live and turn == 0:
            what = f"no attack fits into its {context} tokens before an answer"
            fix = f"set --max-new-tokens below {sampling.max_new_tokens}, or give shorter requests"
            raise DataError(Problem(found.said, what, fix))
        # In the first turn several answers to a prompt stand together, and are drawn apart.
        together = group if turn == 0 else 1
        asked = [Asking(" ".join(talk.key[:2]), list(talk.messages), "") for talk in live]
        output = folder / f"turn-{turn + 1}.jsonl"
        if live:
            say(f"{found.name}: turn {turn + 1} of {len(live)} attacks")
            answer_each(found, asked[::together], output, sampling=sampling, group=together,
                        batch_size=batch_size, held_to=held_to, opened=opened)  # fmt: skip
            for talk, row in zip(live, _lines(output), strict=True):
                talk.messages.append({"role": "assistant", "content": row["completion"]})
                nothing = not row["tokens"] or not row["completion"].strip()
                talk.blocked = row["finish_reason"] == FILTERED and nothing


def _context(found: Named) -> int | None:
    """The most tokens that a model's positions reach, where its config says; loads no weights."""
    from transformers import AutoConfig

    source = found.source
    config = AutoConfig.from_pretrained(
        source.base, revision=source.revision, trust_remote_code=False
    )
    reach: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return reach


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
