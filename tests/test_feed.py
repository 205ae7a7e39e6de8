"""The protocol without a socket: what a receiver makes of what arrives."""

import json
from collections.abc import Iterable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from quants.errors import EnvironmentFault, FrameError
from quants.feed import Receiver, Wire
from quants.frame import MAX_ROWS, Kind, decode, encode, ticks_frame
from quants.messages import as_json, fixed_points, text_frames, unpack
from quants.tick import NO_ROWS, Batch, Rows, Symbol, gap, rows_of

SYMBOLS = (Symbol("AAPL"), Symbol("BTCUSDT", 2, 8), Symbol("JPY", 0, 0))
WIRES: list[Wire] = ["binary", "json"]


def rows_from(first_seq: int, count: int) -> Rows:
    """Rows that can be told from their sequence number alone."""
    seqs = range(first_seq, first_seq + count)
    return rows_of([(10**18 + s, 7 * s - 50, s * s, s % 3, 0) for s in seqs])


def ticks(first_seq: int, count: int, sent_ns: int = 5) -> Batch:
    rows = rows_from(first_seq, count)
    frame = ticks_frame(rows, first_seq, sent_ns)
    return Batch(rows, first_seq, count, sent_ns, frame)


def bare(kind: Kind, next_seq: int) -> Batch:
    return Batch(NO_ROWS, next_seq, 0, 0, encode(kind, next_seq, 0, 0))


def lost(first_seq: int, missing: int) -> Batch:
    return gap(first_seq, missing, 0, encode(Kind.GAP, first_seq, missing, 0))


def messages(wire: Wire, kind: Kind, batch: Batch) -> list[bytes]:
    return [batch.frame] if wire == "binary" else as_json(kind, batch, SYMBOLS)


def welcome(next_seq: int = 1, stream: str = "s") -> bytes:
    table = [
        {
            "name": s.name,
            "price_decimals": s.price_decimals,
            "size_decimals": s.size_decimals,
        }
        for s in SYMBOLS
    ]
    greeting = {"type": "welcome", "stream": stream, "next_seq": next_seq}
    greeting |= {"symbols": table, "heartbeat_seconds": 0.5}
    return json.dumps(greeting).encode()


def joined(wire: Wire = "binary", next_seq: int = 1) -> Receiver:
    receiver = Receiver(wire)
    assert receiver.greet(welcome(next_seq)) is None
    return receiver


def take(receiver: Receiver, *frames: tuple[Kind, Batch]) -> list[Batch]:
    arrived = [
        m for kind, batch in frames for m in messages(receiver.wire, kind, batch)
    ]
    return list(receiver.receive(arrived))


def story(batches: Iterable[Batch]) -> list[tuple[str, int, int]]:
    return [("gap" if b.is_gap else "ticks", b.first_seq, b.span) for b in batches]


# -- the receiver ------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
def test_who_joins_late_has_missed_nothing(wire):
    receiver = joined(wire, next_seq=1001)
    batches = take(receiver, (Kind.TICKS, ticks(1001, 3)))
    assert story(batches) == [("ticks", 1001, 3)]
    assert (receiver.received, receiver.gaps, receiver.last_seq) == (3, 0, 1003)


@pytest.mark.parametrize("wire", WIRES)
def test_a_hole_becomes_one_gap_with_the_missing_numbers(wire):
    receiver = joined(wire)
    batches = take(receiver, (Kind.TICKS, ticks(1, 2)), (Kind.TICKS, ticks(6, 2)))
    assert story(batches) == [("ticks", 1, 2), ("gap", 3, 3), ("ticks", 6, 2)]
    assert (receiver.gaps, receiver.gap_ticks, receiver.received) == (1, 3, 4)
    kind, told = decode(batches[1].frame, 0)
    assert (kind, told.first_seq, told.span) == (Kind.GAP, 3, 3)


@pytest.mark.parametrize("wire", WIRES)
def test_a_gap_the_server_tells_of_is_counted_once(wire):
    receiver = joined(wire)
    batches = take(receiver, (Kind.GAP, lost(1, 4)), (Kind.TICKS, ticks(5, 1)))
    assert story(batches) == [("gap", 1, 4), ("ticks", 5, 1)]
    assert (receiver.gaps, receiver.gap_ticks) == (1, 4)


@pytest.mark.parametrize("wire", WIRES)
def test_duplicates_are_dropped_and_counted(wire):
    receiver = joined(wire)
    first = (Kind.TICKS, ticks(1, 5))
    assert story(take(receiver, first)) == [("ticks", 1, 5)]
    assert take(receiver, first) == []
    assert take(receiver, (Kind.TICKS, ticks(2, 3))) == []
    assert (receiver.received, receiver.duplicates, receiver.last_seq) == (5, 8, 5)


@pytest.mark.parametrize("wire", WIRES)
def test_what_comes_late_is_told_from_what_comes_twice(wire):
    """1 to 4, then 8 and 9; 3 to 6 come late, but only 5 and 6 were missing."""
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 4)))
    take(receiver, (Kind.TICKS, ticks(8, 2)))
    assert take(receiver, (Kind.TICKS, ticks(3, 4))) == []
    assert (receiver.duplicates, receiver.late) == (4, 2)
    assert take(receiver, (Kind.TICKS, ticks(1, 2))) == []
    assert (receiver.duplicates, receiver.late, receiver.gap_ticks) == (6, 2, 3)


@pytest.mark.parametrize("wire", WIRES)
def test_of_a_partly_known_frame_the_new_rows_are_framed_again(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 5)))
    (batch,) = take(receiver, (Kind.TICKS, ticks(3, 6)))
    assert story([batch]) == [("ticks", 6, 3)]
    assert (receiver.received, receiver.duplicates) == (8, 3)
    kind, again = decode(batch.frame, 3)
    assert (kind, again.first_seq, again.sent_ns) == (Kind.TICKS, 6, 5)
    assert again.rows.tobytes() == batch.rows.tobytes() == rows_from(6, 3).tobytes()


@pytest.mark.parametrize("wire", WIRES)
def test_of_a_partly_known_gap_the_rest_is_missing(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 5)))
    assert story(take(receiver, (Kind.GAP, lost(3, 6)))) == [("gap", 6, 3)]
    assert (receiver.duplicates, receiver.gap_ticks) == (0, 3)


@pytest.mark.parametrize("wire", WIRES)
def test_a_heartbeat_that_is_ahead_reveals_a_gap(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 2)))
    assert take(receiver, (Kind.HEARTBEAT, bare(Kind.HEARTBEAT, 3))) == []
    beat = (Kind.HEARTBEAT, bare(Kind.HEARTBEAT, 8))
    assert story(take(receiver, beat)) == [("gap", 3, 5)]
    assert take(receiver, beat) == []


@pytest.mark.parametrize("wire", WIRES)
def test_the_end_is_known_and_tells_what_was_missed_before_it(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 2)))
    assert not receiver.ended
    assert story(take(receiver, (Kind.END, bare(Kind.END, 5)))) == [("gap", 3, 2)]
    assert receiver.ended


@pytest.mark.parametrize("wire", WIRES)
def test_a_reset_asks_for_a_new_run(wire):
    with pytest.raises(EnvironmentFault, match=r"stream s was reset: start a new run"):
        take(joined(wire), (Kind.RESET, bare(Kind.RESET, 1)))


def test_another_stream_after_a_cut_is_refused_by_name():
    receiver = joined()
    with pytest.raises(EnvironmentFault, match=r"came back as stream t, .* follows s"):
        receiver.greet(welcome(stream="t"))


@pytest.mark.parametrize("message", [b"", b"{}", b"QTIK", b'{"type":"tick"}', b"[]"])
def test_a_greeting_that_is_no_welcome_is_refused(message):
    with pytest.raises(FrameError, match="frame welcome: expected a JSON welcome"):
        Receiver().greet(message)


def test_a_welcome_tells_stream_symbols_and_heartbeat():
    receiver = joined(next_seq=7)
    known = receiver.stream, receiver.symbols, receiver.heartbeat_seconds
    assert known == ("s", SYMBOLS, 0.5)
    assert receiver.expected == 7


@pytest.mark.parametrize("wire", WIRES)
def test_after_a_cut_it_asks_for_the_next_number_and_waits_for_it(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 4)))
    request = receiver.greet(welcome(next_seq=9))
    assert request is not None
    assert json.loads(request) == {"from_seq": 5}
    live = (Kind.TICKS, ticks(9, 2))
    assert take(receiver, live) == []  # sent before the server read the request
    resumed = take(receiver, (Kind.TICKS, ticks(3, 8)))
    assert story(resumed) == [("ticks", 5, 6)]
    assert story(take(receiver, (Kind.TICKS, ticks(11, 1)))) == [("ticks", 11, 1)]
    assert (receiver.received, receiver.gaps, receiver.duplicates) == (11, 0, 2)


@pytest.mark.parametrize("wire", WIRES)
def test_a_resumed_frame_that_is_lost_is_a_gap_and_not_the_end_of_it(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 4)))
    receiver.greet(welcome(next_seq=9))
    assert take(receiver, (Kind.TICKS, ticks(9, 2))) == []
    resumed = take(receiver, (Kind.TICKS, ticks(7, 2)))
    assert story(resumed) == [("gap", 5, 2), ("ticks", 7, 2)]
    assert story(take(receiver, (Kind.TICKS, ticks(9, 2)))) == [("ticks", 9, 2)]


@pytest.mark.parametrize("wire", WIRES)
def test_what_the_server_no_longer_has_comes_as_a_gap(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 4)))
    receiver.greet(welcome(next_seq=9))
    resumed = take(receiver, (Kind.GAP, lost(5, 2)), (Kind.TICKS, ticks(7, 3)))
    assert story(resumed) == [("gap", 5, 2), ("ticks", 7, 3)]


@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_that_missed_nothing_asks_for_nothing(wire):
    receiver = joined(wire)
    take(receiver, (Kind.TICKS, ticks(1, 4)))
    assert receiver.greet(welcome(next_seq=5)) is None
    assert story(take(receiver, (Kind.TICKS, ticks(7, 1)))) == [
        ("gap", 5, 2),
        ("ticks", 7, 1),
    ]


FAULTS = st.sampled_from(
    ["arrive", "arrive", "arrive", "lose", "repeat", "beat", "cut"]
)


@pytest.mark.parametrize("wire", WIRES)
@given(
    first=st.integers(1, 50),
    script=st.lists(
        st.tuples(st.integers(1, 9), FAULTS, st.integers(0, 30)), max_size=40
    ),
)
def test_whatever_the_network_does_every_number_is_accounted_for_once(
    wire, first, script
):
    """Frames are lost, repeated, cut off; the rows are told by their number."""
    receiver, sent, seen = joined(wire, first), first, list[Batch]()
    frames: list[Batch] = []
    for size, fault, back in script:
        frames.append(ticks(sent, size))
        sent += size
        arrived = [(Kind.TICKS, frames[-1])]
        if fault == "lose":
            arrived = []
        elif fault == "repeat":
            arrived += [(Kind.TICKS, each) for each in frames[-1 - back :]]
        elif fault == "beat":
            arrived = [(Kind.HEARTBEAT, bare(Kind.HEARTBEAT, sent))]
        elif fault == "cut":
            request = receiver.greet(welcome(sent))
            if request is not None:
                arrived = arrived[: back % 2]  # a live frame may come before
                from_seq = json.loads(request)["from_seq"]
                resumed = [each for each in frames if each.next_seq > from_seq]
                arrived += [(Kind.TICKS, each) for each in resumed]
        seen += take(receiver, *arrived)
        in_flight = sent - 1 - receiver.last_seq
        assert sent - first == receiver.received + receiver.gap_ticks + in_flight
    numbers = [seq for b in seen for seq in range(b.first_seq, b.next_seq)]
    assert numbers == list(range(first, receiver.last_seq + 1))
    assert receiver.received == sum(len(b) for b in seen)
    assert receiver.gap_ticks == sum(b.span for b in seen if b.is_gap)
    for each in seen:
        if not each.is_gap:
            assert each.rows.tobytes() == rows_from(each.first_seq, each.span).tobytes()
            assert decode(each.frame, 3)[1].rows.tobytes() == each.rows.tobytes()


def test_a_frame_of_a_tick_log_is_refused_on_the_wire():
    receiver = joined()
    with pytest.raises(FrameError, match=r"frame kind: .* received SEGMENT"):
        list(receiver.receive([encode(Kind.SEGMENT, 1, 2, 0, b"{}")]))
    assert receiver.expected == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_jump_too_far_for_a_gap_is_refused(wire):
    """`span` has 32 bits; no cut is as long as four billion ticks."""
    receiver = joined(wire)
    with pytest.raises(FrameError, match="frame gap: expected at most 4294967295"):
        take(receiver, (Kind.HEARTBEAT, bare(Kind.HEARTBEAT, 2**62)))


# -- JSON --------------------------------------------------------------------


def test_a_tick_is_one_message_with_the_decimals_of_its_symbol():
    rows = rows_of([(11, 18_950, 100, 0, 0), (12, -5, 1, 1, 0), (13, 7, 0, 2, 0)])
    first, second, third = map(
        json.loads, as_json(Kind.TICKS, Batch(rows, 41, 3, 99), SYMBOLS)
    )
    assert first == {
        "type": "tick", "seq": 41, "time_ns": 11, "sent_ns": 99,
        "symbol": "AAPL", "price": "189.50", "size": "100",
    }  # fmt: skip
    assert (second["seq"], second["price"], second["size"]) == (
        42,
        "-0.05",
        "0.00000001",
    )
    assert (third["symbol"], third["price"], third["size"]) == ("JPY", "7", "0")


@pytest.mark.parametrize(
    ("kind", "batch", "message"),
    [
        (Kind.GAP, lost(5, 2), {"type": "gap", "first_seq": 5, "missing": 2}),
        (Kind.HEARTBEAT, bare(Kind.HEARTBEAT, 8), {"type": "heartbeat", "next_seq": 8}),
        (Kind.RESET, bare(Kind.RESET, 1), {"type": "reset", "next_seq": 1}),
        (Kind.END, bare(Kind.END, 9), {"type": "end", "next_seq": 9}),
    ],
)
def test_every_other_kind_is_one_message(kind, batch, message):
    (text,) = as_json(kind, batch, SYMBOLS)
    assert json.loads(text) == message


ROWS = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(10**17) + 1, 10**18 - 1),
        st.integers(0, 10**18 - 1),
        st.integers(0, 2),
        st.just(0),
    ),
    min_size=1,
    max_size=30,
)


@given(ROWS, st.integers(1, 2**62), st.integers(0, 2**62))
def test_json_and_binary_give_the_very_same_frames(rows, first_seq, sent_ns):
    frame = ticks_frame(rows_of(rows), first_seq, sent_ns)
    batch = Batch(rows_of(rows), first_seq, len(rows), sent_ns, frame)
    for text in as_json(Kind.TICKS, batch, SYMBOLS):
        row = rows[json.loads(text)["seq"] - first_seq]
        symbol = SYMBOLS[row[3]]
        price = Decimal(row[1]).scaleb(-symbol.price_decimals)
        assert json.loads(text)["price"] == format(price, "f")
    (by_text,) = take(joined("json", first_seq), (Kind.TICKS, batch))
    (by_bytes,) = take(joined("binary", first_seq), (Kind.TICKS, batch))
    assert by_text.frame == by_bytes.frame == frame
    assert by_text.rows.tobytes() == by_bytes.rows.tobytes()


def test_a_long_run_of_json_ticks_is_packed_into_frames_that_fit():
    receiver = joined("json")
    batches = take(
        receiver, *[(Kind.TICKS, ticks(1 + 100 * i, 100)) for i in range(90)]
    )
    assert story(batches) == [
        ("ticks", 1, MAX_ROWS),
        ("ticks", 4097, MAX_ROWS),
        ("ticks", 8193, 808),
    ]
    assert np.concatenate([b.rows for b in batches]).tobytes() == (
        rows_from(1, 9000).tobytes()
    )


def tick_text(**fields: object) -> bytes:
    usual = {"type": "tick", "seq": 1, "time_ns": 1, "sent_ns": 1, "symbol": "AAPL"}
    return json.dumps(usual | {"price": "1.00", "size": "1"} | fields).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"price": "1.0"},
        {"price": "1.000"},
        {"price": "1"},
        {"price": "100."},
        {"price": ".00"},
        {"price": ""},
        {"price": "1e2"},
        {"price": "NaN"},
        {"price": "inf"},
        {"price": "+1.00"},
        {"price": "-.01"},
        {"price": "--1.00"},
        {"price": "1-1.00"},
        {"price": " 1.00"},
        {"price": "1.00\n"},
        {"price": "1.00\n2.00"},
        {"price": "1_0.00"},
        {"price": "0x1.00"},
        {"price": "1.0.00"},
        {"price": "\u0661.00"},
        {"price": "1" * 17 + ".00"},
        {"price": "9" * 25 + ".00"},
        {"price": 1.0},
        {"price": None},
        {"size": "1.0"},
        {"size": "-"},
        {"size": "1 2"},
        {"symbol": "MSFT"},
        {"symbol": ""},
        {"symbol": 0},
        {"seq": 0},
        {"seq": -1},
        {"seq": 2**63},
        {"seq": 2**70},
        {"seq": 1.5},
        {"seq": "1"},
        {"time_ns": 2**63},
        {"sent_ns": -1},
        {"sent_ns": 2**64},
        {"type": "trade"},
        {"type": "welcome"},
    ],
)
def test_a_tick_that_is_not_exactly_as_promised_is_refused(fields):
    receiver = joined("json")
    with pytest.raises(FrameError):
        list(receiver.receive([tick_text(), tick_text(**{"seq": 2} | fields)]))


def test_two_wrong_texts_never_make_two_right_ones():
    receiver = joined("json")
    with pytest.raises(FrameError):
        list(receiver.receive([tick_text(size="5 7"), tick_text(seq=2, size="")]))


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"not json",
        b"\xff",
        b"QTIK",
        b"1",
        b"[]",
        b"",
        b"{}",
        b'{"type":"gap","first_seq":1,"missing":0}',
        b'{"type":"gap","first_seq":1,"missing":-1}',
        b'{"type":"gap","first_seq":1,"missing":4294967296}',
        b'{"type":"gap","first_seq":-1,"missing":1}',
        b'{"type":"heartbeat","next_seq":0}',
        b'{"type":"heartbeat","next_seq":1e3}',
        b'{"type":"end"}',
    ],
)
def test_a_message_that_is_not_of_the_protocol_is_refused(message):
    receiver = joined("json")
    with pytest.raises(FrameError):
        list(receiver.receive([message]))
    assert (receiver.received, receiver.gap_ticks, receiver.ended) == (0, 0, False)


@given(
    st.lists(st.text("0123456789.-+eE \n\u0663", max_size=21), min_size=1, max_size=4)
)
def test_decimal_texts_are_exact_or_refused(texts):
    decimals = np.full(len(texts), 2)
    try:
        values = fixed_points(texts, decimals).tolist()
    except FrameError:
        return
    exact = [Decimal(text).scaleb(2) for text in texts]
    assert values == exact
    assert all(text[-3] == "." for text in texts)


@given(st.binary(max_size=60))
def test_noise_is_refused_on_either_wire_and_by_no_other_error(noise):
    for wire in WIRES:
        with pytest.raises(FrameError):
            list(joined(wire).receive([noise]))


# -- WebSocket text frames ---------------------------------------------------


def parsed(stream: bytes) -> list[Frame]:
    """The frames in a byte stream, by the websockets library's own parser."""
    reader, frames = StreamReader(), list[Frame]()
    reader.feed_data(stream)
    reader.feed_eof()
    while True:
        at_eof = reader.at_eof()
        try:
            next(at_eof)
        except StopIteration as stop:
            if stop.value:
                return frames
        parse = Frame.parse(reader.read_exact, mask=False, max_size=1 << 20)
        try:
            next(parse)
        except StopIteration as stop:
            frames.append(stop.value)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 255, 256, 65_535])
def test_a_text_frame_is_what_rfc_6455_says(size):
    message = b"x" * size
    (frame,) = parsed(text_frames([message]))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, message)
    assert text_frames([message]) == Frame(Opcode.TEXT, message).serialize(mask=False)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_many_messages_share_one_write(texts):
    frames = parsed(text_frames(texts))
    assert [bytes(frame.data) for frame in frames] == texts


@pytest.mark.parametrize(
    "texts",
    [
        (b'{"type":"heartbeat","next_seq":5},{"type":"end"', b'"next_seq":6}'),
        (b'{"type":"end","next_seq":5},{"type":"end","next_seq":5,"x":[{}', b"{}]}"),
    ],
)
def test_two_wrong_objects_never_make_two_right_ones(texts: tuple[bytes, bytes]):
    whole = json.loads(b"[%b]" % b",".join(texts))
    assert len(whole) == 2  # side by side they would
    with pytest.raises(FrameError):
        list(unpack(texts, SYMBOLS))
