"""Every decoder, given what nobody should send.

A case begins with valid bytes, of which a field, a byte, a block or the order
is changed; where a checksum would hide what lies behind it, it is made right
again. Whatever comes in is refused by an error of our own, or it is what an
independent reading of the same bytes says: never a wrong tick. How many cases
ran, and what became of them, is in the figures at the end.
"""

import asyncio
import base64
import csv
import gc
import gzip
import hashlib
import io
import json
import random
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quants.errors import (
    EnvironmentFault,
    FrameError,
    InexactValue,
    QuantsError,
    RecordingError,
    SettingsError,
)
from quants.feed import Receiver, Wire
from quants.feed_client import REFUSALS, Subscription
from quants.feed_server import FeedServer
from quants.frame import Kind, decode, encode, ticks_frame
from quants.limits import Limits
from quants.lines import BLOCK
from quants.logfile import Segment, in_order, parts
from quants.market import Market
from quants.metrics import Registry
from quants.recordings import open_recording
from quants.recovery import replay_segments, scan
from quants.server import MetricsServer
from quants.tick import TICK, Batch, Rows, Symbol, gap
from tests.test_recordings import EXPECTED, HERE, Trade, trades
from tests.test_server import Hand

T = TypeVar("T")
Note = Callable[[str, int], None]  # record_property: figures for the summary
WIRES: list[Wire] = ["binary", "json"]
PARTS = {
    *("magic", "version", "kind", "length", "CRC", "symbol"),
    *("JSON", "decimals", "gap", "welcome", "message"),
}
SYMBOLS = [Symbol("A", 2, 0), Symbol("BTC-USD", 2, 8)]


def sizes(few: int, many: int) -> pytest.MarkDecorator:
    """How many cases a test tries, and when long."""
    long = pytest.param(many, marks=pytest.mark.long)
    return pytest.mark.parametrize("cases", [few, long])


def try_each(
    cases: int, given_: st.SearchStrategy[T], outcome: Callable[[T], str], note: Note
) -> None:
    """Draw cases; note how many had which outcome."""
    outcomes = Counter[str]()
    unhurried = settings(
        max_examples=cases, deadline=None, suppress_health_check=list(HealthCheck)
    )

    @unhurried
    @given(given_)
    def one(case: T) -> None:
        outcomes[outcome(case)] += 1

    one()
    tell(outcomes, note)


def tell(outcomes: Counter[str], note: Note) -> None:
    note("cases", outcomes.total())
    for label, count in sorted(outcomes.items()):
        note(label, count)
    print(dict(outcomes))


def refused(error: FrameError) -> str:
    assert error.part in PARTS
    assert "\n" not in str(error)[:40]
    return f"refused: {error.part}"


# Bytes that were changed -----------------------------------------------------


def damaged(
    rng: random.Random, whole: bytes, filler: bytes = b"", *, in_place: bool = False
) -> bytes:
    """Bytes with one to three faults: flips, blocks, cuts, repeats.

    Args:
        filler: what strange bytes are drawn from; any byte if empty.
        in_place: no byte moves, as on a disk.
    """
    found = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        start = rng.randrange(len(found) + 1)
        length = min(rng.choice([1, 1, 1, 4, 32, 200, 4096]), len(found) - start)
        strange = bytes(rng.choices(filler, k=length)) if filler else None
        match rng.randrange(3 if in_place else 6):
            case 0 if length:
                found[start] ^= 1 << rng.randrange(8)
            case 1:
                found[start : start + length] = strange or bytes(length)
            case 2:
                found[start : start + length] = strange or rng.randbytes(length)
            case 3:
                del found[start : start + length]
            case 4:
                found[start:start] = found[start : start + length]
            case 5:
                found[start:start] = strange or rng.randbytes(length)
    return bytes(found)


# Frames ----------------------------------------------------------------------

HEADER = "<4sBBHIIQQ"
FIELDS = {"version": 4, "kind": 5, "count": 6, "span": 12, "first_seq": 16}
WIDTHS = {"version": 1, "kind": 1, "count": 2, "span": 4, "first_seq": 8}
EDGES = [0, 1, 2, 3, 5, 6, 7, 255, 4095, 4096, 4097, 2**16 - 1, 2**32 - 1, 2**64 - 1]

TICKS = [
    (time_ns, price, size, symbol, 0)
    for time_ns, price, size in [(1, 2, 3), (-(2**63), 2**63 - 1, 0), (7, -1, 2**62)]
    for symbol in (0, 0, 1, 1, 1, 2, 2**32 - 1)
]
rows = st.lists(st.sampled_from(TICKS), max_size=4).map(lambda t: np.array(t, TICK))
seqs = st.integers(1, 12) | st.sampled_from([0, 2**32, 2**32 + 5, 2**63, 2**64 - 1])
changes = st.dictionaries(
    st.sampled_from(list(FIELDS)),
    st.sampled_from(EDGES) | st.integers(0, 2**64 - 1),
    max_size=2,
)


def changed(frame: bytes, name: str, value: int) -> bytes:
    """A frame of whose header one field says something else."""
    at, width = FIELDS[name], WIDTHS[name]
    field: bytes = (value % 256**width).to_bytes(width, "little")
    return frame[:at] + field + frame[at + width :]


def sealed(frame: bytes) -> bytes:
    """A frame whose checksum is right again."""
    crc = zlib.crc32(frame[:8] + bytes(4) + frame[12:])
    return frame[:8] + crc.to_bytes(4, "little") + frame[12:]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame, of which fields may be wrong under a right checksum."""
    kind = draw(st.sampled_from([Kind.TICKS] * 5 + list(Kind)))
    payload, span = b"", 0
    if kind is Kind.TICKS:
        payload = draw(rows).tobytes()
        span = len(payload) // 32
    elif kind in (Kind.GAP, Kind.SEGMENT):
        span = draw(st.integers(0, 3))
        payload = bytes(span) if kind is Kind.SEGMENT else b""
    frame = encode(kind, draw(seqs), span, 5, payload)
    match draw(st.sampled_from(["whole", "whole", "fields", "fields", "cut", "more"])):
        case "fields":
            for name, value in draw(changes).items():
                frame = changed(frame, name, value)
        case "cut":
            frame = frame[: draw(st.integers(0, len(frame)))]
        case "more":
            frame += draw(st.binary(min_size=1, max_size=40))
    if len(frame) >= 12 and draw(st.integers(0, 7)):
        return sealed(frame)
    flipped = bytearray(frame or b"?")
    flipped[draw(st.integers(0, len(flipped) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


def kept(frame: bytes, symbols: int = 2) -> bool:
    """Whether a frame keeps every promise of the wire, by struct and zlib."""
    if len(frame) < 32:
        return False
    magic, version, kind, count, crc, span, _, _ = struct.unpack_from(HEADER, frame)
    symbol_of_each = [frame[at : at + 4] for at in range(56, 32 + 32 * count, 32)]
    length = 32 + (span if kind == 6 else 32 * count)
    spans = {1: span == count > 0, 2: count == 0, 6: count == 0}
    return (
        (magic, version) == (b"QTIK", 1)
        and 1 <= kind <= 6
        and count <= 4096
        and spans.get(kind, span == count == 0)
        and len(frame) == length
        and zlib.crc32(frame[:8] + bytes(4) + frame[12:]) == crc
        and all(int.from_bytes(s, "little") < symbols for s in symbol_of_each)
    )


def taken_or_refused(frame: bytes) -> str:
    """What becomes of a frame, which is what its bytes deserve."""
    try:
        kind, batch = decode(frame, 2)
    except FrameError as error:
        assert not kept(frame), frame
        return refused(error)
    assert kept(frame), frame
    *_, span, seq, sent_ns = struct.unpack_from(HEADER, frame)
    assert (kind, batch.span, batch.first_seq) == (frame[5], span, seq)
    assert batch.sent_ns == sent_ns
    if kind is not Kind.SEGMENT:
        assert batch.rows.tobytes() == frame[32:]
    return "taken"


@sizes(500, 10_000)
def test_a_frame_is_refused_or_says_what_its_bytes_say(
    cases: int, record_property: Note
):
    try_each(cases, frames(), taken_or_refused, record_property)


@pytest.mark.schedules(2, 20)
def test_a_damaged_frame_is_refused_or_says_what_its_bytes_say(
    fault_seed: int, record_property: Note
):
    """Also when the damage was sealed: then most of it is what the frame says."""
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    whole = [encode(kind, 9, kind is Kind.GAP, 5) for kind in set(Kind) - {1}]
    for _ in range(1000):
        whole[0] = ticks_frame(np.array(rng.choices(TICKS[2:5], k=3), TICK), 9, 5)
        frame = damaged(rng, whole[rng.randrange(2) * rng.randrange(len(whole))])
        outcomes[taken_or_refused(sealed(frame) if rng.randrange(4) else frame)] += 1
    tell(outcomes, record_property)


# Streams of messages -----------------------------------------------------------

WELCOME: dict[str, Any] = {
    "type": "welcome",
    "stream": "s",
    "next_seq": 1,
    "symbols": [
        {"name": s.name, "price_decimals": 2, "size_decimals": s.size_decimals}
        for s in SYMBOLS
    ],
    "heartbeat_seconds": 1.0,
}
TICK_MESSAGE = {
    "type": "tick",
    "seq": 1,
    "time_ns": 5,
    "sent_ns": 6,
    "symbol": "A",
    "price": "12.34",
    "size": "7",
}
DEEP = b'{"type":"heartbeat","x":' + b"[" * 5000
STRANGE: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, -1, 0, 1.5, 1e300, 2**31, 2**63 - 1, 2**63, 2**70, -(2**63)),
        *("", "0", "-0.00", "1.2", "+1.00", "1e5", "12.345", "\u0663.00", "1.00 "),
        *(" 1.00", "0x1.00", "nan", "9" * 19, "9" * 5000, "1.0\n", "-", ".", "-.00"),
        *("99999999999999999.99", "9999999999999999.99", "-1.00", [], {}, "BTC-USD"),
        "\ud800",
    ]
)


@st.composite
def texts(draw: st.DrawFn, message: dict[str, Any]) -> bytes:
    """A JSON message with strange values, a field too few or bytes too many."""
    said = dict(message)
    strange = st.dictionaries(st.sampled_from([*said, "more"]), STRANGE, max_size=2)
    said.update(draw(strange) if draw(st.booleans()) else {})
    if draw(st.integers(0, 9)) == 0:
        del said[draw(st.sampled_from(sorted(said)))]
    text = bytearray(json.dumps(said).encode("utf-8", "surrogatepass"))
    match draw(st.integers(0, 19)):
        case 0:
            at = draw(st.integers(0, len(text) - 1))
            text[at : at + 1] = draw(st.binary(max_size=3))
        case 1:
            del text[draw(st.integers(0, len(text) - 1)) :]
        case 2:
            return draw(st.sampled_from([DEEP, b"", b"[]", b"\xff", b"{}{}", b"{},{}"]))
    return bytes(text)


@st.composite
def messages(draw: st.DrawFn, wire: Wire) -> bytes:
    """A message of either wire; many of them valid, some near the next number."""
    if wire == "binary":
        return draw(frames())
    seq = draw(st.integers(1, 9))
    bare = st.sampled_from(["heartbeat", "end"]).map(
        lambda kind: {"type": kind, "next_seq": seq}
    )
    hole = {"type": "gap", "first_seq": seq, "missing": draw(st.integers(1, 5))}
    size = draw(st.sampled_from(["0.00000001", "5.00000000"]))
    other = TICK_MESSAGE | {"seq": seq, "symbol": "BTC-USD", "size": size}
    which = st.one_of(*[st.just(TICK_MESSAGE | {"seq": seq}), st.just(other)] * 3)
    return draw(texts(draw(which | bare | st.just(hole))))


def sent(message: bytes, wire: Wire) -> set[tuple[int, tuple[int, ...]]]:
    """The ticks that a message tells, by number; read by struct, or by json."""
    if wire == "binary":
        if not kept(message) or message[5] != 1:
            return set()
        first = struct.unpack_from("<Q", message, 16)[0]
        return set(enumerate(struct.iter_unpack("<qqqII", message[32:]), first))
    try:
        tick = json.loads(message)
        names = [symbol.name for symbol in SYMBOLS]
        index = names.index(tick["symbol"])
        row = (
            tick["time_ns"],
            int(Decimal(tick["price"]).scaleb(2)),
            int(Decimal(tick["size"]).scaleb(SYMBOLS[index].size_decimals)),
            index,
            0,
        )
        return {(tick["seq"], row)} if tick["type"] == "tick" else set()
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return set()


def joined(wire: Wire) -> Receiver:
    receiver = Receiver(wire)
    assert receiver.greet(json.dumps(WELCOME).encode()) is None
    return receiver


@pytest.mark.parametrize("wire", WIRES)
@sizes(200, 6000)
def test_a_stream_yields_only_what_was_sent_and_every_number_once(
    wire: Wire, cases: int, record_property: Note
):
    def outcome(stream: list[bytes]) -> str:
        receiver, yielded, label = joined(wire), list[Batch](), "taken"
        try:
            for burst in (stream[:3], stream[3:]):
                yielded.extend(receiver.receive(burst))
        except FrameError as error:
            label = refused(error)
        except EnvironmentFault:
            label = "refused: reset"
        told = set().union(*(sent(message, wire) for message in stream))
        for batch in yielded:
            assert set(enumerate(batch.rows.tolist(), batch.first_seq)) <= told
            assert decode(batch.frame, 2)[1].rows.tobytes() == batch.rows.tobytes()
        ends = [1, *(batch.next_seq for batch in yielded)]
        assert [batch.first_seq for batch in yielded] == ends[:-1]
        assert receiver.received == sum(map(len, yielded))
        return label

    streams = st.lists(messages(wire), min_size=1, max_size=6)
    try_each(cases, streams, outcome, record_property)


@sizes(300, 4000)
def test_a_tick_of_json_is_refused_or_what_json_and_decimal_read(
    cases: int, record_property: Note
):
    def outcome(text: bytes) -> str:
        try:
            batches = [b for b in joined("json").receive([text]) if len(b)]
        except FrameError as error:
            assert text != json.dumps(TICK_MESSAGE).encode()
            return refused(error)
        if not batches:
            return "no tick"
        (batch,) = batches
        assert set(enumerate(batch.rows.tolist(), batch.first_seq)) == sent(
            text, "json"
        )
        price = json.loads(text)["price"]
        assert re.fullmatch(r"-?[0-9]+\.[0-9]{2}", price, re.ASCII)
        return "taken"

    digits = st.integers(0, 10**20).map(lambda n: f"{n // 100}.{n % 100:02}")
    digits |= st.sampled_from(["99999999999999999.99", "12345", "12a34", "-1.00"])
    numbers = st.fixed_dictionaries({"price": digits, "size": st.sampled_from("70")})
    numbered = numbers.map(lambda said: json.dumps(TICK_MESSAGE | said).encode())
    try_each(cases, texts(TICK_MESSAGE) | numbered, outcome, record_property)


@sizes(300, 4000)
def test_a_welcome_is_refused_or_one_can_live_by_it(cases: int, record_property: Note):
    strange = st.fixed_dictionaries({"name": STRANGE}) | st.fixed_dictionaries(
        {"name": st.just("A"), "price_decimals": STRANGE}
    )
    symbols = st.lists(strange | st.sampled_from(WELCOME["symbols"]), max_size=3)
    welcomes = symbols.map(lambda table: WELCOME | {"symbols": table})
    welcomes |= STRANGE.map(lambda value: WELCOME | {"heartbeat_seconds": value})

    def outcome(text: bytes) -> str:
        receiver = Receiver()
        try:
            receiver.greet(text)
        except FrameError as error:
            assert receiver.expected is None
            return refused(error)
        assert receiver.expected
        assert 1 <= receiver.expected < 2**63
        assert 0 < receiver.heartbeat_seconds <= 3600
        names = [symbol.name for symbol in receiver.symbols]
        assert len(set(names)) == len(names)
        for symbol in receiver.symbols:
            assert 0 <= symbol.price_decimals <= 18
            assert 0 <= symbol.size_decimals <= 18
        return "taken"

    # No `texts` of DEEP and no text that is no UTF-8: see the defects below.
    readable = welcomes.map(lambda said: json.dumps(said).encode())
    cut = st.tuples(readable, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    try_each(cases, readable | cut, outcome, record_property)


@pytest.mark.parametrize(
    "text", [b'{"type":"welcome","x":' + b"[" * 5000, b'{"type":"\xff"}']
)
def test_a_welcome_without_end_or_of_no_text_is_refused(text: bytes):
    with pytest.raises(FrameError):
        Receiver().greet(text)


# Limits ----------------------------------------------------------------------


def plain(text: str) -> Fraction | None:
    """The number that a text writes without exponent; None if it is none."""
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    whole, _, fraction = unsigned.partition(".")
    digits = whole + fraction
    if not whole or not all(c in "0123456789" for c in digits) or len(digits) > 4000:
        return None
    return Fraction(int(digits), 10 ** len(fraction)) * (-1 if text[0] == "-" else 1)


limit_texts = st.none() | (
    st.decimals(allow_nan=False, allow_infinity=False, places=4).map("{:f}".format)
    | st.text("0123456789.-+e _/\n\u0663", max_size=12)
    | st.sampled_from(["", "9" * 4999, "1" * 4000, "nan", "inf", "0x1", "\ufffd"])
)


@sizes(300, 6000)
def test_a_limit_is_the_number_its_text_writes_or_the_last_good_stays(
    cases: int, record_property: Note
):
    symbol = Symbol("A", 2, 1)

    def outcome(answer: list[str | None]) -> str:
        limits = Limits([symbol])
        limits.update([["1.00", "2.00", "3.000", "1"]])
        limits.update([[*answer, "2"]])
        low, high, notional = [None if t is None else plain(t) for t in answer]
        wrong = sum(
            text is not None
            and (plain(text) is None or (which == 2 and text[0] == "-"))
            for which, text in enumerate(answer)
        )
        assert limits.refused == wrong
        ends = np.iinfo(np.int64)
        for value, text, taken, last, beyond, scale in [
            (low, answer[0], int(limits.low[0]), 100, ends.min, 100),
            (high, answer[1], int(limits.high[0]), 200, ends.max, 100),
            (notional, answer[2], limits.notional[0], 3000, 2**126, 1000),
        ]:
            if text is None:
                assert taken == beyond
            elif value is None or (scale == 1000 and text[0] == "-"):
                assert taken == last
            elif abs(value * scale) < ends.max:
                assert abs(taken - value * scale) < 1
        return f"{wrong} of 3 refused"

    try_each(
        cases, st.lists(limit_texts, min_size=3, max_size=3), outcome, record_property
    )


# Tick logs -------------------------------------------------------------------


def run_of(rng: random.Random, first: int, count: int) -> Iterator[Batch]:
    """Batches of ticks, each like no other; sometimes a gap."""
    for _ in range(count):
        n = rng.randrange(1, 9)
        if rng.randrange(8) == 0:
            yield gap(first, n, 0, encode(Kind.GAP, first, n, 0))
        else:
            rows: Rows = np.frombuffer(rng.randbytes(32 * n), TICK)
            frame = ticks_frame(rows, first, 0)
            yield decode(frame, 1 << 32)[1]
        first += n


def segment(stream: str, first: int = 1) -> bytes:
    return Segment(stream, tuple(SYMBOLS), 1, first).encode()


def spoilt_log(rng: random.Random, logs: list[list[bytes]]) -> bytes:
    """Two logs, spliced or repeated in part, then damaged; or torn and appended."""
    log = list(logs[0])
    start = rng.randrange(1, len(log))
    match rng.randrange(5):
        case 0:  # part of it comes again
            log[start:start] = log[start : start + rng.randrange(1, 5)]
        case 1:  # one inside the other, each from a header on
            log[start:start] = [*logs[1], log[0]]
        case 2:
            log = log[:start] + logs[1]
        case 3:
            return b"".join(log)[: rng.randrange(sum(map(len, log)))] + b"".join(
                logs[1]
            )
    whole = damaged(rng, b"".join(log), in_place=True)
    return whole[: rng.choice([len(whole), rng.randrange(len(whole))])]


@pytest.mark.schedules(4, 60)
def test_a_damaged_log_never_tells_a_wrong_tick(
    fault_seed: int, tmp_path: Path, record_property: Note
):
    """What the frames say, by stream and number, is the oracle."""
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    runs = {"a": list(run_of(rng, 1, 12)), "b": list(run_of(rng, 5, 12))}
    true = {
        (name, seq, row)
        for name, run in runs.items()
        for batch in run
        for seq, row in enumerate(batch.rows.tolist(), batch.first_seq)
    }
    anywhere = {(seq, row) for _, seq, row in true}
    logs = [
        [segment(s, runs[s][0].first_seq), *(b.frame for b in runs[s])] for s in runs
    ]
    log = tmp_path / "log"
    for _ in range(400):
        log.write_bytes(spoilt_log(rng, logs))
        expected: dict[str, int] = {}
        try:
            found = scan(log)
            for of, batch in replay_segments(log, "all"):
                assert batch.first_seq == expected.get(of.stream, of.first_seq)
                expected[of.stream] = batch.next_seq
                for seq, row in enumerate(batch.rows.tolist(), batch.first_seq):
                    assert (seq, row) in anywhere
                    assert (
                        of.stream.startswith("lost-") or (of.stream, seq, row) in true
                    )
        except SettingsError:
            outcomes["refused: no tick log"] += 1
            continue
        outcomes["with holes" if found.holes or found.torn else "whole"] += 1
    tell(outcomes, record_property)


@pytest.mark.schedules(2, 30)
def test_a_log_whose_checksums_are_right_again_is_read_in_order_or_passed_over(
    fault_seed: int, record_property: Note
):
    """Headers and JSON that no rot makes: what is read is in order, or a hole."""
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    for _ in range(300):
        frames = [segment("a"), *(batch.frame for batch in run_of(rng, 1, 5))]
        which = rng.choice([0, rng.randrange(len(frames))])
        frame = frames[which]
        if rng.randrange(2) and len(frame) > 32:
            said = damaged(rng, frame[32:], b'{}[]"\xff0123456789-,:ae')
            frame = changed(frame[:32] + said, "span", len(said))
        else:
            value = rng.choice([*EDGES[:-1], rng.randrange(1000)])
            frame = changed(frame, rng.choice([*FIELDS]), value)
        frames[which] = sealed(frame)
        found = list(parts(io.BytesIO(b"".join(frames))))
        expected: dict[str, int] = {}
        for of, batch in islice(in_order(found), 1000):
            assert batch.first_seq == expected.get(of.stream, of.first_seq)
            expected[of.stream] = batch.next_seq
        holes = sum(not isinstance(part, Batch | Segment) for part in found)
        outcomes["with holes" if holes else "whole"] += 1
    tell(outcomes, record_property)


@pytest.mark.parametrize(
    "text",
    [
        b'{"stream":' + b"[" * 20_000,
        b'{"stream":"\xff","symbols":[],"started_ns":1,"first_seq":1}',
        b'{"stream":"a","symbols":[],"started_ns":1,"first_seq":-5}',
    ],
)
def test_a_segment_that_cannot_be_read_is_a_hole(text: bytes):
    after = ticks_frame(np.zeros(3, TICK), 7, 0)
    log = encode(Kind.SEGMENT, 1, len(text), 0, text) + after
    (only,) = in_order(parts(io.BytesIO(log)))
    assert (only[0].stream, only[1].frame) == ("lost-0", after)


# Recordings ------------------------------------------------------------------

SEEN_IN_FILES = b'0123456789.,:-+eETZ"{}[]\r\n \t;tf\xef\xbb\xbf\x00\xff'
ONES = {"true": 1, "True": 1, "TRUE": 1, "false": 0, "False": 0, "FALSE": 0}
REFUSALS_OF_FILES = (RecordingError, SettingsError, InexactValue)


def iso_ns(text: str) -> int:
    """By datetime, and what is finer than its microsecond by hand."""
    seconds, fraction, zone = re.fullmatch(r"([^.]{19})(?:\.(\d+))?(.*)", text).groups()  # type: ignore[union-attr]
    moment = datetime.fromisoformat(seconds + (zone or "+00:00"))
    return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))


def epoch_ns(text: str) -> int:
    time = Fraction(text)
    unit = sum(time >= 10**digits for digits in (11, 14, 17))
    time_ns = time * 10 ** (9 - 3 * unit)
    assert time_ns.denominator == 1
    return int(time_ns)


def fields_of(lines: list[str]) -> list[list[str]]:
    if any('"' in line for line in lines):
        return [next(csv.reader([line])) for line in lines]
    return [line.split(",") for line in lines]


def binance_by_hand(lines: list[str]) -> Iterator[tuple[Any, Trade]]:
    header = "" if lines[0].partition(",")[0].isdigit() else lines[0]
    rows = fields_of([line for line in lines if line != header])
    clock = min(rows[0].index(text) for text in ONES if text in rows[0]) - 1
    for row in rows:
        price, size, flags = Fraction(row[1]), Fraction(row[2]), ONES[row[clock + 1]]
        yield int(row[0]), ("BTCUSDT", price, size, epoch_ns(row[clock]), flags)


def lobster_by_hand(lines: list[str]) -> Iterator[tuple[Any, Trade]]:
    midnight = int(datetime.fromisoformat("2024-03-08T05:00Z").timestamp()) * 10**9
    for time, kind, _, size, price, side in fields_of(lines):
        if kind in "45":
            time_ns = midnight + int(Fraction(time) * 10**9)
            sold = int(side == "1")
            yield None, ("XYZ", Fraction(price) / 10**4, Fraction(size), time_ns, sold)


def tape_by_hand(lines: list[str]) -> Iterator[tuple[Any, Trade]]:
    rows = fields_of(lines)
    head = [name.strip().lower() for name in rows[0]]
    rows = [row for row, line in zip(rows, lines, strict=True) if line != lines[0]]
    at = {name: head.index(name) for name in head}
    size = at["quantity"] if "quantity" in at else at["size"]
    numbered = "seq" in at and rows[0][at["seq"]].isdigit()
    read = iso_ns if "-" in rows[0][at["time"]] else epoch_ns
    for row in rows:
        key = int(row[at["seq"]]) if numbered else None
        price, time_ns = Fraction(row[at["price"]]), read(row[at["time"]])
        yield key, (row[at["symbol"]], price, Fraction(row[size]), time_ns, 0)


def coinbase_by_hand(lines: list[str]) -> Iterator[tuple[Any, Trade]]:
    for message in map(json.loads, lines):
        if message.get("channel") == "market_trades":
            for event in message.get("events", []):
                for trade in sorted(
                    event.get("trades", []), key=lambda t: int(t["trade_id"])
                ):
                    yield coinbase_trade(trade, 0)
        if message.get("type") in ("match", "last_match"):
            yield coinbase_trade(message, int(message.get("side") == "buy"))


def coinbase_trade(said: dict[str, Any], flags: int) -> tuple[Any, Trade]:
    price, size = Fraction(said["price"]), Fraction(said["size"])
    trade = (said["product_id"], price, size, iso_ns(said["time"]), flags)
    return int(said["trade_id"]), trade


BY_HAND: dict[str, Callable[[list[str]], Iterator[tuple[Any, Trade]]]] = {
    "BTCUSDT-aggTrades-2025-01.csv": binance_by_hand,
    "ETHUSDT-aggTrades-2025-01-02.csv": binance_by_hand,
    "SOLUSDT-trades-2024-12.csv": binance_by_hand,
    "XRPUSDT-trades-2025-02.csv": binance_by_hand,
    "XYZ_2024-03-08_34200000_57600000_message_1.csv": lobster_by_hand,
    "market_trades.jsonl": coinbase_by_hand,
    "matches.jsonl": coinbase_by_hand,
    "tape.csv": tape_by_hand,
}


def by_hand(name: str, file: bytes) -> list[Trade]:
    """The trades of a file, each id of a symbol once; slow, and nothing checked."""
    text = file.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\r")
    known, found = set[tuple[str, int]](), list[Trade]()
    for key, trade in BY_HAND[name]([line for line in text.split("\n") if line]):
        trade = (name.partition("-")[0], *trade[1:]) if "USDT" in name else trade
        if key is None or (trade[0], key) not in known:
            found.append(trade)
            known.add((trade[0], key))
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_by_hand_a_file_holds_what_is_expected_of_it(name: str):
    assert by_hand(name, (HERE / name).read_bytes()) == EXPECTED[name][1]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.schedules(1, 30)
def test_a_damaged_recording_is_refused_or_read_as_by_hand(
    name: str, fault_seed: int, tmp_path: Path, record_property: Note
):
    rng, outcomes = random.Random(f"{name} {fault_seed}"), Counter[str]()
    whole, path = (HERE / name).read_bytes(), tmp_path / name
    for _ in range(250):
        lines = whole.splitlines(keepends=True)
        if rng.randrange(4) == 0:
            rng.shuffle(lines)
        at = rng.randrange(len(lines))
        lines[at] = damaged(rng, lines[at], SEEN_IN_FILES if rng.randrange(5) else b"")
        path.write_bytes(spoilt := b"".join(lines))
        try:
            with open_recording(path, EXPECTED[name][0]) as recording:
                assert trades(recording) == by_hand(name, spoilt), spoilt
                outcomes["read"] += 1
        except REFUSALS_OF_FILES as error:
            line = getattr(error, "line", None) is not None
            outcomes["refused by line" if line else "refused as a whole"] += 1
    tell(outcomes, record_property)


def zipped(text: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", text)
    return file.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zip": zipped,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.schedules(1, 30)
def test_a_damaged_archive_is_refused_or_what_was_packed(
    packed: str, fault_seed: int, tmp_path: Path, record_property: Note
):
    """A zip can say that it is encrypted, or made by a method of the future."""
    rng, outcomes = random.Random(f"{packed} {fault_seed}"), Counter[str]()
    text = b"time_ns,symbol,price,size\n"
    text += b"".join(b"%d,ABC,%d.5,2\n" % (10**18 + i, i) for i in range(20))
    whole, path = PACKED[packed](text), tmp_path / "a.csv"
    path.write_bytes(text)
    expected = open_recording(path).take(99)
    for _ in range(400):
        path.write_bytes(damaged(rng, whole))
        try:
            with open_recording(path) as recording:
                assert recording.take(99).tobytes() == expected.tobytes()
                outcomes["read"] += 1
        except REFUSALS_OF_FILES as error:
            cause = error.__cause__
            outcomes[f"refused: {type(cause).__name__}" if cause else "refused"] += 1
    tell(outcomes, record_property)


@pytest.mark.parametrize("packed", PACKED)
def test_a_bomb_is_unpacked_a_block_at_a_time(packed: str, tmp_path: Path):
    """Some kB that unpack to 64 MB; 4 bytes of zstd can stand for 128 KiB."""
    path = tmp_path / "a.csv"
    path.write_bytes(PACKED[packed](b"1" * 79 + b"\n" + b"\n" * (1 << 26)))
    tracemalloc.start()
    try:
        with pytest.raises(QuantsError):
            open_recording(path, "binance")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500 * BLOCK


TRADE = b'{"type":"match","trade_id":1,"product_id":"A","price":"1","size":"1",'
TRADE += b'"time":"2025-01-01T00:00:00Z"}\n'
CSV = b"time_ns,symbol,price,size,id\n1735689600000000000,A,1.5,2,1\n"
ODD_FILES = {
    "nested without end": ("m.jsonl", TRADE + b'{"type":"match","x":' + b"[" * 20_000),
    "line ends of an old Mac": ("a.csv", CSV.replace(b"\n", b"\r")),
    "a return behind a quote": ("a.csv", CSV + b'1735689600000000000,"A"\rB,1.5,2,2'),
    "a field beyond all measure": ("a.csv", CSV + b'1,"' + b"A" * 200_000 + b'",1,2,2'),
    "no such day": ("XYZ_2024-13-45_message.csv", b"34200.1,4,1,10,5853300,1\n"),
    "a day of the year 1": ("XYZ_0001-01-01_message.csv", b"34200.1,4,1,10,58533,1\n"),
    "the last id of all": (
        "a.csv",
        CSV + b"1735689600000000000,A,1,2,%d" % (2**63 - 1),
    ),
}


@pytest.mark.parametrize("odd", ODD_FILES)
def test_an_odd_file_is_refused(odd: str, tmp_path: Path):
    name, file = ODD_FILES[odd]
    (tmp_path / name).write_bytes(file)
    with pytest.raises(RecordingError):
        open_recording(tmp_path / name)


# The feed's server, over real sockets ----------------------------------------

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
MASK = 0x80
BOMB = zlib.compress(bytes(1 << 22))[2:-4]  # permessage-deflate, 4 MB of zeros


def ws_frame(
    opcode: int, payload: bytes, *, first: int = 0x80, mask: int = 0, size: int = -1
) -> bytes:
    """A WebSocket frame; `first` holds fin and the reserved bits."""
    size = len(payload) if size < 0 else size
    if size < 126:
        head = struct.pack(">BB", first | opcode, mask | size)
    elif size < 1 << 16 and mask | opcode != 9:
        head = struct.pack(">BBH", first | opcode, mask | 126, size)
    else:
        head = struct.pack(">BBQ", first | opcode, mask | 127, size)
    return head + (bytes(4) if mask else b"") + payload


def hostile_to_servers(rng: random.Random) -> bytes:
    """What a subscriber must not send, by one frame or a few."""
    request = b'{"from_seq": 1}'
    said = rng.choice([b"from_seq", b'{"from_seq": 0}', b"[]", b"\xff\xfe", b"{", b"1"])
    junk = bytes(rng.choices(b'{}[]":,0aftn \xff', k=rng.randrange(1, 99)))
    return rng.choice(
        [
            ws_frame(rng.choice([1, 2]), said, mask=MASK),
            ws_frame(2, b"x" + junk, mask=MASK),
            ws_frame(1, request, first=rng.choice([0xC0, 0xA0, 0x90]), mask=MASK),
            ws_frame(2, BOMB[:4000], first=0xC0, mask=MASK),
            ws_frame(rng.choice([3, 4, 7, 11, 15]), junk, mask=MASK),
            ws_frame(1, request, mask=MASK, size=rng.choice([5000, 2**40, 2**63])),
            ws_frame(0, request, mask=MASK),
            ws_frame(9, request, first=0, mask=MASK),
            ws_frame(rng.choice([9, 10]), bytes(126), mask=MASK),
            ws_frame(1, b"{", first=0, mask=MASK)
            + ws_frame(0, bytes(1000), first=0, mask=MASK) * 6,
            ws_frame(1, b"{", first=0, mask=MASK) + ws_frame(1, request, mask=MASK),
            ws_frame(8, rng.choice([b"x", b"\0\1", b"\3\xe8\xff"]), mask=MASK),
        ]
    )


def hostile_to_http(rng: random.Random) -> bytes:
    """What is no handshake, or half of one."""
    return rng.choice(
        [
            rng.randbytes(rng.randrange(1, 2000)),
            damaged(rng, HANDSHAKE),
            HANDSHAKE[: rng.randrange(len(HANDSHAKE))],
            HANDSHAKE[:-2] + b"a: b\r\n" * 5000,
            HANDSHAKE[:-2] + b"a: " + b"b" * 100_000,
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx",
            b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )


async def until(true: Callable[[], bool]) -> None:
    """Wait for a state that another task brings about."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


async def answer_to(port: int, data: bytes, goodbye: bytes = b"") -> bytes:
    """What a server says to some bytes, until it closes, or says goodbye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    with suppress(ConnectionError):
        writer.write(data)
        async with asyncio.timeout(20):
            while some := await reader.read(1 << 16):
                heard += some
                if goodbye and goodbye in heard:
                    break
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return heard


async def send_and_leave(port: int, data: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.schedules(2, 60)
async def test_a_hostile_subscriber_is_refused_counted_and_closed(
    fault_seed: int, record_property: Note
):
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    async with (
        FeedServer(Market(), 100_000) as server,
        Subscription(server.url) as healthy,
    ):
        for n in range(1, 61):
            await answer_to(
                server.port, HANDSHAKE + hostile_to_servers(rng), b"\x88\x02"
            )
            await until(lambda n=n: server.let_go.total() >= n)  # type: ignore[misc]
            await send_and_leave(server.port, hostile_to_http(rng))
            outcomes["no HTTP"] += 1
        await until(lambda: len(server._subscribers) <= 1)
        outcomes.update(server.let_go)
        assert server.let_go == {"refused": 60}
        publishing = asyncio.create_task(server.publish(1000))
        batches = [batch async for batch in healthy]
        await publishing
    rows = b"".join(batch.rows.tobytes() for batch in batches)
    assert rows == Market().take(1000).tobytes()
    tell(outcomes, record_property)


async def test_a_ping_is_answered_with_its_payload():
    payload = bytes(range(125))
    async with FeedServer(Market()) as server:
        sends = (
            HANDSHAKE + ws_frame(9, payload, mask=MASK) + ws_frame(8, b"", mask=MASK)
        )
        assert b"\x8a\x7d" + payload in await answer_to(server.port, sends)


async def test_a_request_nested_without_end_is_refused():
    request = b'{"x":' + b"[" * 4000
    async with FeedServer(Market()) as server:
        await answer_to(
            server.port, HANDSHAKE + ws_frame(1, request, mask=MASK), b"\x88\x02"
        )
        await until(lambda: server.let_go == {"refused": 1})


async def test_a_thousand_requests_are_not_a_thousand_tasks():
    flood = ws_frame(1, b'{"from_seq":1}', mask=MASK) * 1000
    async with FeedServer(Market(), 1e9) as server:
        await server.publish(200_000)
        before = len(asyncio.all_tasks())
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(HANDSHAKE + flood)
        await until(lambda: len(server._subscribers) == 1)
        for _ in range(50):
            await asyncio.sleep(0.001)
        tasks = len(asyncio.all_tasks()) - before
        writer.transport.abort()
        await until(lambda: not server._subscribers)
    assert tasks < 20


async def test_hostile_connections_leave_nothing_in_memory():
    rng = random.Random(1)
    cases = [hostile_to_servers(rng) for _ in range(40)]
    held = []
    async with FeedServer(Market()) as server:
        tracemalloc.start()
        try:
            for _ in range(3):
                for case in cases:
                    await answer_to(server.port, HANDSHAKE + case, b"\x88\x02")
                    await send_and_leave(server.port, hostile_to_http(rng))
                await until(lambda: not server._listener.transports())
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    first, second, third = held
    assert third - second < 300 * len(cases), (first, second, third)  # bytes


# The client, against a hostile feed ------------------------------------------

GOOD = ticks_frame(np.array([(1, 2, 3, 0, 0)], TICK), 1, 0)


def greeted(*said: bytes) -> Callable[[bytes], bytes]:
    """The answer to a handshake, given its key: a right one, then these bytes."""

    def answer(key: bytes) -> bytes:
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        head += b"Connection: Upgrade\r\nSec-WebSocket-Protocol: quants.v1.binary\r\n"
        head += b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        return head + b"".join(said)

    return answer


@asynccontextmanager
async def feed_that_says(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A server that answers every handshake with this, and waits to be left."""

    serving = dict[asyncio.StreamWriter, asyncio.Task[Any] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[writer] = asyncio.current_task()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            writer.write(answer(key[1] if key else b""))
            await writer.drain()
            while await reader.read(1 << 16):
                pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        listening.close()
        for writer in serving:
            writer.transport.abort()
        await asyncio.gather(*filter(None, serving.values()))


async def no_time(seconds: float) -> None:
    await asyncio.sleep(0)


WELCOMED = ws_frame(1, json.dumps(WELCOME).encode())


async def heard(answer: Callable[[bytes], bytes]) -> tuple[str, Subscription, int]:
    """How a subscription to a hostile feed ends, and the ticks it gave."""
    yielded = 0
    async with feed_that_says(answer) as url, asyncio.timeout(20):
        subscription = Subscription(url, sleep=no_time)
        try:
            async with subscription:
                async for batch in subscription:
                    yielded += len(batch)
                    assert batch.frame == GOOD
            return "ended", subscription, yielded
        except FrameError as error:
            return refused(error), subscription, yielded
        except EnvironmentFault:
            return "refused: environment", subscription, yielded


@pytest.mark.schedules(1, 30)
async def test_a_feed_that_sends_no_frame_is_refused_three_times_and_left(
    fault_seed: int, record_property: Note
):
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    for _ in range(60):
        bad = GOOD
        while kept(bad):
            bad = damaged(rng, GOOD)
        first = 0xC0 if rng.randrange(5) == 0 else 0x80  # "compressed"
        bad = BOMB[:5000] if first == 0xC0 else bad
        said = ws_frame(2, GOOD), ws_frame(rng.choice([1, 2]), bad, first=first)
        label, subscription, yielded = await heard(greeted(WELCOMED, *said))
        assert label.startswith("refused: ")
        assert yielded == 1
        assert subscription.receiver.refused == REFUSALS
        assert subscription._inbox is None
        outcomes[label] += 1
    tell(outcomes, record_property)


@pytest.mark.schedules(1, 20)
async def test_a_feed_that_does_not_greet_is_refused_at_once(
    fault_seed: int, record_property: Note
):
    rng, outcomes = random.Random(fault_seed), Counter[str]()
    for _ in range(40):
        text = json.dumps(WELCOME).encode()[: rng.randrange(1, 200)]
        answer = rng.choice(
            [
                greeted(ws_frame(1, text)),
                greeted(ws_frame(2, GOOD)),
                greeted(ws_frame(1, b"\xff" + text)),
                lambda _: greeted(WELCOMED)(b"another key"),
                lambda key: greeted()(key)[: rng.randrange(12)] + b"\r\n\r\n",
                lambda _: rng.randbytes(99) + b"\r\n\r\n",
                lambda _: b"HTTP/1.1 101 S\r\n" + b"a: b\r\n" * 9999,
                lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
            ]
        )
        label, subscription, yielded = await heard(answer)
        assert label in ("refused: welcome", "refused: environment")
        assert (yielded, subscription._inbox) == (0, None)
        outcomes[label] += 1
    tell(outcomes, record_property)


BROKEN_WEBSOCKETS = {
    "a reserved opcode": ws_frame(3, b"x"),
    "a reserved control opcode": ws_frame(11, b"x"),
    "a frame of 2**62 bytes": ws_frame(2, b"x", size=2**62),
    "a continuation of nothing": ws_frame(0, GOOD),
    "a long ping": ws_frame(9, bytes(200)),
}


@pytest.mark.parametrize("broken", BROKEN_WEBSOCKETS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_broken_websocket_is_refused_three_times_and_left(broken: str):
    said = ws_frame(2, GOOD), BROKEN_WEBSOCKETS[broken]
    async with asyncio.timeout(1):
        label, subscription, yielded = await heard(greeted(WELCOMED, *said))
    assert (label, yielded) == ("refused: message", 1)
    assert subscription.receiver.refused == REFUSALS


# The HTTP server of the metrics ----------------------------------------------


@pytest.mark.schedules(1, 20)
async def test_whatever_comes_over_http_the_next_scrape_is_answered(
    fault_seed: int, record_property: Note
):
    rng, outcomes, hand = random.Random(fault_seed), Counter[str](), Hand()
    scrape = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with MetricsServer(Registry(), port=0, sleep=hand.sleep) as server:
        stalled = []
        for _ in range(60):
            bad = rng.choice([damaged(rng, scrape), hostile_to_http(rng), scrape[:-3]])
            if rng.randrange(3):
                await send_and_leave(server.port, bad)
                outcomes["left"] += 1
            else:
                pair = await asyncio.open_connection("127.0.0.1", server.port)
                pair[1].write(bad)
                stalled.append(pair[1])
                outcomes["stalled"] += 1
        assert (await answer_to(server.port, scrape)).startswith(b"HTTP/1.1 200 OK")
        async with asyncio.timeout(30):
            while server._listener.transports():
                await hand.sweep()
                await asyncio.sleep(0.001)
    for writer in stalled:
        writer.transport.abort()
    tell(outcomes, record_property)
