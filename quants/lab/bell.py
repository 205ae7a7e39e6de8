"""Ring the opening bell: a pump at work, live, from one line in a cell.

    await bell.ring()                            the naive pump, 1,000 ticks/s
    await bell.ring(50_000)                      the same, fifty times as fast
    await bell.ring(50_000, pump="quants")       the pump of this package

A ring ends by itself. Who touches the slider gets more time, and a queue that
would eat the memory ends it early.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle

from quants.histogram import seconds_text
from quants.lab.card import FULL_RATE, within_reach
from quants.lab.controls import Controls
from quants.lab.live import FRAME_SECONDS, Live, Render
from quants.lab.panels import (
    WINDOW_SECONDS,
    BellPicture,
    Reading,
    StagesPicture,
    gives_way,
)  # fmt: skip
from quants.lab.pumps import PUMPS, Pump, PumpName
from quants.lab.session import session
from quants.readings import Snapshot

Law = Callable[[Snapshot], bool]

SECONDS = 5.0
TOUCHED_SECONDS = 15.0  # more time for who turns the rate
MOST_QUEUED = 300_000  # ticks; some 150 MB in the naive queue
LATELY = 1.0  # seconds over which the live budget is averaged


@dataclass(frozen=True)
class Ringing:
    """What one ring of the bell showed.

    Attributes:
        rate: ticks/s that were asked for at the end.
        kept: lawful looks at the counters, of so many; see `law`.
        snapshot: the counters at the end, before anything drained.
    """

    pump: PumpName
    rate: int
    readings: tuple[Reading, ...]
    stage_us: dict[str, float]  # held per tick, the whole ring
    snapshot: Snapshot
    kept: tuple[int, int] = (0, 0)

    @property
    def gave_way(self) -> str | None:
        """The stage that holds a tick longest, if the budget is broken."""
        return gives_way(self.stage_us, self.rate)

    @property
    def share_done(self) -> float:
        """Ticks wholly done, of those the feed owed in that time."""
        last = self.readings[-1]
        owed = sum(
            b.asked * (b.seconds - a.seconds)
            for a, b in zip(self.readings, self.readings[1:], strict=False)
        )
        return (last.processed - self.readings[0].processed) / max(owed, 1)

    def __repr__(self) -> str:
        last, stage = self.readings[-1], self.gave_way
        end = f"{stage} gave way" if stage else "no stage gave way"
        return (
            f"{self.pump} at {self.rate:,} ticks/s: {last.processed:,} done, "
            f"{last.queued:,} queued, the last one {seconds_text(last.age_seconds)} "
            f"old; {end}."
        )


async def ring(
    rate: int = 1000,
    *,
    pump: PumpName = "naive",
    seconds: float = SECONDS,
    law: Law | None = None,
    render: Render = "loop",
) -> Ringing:
    """Run a pump at `rate` ticks/s, draw it live, and say what happened.

    Args:
        law: checked at every look at the counters, such as `conserved`.
        render: where it is drawn: on the loop, or by a process of its own.
    """
    lab = await session()
    rate = min(rate, within_reach(FULL_RATE))
    async with PUMPS[pump](lab, rate) as running:
        show = Show(running, rate, seconds, law, render)
        try:
            await show.run()
        finally:
            show.leave()
        lab.raise_faults()  # a pump that failed says so here
    return show.ringing()


class Show:
    """One ring on the screen: live picture, controls, and what was read."""

    def __init__(
        self,
        pump: Pump,
        rate: int,
        seconds: float,
        law: Law | None,
        render: Render = "loop",
    ) -> None:
        self.pump, self.rate, self.law = pump, rate, law
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.readings: list[Reading] = []
        self._held: list[dict[str, tuple[int, int]]] = []
        self.snapshot = pump.snapshot()
        self.kept = self.looks = 0
        self.picture = BellPicture(pump.name, WINDOW_SECONDS, live=True)
        self.live = Live(self.picture, self.picture.moving, render)
        self.handle = DisplayHandle()

    async def run(self) -> None:
        """Show and update until the deadline."""
        self.handle.display(self._widgets())
        await self.live.run(self.update)

    def _widgets(self) -> Any:
        controls = Controls(self.pump.tasks[0].get_loop())
        rates = range(1000, within_reach(FULL_RATE), 1000)
        slider = controls.slider("ticks/s", rates, self.rate, self.turn)
        stop = controls.button("Stop", "End this ring now", self.stop)
        row = ipywidgets.HBox([slider, stop])
        return ipywidgets.VBox(
            [row, self.live.widget, self.live.words, controls.errors]
        )

    def turn(self, rate: int) -> None:
        """Another rate from now on, and time to see what it does."""
        self.rate = self.pump.feed.tick_rate = rate
        self.deadline = max(self.deadline, time.monotonic() + TOUCHED_SECONDS)

    def stop(self) -> None:
        """End at the next frame."""
        self.deadline = 0.0

    def update(self) -> bool:
        """Look at the pump and show it; whether the ring goes on."""
        self.look()
        if self.picture.update(self.readings):
            self.live.limits_changed()
        ended = any(task.done() for task in self.pump.tasks)
        full = self.readings[-1].queued > MOST_QUEUED
        return not (ended or full or time.monotonic() > self.deadline)

    def look(self) -> None:
        """Read the pump's counters once."""
        self.snapshot = now = self.pump.snapshot()
        counts, watches = now.consumers.values(), self.pump.watches
        self._held.append({n: (w.held_ns, w.done) for n, w in watches.items()})
        lately = max(0, len(self._held) - 1 - round(LATELY / FRAME_SECONDS))
        reading = Reading(
            time.monotonic() - self.started,
            self.rate,
            now.received,
            min(each.processed for each in counts),
            max(each.queued for each in counts),
            self.pump.age_seconds(),
            held_us(self._held[lately], self._held[-1]),
        )
        self.readings.append(reading)
        if self.law is not None:
            self.looks += 1
            self.kept += self.law(now) is True

    def leave(self) -> None:
        """Put a still picture of the whole ring where the live one was."""
        if self.readings:
            self.handle.update(self.still())

    def still(self) -> BellPicture:
        """The whole ring in one picture."""
        last = self.readings[-1]
        picture = BellPicture(self.pump.name, max(last.seconds, 1.0))
        whole = last._replace(stage_us=held_us({}, self._held[-1]))
        picture.update([*self.readings[:-1], whole])
        return picture

    def ringing(self) -> Ringing:
        """What this ring showed."""
        stage_us = held_us({}, self._held[-1])
        return Ringing(
            self.pump.name,
            self.rate,
            tuple(self.readings),
            stage_us,
            self.snapshot,
            (self.kept, self.looks),
        )


def held_us(
    before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]
) -> dict[str, float]:
    """Microseconds each stage held a tick, between two looks."""
    times = {}
    for name, (held_ns, done) in now.items():
        held_before, done_before = before.get(name, (0, 0))
        ticks = done - done_before
        times[name] = (held_ns - held_before) / 1e3 / ticks if ticks else 0.0
    return times


def stages(naive: Ringing, quants: Ringing) -> StagesPicture:
    """A picture of what each stage of both pumps holds a tick for."""
    ticks = [ringing.readings[-1].processed for ringing in (naive, quants)]
    n = f"n = {ticks[0]:,} and {ticks[1]:,} ticks"
    return StagesPicture(naive.stage_us, quants.stage_us, naive.rate, n)
