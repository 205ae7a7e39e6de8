"""What the interpreter does beside the work: GC pauses, memory, loop lag.

A pause is timed by the collector's own callbacks, from its start to its stop.
Lag is how late a heartbeat comes. A stall delays every beat that falls into
it, and each of them is counted with its own delay; counting one delay per
stall would hide the stall (coordinated omission). An idle asyncio loop lags
by up to 1 ms, which is the resolution of its timer.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from quants.histogram import Histogram
from quants.metrics import Label, Registry

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Monitor:
    """Watches this process while entered; `run` watches its event loop.

    Cost: 0.5 us a collection, 0.6 % of a core for 20 beats a second; nearly
    all of that is waking an idle process. A loop that has work pays less.

    Args:
        registry: where the metrics go.
        beat_seconds: time between heartbeats. Short enough for a notebook's
            stop button, which an idle loop ignores until it wakes.
        clock_ns: a monotonic clock in ns.
        sleep: a coroutine function of seconds.

    Attributes:
        pauses: GC pauses by generation, each from its first collection on.
        collected: objects the collector freed, by generation.
        lag: how late the heartbeats came.
        rss_bytes: resident memory, read once a second.
    """

    def __init__(
        self,
        registry: Registry,
        beat_seconds: float = 0.05,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.beat_ns = round(beat_seconds * 1e9)
        self.pauses: dict[int, Histogram] = {}
        self.collected: dict[int, int] = {}
        self.lag = Histogram()
        self._clock_ns, self._sleep = clock_ns, sleep
        self._started_ns = 0  # set at the start of each collection
        self._process = psutil.Process()
        self.rss_bytes = self._process.memory_info().rss
        self._register(registry)

    def __repr__(self) -> str:
        return f"<Monitor {self.collections} collections, lag {self.lag!r}>"

    def __enter__(self) -> Self:
        self._started_ns = self._clock_ns()
        gc.callbacks.append(self._on_gc)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.callbacks.remove(self._on_gc)

    def _on_gc(self, phase: str, info: dict[str, Any]) -> None:
        now = self._clock_ns()
        if phase == "start":
            self._started_ns = now
            return
        generation = info["generation"]
        if generation not in self.pauses:
            self.pauses[generation], self.collected[generation] = Histogram(), 0
        self.pauses[generation].record(now - self._started_ns)
        self.collected[generation] += info["collected"]

    async def run(self) -> None:
        """Beat, and read the memory each second, until cancelled."""
        memory_due = self._clock_ns()
        due = memory_due + self.beat_ns
        while True:
            await self._sleep(max(0, due - self._clock_ns()) / 1e9)
            now = self._clock_ns()
            for delay in delays(now - due, self.beat_ns):
                self.lag.record(delay)
                due += self.beat_ns
            if now >= memory_due:
                memory_due = now + 1_000_000_000
                self.rss_bytes = self._process.memory_info().rss

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

    def _register(self, registry: Registry) -> None:
        registry.histogram(
            "quants_gc_pause_seconds",
            "How long garbage collections stopped the interpreter.",
            lambda: by_generation(self.pauses),
            ("generation",),
        )
        registry.counter(
            "quants_gc_collected_objects_total",
            "Objects that the garbage collector freed.",
            lambda: by_generation(self.collected),
            ("generation",),
        )
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


def by_generation(readings: dict[int, T]) -> dict[Label, T]:
    """Readings under the label a generation has in a metric."""
    # A copy: this very loop may set off a collection, the first of its kind.
    return {(str(generation),): value for generation, value in readings.copy().items()}


def delays(late_ns: int, beat_ns: int) -> range:
    """The delay of each beat that was due: late_ns, one beat less, and so on."""
    return range(max(0, late_ns), -1, -beat_ns)


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
