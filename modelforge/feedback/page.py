"""The page on which people judge answers, and the one on which their owner sees what came of it.

Annotators see no model's name. The results, which name them, are the owner's: where others can
reach the server, they have a token of their own.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, unquote

from modelforge.errors import UserError
from modelforge.feedback.between import dense
from modelforge.feedback.collected import Collected
from modelforge.feedback.dealing import Dealer
from modelforge.feedback.stats import stats, told
from modelforge.feedback.tables import Said, Task
from modelforge.feedback.votes import CONFIDENCES
from modelforge.web.page import chat_turns, render, script
from modelforge.web.server import WITH_FORMS, Request, Response

_LONGEST = 60  # characters of a name
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Training(Protocol):
    """A run that the page can start."""

    def start(self) -> str:
        """Start it, and say so."""

    def told(self) -> tuple[str, bool, bool]:
        """Where it stands, whether it goes on, and whether one may be started."""


class Page:
    """Answers what a browser asks.

    Args:
        store: The votes.
        dealer: Chooses what is dealt.
        guidelines: Shown beside each task; may be empty.
        token: That all must know; None for none.
        training: What "Train on these" starts.
    """

    def __init__(
        self,
        store: Collected,
        dealer: Dealer,
        *,
        guidelines: str = "",
        token: str | None = None,
        training: Training | None = None,
    ) -> None:
        self.store, self.dealer, self.guidelines = store, dealer, guidelines
        self.token, self.training = token, training
        # Cookies know no port: two files that are judged at once have their own.
        mark = hashlib.sha256(str(store.path.resolve()).encode()).hexdigest()[:8]
        self._who, self._key = f"annotator_{mark}", f"token_{mark}"

    @property
    def owner_token(self) -> str | None:
        """What opens the results too."""
        return _digest(self.token, "owner") if self.token else None

    def __call__(self, asked: Request) -> Response:
        """Answer it."""
        try:
            return self._answer(asked)
        except UserError as error:  # the disk is full, or the file is gone
            told = f"Not kept: {error.problems[0].what}"
            return self._words(told, 503)

    def _answer(self, asked: Request) -> Response:
        said = (asked.query.get("token") or [""])[-1]
        if self.token and said and asked.method == "GET":
            if self._rights(said):  # it leaves the address bar
                return Response("", 303, headers={"Location": asked.path},
                                cookies={self._key: quote(said, safe="")})  # fmt: skip
            return self._words("This token is not right. Ask for the address anew.", 403)
        rights = self._rights(unquote(asked.cookies.get(self._key, "")))
        if not rights:
            return self._words("This page needs the address with the token.", 403)
        if asked.method == "GET":
            return self._get(asked, rights)
        who = asked.cookies.get(self._who, "")
        if asked.path == "/who":
            return self._register(asked.form.get("name", ""))
        if not _same(asked.form.get("csrf", ""), _csrf(who)):
            return self._words("This form is not yours, or too old. Load the page anew.", 403)
        if asked.path == "/train" and rights == "owner":
            return self._results(who, self.training.start() if self.training else "")
        if self.store.name(who) is None:
            return self._words("Say first who you are.", 403)
        if asked.path == "/vote":
            return self._vote(who, asked.form)
        if asked.path == "/undo":
            last = _number(asked.form.get("last", ""))
            if last is not None:
                self.store.undo(who, last)
            return _home()
        return self._words("There is no such page.", 404)

    def _get(self, asked: Request, rights: str) -> Response:
        if asked.path == "/collect.js":
            return Response(script("collect.js"), kind="text/javascript", headers=WITH_FORMS)
        who = asked.cookies.get(self._who, "")
        if asked.path == "/results" and rights == "owner":
            return self._results(who, "")
        if asked.path != "/":
            return self._words("There is no such page.", 404)
        return self._judge(who)

    def _rights(self, token: str) -> str:
        """``owner``, ``annotator``, or nothing."""
        if self.token is None or _same(token, self.owner_token or ""):
            return "owner"
        return "annotator" if _same(token, self.token) else ""

    def _register(self, name: str) -> Response:
        name = " ".join(name.split())[:_LONGEST]
        if not name:
            return self._words("Say a name.", 400, asked=True)
        return Response("", 303, headers={"Location": "/"},
                        cookies={self._who: self.store.register(name)})  # fmt: skip

    def _judge(
        self,
        who: str,
        *,
        said: str = "",
        status: int = 200,
        kept: Mapping[str, str] | None = None,
    ) -> Response:
        """The next task, or the same with what went wrong."""
        name = self.store.name(who)
        if name is None:
            return self._words(said, status, asked=True)
        task = self.store.deal(who)
        mine, done, goal = self.store.counts(who)
        page = render(
            "collect.html",
            title="Which answer is better?",
            name=name,
            mine=mine,
            last=self.store.last(who) or "",
            done=done,
            goal=goal,
            more=self.dealer.told,
            csrf=_csrf(who),
            said=said,
            guidelines=self.guidelines,
            task=task,
            sure=list(CONFIDENCES.items()),
            **_shown(task, kept or {}),
        )
        return Response(page, status, headers=WITH_FORMS)

    def _vote(self, who: str, form: Mapping[str, str]) -> Response:
        task, number = self.store.deal(who), _number(form.get("task", ""))
        if number is not None and (task is None or task.id != number):
            task = self.store.asked(who, number)  # one that was judged before, and is said anew
        try:
            said = _said(form, task) if task is not None else None
        except ValueError as error:
            return self._judge(who, said=str(error), status=400, kept=form)
        if number is None or said is None or not self.store.vote(who, number, said):
            return self._judge(who, said="This task was not dealt to you.", status=409)
        self.dealer.heard()
        return _home()

    def _words(self, said: str, status: int, *, asked: bool = False) -> Response:
        title = "Who judges?" if asked else "Which answer is better?"
        page = render("collect_name.html", title=title, said=said, asked=asked)
        return Response(page, status, headers=WITH_FORMS)

    def _results(self, who: str, said: str) -> Response:
        """What came of the votes; it names the models."""
        votes = self.store.votes()
        found = stats(votes, self.store.texts())
        _, done, goal = self.store.counts(who)
        line, goes_on, may = self.training.told() if self.training else ("", False, False)
        same = found["agreement"]
        page = render(
            "collect_results.html",
            title="What people say",
            said=said,
            done=done,
            goal=goal,
            lines=[told(each) for each in found["contests"]] or ["no votes yet"],
            training=line or "Name a model with --models, or one to train with --train.",
            refresh=goes_on,
            may_train=may and bool(votes),
            csrf=_csrf(who),
            head=("annotator", "votes", "takes left", "takes longer", "seconds", "agrees"),
            rows=[
                (each["name"], each["votes"], _percent(each["left"]), _percent(each["longer"]),
                 _or_dash(each["seconds"], ".1f"), _percent(each["agrees"]))
                for each in found["annotators"]
            ],
            careless=[f"{each['name']} {problem}" for each in found["annotators"]
                      for problem in each["problems"]],
            agreement=[
                f"{same['twice']} pairs were judged by two or more",
                *([f"Krippendorff's alpha {same['alpha_ordinal']:.2f} (ordinal)"]
                  if same["twice"] else []),
            ],
        )  # fmt: skip
        return Response(page, headers=WITH_FORMS)


def _shown(task: Task | None, kept: Mapping[str, str]) -> dict[str, Any]:
    """A task as its template takes it, with what was filled in before."""
    count = len(task.texts) if task else 0
    ranked = count > 2
    prompt = task.prompt if task else {}
    names = [f"Answer {letter}" for letter in _LETTERS[:count]]
    fields = ("better", "comment", *(f"rank{i}" for i in range(count)))
    return {
        "turns": chat_turns(prompt.get("messages") or prompt.get("prompt") or ""),
        "ranked": ranked,
        "places": names if ranked else ["Left", "Right"],
        "kept": {name: kept.get(name, "") for name in fields}
        | {"confidence": kept.get("confidence", "2")},
    }


def _said(form: Mapping[str, str], task: Task) -> Said:
    """What a form says of a task.

    Raises:
        ValueError: If it says nothing that can be kept; its text is for the annotator.
    """
    choice, count = form.get("choice", ""), len(task.texts)
    confidence = form.get("confidence", "")
    sure = int(confidence) if confidence in map(str, CONFIDENCES) else None
    seconds = _seconds(form.get("seconds", ""))
    better, comment = (form.get(name, "").strip() or None for name in ("better", "comment"))
    if choice == "skip":
        return Said("skip", (), None, None, comment, seconds)
    if choice == "bad":
        return Said("bad", (), sure, better, comment, seconds)
    known_places = {"left": (1, 2), "right": (2, 1), "tie": (1, 1)}
    places: tuple[int, ...] | None = known_places.get(choice)
    if choice == "ranked":
        given = [_number(form.get(f"rank{i}", "")) or 0 for i in range(count)]
        if not all(1 <= each <= count for each in given):
            raise ValueError("Give each answer a place, or skip.")
        places = dense(given)
    if places is None or len(places) != count:
        raise ValueError("Choose one of the buttons.")
    ranks = [0] * count
    for number, rank in zip(task.shown, places, strict=True):
        ranks[number] = rank
    return Said("ranked", tuple(ranks), sure, better, comment, seconds)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return round(value, 2) if math.isfinite(value) and 0 < value < 86_400 else None


def _home() -> Response:
    return Response("", 303, headers={"Location": "/", **WITH_FORMS})


def _percent(share: float) -> str:
    return _or_dash(share, ".0%")


def _or_dash(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _number(text: str) -> int | None:
    """A number of the database; None for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _same(said: str, known: str) -> bool:
    """Whether two texts are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(said.encode(), known.encode())


def _csrf(who: str) -> str:
    """What a form of this annotator carries; whoever cannot read the cookie cannot tell it."""
    return _digest(who, "form")


def _digest(key: str | None, what: str) -> str:
    return hmac.new((key or "").encode(), what.encode(), "sha256").hexdigest()
