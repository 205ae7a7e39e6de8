"""The disk under a tick log: one file, one thread, and patience when it is full.

A full disk is waited for: the log stands still, its queue fills, and the feed
slows down. If no space comes the log ends, kept up to its last whole frame. Any
other refusal ends it at once, a failed fsync too: the next one would succeed
though the system has thrown the pages away.
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from quants.errors import EnvironmentFault
from quants.logfile import Segment, Write, append_whole, sync_folder
from quants.recovery import open_log, set_torn_tail_aside

log = logging.getLogger(__name__)

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # space may come
RETRY_SECONDS = 0.1

Sync = Callable[[int], None]

# fdatasync spares the inode's time stamps; macOS and Windows have only fsync.
sync_to_disk: Sync = getattr(os, "fdatasync", os.fsync)


class Disk:
    """A log's file, written and synced by a thread of its own.

    Args:
        patience_seconds: how long a full disk is waited for.
        write, sync, clock, sleep: the system's, unless a test knows better.

    Attributes:
        start: where the first frame after the segment's header lies.
        full_since: since when the disk is full, by the clock; None if it is not.
        retries: how often a full disk was tried again.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience_seconds: float = 10.0,
        write: Write = os.write,
        sync: Sync = sync_to_disk,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.path, self.patience_seconds = path, patience_seconds
        self.start, self.retries = 0, 0
        self.full_since: float | None = None
        self._write, self._sync = write, sync
        self._clock, self._sleep = clock, sleep

    def __repr__(self) -> str:
        return f"<Disk {self.path}, full since {self.full_since}>"

    async def open(self, segment: Segment, durable: bool) -> str:
        """Begin a segment; what was kept of a torn log, a sentence or nothing.

        Raises:
            EnvironmentFault: it cannot be written, or another process does.
        """
        self._thread = ThreadPoolExecutor(1, "ticklog")
        loop = asyncio.get_running_loop()
        begin = loop.run_in_executor(self._thread, self._begin, segment, durable)
        try:
            return await begin
        except BaseException:
            self._thread.shutdown()
            raise

    def close(self) -> None:
        """Close the file, once the thread is done with it."""
        self._thread.shutdown()
        self._file.close()

    async def commit(
        self, frames: list[bytes], sync: bool
    ) -> tuple[int, OSError | None]:
        """Append frames; how many are in the file, whole, and what stopped it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._commit, frames, sync)

    async def bear(self, fault: OSError | None, again: bool, kept: int) -> None:
        """Wait a little on a full disk; what ends the log is raised.

        Args:
            again: frames are left; if not, it was the fsync that failed.
            kept: the last tick in the file.
        """
        if fault is None:
            self.full_since = None
            return
        now = self._clock()
        if self.full_since is None:
            self.full_since = now
        waited = now - self.full_since
        if not again or fault.errno not in FULL or waited >= self.patience_seconds:
            raise self._refused(fault, kept, waited) from fault
        if not self.retries:
            log.warning("log %s: %s; waiting for space", self.path, fault.strerror)
        self.retries += 1
        await self._sleep(RETRY_SECONDS)

    def _refused(self, fault: OSError, kept: int, waited: float) -> EnvironmentFault:
        lasting = f" for {waited:.0f} s" if waited else ""
        return EnvironmentFault(
            f"log {self.path}: {fault.strerror}{lasting}; it is kept up to tick "
            f"{kept}, free the disk or name another file"
        )

    # -- in the thread ----------------------------------------------------------

    def _begin(self, segment: Segment, durable: bool) -> str:
        self._file: BinaryIO = open_log(self.path, "a+b")
        try:
            recovered = set_torn_tail_aside(self.path, self._file)
            _, fault = append_whole(self._file, [segment.encode()], self._write)
            if fault:
                raise self._refused(fault, 0, 0) from fault
            self.start = self._file.seek(0, os.SEEK_END)
            if durable:
                sync_folder(self.path)
        except BaseException:
            self._file.close()
            raise
        return recovered

    def _commit(self, frames: list[bytes], sync: bool) -> tuple[int, OSError | None]:
        whole, fault = append_whole(self._file, frames, self._write)
        try:
            if sync and not fault:
                self._sync(self._file.fileno())
        except OSError as error:
            fault = error
        return whole, fault
