"""The host card: what this machine is, and what it can be asked for."""

import asyncio
import platform
import time
from functools import cache

import psutil

from quants.frame import decode, ticks_frame
from quants.host import available_cores
from quants.kernels import NumpyKernel
from quants.lab.session import session
from quants.limits import Limits, breaches
from quants.market import Market
from quants.turns import gil_enabled

FULL_RATE = 50_000  # ticks/s: 20 µs each
WAKE_UP_ROWS = 50  # what a feed sends in a millisecond at that rate
SHARE = 0.5  # of one core, for the work alone; waiting and drawing need the rest


@cache
def microseconds_per_tick() -> float:
    """What the pump's own work costs here, the best of nine short tries."""
    market, kernel = Market(), NumpyKernel(8)
    limits = Limits(market.symbols)
    return min(_try(market, kernel, limits) for _ in range(9))


def _try(
    market: Market, kernel: NumpyKernel, limits: Limits, frames: int = 20
) -> float:
    since = time.perf_counter()
    for _ in range(frames):
        frame = ticks_frame(market.take(WAKE_UP_ROWS), 1, 0)
        _, batch = decode(frame, len(market.symbols))
        kernel.add(batch.rows)
        breaches(batch.rows, limits)
    return (time.perf_counter() - since) * 1e6 / (frames * WAKE_UP_ROWS)


def within_reach(rate: int, cost_us: float | None = None) -> int:
    """The rate, or the round one below it that half a core can work off."""
    cost = microseconds_per_tick() if cost_us is None else cost_us
    reach = SHARE * 1e6 / cost
    steps = (rate * share // 100 for share in (100, 50, 20, 10, 5, 2))
    return next((step for step in steps if step <= reach), rate // 50)


class HostCard:
    """Facts to read every figure with."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {fact}" for name, fact in self.facts.items())

    def _repr_markdown_(self) -> str:
        rows = (f"| {name} | {fact} |" for name, fact in self.facts.items())
        return "\n".join(["| this host | |", "|---|---|", *rows])


async def host_card() -> HostCard:
    """What this machine is, and what the bell asks of it."""
    lab, rate = await session(), within_reach(FULL_RATE)
    redis = await lab.redis()
    gil = gil_enabled()
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    scaled = "" if rate == FULL_RATE else f", scaled down from {FULL_RATE:,}"
    return HostCard(
        {
            "interpreter": f"{platform.python_implementation()} "
            f"{platform.python_version()}, GIL {'on' if gil else 'off'}",
            "system": f"{platform.system()} {platform.machine()}",
            "cores for us": f"{available_cores()}",
            "memory free": f"{psutil.virtual_memory().available / 1e9:.1f} GB",
            "event loop": loop,
            "Redis": redis.how.partition(" on port")[0].rpartition("/")[2],
            "one tick costs the pump": f"{microseconds_per_tick():.1f} µs",
            "the bell asks for": f"{rate:,} ticks/s{scaled}",
        }
    )
