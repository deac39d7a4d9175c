"""An environment: a class that begins anew for each row, and whose methods the policy may call."""

from __future__ import annotations

from typing import Any


class Guess:
    """The policy guesses the row's answer, and is told whether it is larger or smaller."""

    def reset(self, answer: str = "7", **row: Any) -> str:
        """Begin anew with a row of the data; what is returned is added to its prompt."""
        self.answer, self.guesses = int(answer), 0
        self.found = False
        return " You may guess."

    def guess(self, number: int) -> str:
        """Say a number.

        Args:
            number: What it may be.
        """
        self.guesses += 1
        self.found = int(number) == self.answer
        return "right" if self.found else "larger" if int(number) < self.answer else "smaller"

    def get_reward(self) -> float:
        """1 for the first guess, less for each further one, 0 without the number."""
        return 1.0 / self.guesses if self.found else 0.0
