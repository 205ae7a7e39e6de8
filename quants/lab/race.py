"""A race of engines, live: the same ticks summed on the loop and elsewhere.

    await turns_taken.race()

They run in turn, a short lap each, so that whatever else the machine does
befalls all of them alike. The sums of every lap are checked to the last bit.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import ipywidgets
from IPython.display import DisplayHandle

from quants.climb import Course, Plan, opened
from quants.engines import EngineName
from quants.lab.charts import Chart
from quants.lab.controls import Controls
from quants.lab.live import BLUE, GREY, ORANGE, SKY, Live, frame_is_due
from quants.lab.session import session
from quants.ladder import Run, Side
from quants.turns import gil_enabled
from quants.vwap import Engine

RUNNERS: tuple[EngineName, ...] = ("inline", "threads", "processes", "shared")
COLOURS = dict(zip(RUNNERS, (GREY, ORANGE, SKY, BLUE), strict=True))
WORKERS, BATCH = 2, 4096  # rows; the most that a frame has
LAP_SECONDS = 0.08  # an inline lap blocks the loop for as long
SECONDS, TOUCHED_SECONDS = 4.0, 12.0  # more time for who switches
WINDOW_SECONDS = 6.0  # what a live picture shows
BREATH = 0.01  # between laps, for the notebook's own messages


class Lap(NamedTuple):
    """What an engine did in a lap."""

    engine: EngineName
    seconds: float  # since the race began, at the lap's end
    ticks_per_second: float
    cores: float  # CPU time of those who sum, in a second


@dataclass(frozen=True)
class Race:
    """All laps of a race.

    Attributes:
        gil: whether this interpreter has one.
    """

    laps: tuple[Lap, ...]
    gil: bool

    def of(self, engine: str) -> list[Lap]:
        """The laps of an engine."""
        return [lap for lap in self.laps if lap.engine == engine]

    def fastest(self, engine: str) -> Lap:
        """An engine's fastest lap: the one that others disturbed least."""
        return max(self.of(engine), key=lambda lap: lap.ticks_per_second)

    def cores(self, engine: str) -> float:
        """How many cores an engine kept busy, summing, in its fastest lap."""
        return self.fastest(engine).cores

    def speed_up(self, engine: str) -> str:
        """Its fastest lap against inline's, such as "1.3x"."""
        laps = self.fastest(engine), self.fastest("inline")
        return f"{laps[0].ticks_per_second / laps[1].ticks_per_second:.1f}x"

    def __repr__(self) -> str:
        told = (
            f"{engine} {self.speed_up(engine)} on {self.cores(engine):.1f} cores"
            for engine in RUNNERS[1:]
        )
        return (
            f"Every sum right. Fastest of {len(self.laps)} laps, ticks/s against "
            f"inline: {'; '.join(told)}."
        )


async def race(seconds: float = SECONDS) -> Race:
    """Let the engines run in turn, draw it live, and say who was how fast."""
    await session()  # whose heartbeat lets the stop button work
    show = Show(seconds)
    show.handle.display(show.widgets())
    plan = Plan(["python"], RUNNERS[1:], [], [BATCH], WORKERS, 1, LAP_SECONDS)
    try:
        async with opened(plan, "python", []) as engines:
            await show.run(engines)
    finally:
        show.handle.update(show.still())
    return show.race()


class Show:
    """One race on the screen: live picture, buttons, and the laps so far."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running = RUNNERS  # who takes part
        self.laps: list[Lap] = []
        self.picture = RacePicture(WINDOW_SECONDS)
        self.live = Live(self.picture, self.picture.moving)
        self.handle = DisplayHandle()
        self.started = self.deadline = time.monotonic()

    def widgets(self) -> Any:
        """The picture, and a button for each way to run."""
        controls = Controls(asyncio.get_running_loop())
        choices: dict[str, tuple[EngineName, ...]] = {"all in turn": RUNNERS}
        choices |= {name: (name,) for name in RUNNERS}
        buttons = [
            controls.button(name, f"From now on: {name}", partial(self.switch, names))
            for name, names in choices.items()
        ]
        buttons.append(controls.button("Stop", "End this race now", self.stop))
        row = ipywidgets.HBox(buttons)
        return ipywidgets.VBox(
            [row, self.live.widget, self.live.words, controls.errors]
        )

    def switch(self, names: tuple[EngineName, ...]) -> None:
        """Only these run from now on; there is time to see it."""
        self.running = names
        self.deadline = max(self.deadline, time.monotonic() + TOUCHED_SECONDS)

    def stop(self) -> None:
        """End after this lap."""
        self.deadline = 0.0

    async def run(self, engines: dict[EngineName, Engine]) -> None:
        """Lap after lap, until the time is over; all have one at least."""
        course = await asyncio.to_thread(Course)
        for name in RUNNERS:
            await self.lap(course, name, engines[name])  # a first one warms up
        self.started = time.monotonic()
        self.deadline = self.started + self.seconds
        drawn = turn = 0.0
        while turn < len(RUNNERS) or time.monotonic() < self.deadline:
            name = self.running[int(turn) % len(self.running)]
            done = await self.lap(course, name, engines[name])
            busy = done.cpu_seconds if name == "inline" else done.busy_seconds
            at, rate = time.monotonic() - self.started, done.ticks / done.seconds
            self.laps.append(Lap(name, at, rate, busy / done.seconds))
            if frame_is_due(at - drawn, self.live.draw_seconds):
                self.draw()
                drawn = at
            turn += 1
            await asyncio.sleep(BREATH)

    async def lap(self, course: Course, name: EngineName, engine: Engine) -> Run:
        """Sum for a moment.

        Raises:
            EnvironmentFault: a sum is wrong.
        """
        side = Side("python", "session", name, BATCH)
        return await course.run(side, engine, LAP_SECONDS)

    def draw(self) -> None:
        """One frame."""
        if self.picture.update(self.laps):
            self.live.limits_changed()
        self.live.draw()

    def race(self) -> Race:
        """What this race showed."""
        return Race(tuple(self.laps), gil_enabled())

    def still(self) -> "RacePicture":
        """The whole race in one picture."""
        last = self.laps[-1].seconds if self.laps else 1.0
        picture = RacePicture(last)
        picture.update(self.laps)
        return picture


class RacePicture(Chart):
    """Ticks a second, and cores at work, over time; a line an engine."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "The same VWAP, four engines",
            n="n = laps so far",
            alt="Two panels over time, a line each for inline, threads, processes "
            "and processes with shared memory: ticks summed a second, and cores kept "
            "busy by summing.",
            panels=2,
        )
        self.seconds = seconds
        self.rate = self.panel("time (s)", "summed (million ticks/s)")
        self.cores = self.panel("time (s)", "busy summing (cores)")
        self.moving = [
            axes.plot([], [], color=COLOURS[name], marker=".", markersize=4)[0]
            for axes in (self.rate, self.cores)
            for name in RUNNERS
        ]
        for axes, top in ((self.rate, 1.0), (self.cores, WORKERS + 0.3)):
            axes.set_xlim(0, seconds)
            axes.set_ylim(0, top)
        self.key(RUNNERS, list(COLOURS.values()))

    def update(self, laps: Sequence[Lap]) -> bool:
        """Show these laps; whether an axis has changed."""
        for line, name in zip(self.moving, RUNNERS * 2, strict=True):
            own = [lap for lap in laps if lap.engine == name]
            rates = line.axes is self.rate
            y = [lap.ticks_per_second / 1e6 if rates else lap.cores for lap in own]
            line.set_data([lap.seconds for lap in own], y)
        before = self.rate.get_xlim(), self.rate.get_ylim()
        end = max(self.seconds, laps[-1].seconds if laps else 0)
        if end > before[0][1]:  # live: move on by half a window
            end += self.seconds / 2
            for axes in (self.rate, self.cores):
                axes.set_xlim(end - self.seconds, end)
        most = max((lap.ticks_per_second / 1e6 for lap in laps), default=0)
        self.rate.set_ylim(0, max(before[1][1], 1.15 * most))
        self.sample(f"n = {len(laps)} laps of {LAP_SECONDS:g} s")
        return before != (self.rate.get_xlim(), self.rate.get_ylim())
