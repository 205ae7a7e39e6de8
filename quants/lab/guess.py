"""A guess, written down before the result; nothing waits for it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guess:
    """What somebody expects; None is fine."""

    about: str
    value: Any

    def __repr__(self) -> str:
        if self.value is None:
            return f"{self.about}: no guess, and nothing waits for one."
        return f"{self.about}: you say {self.value}."

    def answer(self, truth: Any) -> str:
        """The result beside the guess, in one sentence."""
        if self.value is None:
            return f"{self.about}: {truth}."
        if self.value == truth:
            return f"{self.about}: {truth}, as you said."
        return f"{self.about}: you said {self.value}, this run says {truth}."


def guess(about: str, value: Any = None) -> Guess:
    """Write down a guess, such as `guess("speed-up of 2 threads", "2x")`."""
    return Guess(about, value)
