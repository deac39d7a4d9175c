"""Batches whose texts are made while the tokenizer works at those before, in threads beside.

The tokenizer is no Python: while it works, Python is free for the next batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


def in_turn(
    batches: Iterable[Generator[Asked, Any, Made]],
    answer: Callable[[Asked], Any],
    *,
    threads: int,
) -> Iterator[Made]:
    """What each batch makes, in order.

    Args:
        batches: Each yields what it asks, and is sent the answer.
        answer: Gives it.
        threads: How many give answers, while one batch more is made; 0: all is done here.
    """
    waiting: deque[_Begun[Asked, Made]] = deque()
    with ThreadPoolExecutor(threads or 1) as pool:

        def ask(asked: Asked) -> Future[Any]:
            if threads:
                return pool.submit(answer, asked)
            now: Future[Any] = Future()
            now.set_result(answer(asked))
            return now

        for batch in batches:
            waiting.append(_Begun(batch, ask))
            if len(waiting) > threads:
                yield waiting.popleft().finished()
        while waiting:
            yield waiting.popleft().finished()


class _Begun(Generic[Asked, Made]):
    """A batch that has asked for the first time.

    Args:
        batch: It.
        ask: Takes what it asks.
    """

    def __init__(
        self, batch: Generator[Asked, Any, Made], ask: Callable[[Asked], Future[Any]]
    ) -> None:
        self.batch, self.ask = batch, ask
        self.asked: Future[Any] | None = None
        self.made: Made
        self._go_on(None)

    def finished(self) -> Made:
        """What it makes, once all that it asks is answered."""
        while self.asked is not None:
            self._go_on(self.asked.result())
        return self.made

    def _go_on(self, answer: Any) -> None:
        try:
            self.asked = self.ask(self.batch.send(answer))
        except StopIteration as end:
            self.asked, self.made = None, end.value
