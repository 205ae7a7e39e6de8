"""A real server whose loop stalls once, while a client asks it; live.

waits = await stalled.asked(omission.from_send)   a dot for each answer
stalled.beside(waits, others)                     the same stall, by two clocks
"""

import asyncio
import time
from collections.abc import Iterator

import aiohttp

from quants.histogram import seconds_text
from quants.lab.charts import Chart
from quants.lab.live import BLUE, GREY, INK, VERMILION
from quants.lab.omission import ASKS, RATE, STALL_SECONDS, Client, Clock, Waits
from quants.lab.screen import screen
from quants.lab.session import session
from quants.metrics import Registry
from quants.server import MetricsServer

STALLED = 300  # the number of the ask during which the server stalls
DEADLINE = 12.0  # seconds; on a machine too busy to answer
COLOURS = {"from_send": BLUE, "from_due": VERMILION}


async def asked(client: Client) -> Waits:
    """Ask a server of this loop for its health, while its loop stalls; live."""
    lab, clock, loop = await session(), time.perf_counter, asyncio.get_running_loop()
    took: list[float] = []
    answered: list[float] = []
    picture = WaitsPicture(client.__name__)

    def look() -> None:
        picture.update([a - t for a, t in zip(answered, took, strict=False)], took)

    def still() -> WaitsPicture:
        look()
        return picture.finished(len(took))

    async with (
        MetricsServer(Registry(), port=0) as server,
        aiohttp.ClientSession() as http,
    ):

        async def ask() -> None:
            if len(answered) == STALLED:
                loop.call_soon(time.sleep, STALL_SECONDS)
            async with http.get(f"{server.url}healthz") as answer:
                await answer.read()
            answered.append(clock() - began)

        began = clock()
        await ask()  # the first one connects
        answered.clear()
        live = picture.live(picture.dots, picture.words)
        live.draw()  # and the first frame takes longest
        async with screen(lab, live, look, still):
            began = clock()
            await client(ask, dues(began, clock), took, clock, asyncio.sleep)
    return Waits(client.__name__, tuple(took))


def dues(began: float, clock: Clock) -> Iterator[float]:
    """When each ask is due; none after the deadline."""
    for number in range(ASKS):
        if clock() < began + DEADLINE:
            yield began + number / RATE


class WaitsPicture(Chart):
    """A dot for each answer, and what a dashboard would say of them."""

    def __init__(self, client: str) -> None:
        super().__init__(
            f"How long an answer takes, {client.replace('_', ' ')}",
            n="answers so far",
            alt="A dot for each answer over time, on a logarithmic axis of "
            "milliseconds, with their mean and their 99th percentile in words. "
            f"Times are taken {client.replace('_', ' ')}.",
        )
        panel = self.panel("time (s)", "an answer took (ms)", log="y")
        panel.set_xlim(0, ASKS / RATE + 0.1)
        panel.set_ylim(0.1, 2000)
        panel.set_yticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
        panel.minorticks_off()
        panel.axhline(1e3 * STALL_SECONDS, color=GREY, linewidth=0.8)
        panel.text(0.02, 1e3 * STALL_SECONDS, "the stall", color=GREY, va="bottom")
        (self.dots,) = panel.plot(
            [], [], "o", color=COLOURS[client], markersize=3.5, alpha=0.7
        )
        self.words = panel.text(
            0.99,
            1.05,
            "",
            transform=panel.transAxes,
            ha="right",
            fontsize=13,
            color=INK,
        )

    def update(self, moments: list[float], took: list[float]) -> None:
        """Show all answers so far."""
        self.dots.set_data(moments, [1e3 * seconds for seconds in took])
        if took:
            waits = Waits("", tuple(took))
            mean, p99 = seconds_text(waits.mean), seconds_text(waits.p99)
            self.words.set_text(f"mean {mean}    p99 {p99}")

    def finished(self, answers: int) -> "WaitsPicture":
        """The same, standing still."""
        self.sample(f"n = {answers} answers")
        self.dots.set_animated(False)
        self.words.set_animated(False)
        return self


def beside(*runs: Waits) -> Chart:
    """The share of answers that took longer than so much, by each clock."""
    chart = Chart(
        "One stall, by two clocks",
        n=f"n = {sum(len(run.took) for run in runs)} answers",
        alt="The share of answers that took longer than a time, both axes "
        "logarithmic, one line for each clock. The line of one percent is p99: timed "
        "from the ask it is met far to the left of where it is met timed from when "
        "the ask was due. The means are marked on the lower axis.",
    )
    panel = chart.panel("longer than (ms)", "answers (%)", log="xy")
    for run in runs:
        colour, took = COLOURS[run.client], sorted(1e3 * s for s in run.took)
        shares = [100 * (1 - number / len(took)) for number in range(len(took))]
        panel.step(took, shares, color=colour, linewidth=2)
        panel.plot([1e3 * run.mean], [0.1], "^", color=colour, clip_on=False)
    panel.axhline(1, color=INK, linewidth=0.8)
    panel.set_xlim(0.1, 1000)
    panel.set_ylim(0.1, 130)
    label = "p99: one of a hundred\ntakes longer"
    panel.text(0.11, 0.9, label, fontsize=9, color=INK, va="top")
    panel.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
    panel.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    panel.minorticks_off()
    names = [run.client for run in runs]
    chart.key([*names, "▲ mean"], [*(COLOURS[name] for name in names), INK])
    return chart
