"""Reading a tick log that is still being written: the older end of a history.

A mark for each MiB says which number begins where, so that no reader begins at
the start. Only what is written is read: a number noted after its write.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from quants.logfile import part_at
from quants.recovery import open_log
from quants.tick import Batch

MARK_BYTES = 1 << 20


class LogArchive:
    """The batches of one stream in a log, from any number on.

    Attributes:
        next_seq: what is before it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.next_seq = path, 0
        self._seqs: list[int] = []  # of the marks
        self._offsets: list[int] = []

    def __repr__(self) -> str:
        return f"<LogArchive {self.path} before {self.next_seq}>"

    def note(self, batch: Batch, offset: int) -> None:
        """A batch is in the file, whole, at an offset; in the order of the file."""
        if not self._offsets or offset >= self._offsets[-1] + MARK_BYTES:
            self._seqs.append(batch.first_seq)
            self._offsets.append(offset)
        self.next_seq = batch.next_seq

    def read(self, first: int, last: int) -> Iterator[Batch]:
        """What it has of [first, last), in order; a thread may do it meanwhile.

        Raises:
            EnvironmentFault: the log cannot be read any more.
        """
        last = min(last, self.next_seq)
        mark = bisect_right(self._seqs, first) - 1
        if first >= last:
            return
        with open_log(self.path) as file:
            offset = self._offsets[max(mark, 0)]
            while True:
                batch, length = part_at(file, offset)
                if not isinstance(batch, Batch) or batch.first_seq >= last:
                    return  # the end, or rot: what follows is a gap
                if batch.next_seq > first:
                    yield batch
                offset += length
