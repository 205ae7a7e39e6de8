"""The tick log: the frames of the feed, appended to a file as they came.

`append` only puts a batch on a list. A thread of the log's own takes all that
is there, writes it and, when it is due, has the disk confirm it. One write is
outstanding at a time; what arrives meanwhile is the next group. So one fsync
acknowledges many batches, and the event loop never waits for a disk.

    appended -> written_seq    survives kill -9 of this process
             -> durable_seq    survives a power cut: an fsync covers it
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import aiofiles

from quants.archive import LogArchive
from quants.disk import Disk
from quants.errors import EnvironmentFault, FrameError, SettingsError
from quants.logfile import Segment
from quants.metrics import Registry
from quants.tick import Batch, Symbol

log = logging.getLogger(__name__)

Fsync = Literal["interval", "batch", "none"]
GROUP_BYTES = 1 << 16  # a group that need not wait for more


class TickLog:
    """Appends the frames of one stream to a file, in groups.

    Args:
        path: the log; a torn tail in it is set aside first.
        stream, symbols, first_seq: what the feed's welcome said.
        fsync: `interval` (at most every `fsync_seconds`, and at the end),
            `batch` (with each group) or `none`.
        linger_seconds: how long a small group waits to become a larger one.
        buffer_bytes: what may wait to be written before `run` waits too.
        clock, time_ns: the system's, unless a test knows better.
        of_disk: what else its `Disk` takes.

    Attributes:
        recovered: what was kept of a torn log, a sentence or nothing.
        written_seq, durable_seq: the last number so far; 0 before the first.
        ticks, bytes, groups, syncs: what was written, in how many steps.
        archive: reads what is written, for a feed's `History`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        stream: str,
        symbols: Sequence[Symbol],
        registry: Registry,
        first_seq: int = 1,
        fsync: Fsync = "interval",
        fsync_seconds: float = 0.05,
        linger_seconds: float = 0.005,
        buffer_bytes: int = 8 << 20,
        clock: Callable[[], float] = time.monotonic,
        time_ns: Callable[[], int] = time.time_ns,
        **of_disk: Any,
    ) -> None:
        self.path, self.recovered = Path(path), ""
        self.fsync, self.fsync_seconds = fsync, fsync_seconds
        self.linger_seconds = linger_seconds
        self.buffer_bytes = buffer_bytes
        self.segment = Segment(stream, tuple(symbols), time_ns(), first_seq)
        self.written_seq = self.durable_seq = 0
        self.ticks = self.bytes = self.groups = self.syncs = 0
        self.archive, self._clock = LogArchive(self.path), clock
        self.disk = Disk(self.path, clock=clock, **of_disk)
        self._pending: list[Batch] = []
        self._pending_bytes = 0  # of these, and of the group in the thread
        self._unsynced = fsync != "none"  # something awaits an fsync
        self._synced_at = 0.0
        self._closing = False  # set once, on leaving the block
        self._wake, self._progress = asyncio.Event(), asyncio.Event()
        self._register(registry)

    def __repr__(self) -> str:
        return (
            f"<TickLog {self.path} {self.segment.stream}, written {self.written_seq}, "
            f"durable {self.durable_seq}, {self._pending_bytes} bytes pending>"
        )

    async def __aenter__(self) -> Self:
        self.recovered = await self.disk.open(self.segment, self.fsync != "none")
        self._synced_at = self._clock()
        self._writer = asyncio.create_task(self._write_groups())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.disk.patience_seconds = 0.0  # we are to stop now
        self._closing = True
        self._wake.set()
        try:
            await self._writer
        finally:
            self.disk.close()

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Append every batch; return when all are written.

        Raises:
            EnvironmentFault: the disk refused; no tick is half written.
        """
        async for batch in batches:
            await self._until(lambda: self._pending_bytes < self.buffer_bytes)
            self.append(batch)
        await self._until(lambda: not self._pending_bytes)

    def append(self, batch: Batch) -> None:
        """Add a batch to those that wait to be written; returns at once."""
        if not batch.frame:
            raise FrameError("bytes", "the frame that came", "a conflated batch")
        self._fail_if_over()
        self._pending.append(batch)
        self._pending_bytes += len(batch.frame)
        self._unsynced = self.fsync != "none"
        self._wake.set()

    async def durable(self, seq: int) -> None:
        """Wait until an fsync covers a sequence number."""
        if self.fsync == "none":
            reason = "nothing is ever durable; interval and batch are"
            raise SettingsError("fsync", "none", reason)
        await self._until(lambda: self.durable_seq >= seq)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._fail_if_over()
            await self._progress.wait()

    def _fail_if_over(self) -> None:
        if self._writer.done():
            self._writer.result()  # raises what ended it
            raise EnvironmentFault(f"log {self.path} is closed; open it again")

    async def _write_groups(self) -> None:
        """Write group after group, until the log closes and none is left."""
        try:
            while self._pending or self._unsynced or not self._closing:
                await self._woken(self._sync_in())
                if self._pending_bytes < GROUP_BYTES and not self._closing:
                    await asyncio.sleep(self.linger_seconds)  # for more of them
                group, self._pending = self._pending, []
                due = self._sync_in() == 0
                frames = [batch.frame for batch in group]
                whole, fault = await self.disk.commit(frames, due)
                self._acknowledge(group, whole, due and not fault)
                await self.disk.bear(fault, whole < len(group), self.written_seq)
                if fault:
                    self._wake.set()  # for those that are left
        finally:
            self._progress.set()

    async def _woken(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return  # an fsync is due
        if not self._closing:
            self._wake.clear()

    def _sync_in(self) -> float | None:
        """Seconds until the next fsync; None when there is nothing to sync."""
        if not self._unsynced:
            return None
        if self.fsync == "batch" or self._closing:
            return 0
        return max(0, self._synced_at + self.fsync_seconds - self._clock())

    def _acknowledge(self, group: list[Batch], whole: int, synced: bool) -> None:
        for batch in group[:whole]:
            self.archive.note(batch, self.disk.start + self.bytes)
            self.written_seq = batch.next_seq - 1
            self.ticks += len(batch)
            self.bytes += len(batch.frame)
            self._pending_bytes -= len(batch.frame)
        self._pending[:0] = group[whole:]
        self.groups += bool(group)
        log.debug("%s: %d batches written, fsync %s", self.path, whole, synced)
        if synced:
            self.durable_seq, self._synced_at = self.written_seq, self._clock()
            self._unsynced = bool(self._pending)
            self.syncs += 1
        self._progress.set()
        self._progress = asyncio.Event()

    def _register(self, registry: Registry) -> None:
        gauge, counter = registry.gauge, registry.counter
        written, durable = lambda: self.written_seq, lambda: self.durable_seq
        gauge("quants_log_written_seq", "Last number past kill -9.", written)
        gauge("quants_log_durable_seq", "Last number past a power cut.", durable)
        counter("quants_log_ticks_total", "Ticks written.", lambda: self.ticks)
        counter("quants_log_bytes_total", "Bytes written.", lambda: self.bytes)
        counter("quants_log_syncs_total", "fsync calls.", lambda: self.syncs)
        disk = self.disk
        retries, full = lambda: disk.retries, lambda: disk.full_since is not None
        counter("quants_log_retries_total", "Tries on a full disk.", retries)
        gauge("quants_log_full", "1 while the disk is full.", full)


class PerTickLog:
    """The log anyone would write first: a JSON line and a wait for each tick.

    The wait is a thread's: a file has no readiness to wait for on the loop.
    """

    def __init__(self, path: str | Path, symbols: Sequence[Symbol]) -> None:
        self.path, self.symbols, self.ticks = Path(path), tuple(symbols), 0

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Write every tick of every batch, and gaps, one line each."""
        async with aiofiles.open(self.path, "a", 1, encoding="utf-8") as file:
            async for batch in batches:
                if batch.is_gap:
                    lost = {"seq": batch.first_seq, "missing": batch.span}
                    await file.write(json.dumps(lost) + "\n")
                for seq, row in enumerate(batch.rows.tolist(), batch.first_seq):
                    await file.write(self.line(seq, row) + "\n")
                    self.ticks += 1

    def line(self, seq: int, row: tuple[int, int, int, int, int]) -> str:
        """One tick as JSON; price and size as exact decimals."""
        time_ns, price, size, index, _ = row
        symbol = self.symbols[index]
        tick = {"seq": seq, "time_ns": time_ns, "symbol": symbol.name}
        tick |= {"price": symbol.price_text(price), "size": symbol.size_text(size)}
        return json.dumps(tick)
