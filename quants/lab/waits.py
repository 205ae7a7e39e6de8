"""Calls that may have to wait for a thread, at more and more load.

They come by chance and Redis takes times by chance, both exponential, so that
what is measured can be compared with theory (`erlang.py`).
"""

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import redis

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.erlang import sojourn
from quants.lab.live import BLUE, GREY, INK
from quants.lab.session import end, session
from quants.lab.slow_redis import SlowRedis, answers
from quants.limits import read_limits
from quants.market import Market
from quants.redis_server import connect
from quants.tick import Symbol

THREADS = 4
TAKES_SECONDS = 0.01  # on average
CALLS = {0.2: 40, 0.5: 100, 0.7: 180, 0.8: 300, 0.9: 450}  # at each load
# Of twenty thousand the most ordinary: a queue that costs nothing by itself
# stays within 7 % of the theory with it, at each load. With others chance alone
# moves so few calls further.
SEED = 11299
LOOK_SECONDS = 0.002
PATIENCE = 20.0  # seconds for the calls of one load


class Draws(NamedTuple):
    """Calls by chance: when they come, and what Redis takes; means of one."""

    gaps: list[float]
    takes: list[float]


def drawn(load: float) -> Draws:
    """The calls of a load, the same each time."""
    chance = random.Random(SEED)
    takes = [chance.expovariate(1) for _ in range(CALLS[load])]
    return Draws([chance.expovariate(1) for _ in takes], takes)


# ---- measured


@dataclass(frozen=True)
class Load:
    """Some calls that shared a pool.

    Attributes:
        seconds: from the first arrival to the last answer.
        served: mean seconds that a call held a thread.
        stayed: mean seconds from arrival to answer.
        inside: how many were there on average, waiting or served, by looks.
    """

    threads: int
    calls: int
    seconds: float
    served: float
    stayed: float
    inside: float

    @property
    def busy(self) -> float:
        """The share of the threads' time."""
        return self.calls * self.served / (self.threads * self.seconds)

    @property
    def by_law(self) -> float:
        """How many were there on average, by Little: calls a second times stay."""
        return self.calls / self.seconds * self.stayed

    @property
    def longer(self) -> float:
        """How many times longer than its service a call stayed."""
        return self.stayed / self.served


class Pool:
    """Threads that ask a slow Redis, and how many calls are inside."""

    def __init__(self, slow: SlowRedis) -> None:
        self.slow, self.inside = slow, 0
        self.looks: list[tuple[float, int]] = []  # when, and how many
        self.symbol = Market().symbols[0]
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="waits")
        self.client = connect(slow.url, PATIENCE)

    def close(self) -> None:
        """Its threads are idle by now; waiting for them would hold the loop."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    async def call(self) -> tuple[float, float]:
        """Seconds that a call stayed, and that it was served."""
        since, loop = time.perf_counter(), asyncio.get_running_loop()
        self.inside += 1
        served = await loop.run_in_executor(
            self.threads, timed, self.client, self.symbol
        )
        self.inside -= 1
        return time.perf_counter() - since, served

    async def load(self, draws: Draws, rate: float) -> Load:
        """Calls at a mean rate, until all of them are answered."""
        takes, since = iter(draws.takes), time.perf_counter()
        self.slow.pause = lambda: TAKES_SECONDS * next(takes, 0.0)
        looking, calls = asyncio.create_task(self._look()), []
        try:
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
                for due in accumulate(draws.gaps):
                    await asyncio.sleep(since + due / rate - time.perf_counter())
                    calls.append(tasks.create_task(self.call()))
        finally:
            await end(looking)
        seconds = time.perf_counter() - since
        times = [call.result() for call in calls]
        stayed, served = (sum(each) / len(calls) for each in zip(*times, strict=True))
        inside = mean_height(self.looks)
        return Load(THREADS, len(calls), seconds, served, stayed, inside)

    async def _look(self) -> None:
        self.looks.clear()
        while True:
            self.looks.append((time.perf_counter(), self.inside))
            await asyncio.sleep(LOOK_SECONDS)


def timed(client: redis.Redis, symbol: Symbol) -> float:
    """Seconds that Redis takes to tell a symbol's limits."""
    since = time.perf_counter()
    read_limits(client, [symbol])
    return time.perf_counter() - since


def mean_height(looks: Sequence[tuple[float, int]]) -> float:
    """The mean of what was seen, each look counted until the next one."""
    area = sum((b - a) * height for (a, height), (b, _) in pairwise(looks))
    return area / (looks[-1][0] - looks[0][0])


@dataclass(frozen=True)
class Sweep:
    """The same pool at each load, the lowest first."""

    loads: tuple[Load, ...]
    server: str  # who answered

    def __repr__(self) -> str:
        low, high = self.loads[0], self.loads[-1]
        return (
            f"Threads busy {low.busy:.0%} of the time: a call stays {low.longer:.2f} "
            f"times as long as it is served, with {low.inside:.1f} calls inside. "
            f"Busy {high.busy:.0%}: {high.longer:.1f} times, with {high.inside:.1f}."
        )

    def picture(self) -> Chart:
        """Little's law over what was seen, and Erlang's curves over what it took."""
        calls = sum(load.calls for load in self.loads)
        chart = Chart(
            "A pool of threads at more and more load", panels=2,
            n=f"n = {calls:,} calls, {THREADS} threads; {self.server}",
            alt="Two panels. Left: calls inside as seen against calls a second times "
            "their stay: dots along the line of Little's law. Right: how many times "
            "longer than its service a call stayed, against the share of time that "
            "the threads were busy: dots beside the curve for 4 threads, with those "
            "for 1 and 40.",
        )  # fmt: skip
        self._draw_law(chart)
        self._draw_stay(chart)
        return chart

    def _draw_law(self, chart: Chart) -> None:
        axes = chart.panel("calls a second × stay (number)", "seen inside (number)")
        most = 1.15 * max(max(load.by_law, load.inside) for load in self.loads)
        axes.plot([0, most], [0, most], color=INK, linewidth=1)
        axes.text(most, most, "Little's law", fontsize=8, ha="right", va="bottom")
        seen = [load.inside for load in self.loads]
        axes.plot([load.by_law for load in self.loads], seen, "o", color=BLUE)

    def _draw_stay(self, chart: Chart) -> None:
        axes = chart.panel("threads busy (% of the time)", "stay (times the service)")
        shares = [i / 100 for i in range(5, 100)]
        for threads, colour in ((1, GREY), (THREADS, BLUE), (40, GREY)):
            curve = [(100 * b, sojourn(threads, b)) for b in shares]
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1)
            x, y = next(((x, y) for x, y in curve if y > 4.2), curve[-1])
            axes.text(x - 1, y, f"{threads}", fontsize=8, color=colour, ha="right")
        axes.text(3, 4.6, "M/M/c, c threads", fontsize=8)
        busy = [100 * load.busy for load in self.loads]
        axes.plot(busy, [load.longer for load in self.loads], "o", color=BLUE)
        axes.set_xlim(0, 101)
        axes.set_ylim(0, max(5.0, *(1.1 * load.longer for load in self.loads)))


async def sweep() -> Sweep:
    """Calls at each load of CALLS, a fresh start for each."""
    server = await (await session()).redis()
    loads = list[Load]()
    async with SlowRedis(server.url) as slow:
        with closing(Pool(slow)) as pool:
            # Each thread connects, and shows what it takes beyond Redis.
            first = await asyncio.gather(*(pool.call() for _ in range(2 * THREADS)))
            served = TAKES_SECONDS + min(times[1] for times in first)
            for load in CALLS:
                rate = load * THREADS / served  # as much as this machine can
                loads.append(await pool.load(drawn(load), rate))
                served = loads[-1].served
    return Sweep(tuple(loads), answers(server))


# ---- what is claimed


def law_holds(found: Sweep) -> bool | None:
    """Whether the calls inside are as many as Little says, at each load."""
    apart = [load.inside / load.by_law for load in found.loads]
    if all(0.75 < ratio < 1.33 for ratio in apart):
        return True
    return False if any(not 0.5 < ratio < 2 for ratio in apart) else None


def gets_late(found: Sweep) -> bool | None:
    """Whether calls stay much longer where the threads are busy than where not."""
    ratio = found.loads[-1].longer / found.loads[0].longer
    return True if ratio >= 1.3 else False if ratio < 1.1 else None


CLAIMS = (
    Claim(
        "littles-law",
        "as many calls are inside as come in the time that one stays",
        "the calls inside are not those that come in the time that one stays",
        law_holds,
    ),
    Claim(
        "a-busy-pool-is-late",
        "the busier the threads, the longer a call waits for one",
        "calls stay no longer where the threads are busy",
        gets_late,
    ),
)
