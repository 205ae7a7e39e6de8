"""A loop is already running: what it does when a cell waits, and when it blocks.

A heart is a task that beats twenty times a second. It is the plainest thing a
loop can have to do, so where a beat is missing, the loop did nothing at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, GREEN, INK, VERMILION
from quants.lab.screen import screen
from quants.lab.session import end, session
from quants.monitor import delays

BEAT = 0.05  # seconds
VIEW_SECONDS = 2.4  # what the live timeline has room for


def attempt(run: Callable[[Any], Any], work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in a way that may be refused; print the refusal."""
    try:
        print(run(work))
    except RuntimeError as refusal:
        print(f"{type(refusal).__name__}: {refusal}")
    finally:
        work.close()  # else Python warns that nobody awaited it


class Heart:
    """Beats on the loop that runs it, and notes when.

    Attributes:
        beats: the moments, in seconds since the heart was made.
        late: how late each beat came that was due, the missed ones included.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.beats: list[float] = []
        self.late: list[float] = []
        self.phases: list[Phase] = []
        self._clock, self._sleep, self._began = clock, sleep, clock()

    def __repr__(self) -> str:
        told = (f"{len(p)} beats in {p.name}" for p in self.phases)
        return "; ".join(told) + "." if self.phases else f"{len(self.beats)} beats."

    @property
    def now(self) -> float:
        """Seconds since the heart was made."""
        return self._clock() - self._began

    async def run(self) -> None:
        """Beat until cancelled; what was missed counts with its own delay."""
        due = self.now
        while True:
            late_ns = round((self.now - due) * 1e9)
            missed = [ns / 1e9 for ns in delays(late_ns, round(BEAT * 1e9))]
            self.late += missed
            self.beats.append(self.now)
            due += BEAT * max(1, len(missed))
            await self._sleep(max(0.0, due - self.now))

    @contextmanager
    def during(self, name: str) -> Iterator["Phase"]:
        """Remember what a cell did when, and the beats meanwhile."""
        phase = Phase(self, name, self.now)
        self.phases.append(phase)
        try:
            yield phase
        finally:
            phase.end = self.now


class Phase:
    """A part of a heart's life; its length is the beats in it."""

    def __init__(self, heart: Heart, name: str, start: float) -> None:
        self.heart, self.name, self.start, self.end = heart, name, start, float("inf")

    def __len__(self) -> int:
        return sum(self.start < beat < self.end for beat in self.heart.beats)

    def __repr__(self) -> str:
        return f"{len(self)} beats in {self.name}"


@asynccontextmanager
async def heartbeat(first: float = 0.2) -> AsyncIterator[Heart]:
    """A heart on this loop, drawn live; the picture of all its beats stays.

    Args:
        first: seconds that it beats alone, before the block and after it.
    """
    lab, heart = await session(), Heart()
    chart, beats = timeline(heart, VIEW_SECONDS)
    beating = lab.start(heart.run())

    def look() -> None:
        beats.set_data(heart.beats, [1.0] * len(heart.beats))

    try:
        async with screen(lab, chart.live(beats), look, lambda: beats_of(heart)):
            await asyncio.sleep(first)
            yield heart
            await asyncio.sleep(first)
    finally:
        await end(beating)


def timeline(heart: Heart, seconds: float) -> tuple[Chart, Any]:
    """An empty timeline, and the artist that the beats go to."""
    chart = Chart(
        "A heart on the kernel's loop, due 20 times a second",
        n=f"n = {len(heart.beats)} beats" if heart.beats else "beats so far",
        alt="A timeline of heartbeats: one mark for each. They come evenly while "
        "a cell awaits; while a cell blocks, there are none.",
        height=230,
    )
    panel = chart.panel("time (s)", "")
    panel.yaxis.set_visible(False)
    panel.spines["left"].set_visible(False)
    panel.set_xlim(0, seconds)
    panel.set_ylim(0, 2)
    (beats,) = panel.plot([], [], "|", color=BLUE, markersize=26, markeredgewidth=2)
    return chart, beats


def beats_of(heart: Heart) -> Chart:
    """The whole life of a heart: its beats, and what the cell did meanwhile."""
    chart, beats = timeline(heart, heart.now)
    beats.set_data(heart.beats, [0.7] * len(heart.beats))
    (panel,) = chart.figure.axes
    for phase in heart.phases:
        colour = GREEN if len(phase) else VERMILION
        panel.axvspan(phase.start, phase.end, color=colour, alpha=0.12, linewidth=0)
        middle = (phase.start + phase.end) / 2
        panel.text(middle, 1.68, phase.name, color=INK, fontsize=10, ha="center")
        told = f"{len(phase)} beats"
        panel.text(middle, 1.36, told, color=colour, fontsize=10, ha="center")
    return chart


def lets_others_run(phase: Phase) -> bool | None:
    """Whether the heart went on beating."""
    return len(phase) > 1


def stops_the_loop(phase: Phase) -> bool | None:
    """Whether the heart stood still, wholly."""
    return len(phase) == 0


CLAIMS = (
    Claim(
        "waiting-lets-others-run",
        "while a cell awaits, the other tasks of its loop go on",
        "while a cell awaits, the other tasks of its loop stand still",
        lets_others_run,
    ),
    Claim(
        "blocking-stops-the-loop",
        "while a cell blocks, no task of its loop makes a single step",
        "a task of the loop made a step while a cell blocked",
        stops_the_loop,
    ),
)
