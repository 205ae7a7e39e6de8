"""Notebook 05: who runs Python while another does? Its claims, too.

Workers count, and note the time now and then. Drawn as a Gantt chart the notes
show who ran when. Throughput is in `race`; what a turn breaks in `turns_broken`.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from quants.errors import EnvironmentFault
from quants.evidence import CLAIMS as SAID
from quants.evidence import MORE_THAN_ONE, Conclusion, conclude
from quants.lab.charts import Chart
from quants.lab.claims import WORDS, Claim
from quants.lab.live import BLUE, ORANGE, SKY, VERMILION
from quants.lab.race import Race
from quants.lab.session import session
from quants.lab.turns_broken import LONG_TURN, Starved
from quants.turns import Track, gil_enabled, work
from quants.worker import PROCESSES


async def decided(name: str) -> Conclusion:
    """What the signs say of a claim of `quants.evidence`, without a stopwatch."""
    await session()
    return await asyncio.to_thread(conclude, name)


# ---- who ran

Span = tuple[float, float]  # from, to; seconds
TURN_SECONDS = 0.005  # a thread that waits asks for its turn after so long
LEAD_SECONDS = 0.1  # for all to arrive
TRIES = 3
START_SECONDS = 60.0  # beside eight hogs
QUICK = 3.0  # times the shortest note: beyond it, somebody waited
SHOWN_SECONDS = 0.12


@dataclass(frozen=True)
class WhoRan:
    """When each of two threads ran, and each of two processes.

    Attributes:
        gil: whether this interpreter has one.
    """

    threads: tuple[list[Span], list[Span]]
    processes: tuple[list[Span], list[Span]]
    notes: int
    gil: bool

    def __repr__(self) -> str:
        took = turns(self.threads)
        return (
            f"Two threads took {len(took)} turns and ran at once in "
            f"{overlap(*self.threads):.0%} of their time, two processes in "
            f"{overlap(*self.processes):.0%}. A turn took {1e3 * median(took):.1f} ms "
            f"in the median; the switch interval is {1e3 * TURN_SECONDS:g} ms."
        )

    def picture(self) -> Chart:
        """A bar for each stretch of time in which a worker ran."""
        chart = Chart(
            "Who ran Python, and when",
            n=f"n = {self.notes:,} notes of 4 workers, the calmest of {TRIES} tries",
            alt="Two panels with two rows each. The bars of two threads alternate: "
            "where one has a bar the other has a gap. The bars of two processes lie "
            "side by side as far as there are two cores.",
            panels=2,
            height=280,
        )
        for name, spans, colours in (
            ("threads", self.threads, (ORANGE, VERMILION)),
            ("processes", self.processes, (BLUE, SKY)),
        ):
            panel = chart.panel("time (ms)", "", f"two {name} (a bar: it ran)")
            draw_rows(panel, spans, colours)
        return chart


def draw_rows(panel: Any, rows: Sequence[list[Span]], colours: Sequence[str]) -> None:
    """The first moments in which all are there, a row each."""
    begin = max(row[0][0] for row in rows)
    for place, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        bars = [(1e3 * (start - begin), 1e3 * (end - start)) for start, end in row]
        panel.broken_barh(bars, (place - 0.35, 0.7), facecolors=colour)
    panel.set_yticks(range(len(rows)), "AB")
    panel.set_xlim(0, 1e3 * SHOWN_SECONDS)
    panel.grid(False)


async def who_ran() -> WhoRan:
    """Let two threads count, then two processes, and read their notes."""
    await session()
    threads = await asyncio.to_thread(notes, 1, 2)
    processes = await asyncio.to_thread(notes, 2, 1)
    (first, second), (third, fourth) = map(most_at_once, (threads, processes))
    count = sum(len(track) for tries in (threads, processes) for track in tries[0])
    return WhoRan((first, second), (third, fourth), count, gil_enabled())


def most_at_once(tries: list[list[Track]]) -> list[list[Span]]:
    """The try in which the two ran at once most: others disturbed it least."""
    return max(
        ([spans(track) for track in tracks] for tracks in tries),
        key=lambda rows: overlap(*rows),
    )


def notes(processes: int, threads: int) -> list[list[Track]]:
    """What workers note that count for a while from one moment on; some tries."""
    tries = []
    with counters(processes, threads) as pipes:
        for _ in range(TRIES):
            begin = time.perf_counter() + LEAD_SECONDS
            for pipe in pipes:
                pipe.send((TURN_SECONDS, begin))
            for pipe in pipes:
                pipe.recv()  # who they are
            answers = [answer for pipe in pipes for answer in pipe.recv()]
            tries.append([track for _, track in answers])
    return tries


@contextmanager
def counters(processes: int, threads: int) -> Iterator[list[Connection]]:
    """Processes that run `turns.work`, started; they end with the block."""
    with ExitStack() as stack:
        pipes = [stack.enter_context(counter(threads)) for _ in range(processes)]
        for pipe in pipes:
            if not pipe.poll(START_SECONDS):
                raise EnvironmentFault("a worker did not start; is the host busy?")
            pipe.recv()
        yield pipes


@contextmanager
def counter(threads: int) -> Iterator[Connection]:
    """One of them, and the pipe to it."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=work, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()  # it has nothing to finish
        process.join()


def spans(track: Track) -> list[Span]:
    """When a worker ran: it notes the time every so many counts.

    Two notes that are close together mean that it ran in between, two that are
    far apart that it waited.
    """
    pairs = [(start, end) for (start, *_), (end, *_) in pairwise(track)]
    quick = QUICK * min(end - start for start, end in pairs)
    found: list[Span] = []
    for start, end in pairs:
        if end - start > quick:
            continue
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


def turns(rows: Sequence[list[Span]]) -> list[float]:
    """Seconds of each turn: of a worker's bars, up to another one's next."""
    bars = sorted((*span, who) for who, row in enumerate(rows) for span in row)
    groups = [[*group] for _, group in groupby(bars, lambda bar: bar[2])]
    return [group[-1][1] - group[0][0] for group in groups]


def overlap(first: Sequence[Span], second: Sequence[Span]) -> float:
    """The share of the time that both are there, in which both ran."""
    start, end = max(first[0][0], second[0][0]), min(first[-1][1], second[-1][1])
    both = sum(max(0.0, min(b, d) - max(a, c)) for a, b in first for c, d in second)
    return both / (end - start) if end > start else 0.0


# ---- claims


def share_one_core(race: Race) -> bool | None:
    """Whether threads got no more CPU time than one core has.

    Without a GIL little says nothing: the machine may have had no more to give.
    """
    if race.cores("threads") > MORE_THAN_ONE:
        return False
    return True if race.gil else None


def alternate(who: WhoRan) -> bool | None:
    """Whether two threads ran one after the other.

    Without a GIL that says nothing either: there may have been one core only.
    """
    share = overlap(*who.threads)
    if share > OFTEN:
        return False
    return True if share < SELDOM and who.gil else None


def waits_for_a_turn(starved: Starved) -> bool | None:
    """Whether answers wait as long as a turn is, if a thread computes.

    Not all do: on a busy machine an answer may come before the other thread
    has noticed that it could have its turn, and some wait that long alone.
    """
    beside, alone = (
        sum(wait >= CLOSE * LONG_TURN for wait in waits) / len(waits)
        for waits in (starved.waits["thread, long turns"], starved.waits["alone"])
    )
    if beside < RARELY:
        return False
    return True if beside > MANY and alone < beside / 4 else None


def of(name: str) -> Claim:
    """A claim of `quants.evidence`, which has decided it already."""
    words = {word: truth for truth, word in WORDS.items()}
    said = SAID[name]
    return Claim(name, said.supported, said.refuted, lambda found: words[found.verdict])


SELDOM, OFTEN = 0.1, 0.5  # share of the time
CLOSE = 0.8  # of the turn
RARELY, MANY = 0.05, 0.2  # of the answers

CLAIMS = (
    Claim(
        "vwap-threads-share-one-core",
        "threads that sum a VWAP in Python share one core, however many there are",
        "threads that sum a VWAP in Python kept more than one core busy",
        share_one_core,
        "there is no GIL here, and yet no more than one core was to be had",
    ),
    of("threads-take-turns"),
    of("processes-run-at-once"),
    Claim(
        "where-one-has-a-bar-the-other-has-a-gap",
        "while one thread runs Python the other one waits",
        "both threads run Python at the same moment",
        alternate,
        "there is no GIL here, and yet hardly a moment in which both threads ran",
    ),
    Claim(
        "adding-in-place-loses-nothing",
        "this interpreter does not change turns within an addition in place",
        "even an addition in place loses updates here",
        lambda lost: lost.in_place == 0,
    ),
    Claim(
        "a-call-in-between-loses-updates",
        "with a call between reading and writing, updates are lost",
        "nothing was lost, even with a call between reading and writing",
        lambda lost: lost.by_call > 0,
    ),
    Claim(
        "an-answer-waits-for-its-turn",
        "an answer that has come waits a whole turn beside a thread that computes",
        "a thread that computes does not keep an answer waiting",
        waits_for_a_turn,
    ),
    Claim(
        "shared-sums-are-exact",
        "four threads added to one VWAP, and not a tick is missing",
        "the VWAP is not that of the ticks that were added",
        lambda poured: poured.exact,
    ),
)
