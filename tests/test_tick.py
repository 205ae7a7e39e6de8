"""Fixed point against decimal.Decimal, and the row that everything shares."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.errors import InexactValue
from quants.tick import (
    NO_ROWS,
    Batch,
    Symbol,
    gap,
    latest_per_symbol,
    rows_of,
    to_fixed,
    to_text,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.integers(0, 18)


def test_a_tick_is_32_bytes_little_endian_without_padding():
    row = rows_of([(1, -2, 3, 4, 5)])
    words = (1).to_bytes(8, "little"), (-2).to_bytes(8, "little", signed=True)
    rest = (3).to_bytes(8, "little") + b"\4\0\0\0\5\0\0\0"
    assert row.tobytes() == b"".join(words) + rest


@given(INT64, DECIMALS)
def test_the_text_of_a_fixed_point_integer_is_decimals_own(value, decimals):
    assert to_text(value, decimals) == format(Decimal(value).scaleb(-decimals), "f")


@given(INT64, DECIMALS)
def test_a_text_comes_back_as_the_integer_it_was(value, decimals):
    assert to_fixed(to_text(value, decimals), decimals) == value


@given(st.decimals(-(10**9), 10**9, places=6), DECIMALS)
def test_a_decimal_is_held_exactly_or_refused(value, decimals):
    scaled = value.scaleb(decimals)
    if scaled == scaled.to_integral_value():
        assert to_fixed(format(value, "f"), decimals) == int(scaled)
    else:
        with pytest.raises(InexactValue):
            to_fixed(format(value, "f"), decimals)


NOT_PLAIN = ["", ".", "-", "+", "-.", "-+5", "+-5", "--5", "1e3", "NaN", "inf", "1,5",
             "1_000", "1.2.3", "1.2.", "0x10", "1 2", "\u0663", "1.\u0663"]  # fmt: skip


@pytest.mark.parametrize("text", ["189.505", "0.001", *NOT_PLAIN])
def test_a_text_that_two_decimals_cannot_hold_is_refused_by_name(text):
    with pytest.raises(InexactValue, match="is not exact at 2 decimals") as refusal:
        to_fixed(text, 2)
    assert (refusal.value.text, refusal.value.decimals) == (text, 2)


@pytest.mark.parametrize(
    ("text", "decimals", "fixed"),
    [
        ("189.50", 2, 18950),
        ("189.5", 2, 18950),
        ("189.500", 2, 18950),
        ("-0.05", 2, -5),
        ("+7", 2, 700),
        (" 7 ", 0, 7),
        (".5", 2, 50),
        ("5.", 2, 500),
        ("-0", 0, 0),
        ("92233720368547758.07", 2, 2**63 - 1),
    ],
)
def test_fixed_point_worked_by_hand(text, decimals, fixed):
    assert to_fixed(text, decimals) == fixed


def test_a_symbol_writes_its_prices_and_sizes_with_its_own_decimals():
    bitcoin = Symbol("BTCUSDT", price_decimals=2, size_decimals=8)
    assert bitcoin.price_text(6_000_000) == "60000.00"
    assert bitcoin.size_text(-1) == "-0.00000001"
    assert Symbol("AAPL").size_text(100) == "100"


def test_a_gap_has_no_rows_and_says_how_many_are_missing():
    hole = gap(41, 3, sent_ns=7)
    assert hole.is_gap
    assert (len(hole), hole.span, hole.next_seq, hole.sent_ns) == (0, 3, 44, 7)
    assert hole.rows is NO_ROWS
    assert not NO_ROWS.flags.writeable


@given(
    st.lists(st.integers(0, 4), max_size=20), st.lists(st.integers(0, 4), max_size=20)
)
def test_conflation_keeps_the_last_row_of_each_symbol_in_order(older, newer):
    """The oracle is a dict that forgets a symbol before it takes it again."""
    latest: dict[int, int] = {}
    for price, symbol in enumerate([*older, *newer]):
        latest.pop(symbol, None)
        latest[symbol] = price
    rows = rows_of([(0, i, 1, s, 0) for i, s in enumerate([*older, *newer])])
    parts = np.split(rows, [len(older)])
    first = Batch(parts[0], 1, len(older), 0)
    second = Batch(parts[1], 1 + len(older), len(newer), 0)
    merged = latest_per_symbol(first, second)
    assert merged.rows["price"].tolist() == list(latest.values())
    assert merged.rows["symbol"].tolist() == list(latest)
    assert merged.next_seq == 1 + len(older) + len(newer)
    assert merged.frame == b""
