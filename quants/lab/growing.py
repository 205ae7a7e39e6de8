"""A pump that keeps more and more, and the pauses of the collector, live.

await growing.growing()    from nothing to a million containers
await growing.days()       much is loaded first: as it is, and frozen
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from quants.histogram import seconds_text
from quants.lab.claims import Claim
from quants.lab.desk import Desk
from quants.lab.live import BLUE, SKY, VERMILION
from quants.lab.pause_picture import PausePicture
from quants.lab.pauses import (
    FULL,
    MILLION,
    Grown,
    Held,
    Pause,
    Watch,
    histogram,
    no_collector,
    set_aside,
)  # fmt: skip
from quants.lab.session import end, session

RATE = 250_000  # containers/s
LOADED, MORE = 900_000, 300_000  # containers, in the morning and in a day
SECONDS = 15.0  # at most, on a busy machine
STEP_SECONDS = 0.005
MOST_AT_ONCE = 20_000  # some milliseconds; the loop has more to do
AGES = ("young", "middle", "full")
WHEN = ("before", "after the freeze")


# ---- what grows


class Pump:
    """Keeps a container for each of its ticks.

    Attributes:
        rate: how many a second; may be turned.
        kept: how many its runs have kept.
    """

    def __init__(self, rate: int) -> None:
        self.held: Held = []
        self.rate, self.kept = rate, 0

    def load(self, count: int) -> None:
        """Keep so many at once."""
        with no_collector():
            self.held.extend([i] for i in range(count))

    async def run(self, count: int) -> None:
        """Keep so many more, at the rate."""
        enough, last = len(self.held) + count, time.monotonic()
        while (missing := enough - len(self.held)) > 0:
            await asyncio.sleep(STEP_SECONDS)
            now = time.monotonic()
            due = min(missing, MOST_AT_ONCE, round((now - last) * self.rate))
            self.held.extend([i] for i in range(due))
            self.kept += due
            last = now


def load(pump: Pump) -> None:
    """Load what the pump holds all day."""
    pump.load(LOADED)
    gc.collect()


def load_frozen(pump: Pump) -> None:
    """Load what the pump holds all day."""
    pump.load(LOADED)
    gc.collect()
    gc.freeze()


# ---- runs


@dataclass(frozen=True)
class Days:
    """Two days of a pump with much to hold: as it is, and frozen."""

    before: Grown
    after: Grown

    def __repr__(self) -> str:
        return f"{WHEN[0]}: {told(self.before)}\n{WHEN[1]}: {told(self.after)}"


def told(day: Grown) -> str:
    """A day in one line."""
    if not day.full:
        return f"{len(day.pauses):,} collections, none of them full."
    took, walked = histogram(day.pauses), [pause.walked for pause in day.full]
    return (
        f"{took.count:,} collections, p99.9 {seconds_text(took.quantile(0.999))}; "
        f"a full one walked {max(walked):,} containers at most."
    )


async def growing(containers: int = MILLION) -> Grown:
    """Keep ever more containers; the slider is how many a second."""
    pump, pauses = Pump(RATE), list[Pause]()

    async def day() -> None:
        with set_aside(), Watch(pump.held, pauses):
            await pump.run(containers)

    def picture() -> PausePicture:
        return PausePicture(
            "Pauses of the collector while ever more is kept",
            AGES, (SKY, BLUE, VERMILION), (0, containers),
        )  # fmt: skip

    await shown(picture, day, pump, lambda: by_age(pauses))
    return Grown(tuple(pauses), pump.kept)


async def days(more: int = MORE) -> Days:
    """Load much and keep more, once as it is and once frozen."""
    pump, found = Pump(RATE), (list[Pause](), list[Pause]())

    async def both() -> None:
        for begin, pauses in zip((load, load_frozen), found, strict=True):
            pump.held.clear()
            with set_aside():
                begin(pump)
                with Watch(pump.held, pauses):
                    await pump.run(more)

    def picture() -> PausePicture:
        return PausePicture(
            "Pauses of the collector beside much that stays",
            WHEN, (VERMILION, BLUE), (LOADED, LOADED + more),
        )  # fmt: skip

    await shown(picture, both, pump, lambda: found)
    return Days(*(Grown(tuple(pauses), more) for pauses in found))


def by_age(pauses: Sequence[Pause]) -> list[list[Pause]]:
    """The collections of each generation."""
    return [
        [pause for pause in pauses if pause.generation == generation]
        for generation in range(FULL + 1)
    ]


async def shown(
    picture: Callable[[], PausePicture],
    work: Callable[[], Coroutine[Any, Any, None]],
    pump: Pump,
    kinds: Callable[[], Sequence[Sequence[Pause]]],
) -> None:
    """Show a pump at work, live, until it is done; a still picture stays."""
    lab, moving = await session(), picture()
    live = moving.live(*moving.dots, *moving.bars)
    live.draw()  # the first frame takes longest, and nothing is kept yet
    desk, task = Desk(live, SECONDS), lab.start(work())

    def look() -> bool:
        moving.update(kinds())
        return not task.done()

    def still() -> PausePicture:
        whole = picture()
        whole.update(kinds())
        whole.sample(f"n = {sum(map(len, kinds())):,} collections")
        return whole

    def turn(thousands: int) -> None:
        pump.rate = 1000 * thousands

    desk.slider("1,000/s", range(0, 1001, 50), RATE // 1000, turn)
    try:
        await desk.run(look, still)
    finally:
        await end(task)
        pump.held.clear()
    lab.raise_faults()


# ---- what is claimed


def walks_only_the_new(days: Days) -> bool | None:
    """Whether what was frozen was not walked, and was when it was not."""
    if not (days.before.full and days.after.full):
        return None
    least = min(pause.walked for pause in days.before.full)
    most = max(pause.walked for pause in days.after.full)
    return most < LOADED <= least


CLAIMS = (
    Claim(
        "what-is-frozen-is-not-walked",
        "after the freeze a full collection walks only what came later",
        "a full collection walks what was frozen, too",
        walks_only_the_new,
        "there was no full collection; keep more containers",
    ),
)
