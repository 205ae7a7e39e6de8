"""The reader's own endpoint, scraped by the notebook that serves it; live.

seen = await endpoint.watch(pump)   four scrapes a second, and some stalls
"""

import asyncio
import time
from typing import Any

import aiohttp

from quants.lab.charts import Chart
from quants.lab.desk import Desk
from quants.lab.hist_task import LatencyHist
from quants.lab.live import BLUE, GREEN, GREY, VERMILION
from quants.lab.scraped import (
    RECEIVED,
    SENT,
    Scrape,
    Seen,
    SmallPump,
    Stall,
    buckets,
    scrape,
)
from quants.lab.session import end, session

SCRAPE_SECONDS = 0.25  # the server keeps a body for 0.2 s
CALM_SECONDS, SECONDS = 2.5, 6.0
STALL_SECONDS, EVERY_SECONDS = 0.4, 1.5
LOWEST = 0.01  # ms, on the axis


class SeenPicture(Chart):
    """p50 and p99 by both clocks, as the scrapes of one and a half seconds tell."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "What /metrics says", n="n = 0 scrapes",
            alt="Three stepped lines over time on a logarithmic axis: p50 and p99 from "
            "when a tick was due to its VWAP, and p99 from its receipt. When the loop "
            "begins to stall only the p99 from due rises, to the length of the stall.",
        )  # fmt: skip
        panel = self.panel("time (s)", "at most (ms)", log="y")
        panel.set_xlim(0, seconds)
        panel.set_ylim(LOWEST, 2000)
        panel.set_yticks(
            [0.01, 0.1, 1, 10, 100, 1000], ["0.01", "0.1", "1", "10", "100", "1000"]
        )
        panel.minorticks_off()
        self.lines = [
            panel.plot(
                [], [], "o-", color=colour, markersize=3, drawstyle="steps-post"
            )[0]
            for colour in (VERMILION, BLUE, GREEN)
        ]
        (self.stalls,) = panel.plot([], [], "^", color=GREY, clip_on=False)
        names = ["p99 from due", "p50 from due", "p99 from receipt", "▲ stall"]
        self.key(names, [VERMILION, BLUE, GREEN, GREY])

    def update(self, seen: Seen) -> bool:
        """Show all points so far; whether the axes had to change."""
        if not seen.points:
            return False
        seconds, p50, p99, held = zip(*seen.points, strict=True)
        for line, values in zip(self.lines, (p99, p50, held), strict=True):
            line.set_data(seconds, [1e3 * value for value in values])
        moments = [stall.seconds for stall in seen.stalls]
        self.stalls.set_data(moments, [LOWEST] * len(moments))
        (panel,) = self.figure.axes
        full = bool(seconds[-1] > panel.get_xlim()[1])
        if full:
            panel.set_xlim(0, seconds[-1] + 3)
        return full


async def watch(
    pump: SmallPump, hist: Any = LatencyHist, seconds: float = SECONDS
) -> Seen:
    """Scrape the pump, while after a calm its loop stalls now and then; live."""
    lab, picture = await session(), SeenPicture(seconds)
    live = picture.live(*picture.lines, picture.stalls)
    live.draw()  # the first frame takes longest, and is a stall, too
    await asyncio.sleep(2 * SCRAPE_SECONDS)
    seen = Seen(hist)
    desk, stalling = Desk(live, seconds), Stalling(seen)
    desk.slider("stall (ms)", range(0, 1000, 20), 0, stalling.turn)
    tasks = lab.start(scraping(pump, seen)), lab.start(stalling.run())

    def look() -> bool:
        if picture.update(seen):
            live.limits_changed()
        return not any(task.done() for task in tasks)

    def still() -> SeenPicture:
        whole = SeenPicture(seen.scrapes[-1].seconds if seen.scrapes else seconds)
        whole.update(seen)
        whole.sample(f"n = {len(seen.scrapes)} scrapes")
        return whole

    try:
        await desk.run(look, still)
    finally:
        await end(*tasks)
    lab.raise_faults()
    return seen


async def scraping(pump: SmallPump, seen: Seen) -> None:
    """Scrape again and again."""
    async with aiohttp.ClientSession() as http:
        while True:
            exposition = await scrape(http, pump)
            counts = {name: buckets(exposition, name) for name in (SENT, RECEIVED)}
            seen.add(Scrape(time.monotonic() - seen.began, counts))
            await asyncio.sleep(SCRAPE_SECONDS)


class Stalling:
    """Blocks the loop now and then; for how long can be turned."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.seconds, self._turned = seen, 0.0, False

    def turn(self, milliseconds: int) -> None:
        """How long from now on."""
        self.seconds, self._turned = milliseconds / 1e3, True

    async def run(self) -> None:
        """After a calm, stall at regular times."""
        await asyncio.sleep(CALM_SECONDS)
        if not self._turned:
            self.seconds = STALL_SECONDS
        while True:
            if self.seconds:
                moment = time.monotonic() - self.seen.began
                self.seen.stalls.append(Stall(moment, self.seconds))
                time.sleep(self.seconds)  # noqa: ASYNC251 - the stall
            await asyncio.sleep(EVERY_SECONDS - self.seconds)
