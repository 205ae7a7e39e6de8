"""What a message costs, whatever number of ticks it carries.

await message_cost.sweep()   ticks/s against ticks a message, measured
message_cost.anatomy()       the same as bytes
"""

import asyncio
import time
from dataclasses import dataclass
from statistics import median

from quants.frame import Kind, ticks_frame
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.hose import Flow, Hose, flowing
from quants.lab.live import BLUE, GREY, INK, VERMILION
from quants.market import Market
from quants.messages import as_json, text_frames
from quants.tick import Batch

BATCHES = (1, 3, 10, 30, 100, 300, 1000, 3000)  # ticks a message
WINDOW_SECONDS = 0.1
DRAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Sweep:
    """Ticks/s by ticks a message; the median of some rounds."""

    ticks_per_second: dict[int, float]
    rounds: int = 3

    def gain(self, batch: int, over: int = 1) -> float:
        """How many times the ticks/s of another size."""
        return self.ticks_per_second[batch] / self.ticks_per_second[over]

    @property
    def costs_us(self) -> tuple[float, float]:
        """Microseconds of a message, and of each tick in it; from both ends."""
        first, *_, last = self.ticks_per_second
        one, many = (n * 1e6 / self.ticks_per_second[n] for n in (first, last))
        tick = max(0.0, (many - one) / (last - first))
        return one - first * tick, tick

    def __repr__(self) -> str:
        message, tick = self.costs_us
        return f"A message costs {message:.0f} µs, a tick in it {tick:.2f} µs."

    @property
    def gains(self) -> str:
        """What ten, a hundred and a thousand ticks a message bring."""
        return ", ".join(f"{self.gain(batch):.0f}x" for batch in (10, 100, 1000))

    def picture(self) -> Chart:
        """Dots as measured, and the curve that two costs make."""
        chart = Chart(
            "What a message carries, and what comes through",
            n=f"n = {self.rounds} rounds, median",
            alt="Ticks received a second against ticks in a message, both axes "
            "logarithmic: dots as measured, a dashed line where only messages cost, "
            "and the curve of a cost for the message plus one for each tick.",
        )  # fmt: skip
        axes = chart.panel("ticks in a message (ticks)", "ticks (1/s)", log="xy")
        message, tick = self.costs_us
        sizes, found = zip(*self.ticks_per_second.items(), strict=True)
        free = [n * found[0] for n in sizes]
        axes.plot(sizes, free, "--", color=GREY, label="if only messages cost")
        curve = [n * 1e6 / (message + n * tick) for n in sizes]
        axes.plot(sizes, curve, color=BLUE, label="n / (a + b n)")
        axes.plot(sizes, found, "o", color=VERMILION, label="measured", markersize=7)
        axes.axhline(50_000, color=INK, linewidth=1)
        axes.text(sizes[-1], 54_000, "50,000 ticks/s", fontsize=8, ha="right")
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        return chart


async def sweep(rounds: int = 3) -> Sweep:
    """Measure each size in turn, some rounds of it, on one connection."""
    found: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    async with flowing(Hose(1)) as flow:
        for batch in BATCHES * rounds:
            found[batch].append(await ticks_per_second(flow, batch))
    medians = {batch: median(each) for batch, each in found.items()}
    return Sweep(medians, rounds)


async def ticks_per_second(flow: Flow, batch: int) -> float:
    """Send messages of one size, as fast as they are taken; ticks/s."""
    flow.hose.batch = batch
    before = flow.feed.sent
    async with asyncio.timeout(DRAIN_SECONDS):
        while flow.ticks < before:  # noqa: ASYNC110 - messages of another size
            await asyncio.sleep(0.002)
    since, ticks = time.perf_counter(), flow.ticks
    await asyncio.sleep(WINDOW_SECONDS)
    return (flow.ticks - ticks) / (time.perf_counter() - since)


# ---- the bytes


class Anatomy:
    """Bytes on the wire, a message and a tick, for messages of several kinds."""

    def __init__(self, rows: list[tuple[str, int, int]]) -> None:
        self.rows = rows  # kind, ticks, bytes of the whole message

    def __repr__(self) -> str:
        head = f"{'message':<14}{'ticks':>7}{'bytes':>9}{'bytes a tick':>14}"
        lines = [
            f"{kind:<14}{ticks:>7,}{size:>9,}{size / ticks:>14.1f}"
            for kind, ticks, size in self.rows
        ]
        return "\n".join([head, *lines])


def anatomy() -> Anatomy:
    """What one tick weighs in JSON, and in frames of more and more rows."""
    market = Market()
    rows = market.take(1)
    tick = Batch(rows, 1, 1, int(rows["time_ns"][0]))
    text = text_frames(as_json(Kind.TICKS, tick, market.symbols))
    found = [("JSON text", 1, len(text))]
    for ticks in (1, 10, 100, 1000):
        size = len(ticks_frame(Market().take(ticks), 1, 0))
        found.append(("binary frame", ticks, websocket_header(size) + size))
    return Anatomy(found)


def websocket_header(size: int) -> int:
    """Bytes that WebSocket puts before a server's message (RFC 6455, 5.2)."""
    return 2 if size < 126 else 4 if size < 65_536 else 10


# ---- what is claimed


def pays_per_message(found: Sweep) -> bool | None:
    """Whether a hundred ticks a message bring at least ten times as many."""
    gain = found.gain(100)
    return True if gain >= 10 else False if gain < 3 else None


def tenfold_is_tenfold(found: Sweep) -> bool | None:
    """Whether the last tenfold message still brings nearly tenfold ticks."""
    gain = found.gain(1000, over=100)
    return False if gain < 6 else True if gain > 8 else None


CLAIMS = (
    Claim(
        "you-pay-per-message",
        "a message costs what it costs, however many ticks are in it",
        "the ticks cost, and their messages hardly anything",
        pays_per_message,
    ),
    Claim(
        "ten-times-larger-is-ten-times-faster",
        "from first to last, each tenfold message brings tenfold ticks",
        "the larger the messages are, the less the next tenfold brings",
        tenfold_is_tenfold,
    ),
)
