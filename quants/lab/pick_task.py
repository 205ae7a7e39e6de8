"""The exercise of notebook 12: which engine suits which work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quants.lab.claims import Claim
from quants.lab.engines_compared import WORKLOADS, Race, Raced, raced_before
from quants.lab.exercise import Answer, Case, Exercise
from quants.lab.workloads import WORKLOADS as PIECES


class Profile(NamedTuple):
    """Work, cut into pieces, and the interpreter that has to do it."""

    waits: bool = False  # mostly for an answer; it computes little
    lets_go: bool = False  # it computes in C code that gives up the GIL
    loads: bool = True  # in a sub-interpreter, all that it imports
    work_us: float = 5000.0  # CPU time of a piece
    handing_us: float = 50.0  # to hand a piece to any worker
    gil: bool = True  # this interpreter runs with one
    own_gils: bool = False  # and offers sub-interpreters with a GIL each
    cores: int = 2  # of this machine


def pick_engine(profile: Profile) -> str:
    """The cheapest engine that does several pieces of such work at once.

    From the cheapest on: "inline" (a piece after the other), "threads",
    "interpreters", "processes". Inline, too, if no other is any faster.
    """
    if profile.waits:
        return "threads"
    if profile.cores == 1 or profile.work_us <= profile.handing_us:
        return "inline"
    if profile.lets_go or not profile.gil:
        return "threads"
    if profile.own_gils and profile.loads:
        return "interpreters"
    return "processes"


PICK_ENGINE = Exercise(
    pick_engine,
    (
        Case(
            (Profile(),), "processes",
            "Plain Python, one GIL, no sub-interpreters: two threads would take "
            "turns, and inline is one core. What has a GIL of its own is a process.",
        ),
        Case(
            (Profile(gil=False),), "threads",
            "There is no GIL. Threads run at once and share all they have: to send "
            "the work to a process would only cost more.",
        ),
        Case(
            (Profile(lets_go=True),), "threads",
            "There is a GIL, but this work does not hold it: C code has let go of it. "
            "Threads will do.",
        ),
        Case(
            (Profile(own_gils=True),), "interpreters",
            "A sub-interpreter has a GIL of its own and is cheaper than a process.",
        ),
        Case(
            (Profile(own_gils=True, loads=False),), "processes",
            "This work imports something that refuses to load in a sub-interpreter.",
        ),
        Case(
            (Profile(waits=True),), "threads",
            "A thread that waits holds no GIL, so the cheapest workers are enough.",
        ),
        Case(
            (Profile(waits=True, cores=1),), "threads",
            "It waits, and waiting takes no core: one core can wait for many.",
        ),
        Case(
            (Profile(waits=True, work_us=20.0),), "threads",
            "It waits. work_us says how little it computes, not how long it takes.",
        ),
        Case(
            (Profile(cores=1),), "inline",
            "It computes, and there is one core: workers would share what inline has.",
        ),
        Case(
            (Profile(work_us=5.0),), "inline",
            "A piece is done sooner than it is handed over: compare work_us with "
            "handing_us.",
        ),
        Case(
            (Profile(work_us=5.0, gil=False),), "inline",
            "A thread has to be handed its piece as well, with a GIL or without.",
        ),
    ),
    "Ask in this order: does it wait? Can any worker help at all? Does the work hold "
    "a GIL? May it leave its interpreter? The first answer that decides is enough.",
)  # fmt: skip

# ---- the answer at work

WAITING_US = 20.0  # about what a piece computes that only waits


def profile_of(row: Raced, workload: str) -> Profile:
    """A workload of the race, and the interpreter that ran it."""
    crumbs = (row.seconds["crumbs"][e] for e in row.seconds["crumbs"] if e != "inline")
    waits = workload == "wait"
    each = row.seconds[workload]["inline"] / PIECES[workload][2]
    return Profile(
        waits=waits,
        lets_go=workload == "hash",
        work_us=WAITING_US if waits else each * 1e6,
        handing_us=min(crumbs) / PIECES["crumbs"][2] * 1e6,
        gil=row.guest.gil,
        own_gils="interpreters" in row.seconds[workload],
    )


class Pick(NamedTuple):
    """What was picked, and its speed by that of the best there."""

    row: Raced
    workload: str
    engine: str
    share: float


@dataclass(frozen=True)
class Picks:
    """A pick for each workload of each interpreter."""

    all: tuple[Pick, ...]

    def __repr__(self) -> str:
        worst = min(self.all, key=lambda pick: pick.share)
        return (
            f"{len(self.all)} picks. The one that lost most: {worst.engine} for "
            f"{worst.workload} on {worst.row.guest}, at {worst.share:.0%} of the best."
        )


def picks(answer: Answer, race: Race | None = None) -> Picks:
    """Ask an answer to the exercise about every workload; None: those recorded."""
    rows: Sequence[Raced] = race.rows if race else raced_before()
    found = []
    for row in rows:
        for workload in WORKLOADS:
            engine = answer(profile_of(row, workload))
            speed_up = row.speed_up(workload, engine) or 0.0
            share = speed_up / row.best(workload)
            found.append(Pick(row, workload, engine, share))
    return Picks(tuple(found))


NEAR = 0.75  # of the best


def picked_well(picks: Picks) -> bool | None:
    """Whether every pick is near the best engine there; None without a pick."""
    return all(pick.share >= NEAR for pick in picks.all) if picks.all else None


CLAIMS = (
    Claim(
        "the-picked-engine-is-near-the-best",
        "for every workload recorded, the picked engine is near the fastest",
        "for a workload recorded, another engine is much faster than the picked one",
        picked_well,
    ),
)
