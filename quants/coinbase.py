"""Coinbase's feeds as they were recorded: one JSON message a line.

Exchange sends a `match` for each trade, Advanced sends events with several.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import msgspec

from quants.exact import check, decimals, iso_times, trade_ids
from quants.frame import UNREADABLE
from quants.lines import Lines
from quants.trades import (
    BUYER_IS_MAKER,
    NO_TRADES,
    Found,
    Head,
    Layout,
    Trades,
    trades_of,
)

M = TypeVar("M")

# On subscribing the last match comes again: its id tells whether it is known.
MATCHES = ("match", "last_match")


class Message(msgspec.Struct):
    """Any message, as far as it says what it is."""

    type: str = ""  # Exchange
    channel: str = ""  # Advanced


class Match(msgspec.Struct, gc=False):
    """A trade: a message of the Exchange feed, or in one of the Advanced feed."""

    trade_id: int | str = ""
    product_id: str = ""
    time: str = ""
    price: str = ""
    size: str = ""
    side: str = ""  # of the maker in Exchange; the sources differ on Advanced


class Event(msgspec.Struct):
    """A snapshot of the trades before, or an update with the new ones."""

    trades: list[Match] = []


class MarketTrades(msgspec.Struct):
    """A message of the Advanced feed's channel for trades."""

    events: list[Event] = []


# Others have fields of the same names with other types: null, numbers.
_any = msgspec.json.Decoder(Message)
_match = msgspec.json.Decoder(Match)
_market_trades = msgspec.json.Decoder(MarketTrades)


def coinbase(head: Head) -> Layout | None:
    """Messages of Coinbase Exchange, one a line; the trades are its matches."""
    return Layout(read_coinbase, counts_up=True) if _has(head, "type") else None


def coinbase_advanced(head: Head) -> Layout | None:
    """Messages of Coinbase Advanced, one a line; its channel market_trades."""
    known = _has(head, "channel")
    return Layout(read_coinbase_advanced, counts_up=True) if known else None


def _has(head: Head, key: str) -> bool:
    """Whether one of the first lines is a JSON object with a text so named."""
    for text in head.lines.texts:
        try:
            if isinstance(msgspec.json.decode(text, type=dict).get(key), str):
                return True
        except UNREADABLE:
            continue
    return False


def messages(decoder: msgspec.json.Decoder[M], lines: Lines) -> list[M]:
    """The message in each line.

    Raises:
        RecordingError: a line holds none.
    """
    try:
        return list(map(decoder.decode, lines.texts))
    except UNREADABLE:
        check(lines.column("message", lines.texts), partial(_fault, decoder))
        raise


def _fault(decoder: msgspec.json.Decoder[M], text: str) -> str:
    """Why a text is no such message; empty if it is one."""
    try:
        decoder.decode(text)
    except UNREADABLE as error:
        return f"cannot be read ({error}); correct the line or leave it out"
    return ""


def read_coinbase(lines: Lines, found: Found) -> Trades:
    """The matches among some messages."""
    kinds = [message.type for message in messages(_any, lines)]
    found.skip(kind for kind in kinds if kind not in MATCHES)
    lines = lines.where([kind in MATCHES for kind in kinds])
    matches = messages(_match, lines)
    trades = _matches(lines, matches, found)
    trades["flags"] = [BUYER_IS_MAKER * (m.side == "buy") for m in matches]
    return trades


def read_coinbase_advanced(lines: Lines, found: Found) -> Trades:
    """The trades of the events; of a snapshot too, each once, by its id.

    A snapshot holds trades from before the connection: those that were lost
    in between. It begins with the newest, so ids put a message in order.
    """
    channels = [message.channel for message in messages(_any, lines)]
    found.skip(channel for channel in channels if channel != "market_trades")
    lines = lines.where([channel == "market_trades" for channel in channels])
    matches: list[Match] = []
    where: list[int] = []
    for index, message in enumerate(messages(_market_trades, lines)):
        trades = chain.from_iterable(event.trades for event in message.events)
        matches += sorted(trades, key=_by_id)
        where += [index] * (len(matches) - len(where))
    return _matches(lines.at(where), matches, found)


def _by_id(match: Match) -> tuple[int, str]:
    text = str(match.trade_id)
    return len(text), text


def _matches(lines: Lines, matches: Sequence[Match], found: Found) -> Trades:
    if not matches:
        return NO_TRADES
    column = lines.column
    trades = trades_of(
        lines,
        found,
        [match.product_id for match in matches],
        iso_times(column("time", [match.time for match in matches])),
        decimals(column("price", [match.price for match in matches])),
        column("size", [match.size for match in matches]),
    )
    ids = [str(match.trade_id) for match in matches]
    trades["id"] = trade_ids(column("trade id", ids))
    return trades
