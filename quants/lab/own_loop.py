"""A loop of our own: in a thread, where a blocking cell does not reach it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from threading import Event, Thread
from typing import Any, Self

import numpy as np

from quants.feed_client import subscribe
from quants.feed_server import FeedServer
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.live import BLUE, VERMILION
from quants.lab.loops import Heart
from quants.lab.session import end, session
from quants.market import Market
from quants.metrics import Registry
from quants.vwap import Vwap

Work = Coroutine[Any, Any, Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]

RATE = 5000  # ticks/s, of each pump
WARM_SECONDS = 0.5  # that both pumps run before the block, and after it
START_SECONDS, STOP_SECONDS = 10.0, 5.0


def uvloop_factory() -> NewLoop | None:
    """What makes a uvloop; None where there is none, such as on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class LoopThread(Thread):
    """An event loop in a thread, from `with` to its end.

    Args:
        new_loop: what makes the loop; None for asyncio's own.
    """

    def __init__(self, new_loop: NewLoop | None = None) -> None:
        super().__init__(name="own-loop", daemon=True)
        self.new_loop, self._ready = new_loop, Event()

    def run(self) -> None:
        """The thread: a loop that runs what others hand it."""
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(self._stay())

    async def _stay(self) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._over.wait()

    def start_task(self, work: Work) -> Future[Any]:
        """Run a coroutine there; may be called from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def __enter__(self) -> Self:
        self.start()
        self._ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self.join()  # the runner cancels what is left, and waits for it


class SmallPump:
    """A feed, a subscription and a VWAP, beside a heart: all on one loop."""

    def __init__(self) -> None:
        self.heart, self.loop = Heart(), "not started"
        self.feed = FeedServer(Market(tick_rate=RATE), RATE)
        self.vwap: Vwap | None = None

    @property
    def ticks(self) -> int:
        """Ticks summed so far; may be asked from any thread."""
        return self.vwap.latency.count if self.vwap else 0

    async def run(self) -> None:
        """Pump until the feed is stopped."""
        kind = type(asyncio.get_running_loop())
        self.loop = kind.__module__.partition(".")[0]
        async with (
            self.feed,
            subscribe(self.feed.url) as batches,
            asyncio.TaskGroup() as group,
        ):
            self.vwap = Vwap(batches.symbols, Registry())
            group.create_task(self.feed.publish())
            beating = group.create_task(self.heart.run())
            await self.vwap.run(batches)
            beating.cancel()


class TwoPumps:
    """The same pump on the kernel's loop and on one of our own.

    Attributes:
        ticks: what each summed inside the block.
    """

    def __init__(self, here: SmallPump, there: SmallPump) -> None:
        self.here, self.there = here, there
        self.ticks = (0, 0)

    def __repr__(self) -> str:
        here, there = self.ticks
        return (
            f"During the block: {here:,} ticks on the kernel's loop, "
            f"{there:,} on the loop in the thread ({self.there.loop})."
        )

    @property
    def started(self) -> bool:
        """Whether both have begun to sum."""
        return bool(self.here.ticks and self.there.ticks)

    def lags(self) -> Chart:
        """How late the beats of both hearts came."""
        late = {"kernel": self.here.heart.late, "thread": self.there.heart.late}
        return lag_chart(late)


@asynccontextmanager
async def two_pumps() -> AsyncIterator[TwoPumps]:
    """A pump on this loop and one in a thread; what a block does to them.

    Raises:
        BaseException: what ended one of the pumps.
    """
    lab, here, there = await session(), SmallPump(), SmallPump()
    both = TwoPumps(here, there)
    with LoopThread(uvloop_factory()) as thread:
        ours, theirs = lab.start(here.run()), thread.start_task(there.run())
        try:
            async with asyncio.timeout(START_SECONDS):
                # A look now and then: an event of one loop does not wake another.
                while not (both.started or ours.done() or theirs.done()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(WARM_SECONDS)
            before = here.ticks, there.ticks
            yield both
            both.ticks = here.ticks - before[0], there.ticks - before[1]
            await asyncio.sleep(WARM_SECONDS)
        finally:
            here.feed.stop()
            thread.loop.call_soon_threadsafe(there.feed.stop)
            end_of_theirs = asyncio.wrap_future(theirs)
            await asyncio.wait([ours, end_of_theirs], timeout=STOP_SECONDS)
            fault = end_of_theirs.exception() if end_of_theirs.done() else None
            await end(ours)
            lab.raise_faults()
            if fault:
                raise fault


def lag_chart(late: Mapping[str, Sequence[float]]) -> Chart:
    """How late beats came, one dot each; a row for each loop."""
    beats = " and ".join(f"{len(each)}" for each in late.values())
    chart = Chart(
        "How late each heartbeat came, while a cell blocked for a while",
        n=f"n = {beats} beats",
        alt="Two rows of dots on a logarithmic axis of milliseconds, one dot for "
        "each heartbeat. On the kernel's loop many are late by up to the whole "
        "block; on the loop in the thread they are not.",
        height=260,
    )
    heading = "one dot for each beat that was due (20 a second; left edge: on time)"
    panel = chart.panel("late by (ms, logarithmic)", "", heading, log="x")
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    scatter = np.random.default_rng(1)
    rows = zip(late.items(), (VERMILION, BLUE), strict=True)
    for row, ((_, each), colour) in enumerate(rows):
        shown = [max(seconds * 1e3, 0.02) for seconds in each]
        heights = -row + scatter.uniform(-0.25, 0.25, len(shown))
        panel.plot(shown, heights, "o", color=colour, alpha=0.6, markersize=5)
    panel.set_yticks([-row for row in range(len(late))], list(late))
    panel.set_ylim(0.5 - len(late), 0.5)
    return chart


# ---- what is claimed


def survives_a_block(pumps: TwoPumps) -> bool | None:
    """Whether the pump in the thread went on while the kernel's stood still."""
    here, there = pumps.ticks
    return there > 0 if here == 0 else None


CLAIMS = (
    Claim(
        "a-loop-thread-survives-a-block",
        "the pump of the kernel's loop stood still, the one in the thread did not",
        "the pump in the thread stood still as well",
        survives_a_block,
        "the kernel's loop went on, so nothing has blocked it",
    ),
)
