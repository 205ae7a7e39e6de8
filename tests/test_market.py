"""The market's rows: pinned, the same however taken, and as lifelike as claimed."""

import hashlib
from bisect import bisect_right
from collections import Counter
from datetime import datetime
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quants.errors import SettingsError
from quants.market import (
    BLOCK,
    DRAW,
    HOME_PRICES,
    REACH,
    Market,
    event_times,
    mirror,
    power_law,
)
from quants.tick import TICK, Symbol

PINNED = "f8d368222ec85784fadcc7969b9479da5cf78ed700e42f41fed57b113a7d10db"
BITCOIN = Symbol("BTCUSDT", 2, 8)


def sha256(rows):
    return hashlib.sha256(rows.tobytes()).hexdigest()


def share(facts):
    """How many of 1000 are true, in integers."""
    return 1000 * int(np.count_nonzero(facts)) // len(facts)


def largest(code, power):
    """The largest k with k^3 <= (65536 / (code + 1))^power, by counting up."""
    k = 0
    while (k + 1) ** 3 * (code + 1) ** power <= 65536**power:
        k += 1
    return k


def plain_rows(seed, symbols, tick_rate, blocks):
    """The same market, one tick at a time in plain Python."""
    bits = np.random.PCG64(seed)
    walk: Counter[int] = Counter()
    rows: list[tuple[int, ...]] = []
    weights = list(accumulate(2**20 // (k + 1) for k in range(len(symbols))))
    for _ in range(blocks):
        minute = len(rows) // tick_rate // 60 % 390
        calm = 64 - 48 * (2 * minute + 1 - 390) ** 2 // 390**2
        for at, raw in enumerate(bits.random_raw(BLOCK).tolist()):
            burst, side = raw & 255, raw >> 8 & 255
            pick, move, lots = (raw >> shift & 65535 for shift in (16, 32, 48))
            if not at or burst < 64:
                symbol = bisect_right(weights, pick * weights[-1] // 65536)
            step = largest(move * calm // 64, 1) // 2
            walk[symbol] += step if side < 128 else -step
            code = lots * calm // 64
            odd = code % 4 == 3
            size = code // 4 % 99 + 1 if odd else 100 * largest(code, 2)
            time_ns = 1767364200 * 10**9 + len(rows) * 10**9 // tick_rate
            s = symbols[symbol]
            home = HOME_PRICES.get(s.name, 20 + 37 * symbol % 480)
            home *= 10**s.price_decimals
            while home < 10_000:  # few decimals: a dearer one
                home *= 10
            tick_size = 1
            while home // tick_size > 99_999:
                tick_size *= 10
            price = home + walk[symbol] * tick_size
            size *= 10 ** max(0, s.size_decimals - 3)
            rows.append((time_ns, price, size, symbol, 0))
    return np.array(rows, TICK)


def test_the_rows_are_pinned():
    assert sha256(Market(1, 8, 1000).take(100_000)) == PINNED


def test_one_by_one_gives_the_same_rows():
    market = Market()
    ones = np.concatenate([market.take(1) for _ in range(2 * BLOCK + 1)])
    assert sha256(ones) == sha256(Market().take(2 * BLOCK + 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3 * BLOCK), max_size=8), st.integers(0, 2**64))
def test_the_framing_changes_no_row(sizes, seed):
    market = Market(seed, 3)
    parts = [market.take(n) for n in sizes]
    assert [len(part) for part in parts] == sizes
    assert market.next_seq == sum(sizes) + 1
    whole = Market(seed, 3).take(sum(sizes))
    assert b"".join(part.tobytes() for part in parts) == whole.tobytes()


@pytest.mark.parametrize("tick_rate", [1, 7, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2026])
def test_a_plain_loop_over_the_same_bits_makes_the_same_rows(seed, tick_rate):
    symbols = (*Market(symbols=8).symbols, BITCOIN)
    assert_same_rows(seed, symbols, tick_rate)


def test_so_it_does_for_many_symbols_of_all_decimals():
    many = [Symbol(f"X{n}", n % 9, n // 9 % 9) for n in range(1000)]
    assert_same_rows(4, many, 3)


def assert_same_rows(seed, symbols, tick_rate):
    rows = Market(seed, symbols, tick_rate).take(2 * BLOCK)
    plain = plain_rows(seed, symbols, tick_rate, blocks=2)
    for name in TICK.names or ():
        assert rows[name].tolist() == plain[name].tolist(), name


def test_seeds_differ_and_repeat():
    rows = {seed: sha256(Market(seed).take(BLOCK)) for seed in range(20)}
    assert len(set(rows.values())) == 20
    assert rows == {seed: sha256(Market(seed).take(BLOCK)) for seed in range(20)}


def test_rows_taken_are_read_only_and_stay():
    market = Market()
    parts = [market.take(n) for n in (10, 0, BLOCK, 3 * BLOCK)]
    before = [part.tobytes() for part in parts]
    market.take(5 * BLOCK)
    assert [part.tobytes() for part in parts] == before
    assert not any(part.flags.writeable for part in parts)


def test_the_draw_fills_64_bits():
    assert DRAW.itemsize == 8


def test_the_first_tick_is_at_the_opening_bell():
    opening = datetime.fromisoformat("2026-01-02T14:30:00+00:00")
    assert int(Market().take(1)["time_ns"][0]) == int(opening.timestamp()) * 10**9


@given(st.integers(1, 10**12), st.integers(1, 10**8))
def test_event_time_is_exact_at_every_distance(seq, tick_rate):
    opening = 1767364200 * 10**9
    if seq // tick_rate > 7 * 10**9:  # beyond the year 2247: int64 has no such ns
        seq = tick_rate
    expected = [opening + (seq - 1 + k) * 10**9 // tick_rate for k in range(BLOCK)]
    assert event_times(seq, tick_rate).tolist() == expected


def test_every_row_is_a_valid_trade():
    symbols = (*Market(symbols=300).symbols, BITCOIN, Symbol("X", 0, 2))
    rows = Market(3, symbols).take(200_000)
    assert not rows["flags"].any()
    assert rows["symbol"].max() < len(symbols)
    assert rows["price"].min() > 0
    assert rows["size"].min() > 0
    assert (np.diff(rows["time_ns"]) == 10**6).all()


def test_bitcoin_moves_by_whole_dollars_and_trades_in_thousandths():
    rows = Market(symbols=[BITCOIN]).take(100_000)
    assert not (rows["price"] % 100).any()
    assert not (rows["size"] % 10**5).any()
    assert abs(rows["price"] - 60_000_00).max() <= REACH * 100
    products = rows["price"].tolist()[0] * int(rows["size"].max()) * BLOCK
    assert products > 2**63  # VWAP needs its second limb


def test_a_price_that_reaches_the_mirror_turns_back():
    walk = np.arange(-10 * REACH, 10 * REACH)
    at, way, expected = 0, 1, []
    for _ in range(10 * REACH):
        expected.append(at)
        way = -way if abs(at + way) > REACH else way
        at += way
    assert mirror(walk)[10 * REACH :].tolist() == expected
    assert mirror(-walk).tolist() == (-mirror(walk)).tolist()


@pytest.mark.parametrize("wandered", [0, 8_000, -8_000, 10**6, -(10**12)])
def test_no_walk_takes_a_price_beyond_the_mirror(wandered):
    market = Market(symbols=3)
    market._walk += wandered  # hundreds of millions of ticks, or more, from home
    rows = market.take(200_000)
    home = np.array([HOME_PRICES[s.name] * 100 for s in market.symbols])
    assert abs(rows["price"] - home[rows["symbol"]]).max() <= REACH


@pytest.mark.parametrize("power", [1, 2])
def test_the_table_is_its_power_law(power):
    codes = [0, 1, 2, 3, 4, 9, 99, 1000, 8191, 8192, 23170, 23171, 65535]
    table = power_law(power)
    assert table[codes].tolist() == [largest(code, power) for code in codes]
    for k in (1, 2, 4, 8):  # P(k or more) = k^(-3 / power)
        assert abs(np.count_nonzero(table >= k) - 65536 / k ** (3 / power)) <= 1


def test_trade_sizes_have_a_heavy_tail():
    midday = Market(tick_rate=1).take(23_400)[11_000:12_288]
    day = Market(tick_rate=20).take(468_000)["size"]
    assert 180 <= share(midday["size"] < 100) <= 320  # odd lots, a quarter
    assert share(np.isin(day, range(100, 10**7, 100)) | (day < 100)) == 1000
    # Four times the size, an eighth of the trades.
    counts = [np.count_nonzero(day >= 100 * lots) for lots in (8, 32, 128)]
    assert all(6 <= many / few <= 10 for many, few in pairwise(counts))
    assert day.max() > 100 * np.median(day)


def test_trades_come_in_bursts_of_one_symbol():
    symbol = Market().take(200_000)["symbol"]
    shuffled = np.random.default_rng(1).permutation(symbol)
    assert 770 <= share(symbol[1:] == symbol[:-1]) <= 830
    assert share(shuffled[1:] == shuffled[:-1]) <= 230


def test_popularity_follows_zipf():
    counts = np.bincount(Market().take(400_000)["symbol"], minlength=8)
    assert all(90 <= 100 * counts[0] / (n * counts[n - 1]) <= 110 for n in range(1, 9))


def test_open_and_close_are_busier_than_midday():
    hours = np.array_split(Market(tick_rate=20).take(468_000), 13)  # half-hours
    volume = [int(hour["size"].sum()) for hour in hours]
    moves = []
    for hour in hours:
        one = hour["price"][hour["symbol"] == 0]
        moves.append(share(np.diff(one) != 0))
    for u in (volume, moves):
        assert 3 * u[6] < 2 * min(u[0], u[12])
        assert u[0] > u[2] > u[6] < u[10] < u[12]


def test_prices_go_up_as_often_as_down():
    rows = Market(symbols=1).take(400_000)
    steps = np.diff(rows["price"])
    assert 480 <= share(steps[steps != 0] > 0) <= 520


def test_many_symbols_have_names_and_all_trade():
    market = Market(symbols=2000)
    names = [symbol.name for symbol in market.symbols]
    assert names[:2] == ["AAPL", "MSFT"]
    assert names[7:9] == ["JPM", "SYM008"]
    assert len(set(names)) == 2000
    assert len(np.unique(market.take(2_000_000)["symbol"])) == 2000


def test_the_repr_tells_the_state():
    market = Market(symbols=2, tick_rate=50_000.0)
    market.take(5)
    assert repr(market) == "<Market seed 1, 2 symbols, 50000 ticks/s, next seq 6>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1: a whole number from 0 on works"),
        ({"tick_rate": 0}, "tick_rate=0: a whole number from 1 on works"),
        ({"tick_rate": 2.5}, "tick_rate=2.5: a whole number from 1 on works"),
        ({"tick_rate": float("inf")}, "tick_rate=inf: .*"),
        ({"tick_rate": float("nan")}, "tick_rate=nan: .*"),
        ({"symbols": 0}, "symbols=0: 1 to 4096 symbols work"),
        ({"symbols": -3}, "symbols=-3: .*"),
        ({"symbols": 4097}, "symbols=4097: .*"),
        ({"symbols": ()}, "symbols=0: .*"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=f"^{message}$"):
        Market(**arguments)
