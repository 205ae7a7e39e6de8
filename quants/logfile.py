"""The bytes of a tick log: segment headers, frames, and holes between them.

Each run opens a segment, a frame whose JSON says whose ticks follow. Then come
the frames of ticks and gaps, the very bytes of the wire. A crash leaves a torn
frame at the end, a bad disk leaves rot inside: either is a hole, the bytes up
to the next frame whose checksum holds.

Whose are the frames after a hole? A segment header may have lain in it. That
is why frames of ticks and gaps take a multiple of 32 bytes and a segment
header takes one byte more: n bytes of rot hid n % 32 headers.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from quants.errors import CorruptLog, FrameError
from quants.frame import HEADER, MAGIC, UNREADABLE, Kind, decode, encode, ticks_frame
from quants.tick import TICK, Batch, Symbol, gap

Write = Callable[[int, memoryview], int]

ANY_SYMBOL = 1 << 32  # the checksum vouches for the rows of a log
MAX_SPAN = (1 << 32) - 1  # ticks that one gap frame can stand for
MAX_LENGTH = 1 << 24  # bytes; a header that claims more is rotten
READ_AHEAD = 1 << 18  # bytes


class Segment(msgspec.Struct, frozen=True):
    """What opens a run in a log: whose ticks follow, and how to read them.

    Attributes:
        stream: the feed's name for this sequence of ticks.
        symbols: its symbol table; empty if the header itself has rotted.
        started_ns: when the run began, UTC.
        first_seq: the sequence number that was expected first.
    """

    stream: str
    symbols: tuple[Symbol, ...]
    started_ns: int
    first_seq: Annotated[int, msgspec.Meta(ge=0)]

    def encode(self) -> bytes:
        """The segment as a frame, one byte over a multiple of 32."""
        text = msgspec.json.encode(self)
        text = text.ljust(len(text) + (1 - len(text)) % 32)
        return encode(Kind.SEGMENT, self.first_seq, len(text), self.started_ns, text)


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes that are no whole frame: rot, or at the end a torn frame."""

    offset: int
    length: int
    at_end: bool

    @property
    def segments(self) -> int:
        """How many segment headers lay in it, unless 32 or more."""
        return self.length % 32


Part = Segment | Batch | Hole


def append_whole(
    file: BinaryIO, frames: Sequence[bytes], write: Write = os.write
) -> tuple[int, OSError | None]:
    """Append frames: how many are in the file, whole, and what stopped it.

    A short write is completed. If it cannot be, the file is cut back to the
    end of the last whole frame: what comes later never follows a torn one.
    """
    start = file.seek(0, os.SEEK_END)
    rest = memoryview(b"".join(frames))
    ends = list(accumulate(map(len, frames)))
    length = len(rest)
    try:
        while rest:
            rest = rest[write(file.fileno(), rest) :]
    except OSError as fault:
        whole = bisect_right(ends, length - len(rest))
        file.truncate(start + (ends[whole - 1] if whole else 0))
        return whole, fault
    return len(frames), None


def sync_folder(path: Path) -> None:
    """Make the name of a new file durable too, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def parts(file: BinaryIO) -> Iterator[Part]:
    """What a log holds, in file order; every byte belongs to one part.

    Cost: about 9 ns a tick, most of it the CRC.
    """
    size = file.seek(0, os.SEEK_END)
    hole = offset = 0  # the bytes from `hole` to `offset` are no frame
    while offset < size:
        part, length = part_at(file, offset)
        if part is None:
            offset = next_magic(file, offset + 1, size)
            continue
        if hole < offset:
            yield Hole(hole, offset - hole, at_end=False)
        yield part
        hole = offset = offset + length
    if hole < size:
        yield Hole(hole, size - hole, at_end=True)


def part_at(file: BinaryIO, offset: int) -> tuple[Segment | Batch | None, int]:
    """The whole frame at an offset, and its length; None if there is none."""
    file.seek(offset)
    length = claimed_length(file.read(HEADER.size))
    if not HEADER.size <= length <= MAX_LENGTH:
        return None, 0
    file.seek(offset)
    frame = file.read(length)
    try:
        kind, batch = decode(frame, ANY_SYMBOL)
        if kind is Kind.SEGMENT:
            return msgspec.json.decode(frame[HEADER.size :], type=Segment), length
    except (FrameError, *UNREADABLE):
        return None, 0
    return batch if kind in (Kind.TICKS, Kind.GAP) else None, length


def claimed_length(header: bytes) -> int:
    """Bytes of the frame that a header opens, if it is one; else 0."""
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        return 0
    _, _, kind, count, _, span, _, _ = HEADER.unpack(header)
    rest: int = span if kind == Kind.SEGMENT else count * TICK.itemsize
    return HEADER.size + rest


def next_magic(file: BinaryIO, offset: int, size: int) -> int:
    """Where the next frame may begin; the end of the file if nowhere."""
    while offset < size:
        file.seek(offset)
        chunk = file.read(READ_AHEAD)
        if (found := chunk.find(MAGIC)) >= 0:
            return offset + found
        # A magic may straddle two chunks: its first 3 bytes are read again.
        offset += max(len(chunk) - 3, 1)
    return size


def in_order(found: Iterable[Part]) -> Iterator[tuple[Segment, Batch]]:
    """The ticks of every stream, each once; what is missing is a gap."""
    segment: Segment | None = None
    rot = 0  # offset of the last hole that hid a segment header
    expected: dict[str, int] = {}  # next sequence number, by stream
    for part in found:
        if isinstance(part, Segment):
            segment = part
        elif isinstance(part, Hole):
            if part.segments:
                segment, rot = None, part.offset
        else:
            segment = segment or Segment(f"lost-{rot}", (), 0, part.first_seq)
            due = expected.setdefault(segment.stream, segment.first_seq)
            for batch in continued(part, due):
                yield segment, batch
            expected[segment.stream] = max(due, part.next_seq)


def continued(batch: Batch, expected: int) -> Iterator[Batch]:
    """What a batch adds to a stream: the gap before it, then what is new.

    Raises:
        CorruptLog: a gap that no run logs; to count it out would never end.
    """
    if (missing := batch.first_seq - expected) > MAX_SPAN:
        raise CorruptLog(
            f"in this log tick {batch.first_seq} follows tick {expected - 1}, and no "
            f"run logs a gap of more than {MAX_SPAN}: name a log that the pump wrote"
        )
    if missing > 0:
        yield _gap(expected, missing, batch.sent_ns)
    if batch.first_seq >= expected:
        yield batch
    elif batch.next_seq > expected and batch.is_gap:
        yield _gap(expected, batch.next_seq - expected, batch.sent_ns)
    elif batch.next_seq > expected:
        rows = batch.rows[expected - batch.first_seq :]
        frame = ticks_frame(rows, expected, batch.sent_ns)
        yield decode(frame, ANY_SYMBOL)[1]


def _gap(first_seq: int, missing: int, sent_ns: int) -> Batch:
    frame = encode(Kind.GAP, first_seq, missing, sent_ns)
    return gap(first_seq, missing, sent_ns, frame)
