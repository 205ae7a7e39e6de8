"""Frames: a header of 32 bytes, then whole ticks. Bytes in, batches out.

The header, all little-endian::

    offset  0  magic      b"QTIK"
            4  version    u1, 1
            5  kind       u1, see Kind
            6  count      u2, rows that follow, at most 4096
            8  crc32      u4, of header (with this field 0) and all that follows
           12  span       u4, sequence numbers covered
           16  first_seq  u8, sequence number of the first row
           24  sent_ns    u8, intended send time of the first row

A frame is encoded once, by the source; the log appends these very bytes, and a
decoded batch views them without a copy.
"""

import struct
import zlib
from enum import IntEnum

import msgspec
import numpy as np

from quants.errors import FrameError
from quants.tick import NO_ROWS, TICK, Batch, Rows

MAGIC, VERSION = b"QTIK", 1
MAX_ROWS = 4096
HEADER = struct.Struct("<4sBBHIIQQ")
_CRC = slice(8, 12)
# What msgspec raises for JSON that is none: also where its texts are no UTF-8,
# and where it is nested without end.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
MAX_FRAME = HEADER.size + MAX_ROWS * TICK.itemsize  # bytes


class Kind(IntEnum):
    """What a frame says."""

    TICKS = 1  # span = count rows
    GAP = 2  # no rows; span ticks from first_seq on will never come
    HEARTBEAT = 3  # no rows; first_seq is the next number
    RESET = 4  # a new stream starts at first_seq
    END = 5  # the feed is over; first_seq is what would have come next
    SEGMENT = 6  # only in a tick log: span bytes of JSON follow


_WITHOUT_SPAN = (Kind.HEARTBEAT, Kind.RESET, Kind.END)  # they cover no number


def encode(
    kind: Kind, first_seq: int, span: int, sent_ns: int, payload: bytes = b""
) -> bytes:
    """The bytes of a frame; `payload` is rows, or a segment's JSON."""
    count = len(payload) // TICK.itemsize if kind is Kind.TICKS else 0
    fields = (MAGIC, VERSION, kind, count, 0, span, first_seq, sent_ns)
    header = bytearray(HEADER.pack(*fields))
    crc = zlib.crc32(payload, zlib.crc32(header))
    header[_CRC] = crc.to_bytes(4, "little")
    return bytes(header) + payload


def ticks_frame(rows: Rows, first_seq: int, sent_ns: int) -> bytes:
    """The frame of consecutive ticks, shape (n,), 1 <= n <= 4096."""
    return encode(Kind.TICKS, first_seq, len(rows), sent_ns, rows.tobytes())


def decode(frame: bytes, symbols: int) -> tuple[Kind, Batch]:
    """What a frame says, checked; the rows view the frame's own bytes.

    Args:
        symbols: length of the symbol table; a row beyond it is refused.

    Raises:
        FrameError: wrong magic, version, kind, length, CRC or symbol.

    Cost: about 7 ns a tick, nearly all of it the CRC.
    """
    if len(frame) < HEADER.size:
        raise FrameError("length", f">= {HEADER.size} bytes", len(frame))
    magic, version, kind, count, crc, span, seq, sent_ns = HEADER.unpack_from(frame)
    _check_header(magic, version, kind, count, span)
    size = HEADER.size + (span if kind == Kind.SEGMENT else count * TICK.itemsize)
    if len(frame) != size:
        raise FrameError("length", f"{size} bytes", len(frame))
    if checksum(frame) != crc:
        raise FrameError("CRC", f"{crc:#010x}", f"{checksum(frame):#010x}")
    rows = np.frombuffer(frame, TICK, count, HEADER.size) if count else NO_ROWS
    if count and (highest := int(rows["symbol"].max())) >= symbols:
        raise FrameError("symbol", f"an index below {symbols}", highest)
    return Kind(kind), Batch(rows, seq, span, sent_ns, frame)


def checksum(frame: bytes | memoryview) -> int:
    """CRC32 of a frame as if its crc field were 0; reads, never copies rows."""
    view = memoryview(frame)
    crc = zlib.crc32(view[: _CRC.start])
    crc = zlib.crc32(b"\0\0\0\0", crc)
    return zlib.crc32(view[_CRC.stop :], crc)


def _check_header(magic: bytes, version: int, kind: int, count: int, span: int) -> None:
    if magic != MAGIC:
        raise FrameError("magic", MAGIC, magic)
    if version != VERSION:
        raise FrameError("version", VERSION, version)
    if kind not in Kind._value2member_map_:
        raise FrameError("kind", "1 to 6", kind)
    if count > MAX_ROWS:
        raise FrameError("length", f"at most {MAX_ROWS} rows", count)
    if kind == Kind.TICKS and not 0 < count == span:
        raise FrameError("length", "span = count >= 1", f"{span} and {count}")
    if kind != Kind.TICKS and count:
        raise FrameError("length", f"no rows in {Kind(kind).name}", count)
    if kind in _WITHOUT_SPAN and span:
        raise FrameError("length", f"no span in {Kind(kind).name}", span)
