"""Frames against vectors packed by hand, and everything that is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.errors import FrameError
from quants.frame import HEADER, MAX_FRAME, Kind, checksum, decode, encode, ticks_frame
from quants.tick import TICK, rows_of

GOLDEN = Path(__file__).parent / "golden" / "frames.txt"
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TICKS = st.lists(
    st.tuples(INT64, INT64, INT64, st.integers(0, 7), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=50,
)


def by_hand(
    kind: int,
    count: int,
    span: int,
    first_seq: int,
    sent_ns: int,
    payload: bytes = b"",
    magic: bytes = b"QTIK",
    version: int = 1,
) -> bytes:
    """A frame from its documented layout, without the code under test."""

    def header(crc: int) -> bytes:
        return (
            magic
            + struct.pack("<B", version)
            + struct.pack("<B", kind)
            + struct.pack("<H", count)
            + struct.pack("<I", crc)
            + struct.pack("<I", span)
            + struct.pack("<Q", first_seq)
            + struct.pack("<Q", sent_ns)
        )

    return header(zlib.crc32(header(0) + payload)) + payload


def tick_by_hand(time_ns, price, size, symbol, flags=0) -> bytes:
    return struct.pack("<qqqII", time_ns, price, size, symbol, flags)


TWO_TICKS = tick_by_hand(1_767_364_200 * 10**9, 18_950, 100, 0) + tick_by_hand(
    1_767_364_200 * 10**9 + 1_000_000, -5, 2**62, 3, 0xFFFFFFFF
)
SEGMENT = b'{"stream":"s"}'

VECTORS = {
    "ticks": by_hand(1, 2, 2, 41, 1_767_364_201 * 10**9, TWO_TICKS),
    "gap": by_hand(2, 0, 3, 41, 5),
    "heartbeat": by_hand(3, 0, 0, 44, 6),
    "reset": by_hand(4, 0, 0, 1, 0),
    "end": by_hand(5, 0, 0, 2**64 - 1, 0),
    "segment": by_hand(6, 0, len(SEGMENT), 1, 7, SEGMENT),
}
SMALL = by_hand(1, 1, 1, 7, 8, tick_by_hand(1, 2, 3, 0))


def golden() -> dict[str, bytes]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: bytes.fromhex(digits) for name, digits in pairs}


def refusal(frame: bytes, symbols: int = 4) -> FrameError:
    with pytest.raises(FrameError) as refused:
        decode(frame, symbols)
    return refused.value


def test_the_layout_packed_by_hand_is_the_one_written_down():
    """A change of both the code and this file still meets the stored bytes."""
    assert golden() == VECTORS


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("ticks", encode(Kind.TICKS, 41, 2, 1_767_364_201 * 10**9, TWO_TICKS)),
        ("gap", encode(Kind.GAP, 41, 3, 5)),
        ("heartbeat", encode(Kind.HEARTBEAT, 44, 0, 6)),
        ("reset", encode(Kind.RESET, 1, 0, 0)),
        ("end", encode(Kind.END, 2**64 - 1, 0, 0)),
        ("segment", encode(Kind.SEGMENT, 1, len(SEGMENT), 7, SEGMENT)),
    ],
)
def test_each_kind_of_frame_has_these_very_bytes(name, frame):
    assert frame == golden()[name]


@pytest.mark.parametrize("name", VECTORS)
def test_each_kind_of_frame_reads_back_as_it_was_said(name):
    kind, batch = decode(VECTORS[name], symbols=4)
    _, _, number, count, _, span, first_seq, sent_ns = struct.unpack_from(
        "<4sBBHIIQQ", VECTORS[name]
    )
    assert (kind, len(batch)) == (number, count)
    assert kind.name.lower() == name
    assert (batch.span, batch.first_seq, batch.sent_ns) == (span, first_seq, sent_ns)
    assert batch.frame is VECTORS[name]


def test_a_decoded_row_has_the_values_that_were_packed():
    _, batch = decode(VECTORS["ticks"], symbols=4)
    assert batch.rows.tolist() == [
        (1_767_364_200 * 10**9, 18_950, 100, 0, 0),
        (1_767_364_200 * 10**9 + 1_000_000, -5, 2**62, 3, 0xFFFFFFFF),
    ]


@given(TICKS, UINT64, UINT64)
def test_decoding_gives_back_what_was_encoded(ticks, first_seq, sent_ns):
    rows = rows_of(ticks)
    kind, batch = decode(ticks_frame(rows, first_seq, sent_ns), symbols=8)
    assert kind is Kind.TICKS
    assert batch.rows.tobytes() == rows.tobytes()
    assert (batch.first_seq, batch.sent_ns, batch.span) == (
        first_seq,
        sent_ns,
        len(ticks),
    )


def test_rows_view_the_bytes_of_the_frame_and_nobody_may_write_them():
    frame = VECTORS["ticks"]
    rows = decode(frame, symbols=4)[1].rows
    assert np.shares_memory(rows, np.frombuffer(frame, np.uint8))
    assert not rows.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        rows.flags.writeable = True


def test_the_largest_frame_has_4096_rows():
    frame = ticks_frame(np.zeros(4096, TICK), 1, 0)
    assert len(frame) == MAX_FRAME == 32 + 4096 * 32
    assert len(decode(frame, symbols=1)[1]) == 4096


def test_every_single_flipped_bit_is_refused():
    for bit in range(8 * len(SMALL)):
        flipped = bytearray(SMALL)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(flipped), symbols=1).part != "symbol", bit


def test_every_length_but_its_own_is_refused():
    for size in range(len(SMALL)):
        assert refusal(SMALL[:size]).part == "length", size
    assert refusal(SMALL + b"\0").part == "length"


@pytest.mark.parametrize(
    ("part", "frame", "sentence"),
    [
        (
            "magic",
            by_hand(3, 0, 0, 1, 0, magic=b"HTTP"),
            "frame magic: expected b'QTIK', received b'HTTP'",
        ),
        (
            "version",
            by_hand(3, 0, 0, 1, 0, version=2),
            "frame version: expected 1, received 2",
        ),
        (
            "kind",
            by_hand(7, 0, 0, 1, 0),
            "frame kind: expected 1 to 6, received 7",
        ),
        (
            "length",
            by_hand(1, 4097, 4097, 1, 0, bytes(4097 * 32)),
            "frame length: expected at most 4096 rows, received 4097",
        ),
        (
            "length",
            by_hand(1, 1, 2, 1, 0, bytes(32)),
            "frame length: expected span = count >= 1, received 2 and 1",
        ),
        (
            "length",
            by_hand(1, 0, 0, 1, 0),
            "frame length: expected span = count >= 1, received 0 and 0",
        ),
        (
            "length",
            by_hand(2, 1, 1, 1, 0, bytes(32)),
            "frame length: expected no rows in GAP, received 1",
        ),
        (
            "length",
            by_hand(3, 0, 5, 1, 0),
            "frame length: expected no span in HEARTBEAT, received 5",
        ),
        (
            "length",
            by_hand(1, 2, 2, 1, 0, bytes(32)),
            "frame length: expected 96 bytes, received 64",
        ),
        (
            "length",
            b"QTIK",
            "frame length: expected >= 32 bytes, received 4",
        ),
        (
            "symbol",
            by_hand(1, 1, 1, 1, 0, tick_by_hand(0, 1, 1, 4)),
            "frame symbol: expected an index below 4, received 4",
        ),
    ],
)
def test_a_refusal_names_both_sides(part, frame, sentence):
    error = refusal(frame)
    assert error.part == part
    assert str(error) == sentence


def test_a_wrong_checksum_names_both_sums():
    wrong = SMALL[:8] + b"\x78\x56\x34\x12" + SMALL[12:]
    right = zlib.crc32(SMALL[:8] + bytes(4) + SMALL[12:])
    error = refusal(wrong)
    assert str(error) == (f"frame CRC: expected 0x12345678, received {right:#010x}")
    assert checksum(wrong) == right


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused_and_nothing_else(noise):
    assert refusal(noise).part in {"magic", "length"}


@given(st.data())
def test_a_frame_changed_anywhere_is_refused_or_the_same(data):
    """Whole runs of bytes at once; a CRC lets one in four billion through."""
    frame = VECTORS["ticks"]
    start = data.draw(st.integers(0, len(frame) - 1))
    other = data.draw(st.binary(min_size=1, max_size=len(frame) - start))
    changed = frame[:start] + other + frame[start + len(other) :]
    if changed == frame:
        assert decode(changed, 4)[1].span == 2
    else:
        assert isinstance(refusal(changed), FrameError)


def test_the_header_is_32_bytes_without_padding():
    assert HEADER.size == 32 == struct.calcsize("<4sBBHIIQQ")
