"""The JSON of the wire: one message per tick, as exchanges send.

A tick's price and size are decimal texts with exactly its symbol's decimals.
Encoding and decoding go a frame at a time: a loop in Python costs more than
all the rest of a tick's way.
"""

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby, pairwise, repeat
from struct import pack
from typing import Annotated, cast

import msgspec
import numpy as np
import numpy.typing as npt

from quants.errors import FrameError
from quants.frame import MAX_ROWS, UNREADABLE, Kind, decode, ticks_frame
from quants.tick import NO_ROWS, TICK, Batch, Symbol, gap, to_text

MAX_SPAN = 2**32 - 1  # of a gap; more than any cut, and what a header holds
MAX_DECIMALS = 18  # of them always fit into int64
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
UInt63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
# Of none, a subscriber would not stop to beat; of days, never notice a cut.
Interval = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Welcome(msgspec.Struct, tag="welcome"):
    """The first message: which stream this is, and what its numbers mean."""

    stream: str
    next_seq: Seq
    symbols: list[Symbol]
    heartbeat_seconds: Interval = 1.0

    def __post_init__(self) -> None:
        if len({symbol.name for symbol in self.symbols}) < len(self.symbols):
            raise ValueError("two symbols have one name")
        for symbol in self.symbols:
            decimals = {symbol.price_decimals, symbol.size_decimals}
            if not decimals <= set(range(MAX_DECIMALS + 1)):
                raise ValueError(f"{symbol} has decimals beyond 0 to {MAX_DECIMALS}")


class Request(msgspec.Struct):
    """What a subscriber may send: the number it wants to go on from."""

    from_seq: Seq


class TickMessage(msgspec.Struct, tag="tick", gc=False):
    """One tick; price and size are decimal texts, exact."""

    seq: Seq
    time_ns: Int64
    sent_ns: UInt63
    symbol: str
    price: str
    size: str


class Heartbeat(msgspec.Struct, tag="heartbeat", gc=False):
    """Still here; nothing was sent that has not arrived."""

    next_seq: Seq


class Gap(msgspec.Struct, tag="gap", gc=False):
    """These ticks will not come."""

    first_seq: Seq
    missing: Annotated[int, msgspec.Meta(ge=1, le=MAX_SPAN)]


class Reset(msgspec.Struct, tag="reset", gc=False):
    """A new stream starts here."""

    next_seq: Seq


class End(msgspec.Struct, tag="end", gc=False):
    """The feed is over."""

    next_seq: Seq


Message = TickMessage | Heartbeat | Gap | Reset | End
_message = msgspec.json.Decoder(Message).decode
_encoder = msgspec.json.Encoder()
_text = lru_cache(maxsize=1 << 16)(to_text)  # the same prices come again and again
_BARE = {Kind.HEARTBEAT: Heartbeat, Kind.RESET: Reset, Kind.END: End}
_KINDS: dict[type, Kind] = {message: kind for kind, message in _BARE.items()}


def as_json(kind: Kind, batch: Batch, symbols: Sequence[Symbol]) -> list[bytes]:
    """The JSON messages of a frame: one per tick, or one for the rest."""
    if kind is Kind.GAP:
        return [msgspec.json.encode(Gap(batch.first_seq, batch.span))]
    if kind is not Kind.TICKS:
        return [msgspec.json.encode(_BARE[kind](batch.first_seq))]
    traded = [symbols[index] for index in batch.rows["symbol"].tolist()]
    ticks = map(
        TickMessage,
        range(batch.first_seq, batch.next_seq),
        batch.rows["time_ns"].tolist(),
        repeat(batch.sent_ns),
        [symbol.name for symbol in traded],
        map(_text, batch.rows["price"].tolist(), [s.price_decimals for s in traded]),
        map(_text, batch.rows["size"].tolist(), [s.size_decimals for s in traded]),
    )
    # One call for all: half the cost of one call each. JSON has no raw newline.
    return _encoder.encode_lines(list(ticks)).splitlines()


def text_frames(messages: Sequence[bytes]) -> bytes:
    """WebSocket text frames of a server, end to end (RFC 6455, section 5.2).

    What lets a thousand messages share one write; each under 64 KiB.
    """
    return b"".join([_text_header(len(message)) + message for message in messages])


@cache
def _text_header(size: int) -> bytes:
    return b"\x81%c" % size if size < 126 else pack(">BBH", 0x81, 126, size)


def unpack(
    texts: Sequence[bytes], symbols: Sequence[Symbol]
) -> Iterator[tuple[Kind, Batch]]:
    """Decode JSON messages, many at once; ticks in a row become one frame."""
    # 20,000 at once would leave the cache and cost 1.3 times as much.
    for start in range(0, len(texts), MAX_ROWS):
        yield from _unpack(texts[start : start + MAX_ROWS], symbols)


def _unpack(
    texts: Sequence[bytes], symbols: Sequence[Symbol]
) -> Iterator[tuple[Kind, Batch]]:
    try:
        messages = list(map(_message, texts))
    except UNREADABLE as error:
        raise FrameError("JSON", "messages of quants.v1.json", error) from error
    for message, run in groupby(messages, type):
        if message is TickMessage:
            ticks = cast(list[TickMessage], list(run))
            yield from ((Kind.TICKS, batch) for batch in _pack(ticks, symbols))
        else:
            yield from map(_bare, run)


def _bare(message: Message) -> tuple[Kind, Batch]:
    if isinstance(message, Gap):
        return Kind.GAP, gap(message.first_seq, message.missing)
    assert not isinstance(message, TickMessage)
    return _KINDS[type(message)], Batch(NO_ROWS, message.next_seq, 0, 0)


def _pack(ticks: list[TickMessage], symbols: Sequence[Symbol]) -> Iterator[Batch]:
    """Frames of the runs of consecutive numbers among some ticks."""
    index = {symbol.name: i for i, symbol in enumerate(symbols)}
    rows = np.zeros(len(ticks), TICK)
    try:
        rows["symbol"] = which = np.array([index[t.symbol] for t in ticks])
    except KeyError as error:
        raise FrameError("symbol", f"one of {len(index)}", error) from error
    rows["time_ns"] = [t.time_ns for t in ticks]
    decimals = np.array([(s.price_decimals, s.size_decimals) for s in symbols])
    rows["price"] = fixed_points([t.price for t in ticks], decimals[which, 0])
    rows["size"] = fixed_points([t.size for t in ticks], decimals[which, 1])
    seq = np.array([t.seq for t in ticks])
    for start, stop in _runs(seq):
        run, first, sent_ns = rows[start:stop], int(seq[start]), ticks[start].sent_ns
        frame = ticks_frame(run, first, sent_ns)
        yield decode(frame, len(symbols))[1]


def _runs(seq: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive numbers, at most a frame long."""
    breaks = np.flatnonzero(np.diff(seq) != 1) + 1
    edges = [0, *breaks.tolist(), len(seq)]
    for start, stop in pairwise(edges):
        for first in range(start, stop, MAX_ROWS):
            yield first, min(first + MAX_ROWS, stop)


def fixed_points(
    texts: Sequence[str], decimals: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Exact integers of decimal texts, each with its own number of decimals.

    The texts are read as one buffer: check every character, drop the points,
    parse the digits in C.

    Raises:
        FrameError: a text with other than exactly its symbol's decimals.
    """
    joined = "\n".join(texts) + "\n"
    characters = np.frombuffer(joined.encode(), np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))  # (n,)
    if len(ends) != len(texts) or not _exact(characters, ends, decimals):
        raise FrameError("decimals", f"{decimals[:4]}… per text", list(texts[:4]))
    return np.fromstring(joined.replace(".", ""), np.int64, sep="\n")


def _exact(
    characters: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    decimals: npt.NDArray[np.int64],
) -> bool:
    """Whether each text is [-]digits.digits, or without decimals [-]digits."""
    starts = np.append(0, ends[:-1] + 1)
    negative = characters[starts] == ord("-")
    pointed = decimals > 0
    whole = ends - starts - decimals - negative - pointed  # digits before the point
    if whole.min() < 1 or (whole + decimals).max() > 18:
        return False
    points = characters[(ends - decimals - 1)[pointed]] == ord(".")
    others = len(ends) + len(points) + np.count_nonzero(negative)
    # What is no newline, point or sign must be a digit; below "0" wraps to 2xx.
    digits = np.count_nonzero(characters - ord("0") < 10)
    return bool(points.all()) and digits + others == len(characters)
