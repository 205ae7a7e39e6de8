"""Claims about performance, and what decides each of them.

A claim is one word and one sentence, computed from the evidence. Neither
holds a number that changes between runs, so both are compared strictly when
the notebooks are tested. A claim whose evidence is missing is INCONCLUSIVE;
none is decided by a stopwatch reading alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from quants.lab.bell import Ringing

Word = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]

# A pump that does less than half of what it is owed is not a slow one that
# happens to be disturbed: the naive one does a tenth, the other one all.
HALF = 0.5
MOST_WAITING_SECONDS = 0.5  # of the asked rate, queued


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


def falls_behind(ringing: Ringing) -> bool | None:
    """Whether most of what was owed is undone, and waits."""
    waiting = ringing.readings[-1].queued > MOST_WAITING_SECONDS * ringing.rate
    if ringing.share_done < HALF and waiting:
        return True
    return False if ringing.share_done >= HALF and not waiting else None


def keeps_up(ringing: Ringing) -> bool | None:
    """Whether it does what it is owed, and nothing piles up."""
    behind = falls_behind(ringing)
    return None if behind is None else not behind


def only_waits(ringing: Ringing) -> bool | None:
    """Whether the stage that gave way is one that awaits somebody else."""
    return None if ringing.gave_way is None else ringing.gave_way in ("log", "risk")


def conserves(*ringings: Ringing) -> bool | None:
    """Whether the counters of every consumer add up, to the tick."""
    return all(
        c.received == c.processed + c.dropped + c.conflated + c.queued
        for ringing in ringings
        for c in ringing.snapshot.consumers.values()
    )


CLAIMS = {
    claim.id: claim
    for claim in (
        Claim(
            "naive-falls-behind",
            "the naive pump does less than half of what it is asked; the rest queues",
            "the naive pump keeps up with the rate it is asked for",
            falls_behind,
        ),
        Claim(
            "quants-keeps-up",
            "the same ticks, the same rate, one argument changed: nothing piles up",
            "this pump falls behind too",
            keeps_up,
        ),
        Claim(
            "the-slowest-stage-waits",
            "the stage that gave way computes next to nothing: it waits for an answer",
            "the stage that gave way is one that computes",
            only_waits,
            "no stage gave way, so there is none to judge",
        ),
        Claim(
            "ticks-are-conserved",
            "received = processed + dropped + conflated + queued, to the tick",
            "ticks are lost or made between two counters",
            conserves,
        ),
    )
}


def judge(id: str, *evidence: Any) -> Verdict:
    """Decide a claim by its evidence."""
    claim = CLAIMS[id]
    words: dict[bool | None, Word] = {
        True: "SUPPORTED", False: "REFUTED", None: "INCONCLUSIVE"
    }  # fmt: skip
    return Verdict(claim, words[claim.judge(*evidence)])


def verdict(id: str, *evidence: Any) -> None:
    """Print what the evidence says of a claim: one word and one sentence."""
    print(judge(id, *evidence))
