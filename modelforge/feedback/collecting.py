"""`modelforge collect`: answers are had judged by people in a browser."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from modelforge.common.console import say
from modelforge.errors import ConfigError, DataError, Problem
from modelforge.feedback.answering import ask_models, named_models, reward_scores
from modelforge.feedback.collected import Collected
from modelforge.feedback.dealing import Dealer
from modelforge.feedback.page import Page
from modelforge.feedback.responses import read_responses
from modelforge.feedback.trained import TrainOnThese
from modelforge.inference.answers import Sampling
from modelforge.web.server import is_loopback, listening

TOKEN = "MODELFORGE_COLLECT_TOKEN"  # an environment variable
_SHORTEST = 16  # characters of a token
_SOURCES = "say --prompts FILE --models RUN_A RUN_B, or --responses FILE"


@dataclass(frozen=True)
class Collecting:
    """What is judged, and how.

    Attributes:
        db: The file of the votes.
        prompts: A file of prompts, for `models`.
        models: That answer them.
        responses: A file of answers, instead of both.
        overlap: How many annotators are asked of each task.
        ranked: Whether all answers to a prompt are ranked at once.
        guidelines: A text shown beside each task; may be empty.
        reward_model: Whose scores say what is dealt first; or None.
        active: Whether what tells the most is dealt first.
        train: The model that "Train on these" trains; by default the last of `models`.
        overrides: Of that run.
        sampling: How models answer.
        host, port: Where to listen.
    """

    db: Path
    prompts: str | None = None
    models: Sequence[str] = ()
    responses: Path | None = None
    overlap: int = 2
    ranked: bool = False
    guidelines: str = ""
    reward_model: str | None = None
    active: bool = True
    train: str | None = None
    overrides: Sequence[str] = ()
    sampling: Sampling | None = None
    host: str = "127.0.0.1"
    port: int = 7879


def collect(asked: Collecting) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: If there is nothing to judge, a model or file cannot be used, or the port is
            taken.
    """
    token = _token(asked.host)
    _refuse(asked)
    with closing(Collected(asked.db, overlap=asked.overlap)) as store:
        made, page = opened(asked, store, token)
        with made:
            address = f"http://{_shown(asked.host)}:{made.server_address[1]}"
            if token is None:
                say(f"judge answers: {address}/")
                say(f"what came of it: {address}/results")
                say("on this machine alone; Ctrl-C ends it")
            else:
                # The token is the way in: it is shown here, and nowhere else.
                print(f"judge answers: {address}/?token={quote(token, safe='')}", flush=True)
                print(f"what came of it (for you): {address}/results?token={page.owner_token}",
                      flush=True)  # fmt: skip
            try:
                made.serve_forever()
            except KeyboardInterrupt:
                say("ended")


def opened(
    asked: Collecting, store: Collected, token: str | None
) -> tuple[ThreadingHTTPServer, Page]:
    """The server, which listens and has not begun to answer, and its page."""
    folder, sampling = asked.db.with_suffix(".files"), asked.sampling or Sampling()
    # The port is taken before models answer for an hour.
    holder: list[Page] = []
    made = listening(lambda request: holder[0](request), asked.host, asked.port)
    try:
        rows = []
        if asked.responses is not None:
            rows = read_responses(asked.responses)
        elif asked.prompts is not None:
            rows = ask_models(asked.models, asked.prompts, folder / "answers", sampling)
        new = store.add(rows, ranked=asked.ranked)
        say(f"{new} new tasks in {asked.db}; {len(store.tasks())} are to be judged")
        if not store.counts("")[2]:
            what = "there is nothing to judge: all answers to each prompt are the same"
            fix = "compare other models, or other prompts"
            if not store.texts():
                what, fix = "holds no answers", _SOURCES
            raise DataError(Problem(str(asked.db), what, fix))
        scores = reward_scores(asked.reward_model, store.texts()) if asked.reward_model else None
        dealer = Dealer(store, scores=scores, active=asked.active)
        dealer.choose()
        training = None
        if asked.train or asked.models:
            known = named_models([asked.train] if asked.train else asked.models[-1:])
            training = TrainOnThese(store, dealer, base=next(iter(known.items())), folder=folder,
                                    sampling=sampling, overrides=asked.overrides)  # fmt: skip
        holder.append(
            Page(store, dealer, guidelines=asked.guidelines, token=token, training=training)
        )
    except BaseException:
        made.server_close()
        raise
    return made, holder[0]


def _refuse(asked: Collecting) -> None:
    """See that the options fit together.

    Raises:
        ConfigError: With each that does not.
    """
    problems = []
    if asked.responses is not None and (asked.prompts or asked.models):
        what = "is given with --prompts or --models"
        problems.append(Problem("--responses", what, "give answers, or models that answer"))
    elif asked.responses is None and not (asked.prompts and asked.models):
        if asked.prompts or asked.models or not asked.db.is_file():
            what = "is not said" if asked.prompts else "needs prompts and models, or answers"
            where = "--models" if asked.prompts else "modelforge collect"
            problems.append(Problem(where, what, _SOURCES))
    elif asked.responses is None and len(asked.models) < 2:
        problems.append(Problem("--models", "names one model", "name two to compare, or more"))
    if not all(asked.models):
        problems.append(Problem("--models", "one is empty", "name a run, a folder or a hub id"))
    if asked.reward_model and not asked.active:
        fix = "leave one of them out"
        problems.append(Problem("--reward-model", "has no effect with --in-order", fix))
    if asked.overrides and not (asked.train or asked.models):
        problems.append(Problem("--set", "has no effect: nothing is trained", "say --train MODEL"))
    if problems:
        raise ConfigError(*problems)


def _token(host: str) -> str | None:
    """What all who come must know; None on loopback, unless one is said.

    Raises:
        ConfigError: If the one that is said can be guessed.
    """
    said = os.environ.get(TOKEN)
    if said is not None and len(said) < _SHORTEST:
        what = f"is shorter than {_SHORTEST} characters: it can be guessed"
        raise ConfigError(Problem(TOKEN, what, "set a long random word, or unset it"))
    return said or (None if is_loopback(host) else secrets.token_urlsafe(24))


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        import socket

        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
