"""VWAP: exact, whatever the kernel, the split and the size of the numbers."""

from collections.abc import AsyncIterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.errors import EmptyBatch
from quants.kernels import NumpyKernel, PythonKernel, bit_lengths
from quants.market import Market
from quants.metrics import Registry
from quants.pools import TickPool
from quants.sums import Sums
from quants.tick import Batch, Rows, Symbol, gap, rows_of
from quants.vwap import Vwap, vwap_text

SYMBOLS = 3


def ticks(largest: int, smallest: int = 0) -> st.SearchStrategy[Rows]:
    number = st.integers(smallest, largest)
    row = st.tuples(st.just(0), number, number, st.integers(0, SYMBOLS - 1), st.just(0))
    return st.lists(row, min_size=1, max_size=40).map(rows_of)


# Bits at which another way of adding takes over, and the ends of int64.
widths = st.sampled_from([1, 15, 24, 30, 31, 32, 40, 47, 62, 63])
any_ticks = widths.flatmap(lambda bits: ticks(2**bits - 1))
signed_ticks = ticks(2**63 - 1, -(2**63))


def by_hand(batches: list[Rows]) -> list[Sums]:
    """The sums in Python's own integers, one tick after the other."""
    total = [[0, 0, 0] for _ in range(SYMBOLS)]
    for rows in batches:
        for _, price, size, symbol, _ in rows.tolist():
            total[symbol][0] += price * size
            total[symbol][1] += size
            total[symbol][2] += 1
    return [Sums(*three) for three in total]


@given(st.lists(any_ticks | signed_ticks, max_size=6))
def test_both_kernels_are_exact_for_any_numbers_and_any_batches(batches: list[Rows]):
    for kernel in (NumpyKernel(SYMBOLS), PythonKernel(SYMBOLS)):
        for rows in batches:
            kernel.add(rows)
        assert kernel.sums() == by_hand(batches)


@given(st.lists(any_ticks, min_size=1, max_size=6))
def test_asking_in_between_changes_nothing(batches: list[Rows]):
    kernel = NumpyKernel(SYMBOLS)
    for rows in batches:
        kernel.add(rows)
        kernel.sums()
    assert kernel.sums() == by_hand(batches)


@given(any_ticks, any_ticks)
def test_sums_of_parts_add_up_to_the_sum_of_the_whole(one: Rows, other: Rows):
    parts = [by_hand([one]), by_hand([other])]
    merged = [a + b for a, b in zip(*parts, strict=True)]
    assert merged == by_hand([one, other])


def test_one_trade_of_an_eight_decimal_coin_does_not_wrap_around():
    """70,000.00000000 × 2,000,000.00000000 is 1.4e27 in fixed point."""
    rows = rows_of([(0, 7 * 10**12, 2 * 10**14, 0, 0)])
    kernel = NumpyKernel(1)
    kernel.add(rows)
    assert kernel.sums() == [Sums(14 * 10**26, 2 * 10**14, 1)]


def test_many_full_batches_do_not_wrap_around():
    """2^62 is passed after a few batches; the sums go on in Python's integers."""
    rows = rows_of([(0, 2**30, 2**29, 0, 0)] * 4)
    kernel = NumpyKernel(1)
    for _ in range(50):
        kernel.add(rows)
    assert kernel.sums() == [Sums(200 * 2**59, 200 * 2**29, 200)]


def test_a_float_sum_would_have_been_wrong_where_ours_is_exact():
    rows = rows_of([(0, 2**27, 2**27, 0, 0), (0, 1, 1, 0, 0)])
    in_floats = float(2**27) * 2**27 + 1.0
    kernel = NumpyKernel(1)
    kernel.add(rows)
    assert kernel.sums()[0].price_size == 2**54 + 1
    assert in_floats == 2**54


@given(any_ticks | signed_ticks)
def test_bit_lengths_bound_every_price_and_size(rows: Rows):
    price_bits, size_bits = bit_lengths(rows)
    assert all(abs(price) < 2**price_bits for price in rows["price"].tolist())
    assert all(abs(size) < 2**size_bits for size in rows["size"].tolist())


def test_vwap_of_nothing_is_refused():
    with pytest.raises(EmptyBatch, match="2 ticks, volume 0"):
        Sums(0, 0, 2).vwap()
    assert vwap_text(Sums(0, 0, 2), Symbol("AAPL")) is None


def test_vwap_is_the_fraction_and_its_text_the_decimal_price():
    sums = Sums(price_size=100 * 3 + 101 * 6, size=9, ticks=2)
    assert sums.vwap() == Fraction(906, 9)
    assert vwap_text(sums, Symbol("AAPL", price_decimals=2)) == "1.00666666666666667"


def test_the_pool_changes_nothing_but_its_own_counters():
    rows, pool = Market(seed=5).take(3000), TickPool(1000)
    plain, pooled = PythonKernel(8), PythonKernel(8, pool.read)
    for kernel in (plain, pooled):
        kernel.add(rows)
    assert pooled.sums() == plain.sums()
    assert (pool.hits, pool.misses, pool.leaked) == (1000, 2000, 0)


async def arriving(batches: list[Batch]) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch


async def test_the_stage_sums_batches_and_weighs_their_age_by_ticks():
    market = Market(seed=2, symbols=SYMBOLS)
    first, second = market.take(10), market.take(30)
    batches = [Batch(first, 1, 10, 1_000), Batch(second, 11, 30, 5_000)]
    stage = Vwap(market.symbols, Registry(), clock_ns=lambda: 1_001_000)
    await stage.run(arriving([batches[0], gap(11, 7), batches[1]]))
    assert stage.sums() == by_hand([first, second])
    assert stage.gap_ticks == 7
    assert stage.latency.count == 40
    assert stage.latency.maximum == pytest.approx(1e-3)


async def test_the_stage_says_how_far_it_is():
    market = Market()
    stage = Vwap(market.symbols, Registry())
    await stage.run(arriving([Batch(market.take(5), 1, 5, 0)]))
    assert repr(stage) == "<Vwap 8 symbols, 5 ticks>"


def test_columns_of_a_recording_may_be_strided_or_packed():
    """A frame's rows are a view with a stride; a slice of them has another."""
    rows = Market(seed=3, symbols=SYMBOLS).take(1000)
    every_second: Rows = np.asarray(rows[::2])
    kernel = NumpyKernel(SYMBOLS)
    kernel.add(every_second)
    assert kernel.sums() == by_hand([every_second])
