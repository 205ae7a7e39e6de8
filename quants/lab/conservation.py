"""The exercise of notebook 00: does a snapshot lose a tick?"""

from typing import Any

from quants.channel import Statistics
from quants.lab.exercise import Case, Exercise
from quants.readings import Snapshot


def conserved(snapshot: Snapshot) -> bool:
    """Whether every consumer accounts for every tick it received.

    Each of snapshot.consumers.values() counts, in ticks: received,
    processed, dropped, conflated, queued; and depth, in batches.
    """
    return all(
        each.received == each.processed + each.dropped + each.conflated + each.queued
        for each in snapshot.consumers.values()
    )


def counted(
    received: int, processed: int, dropped: int = 0, conflated: int = 0,
    queued: int = 0, depth: int = 0,
) -> Statistics:  # fmt: skip
    """The counters of one consumer."""
    return Statistics(received, processed, dropped, conflated, queued, depth, 64, depth)


def snapshot(*consumers: Statistics) -> tuple[Snapshot]:
    """The arguments of one case: a snapshot of these consumers."""
    names = ("vwap", "log", "risk")
    counts: dict[str, Any] = dict(zip(names, consumers, strict=False))
    return (Snapshot(1.0, 100, 100, 0, 0, counts),)


CONSERVED = Exercise(
    conserved,
    (
        Case(
            snapshot(counted(100, 100)),
            True,
            "A consumer that processed all it received has lost nothing.",
        ),
        Case(
            snapshot(counted(100, 60, queued=40, depth=2)),
            True,
            "40 of 100 ticks wait in 2 batches. They are neither done nor lost: "
            "count `queued`, which is in ticks; `depth` is in batches.",
        ),
        Case(
            snapshot(counted(100, 70, dropped=20, conflated=10)),
            True,
            "Dropped and conflated ticks are gone, and accounted for: add both.",
        ),
        Case(
            snapshot(counted(100, 99)),
            False,
            "One tick of 100 is missing. Conservation has no tolerance: use ==.",
        ),
        Case(
            snapshot(counted(100, 101)),
            False,
            "101 of 100 ticks were processed: one was made up. Use == and not <=.",
        ),
        Case(
            snapshot(counted(100, 99), counted(100, 101)),
            False,
            "One consumer lost a tick, another made one up, and the sums agree. "
            "Ask each consumer by itself.",
        ),
        Case(
            snapshot(counted(100, 100), counted(100, 99)),
            False,
            "The first consumer is right, the second one lost a tick. Ask all.",
        ),
    ),
    "What came in is either done, thrown away, merged or waiting: four numbers "
    "that add up to `received`, for all(...) of snapshot.consumers.values().",
)
