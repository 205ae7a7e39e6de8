"""One run of one side: a feed process, a pump process, a report of each.

    this process --plan--> feed  --WebSocket--> pump --> log file, Redis
                 <-report-            <-report-

Imports and start-up are not measured: the clock runs from the first tick until
the last one is summed, logged and compared with its limits.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import psutil
import redis

from benchmarks.source import make_ticks
from quants.cli import loop_factory
from quants.feed import Wire
from quants.host import running
from quants.kernels import KernelName
from quants.limits import seed_limits
from quants.market import Market
from quants.redis_server import redis_server

Child = subprocess.Popen[bytes]
Part = Callable[["Plan"], Coroutine[Any, Any, "Report"]]

ROOT = Path(__file__).parent.parent
BAND_PERCENT = 10  # never broken by these ticks
NOTIONAL = "50000000"  # broken by about one tick in 50,000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What both processes of a run are told.

    Attributes:
        side: the module that plays it.
        ticks: to send in all.
        tick_rate: ticks/s; None is as fast as they are taken.
        rows: the file of ticks that the feed holds in memory.
        keep_bodies: of /metrics, for a fifth of a second, as always.
    """

    side: Literal["ours", "competent"]
    ticks: int
    rows: str
    log: str
    redis_url: str
    tick_rate: float | None = None
    wire: Wire = "binary"
    kernel: KernelName = "numpy"
    cores: int = 1
    loop: str = "asyncio"
    url: str = ""
    metrics_port: int = 0
    keep_bodies: bool = True


class Report(msgspec.Struct, kw_only=True):
    """What a process measured of itself.

    Attributes:
        seconds: from the first tick to the last.
        sums: by symbol: Σ price·size, Σ size, ticks.
        p50, p99: seconds from the intended send to the VWAP, of each tick.
        rss: (seconds since the start, bytes), twice a second.
    """

    ticks: int
    seconds: float
    cpu_seconds: float
    missing: int = 0
    breaches: int = 0
    alerts: int = 0
    sums: dict[str, tuple[int | float, int | float, int]] = {}
    p50: float = 0.0
    p99: float = 0.0
    rss: list[tuple[float, int]] = []

    @property
    def rate(self) -> float:
        """Ticks per second."""
        return self.ticks / self.seconds


class Bench:
    """What the runs of a sweep share: ticks in a file, a Redis, a folder."""

    def __init__(self, folder: Path, ticks: int, redis_url: str) -> None:
        self.folder, self.loop_ticks, self.redis_url = folder, ticks, redis_url
        self.rows = folder / "rows"
        start = time.process_time()
        make_ticks(self.rows, ticks)
        self.generated_rate = ticks / (time.process_time() - start)

    def plan(self, side: Literal["ours", "competent"], ticks: int) -> Plan:
        """A run of a side; the caller replaces what it wants otherwise."""
        log = str(self.folder / "ticks.log")
        rows, url = str(self.rows), self.redis_url
        return Plan(side=side, ticks=ticks, rows=rows, log=log, redis_url=url)


@contextmanager
def bench(loop_ticks: int, folder: Path | None = None) -> Iterator[Bench]:
    """Set up a sweep on the disk that holds `folder` (default: where we are)."""
    disk = folder or Path.cwd()
    with (
        TemporaryDirectory(dir=disk, prefix=".bench-") as inside,
        redis_server() as server,
    ):
        with redis.Redis.from_url(server.url) as client:
            market = Market()
            prices = market.opening_prices
            seed_limits(client, market.symbols, prices, BAND_PERCENT, NOTIONAL)
        yield Bench(Path(inside), loop_ticks, server.url)


def run(plan: Plan, tree: Path = ROOT) -> tuple[Report, Report]:
    """Start both processes of a run, from a tree; reports of feed and pump."""
    Path(plan.log).unlink(missing_ok=True)
    with child(plan, "feed", tree) as feed:
        url = answer(feed).strip()
        with child(msgspec.structs.replace(plan, url=url), "pump", tree) as pump:
            received = msgspec.json.decode(answer(pump), type=Report)
        assert feed.stdin is not None
        feed.stdin.close()
        sent = msgspec.json.decode(answer(feed), type=Report)
    return sent, received


def child(plan: Plan, part: str, tree: Path) -> AbstractContextManager[Child]:
    """A process of the plan's side; it ends when its stdin does."""
    text = msgspec.json.encode(plan).decode()
    command = [sys.executable, "-m", f"benchmarks.{plan.side}", part, text]
    return running(command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def answer(process: Child) -> str:
    """The next line a child prints."""
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return line


# ---- in the child


def play(feed: Part, pump: Part) -> None:
    """Be the part that the command line names; print its report."""
    _, part, text = sys.argv
    plan = msgspec.json.decode(text, type=Plan)
    coroutine = (feed if part == "feed" else pump)(plan)
    with asyncio.Runner(loop_factory=loop_factory(plan.loop)) as runner:
        say(msgspec.json.encode(runner.run(coroutine)).decode())


def say(line: str) -> None:
    """Answer our parent."""
    print(line, flush=True)


async def parent_is_done() -> None:
    """Return when the parent closes our stdin: the pump has all it wants."""
    await asyncio.to_thread(sys.stdin.read)


class Meter:
    """Times a part from its first tick on, and its memory all along."""

    def __init__(self) -> None:
        self.rss: list[tuple[float, int]] = []
        self._process = psutil.Process()
        self.start()

    def start(self) -> None:
        """This is the first tick."""
        self._start, self._cpu = time.monotonic(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Seconds and CPU seconds since the first tick."""
        return time.monotonic() - self._start, time.process_time() - self._cpu

    async def watch(self) -> None:
        """Note the resident memory twice a second, for ever."""
        while True:
            passed = time.monotonic() - self._start
            self.rss.append((passed, self._process.memory_info().rss))
            await asyncio.sleep(0.5)
