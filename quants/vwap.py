"""Volume-weighted average price: exact, per symbol, wherever it is computed.

VWAP = Σ price·size / Σ size, a `Fraction` of two integers. *How* the sums are
computed is a kernel's matter (`kernels`), *where* an engine's (`engines`); the
stage deals batches to the engine and knows which of them are not summed yet.
"""

import logging
import time
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import replace
from decimal import Context
from functools import partial
from typing import Protocol

from quants.channel import Statistics
from quants.errors import StageFailed
from quants.histogram import Histogram
from quants.kernels import Kernel, NumpyKernel
from quants.metrics import Registry
from quants.sums import Sums
from quants.tick import Batch, Rows, Symbol

log = logging.getLogger(__name__)

# Called on the loop when a batch is in the sums (True), or was set aside.
Settled = Callable[[bool], None]


class Engine(Protocol):
    """Where batches are summed: one after the other, or many at a time.

    Attributes:
        workers: how many sum at the same time.
        busy_seconds: CPU time they took; 0 on the loop, where nobody looks.
        replaced: workers that died and have a successor.
        set_aside: batches that no worker survived.
    """

    workers: int
    busy_seconds: float
    replaced: int
    set_aside: int

    async def submit(self, rows: Rows, settled: Settled) -> None:
        """Take a batch; waits while too many are in flight."""

    async def drain(self) -> None:
        """Wait until every batch is settled."""

    def sums(self) -> list[Sums]:
        """The sums of the settled batches, one per symbol."""


class Inline:
    """The plain engine: a batch is summed where it comes in, on the loop."""

    workers, busy_seconds, replaced, set_aside = 1, 0.0, 0, 0

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def submit(self, rows: Rows, settled: Settled) -> None:
        """Sum a batch.

        Raises:
            StageFailed: the kernel did; its sums may hold half of the batch.
        """
        try:
            self.kernel.add(rows)
        except Exception as fault:
            raise StageFailed("vwap", 0, fault) from fault
        settled(True)

    async def drain(self) -> None:
        """Nothing is ever in flight."""

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        return self.kernel.sums()


class Vwap:
    """The stage: has every batch summed, and knows how old each was by then.

    Attributes:
        in_flight: ticks taken and not yet settled.
        set_aside: ticks of batches that no worker survived; not in the sums.
        gap_ticks: ticks that never came.
        latency: intended send to summed, weighted by ticks.
    """

    def __init__(
        self,
        symbols: Sequence[Symbol],
        registry: Registry,
        *,
        engine: Engine | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.symbols = symbols
        self.engine = engine or Inline(NumpyKernel(len(symbols)))
        self.latency = Histogram()
        self.in_flight = self.set_aside = self.gap_ticks = 0
        self._clock_ns = clock_ns
        registry.histogram(
            "quants_vwap_latency_seconds",
            "From the intended send time of a batch to its VWAP",
            lambda: self.latency,
        )
        registry.counter(
            "quants_vwap_workers_replaced_total",
            "VWAP workers that died and have a successor.",
            lambda: self.engine.replaced,
        )
        registry.counter(
            "quants_vwap_set_aside_ticks_total",
            "Ticks of batches that no worker survived; not in the VWAP.",
            lambda: self.set_aside,
        )

    def __repr__(self) -> str:
        ticks = sum(s.ticks for s in self.sums())
        return f"<Vwap {len(self.symbols)} symbols, {ticks} ticks>"

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Sum batches until they end."""
        async for batch in batches:
            if batch.is_gap:
                self.gap_ticks += batch.span
                continue
            settled = partial(self._settle, batch)
            await self.engine.submit(batch.rows, settled)
            self.in_flight += len(batch)
        await self.engine.drain()

    def _settle(self, batch: Batch, summed: bool) -> None:
        self.in_flight -= len(batch)
        if summed:
            self.latency.record(self._clock_ns() - batch.sent_ns, len(batch))
            log.debug("%d ticks up to %d summed", len(batch), batch.next_seq - 1)
        else:
            self.set_aside += len(batch)
            log.debug("%d ticks from %d set aside", len(batch), batch.first_seq)

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        return self.engine.sums()

    def corrected(self, channel: Statistics) -> Statistics:
        """The counters of our channel, which cannot see what is in flight.

        To the channel a batch is processed when the next one is asked for. Here
        it is still queued while in flight, and dropped if it was set aside.
        """
        elsewhere = self.in_flight + self.set_aside
        return replace(
            channel,
            processed=channel.processed - elsewhere,
            queued=channel.queued + self.in_flight,
            dropped=channel.dropped + self.set_aside,
        )


def vwap_text(sums: Sums, symbol: Symbol, digits: int = 18) -> str | None:
    """The VWAP as a decimal text of the price, None without volume."""
    if not sums.size:
        return None
    price = sums.vwap() / 10**symbol.price_decimals
    context = Context(prec=digits)
    return f"{context.divide(price.numerator, price.denominator):f}"
