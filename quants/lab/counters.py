"""Two counters, A and B, in every interpreter: does B count while A runs?

The question is asked of two threads, and of two sub-interpreters. Nobody asks
A for its GIL: what B counts meanwhile is exactly nothing, if they share one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from quants.evidence import signs
from quants.lab.claims import Claim
from quants.lab.interpreters import Guest, Guests, NoAnswer, ask, recorded
from quants.turns import Observation, beside


class Count(NamedTuple):
    """What B counted while A ran, which nobody asked for the GIL.

    Attributes:
        seconds: how long A ran.
        beside: what B counted meanwhile.
        after: what B counted when A had finished.
    """

    guest: Guest
    seconds: float
    beside: int
    after: int

    @property
    def at_once(self) -> bool | None:
        """Whether both ran Python at once, by the switch-interval probe."""
        return next(signs(Observation(*self[1:], shares=()))).at_once


@dataclass(frozen=True)
class Counts:
    """The same two counters, in every interpreter: here, or recorded."""

    rows: tuple[Count, ...]
    skipped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"{row.guest!s:28} B counted {row.beside:>11,} while A ran"
            for row in self.rows
        ]
        return "\n".join([*lines, *self.skipped])


async def count(guests: Guests, way: str) -> Counts:
    """Let A and B count in each interpreter, in two "threads" or "interpreters"."""
    rows, skipped = [], []
    for guest in guests.all:
        try:
            said = await asyncio.to_thread(ask, guest, guests.folder, "count", way)
        except NoAnswer as reason:
            skipped.append(f"{guest}: {reason}")
        else:
            rows.append(Count(guest, *beside(said["tracks"])))
    here = {row.guest.sort for row in rows}
    before = [
        Count(guest, *row[way])
        for guest, row in recorded().items()
        if guest.sort not in here and way in row
    ]
    in_order = sorted([*rows, *before], key=lambda row: row.guest.sort)
    return Counts(tuple(in_order), tuple(skipped))


# ---- what loads there


@dataclass(frozen=True)
class Loading:
    """Whether NumPy loads in a sub-interpreter, by interpreter."""

    said: dict[Guest, str]

    def __repr__(self) -> str:
        lines = [f"{guest!s:28} NumPy {said}" for guest, said in self.said.items()]
        return "\n".join(lines)


async def numpy(guests: Guests) -> Loading:
    """Try to import NumPy where sub-interpreters have a GIL each."""
    said = {}
    for guest in guests.all:
        if not guest.own_gils:
            continue
        asked = partial(ask, guest, guests.folder, "loads", "numpy")
        with suppress(NoAnswer):
            said[guest] = (await asyncio.to_thread(asked))["said"]
    told = {guest: word for guest, word in said.items() if word in ANSWERS}
    here = {guest.sort for guest in told}
    for guest, row in recorded().items():
        fits = guest.own_gils and guest.sort not in here
        if fits and row["numpy"] in ANSWERS:
            told[guest] = row["numpy"]
    return Loading(dict(sorted(told.items(), key=lambda item: item[0].sort)))


ANSWERS = ("loads", "refuses")  # others say nothing, such as "not installed"


# ---- what is claimed


def as_told(counts: Counts, at_once: Callable[[Guest], bool]) -> bool | None:
    """Whether A and B ran at once exactly where they are said to."""
    decided = [row for row in counts.rows if row.at_once is not None]
    if not decided:
        return None
    return all(row.at_once == at_once(row.guest) for row in decided)


def refused(loading: Loading) -> bool | None:
    """Whether NumPy refuses wherever it was asked to load."""
    said = set(loading.said.values())
    return None if not said else said == {"refuses"}


CLAIMS = (
    Claim(
        "threads-run-at-once-without-a-gil",
        "threads run Python at once where there is no GIL, and nowhere else",
        "to the threads of one of them its GIL, or the lack of one, made no difference",
        lambda counts: as_told(counts, lambda guest: not guest.gil),
    ),
    Claim(
        "interpreters-have-a-gil-each",
        "sub-interpreters run at once where each has a GIL or none has, and take "
        "turns where all share one",
        "sub-interpreters of one of them did not do what its version promises",
        lambda counts: as_told(counts, lambda guest: guest.own_gils),
    ),
    Claim(
        "numpy-stays-outside",
        "NumPy refuses to load in a sub-interpreter",
        "NumPy loads in a sub-interpreter",
        refused,
        "no interpreter that was asked has NumPy installed",
    ),
)
