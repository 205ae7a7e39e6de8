"""What the interpreter does beside the work: GC pauses, memory, loop lag.

A pause is timed by the collector's own callbacks, from its start to its stop.
Lag is how late a heartbeat comes. A stall delays every beat that falls into
it, and each of them is counted with its own delay; counting one delay per
stall would hide the stall (coordinated omission). An idle asyncio loop lags
by up to 1 ms, which is the resolution of its timer.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import nan
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from quants.histogram import Histogram
from quants.memory import Watched
from quants.metrics import Label, Registry
from quants.stalls import Stalls

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

RSS_NS, USS_NS = 1_000_000_000, 10_000_000_000  # between two readings


class Monitor:
    """Watches this process while entered; `run` watches its event loop.

    Cost: 0.5 us a collection, 0.5 % of a core for 20 beats a second; 0.4 of
    that is waking an idle process (benchmarks/monitor.py).

    Args:
        registry: where the metrics go.
        beat_seconds: time between heartbeats. Short enough for a notebook's
            stop button, which an idle loop ignores until it wakes.
        clock_ns: a monotonic clock in ns.
        sleep: a coroutine function of seconds.
        gc_threshold: of the youngest generation, while entered; None leaves
            Python's own.

    Attributes:
        pauses: GC pauses by generation, each from its first collection on.
        collected, uncollectable: objects the collector freed, and could not
            free, by generation.
        thresholds: of the collector, while this was entered.
        lag: how late the heartbeats came.
        stalls: what the loop was doing when one came much too late.
        rss_bytes: resident memory, read once a second.
        uss_bytes: what of it no other process shares, read each 10 s; nan
            where the system does not tell.
        watched: objects whose references are counted on each scrape.
    """

    def __init__(
        self,
        registry: Registry,
        beat_seconds: float = 0.05,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Sleep = asyncio.sleep,
        gc_threshold: int | None = None,
    ) -> None:
        self.beat_ns = round(beat_seconds * 1e9)
        self.pauses: dict[int, Histogram] = {}
        self.collected: dict[int, int] = {}
        self.uncollectable: dict[int, int] = {}
        self.gc_threshold, self.thresholds = gc_threshold, gc.get_threshold()
        self.lag, self.stalls = Histogram(), Stalls(registry)
        self.watched = Watched(registry)
        self._clock_ns, self._sleep = clock_ns, sleep
        self._started_ns = 0  # set at the start of each collection
        self._process = psutil.Process()
        self.rss_bytes, self.uss_bytes = self._process.memory_info().rss, nan
        self._register_gc(registry)
        self._register_others(registry)

    def __repr__(self) -> str:
        return f"<Monitor {self.collections} collections, lag {self.lag!r}>"

    def __enter__(self) -> Self:
        self._started_ns = self._clock_ns()
        with ExitStack() as stack:
            stack.enter_context(gc_threshold(self.gc_threshold))
            self.thresholds = gc.get_threshold()
            stack.enter_context(self.stalls)
            gc.callbacks.append(self._on_gc)
            stack.callback(gc.callbacks.remove, self._on_gc)
            self._entered = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.close()

    def _on_gc(self, phase: str, info: dict[str, Any]) -> None:
        now = self._clock_ns()
        if phase == "start":
            self._started_ns = now
            return
        generation = info["generation"]
        if generation not in self.pauses:
            self.pauses[generation] = Histogram()
            self.collected[generation] = self.uncollectable[generation] = 0
        self.pauses[generation].record(now - self._started_ns)
        self.collected[generation] += info["collected"]
        self.uncollectable[generation] += info["uncollectable"]

    async def run(self) -> None:
        """Beat, and read the memory now and then, until cancelled."""
        began = rss_due = uss_due = self._clock_ns()
        due = began + self.beat_ns
        while True:
            self.stalls.expect((due - self._clock_ns()) / 1e9)
            await self._sleep(max(0, due - self._clock_ns()) / 1e9)
            now = self._clock_ns()
            self.stalls.beat((now - due) / 1e9, (now - began) / 1e9)
            for delay in delays(now - due, self.beat_ns):
                self.lag.record(delay)
                due += self.beat_ns
            if now >= rss_due:
                rss_due = now + RSS_NS
                self.rss_bytes = self._process.memory_info().rss
            if now >= uss_due:
                uss_due = now + USS_NS
                # The system visits every page: 0.1 ms, and more as memory grows.
                Thread(target=self.read_uss, name="read-uss", daemon=True).start()

    def read_uss(self) -> None:
        """Ask for the memory that is this process's alone."""
        try:
            memory = self._process.memory_full_info()
        except (psutil.Error, OSError):  # not allowed, in some containers
            return
        self.uss_bytes = getattr(memory, "uss", nan)  # some systems have none

    @property
    def collections(self) -> int:
        """How often the collector ran, all generations."""
        return self.pause.count

    @property
    def pause(self) -> Histogram:
        """The GC pauses of all generations in one histogram."""
        merged = Histogram()
        for pauses in by_generation(self.pauses).values():
            merged.merge(pauses)
        return merged

    def _register_gc(self, registry: Registry) -> None:
        counters = {
            "collected": "Objects that the garbage collector freed.",
            "uncollectable": "Objects that the collector found and could not free.",
        }
        for name, help in counters.items():
            read = partial(by_generation, getattr(self, name))
            metric = f"quants_gc_{name}_objects_total"
            registry.counter(metric, help, read, ("generation",))
        registry.histogram(
            "quants_gc_pause_seconds",
            "How long garbage collections stopped the interpreter.",
            lambda: by_generation(self.pauses),
            ("generation",),
        )
        registry.gauge(
            "quants_gc_threshold",
            "What sets off a collection: new objects; for 1 and 2, collections.",
            lambda: by_generation(dict(enumerate(gc.get_threshold()))),
            ("generation",),
        )

    def _register_others(self, registry: Registry) -> None:
        registry.histogram(
            "quants_event_loop_lag_seconds",
            "How late the event loop ran what was due.",
            lambda: self.lag,
        )
        registry.gauge(
            "quants_memory_rss_bytes",
            "Resident memory of this process, read once a second.",
            lambda: self.rss_bytes,
        )
        registry.gauge(
            "quants_memory_uss_bytes",
            "Memory that no other process shares, read each 10 s.",
            lambda: self.uss_bytes,
        )
        registry.gauge(
            "quants_allocated_blocks",
            "Memory blocks that Python's allocator has handed out.",
            sys.getallocatedblocks,
        )


def by_generation(readings: dict[int, T]) -> dict[Label, T]:
    """Readings under the label a generation has in a metric."""
    # A copy: this very loop may set off a collection, the first of its kind.
    return {(str(generation),): value for generation, value in readings.copy().items()}


def delays(late_ns: int, beat_ns: int) -> range:
    """The delay of each beat that was due: late_ns, one beat less, and so on."""
    return range(max(0, late_ns), -1, -beat_ns)


@contextmanager
def gc_threshold(youngest: int | None) -> Iterator[None]:
    """Set how many new objects set off a collection, and set it back.

    A higher one means fewer collections and more dead cycles that wait for one.
    """
    before = gc.get_threshold()
    gc.set_threshold(before[0] if youngest is None else youngest, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def freeze_gc() -> int:
    """Collect, then hide every object alive from the garbage collector.

    Collecting comes first: a dead cycle that is frozen never goes away.
    New objects are collected as before. `gc.unfreeze` takes it back.

    Returns: how many objects are frozen now.
    """
    gc.collect()
    gc.freeze()
    return gc.get_freeze_count()


async def freeze_after(
    ticks_seen: Callable[[], int],
    seconds: float = 2.0,
    ticks: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Freeze when the start-up is over, and unfreeze when cancelled.

    Args:
        ticks_seen: ticks so far.
        seconds: the earliest moment from now on; it must have come,
        ticks: and so must these.
    """
    start = clock()
    while clock() - start < seconds or ticks_seen() < ticks:
        await sleep(0.05)
    freeze_gc()
    try:
        await asyncio.Event().wait()
    finally:
        gc.unfreeze()
