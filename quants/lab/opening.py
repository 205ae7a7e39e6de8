"""The claims of notebook 00: which pump falls behind, and what holds its ticks."""

from quants.lab.bell import Ringing
from quants.lab.claims import Claim

# A pump that does less than half of what it is owed is not a slow one that
# happens to be disturbed: the naive one does a tenth, the other one all.
HALF = 0.5
MOST_WAITING_SECONDS = 0.5  # of the asked rate, queued


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


CLAIMS = (
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
        "the stage that gave way is one that awaits somebody, not one that computes",
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
