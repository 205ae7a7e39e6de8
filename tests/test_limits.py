"""Limits against exact fractions, row by row."""

import logging
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import NoPermissionError

from quants.limits import (
    FIELDS,
    INT64,
    ROUNDED,
    Limits,
    bound_of,
    breaches,
    limit_key,
    read_limits,
    seed_limits,
)
from quants.redis_server import connect, redis_server
from quants.tick import Symbol, rows_of

AAPL, BTC = Symbol("AAPL", 2, 0), Symbol("BTC", 8, 8)
int64s = st.integers(int(INT64.min), int(INT64.max))
bounds = st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=9).map(
    lambda number: f"{number:f}"
)


@pytest.fixture(scope="module")
def client():
    with redis_server() as server, connect(server.url) as client:
        yield client


@given(text=bounds, price=int64s, decimals=st.integers(0, 8))
@example(text="1.005", price=100, decimals=2)
@example(text="1.005", price=101, decimals=2)
def test_a_rounded_bound_is_breached_exactly_by_what_breaches_the_text(
    text, price, decimals
):
    symbol = Symbol("X", decimals)
    low, high = (bound_of(f, text, symbol) for f in ("price_low", "price_high"))
    if text is None:
        assert low is high is None
    else:
        exact = Fraction(price, 10**decimals)
        assert (price < low) == (exact < Fraction(text))
        assert (price > high) == (exact > Fraction(text))


def slow_breaches(ticks, symbols, texts):
    """The same question in fractions, one row at a time."""
    band, over = [], []
    for i, (_, price, size, index, _) in enumerate(ticks):
        symbol, (low, high, notional) = symbols[index], texts[index]
        exact = Fraction(price, 10**symbol.price_decimals)
        volume = Fraction(size, 10**symbol.size_decimals)
        if (low is not None and exact < Fraction(low)) or (
            high is not None and exact > Fraction(high)
        ):
            band.append(i)
        if notional is not None and exact * volume > Fraction(notional):
            over.append(i)
    return {"price_band": band, "notional": over}


# Near the limits, near zero and near the ends of int64.
numbers = st.integers(-3, 3) | st.integers(10**9, 10**10) | int64s
rows = st.lists(st.tuples(st.just(0), numbers, numbers, st.integers(0, 1), st.just(0)))
notionals = bounds.map(lambda text: text and text.removeprefix("-"))
texts = st.tuples(bounds, bounds, notionals)


@given(ticks=rows, limits=st.tuples(texts, texts))
def test_breaches_are_those_that_fractions_find(ticks, limits):
    found = breaches(rows_of(ticks), limits_with([AAPL, BTC], limits))
    # An int64 at the very end stands for every bound beyond it.
    inside = [t for t in limits if all(b is None or in_int64(b) for b in t[:2])]
    if len(inside) == len(limits):
        slow = slow_breaches(ticks, [AAPL, BTC], limits)
        assert {rule: list(i) for rule, i in found.items()} == slow


def in_int64(text):
    return abs(Fraction(text)) * 10**8 < INT64.max


def limits_with(symbols, texts):
    limits = Limits(symbols)
    limits.update([[*fields, "1"] for fields in texts])
    return limits


@given(price=int64s, size=int64s, off=st.integers(-1, 1))
@example(price=3_037_000_500, size=3_037_000_500, off=0)  # just beyond int64
@example(price=2**62, size=2**62, off=-1)
# The float product lies below the float of the limit that it breaches.
@example(price=2624989531201712629, size=3699794560238578399, off=-1)
def test_a_notional_one_unit_off_is_told_apart_where_the_product_overflows(
    price, size, off
):
    bound = price * size + off
    if bound >= 0:
        digits = str(bound).rjust(17, "0")
        text = f"{digits[:-16]}.{digits[-16:]}"
        limits = limits_with([BTC], [(None, None, text)])
        assert limits.notional == [bound]
        over = breaches(rows_of([(0, price, size, 0, 0)]), limits)["notional"]
        assert list(over) == ([0] if off < 0 else [])


def test_without_limits_nothing_is_a_breach():
    ends = [int(INT64.min), -1, 0, 1, int(INT64.max)]
    ticks = [(0, price, size, 0, 0) for price in ends for size in ends]
    found = breaches(rows_of(ticks), Limits([AAPL]))
    assert [len(rows) for rows in found.values()] == [0, 0]


def test_a_gap_has_no_breach():
    found = breaches(rows_of([]), limits_with([AAPL], [("1", "2", "3")]))
    assert [len(rows) for rows in found.values()] == [0, 0]


@pytest.mark.parametrize("text", ["1" + "0" * 40, "-1" + "0" * 40])
def test_a_bound_beyond_int64_becomes_its_end(text):
    limits = limits_with([AAPL], [(text, text, None)])
    end = INT64.max if text[0] == "1" else INT64.min
    assert limits.low[0] == limits.high[0] == end


@pytest.mark.parametrize(
    "text",
    ["", "1e5", "nan", "inf", "1/3", "0x10", "\u0661", "1,5", "9" * 5000, "\ufffd"],
)
def test_a_text_that_is_no_decimal_leaves_the_last_good_and_is_told_once(text, caplog):
    limits = limits_with([AAPL], [("180.00", "190.00", "1000")])
    with caplog.at_level(logging.WARNING, "quants.limits"):
        for _ in range(3):
            limits.update([["185.00", text, "1000", "2"]])
    assert (limits.low[0], limits.high[0]) == (18500, 19000)
    assert limits.refused == 1
    (record,) = caplog.records
    assert "quants:limit:AAPL price_high" in record.getMessage()


@pytest.mark.parametrize("field", ROUNDED)
def test_only_prices_may_be_negative(field):
    if field.startswith("price"):
        assert bound_of(field, "-5", AAPL) == -500
    else:
        with pytest.raises(ValueError, match="'-5' is negative"):
            bound_of(field, "-5", AAPL)


@pytest.mark.parametrize(
    ("field", "bound"),
    [
        ("exposure", 1_234_567_890),
        ("vwap_percent", 12_345_678_901),
        ("stale_seconds", 12_345_678_902),  # rounded up
        ("ticks_per_second", 12),
    ],
)
def test_a_limit_is_an_integer_at_the_decimals_of_what_it_limits(field, bound):
    assert bound_of(field, "12.3456789012", Symbol("X", 3, 5)) == bound


def test_every_field_is_asked_for_once():
    assert sorted(FIELDS) == sorted([*ROUNDED, "version", "set_ns"])


@pytest.mark.parametrize("text", [None, "", "-1", "1.5", "soon", "9" * 20])
def test_a_hash_says_when_it_was_set_or_nobody_knows(text):
    limits, answer = Limits([AAPL]), dict.fromkeys(FIELDS)
    for set_ns, known in (("1767364200000000001", 1767364200000000001), (text, None)):
        limits.update([list((answer | {"set_ns": set_ns}).values())])
        assert limits.set_ns == [known]
    assert (limits.changes, limits.refused) == (2, 0)
    limits.update([list((answer | {"set_ns": text}).values())])
    assert limits.changes == 2


def test_a_field_that_is_gone_is_no_limit_any_more():
    limits = limits_with([AAPL], [("180.00", "190.00", "1000")])
    limits.update([[None, None, None, "2"]])
    fresh = Limits([AAPL])
    assert limits.low == fresh.low
    assert limits.high == fresh.high
    assert limits.nearly == fresh.nearly
    assert limits.notional == fresh.notional
    assert limits.versions == ["2"]


def test_limits_come_from_their_hashes_in_symbol_order(client):
    client.flushall()
    client.hset(limit_key(BTC), mapping={"price_high": "0.000000019", "version": "7"})
    client.hset(limit_key(AAPL), mapping={"price_low": "1.001", "notional": "5.019"})
    limits = Limits([AAPL, BTC])
    limits.update(read_limits(client, limits.symbols))
    assert list(limits.low) == [101, INT64.min]
    assert list(limits.high) == [INT64.max, 1]
    assert limits.notional[0] == 501
    assert limits.versions == [None, "7"]


def test_a_key_that_is_no_hash_spoils_only_its_own_symbol(client):
    client.flushall()
    client.set(limit_key(AAPL), "nonsense")
    client.hset(limit_key(BTC), "price_low", "1")
    limits = limits_with([AAPL, BTC], [("180.00", None, None), (None, None, None)])
    for _ in range(2):
        limits.update(read_limits(client, limits.symbols))
    assert list(limits.low) == [18000, 10**8]
    assert limits.refused == 1


def test_bytes_that_are_no_text_spoil_only_their_own_field(client):
    client.flushall()
    client.hset(limit_key(AAPL), mapping={"price_low": b"\xff\xfe", "price_high": "2"})
    limits = Limits([AAPL])
    limits.update(read_limits(client, limits.symbols))
    assert (limits.low[0], limits.high[0]) == (INT64.min, 200)
    assert limits.refused == 1


def test_other_errors_of_redis_are_raised(client):
    client.acl_setuser("blind", enabled=True, nopass=True, commands=["-@all", "+auth"])
    port = client.connection_pool.connection_kwargs["port"]
    with (
        connect(f"redis://blind:any@127.0.0.1:{port}/0") as blind,
        pytest.raises(NoPermissionError),
    ):
        read_limits(blind, [AAPL])


def test_seeded_limits_are_a_band_around_the_reference_price(client):
    client.flushall()
    seed_limits(client, [AAPL, BTC], [18950, 10**13], band_percent=10)
    limits = Limits([AAPL, BTC])
    limits.update(read_limits(client, limits.symbols))
    assert list(limits.low) == [17055, 9 * 10**12]
    assert list(limits.high) == [20845, 11 * 10**12]
    assert limits.notional == [10**9, 10**23]
    assert client.hget("quants:limit:AAPL", "price_low") == "170.5500"
