"""What a short sleep really takes, on asyncio's loop and on uvloop's.

Why the feed wakes up once a millisecond and asks the clock what is due.
"""

import asyncio
import time
from functools import partial
from statistics import median, quantiles

from benchmarks.size import Size
from quants.cli import loop_factory
from quants.evidence import Claim, Finding, find, in_turn

ASKED_MS = (0.1, 0.5, 1.0, 2.0)

CLAIM = Claim(
    "asyncio rounds a sleep of 0.1 ms up to that of 1 ms: at least half as long",
    "sleep of 0.1 ms", "sleep of 1 ms", "ms", "at least", 0.5,
)  # fmt: skip


async def slept_ms(asked_ms: float, seconds: float) -> list[float]:
    """How long each of some sleeps took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        await asyncio.sleep(asked_ms / 1e3)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def on(loop: str, asked_ms: float, seconds: float) -> list[float]:
    """The same, on a loop of its own."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(slept_ms(asked_ms, seconds))


def measure(size: Size) -> list[Finding]:
    """The claim, and a line for each loop and length."""
    each = size.seconds / 10

    def typical(asked_ms: float) -> float:
        return median(on("asyncio", asked_ms, each))

    sides = {"short": partial(typical, 0.1), "long": partial(typical, 1.0)}
    found = in_turn({**sides, "again": sides["long"]}, size.rounds)
    facts = [
        line(loop, asked, on(loop, asked, each))
        for loop in ("asyncio", "uvloop")
        for asked in ASKED_MS
    ]
    return [find(CLAIM, found["short"], found["long"], found["again"], facts)]


def line(loop: str, asked_ms: float, taken: list[float]) -> str:
    """Asked and got."""
    p99 = quantiles(taken, n=100)[-1]
    return f"{loop} asked {asked_ms:.1f} ms: p50 {median(taken):.3f}, p99 {p99:.3f} ms"
