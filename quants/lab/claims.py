"""A claim about performance, and its verdict.

A verdict is one word and one sentence, computed from the evidence. Neither
holds a number that changes between runs, so both are compared strictly when
the notebooks are tested. A claim whose evidence is missing is INCONCLUSIVE;
none is decided by a stopwatch reading alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Word = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]
WORDS: dict[bool | None, Word] = {
    True: "SUPPORTED", False: "REFUTED", None: "INCONCLUSIVE"
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A sentence that evidence decides.

    Attributes:
        judge: True, False, or None when this evidence decides nothing.
        unclear: why it may be undecided, and what to do.
    """

    id: str
    supported: str
    refuted: str
    judge: Callable[..., bool | None]
    unclear: str = "this run does not decide it: run it again on a quieter machine"

    def decided(self, *evidence: Any) -> "Verdict":
        """What the evidence says of it."""
        return Verdict(self, WORDS[self.judge(*evidence)])


@dataclass(frozen=True)
class Verdict:
    """A claim, decided."""

    claim: Claim
    word: Word

    def __str__(self) -> str:
        sentences = {
            "SUPPORTED": self.claim.supported,
            "REFUTED": self.claim.refuted,
            "INCONCLUSIVE": self.claim.unclear,
        }
        return f"{self.word}: {sentences[self.word]}."
