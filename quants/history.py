"""What a feed has published: the latest frames in memory, older ones in its log.

Who was cut off asks for all from some number on, and gets it from two places.
The ring holds the latest batches, by reference. What is older comes from the
archive, the feed's own tick log, if there is one; what neither has is a gap.
"""

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from operator import attrgetter
from typing import Protocol

from quants.errors import QuantsError
from quants.tick import Batch, gap

log = logging.getLogger(__name__)

RING_FRAMES = 1 << 15  # 400 B each beside the rows: a slow feed's are 1 row long
FRAMES_PER_READ = 64  # of the archive, in a thread: at most 8 MB
next_seq_of = attrgetter("next_seq")


class Archive(Protocol):
    """Where older batches can be read again.

    Attributes:
        next_seq: it has what is before this number.
    """

    next_seq: int

    def read(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of [first, last) that it has, in order; it may block."""


class History:
    """Every batch that was published, as far back as it goes.

    Args:
        ring_ticks: how far back the memory goes, in at most 32,768 frames.

    Attributes:
        next_seq: the number that the next batch will begin with.
        archive: where older ones are; None if nowhere.
    """

    def __init__(self, ring_ticks: int) -> None:
        self.ring_ticks = ring_ticks
        self.next_seq = 1
        self.archive: Archive | None = None
        self._ring: deque[Batch] = deque(maxlen=RING_FRAMES)

    def __repr__(self) -> str:
        return f"<History up to {self.next_seq - 1}, in memory from {self.oldest}>"

    @property
    def oldest(self) -> int:
        """The first number that is in memory."""
        return self._ring[0].first_seq if self._ring else self.next_seq

    def append(self, batch: Batch) -> None:
        """Remember a batch; what is too old leaves, once the archive has it."""
        self._ring.append(batch)  # and beyond RING_FRAMES the oldest goes
        self.next_seq = batch.next_seq
        old = self.next_seq - self.ring_ticks
        if self.archive is not None:
            old = min(old, self.archive.next_seq)
        while self._ring[0].next_seq <= old:
            self._ring.popleft()

    async def older(self, first: int) -> AsyncIterator[Batch]:
        """What the archive has from a number on, until the ring goes on from it.

        The ring moves on meanwhile, so it is asked again and again.
        """
        while self.archive is not None and first < self.oldest:
            asked, reading = first, self.archive.read(first, self.oldest)
            while batches := await asyncio.to_thread(_some, reading):
                for batch in batches:
                    yield batch
                    first = batch.next_seq
            if first == asked:
                return  # it has no more

    def latest(self, first: int) -> Iterator[Batch]:
        """All from a number on that is in memory; before it a gap, if need be."""
        ring = list(self._ring)
        if missing := max(0, self.oldest - first):
            yield gap(first, missing)
        yield from islice(ring, bisect_right(ring, first, key=next_seq_of), None)


def _some(reading: Iterator[Batch]) -> list[Batch]:
    try:
        return list(islice(reading, FRAMES_PER_READ))
    except (OSError, QuantsError) as fault:
        log.warning("the feed's log cannot be read: %s; a gap instead", fault)
        return []
