"""Windows: the exact sums of what is in them, however it came."""

import inspect
import sys
from collections.abc import Callable, Iterator
from difflib import ndiff
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants import windows
from quants.errors import EmptyBatch, SettingsError
from quants.kernels import Kernel, NumpyKernel
from quants.market import Market
from quants.sums import RunningSums, Sums
from quants.tick import NO_ROWS, Rows, rows_of
from quants.windows import (
    CountWindow,
    NaiveWindow,
    RollingWindow,
    TimeQueue,
    TimeWindow,
    float_vwaps,
)

SYMBOLS = 3
Tick = tuple[int, int, int, int, int]  # time_ns, price, size, symbol, flags
Sizes = list[int]  # of batches

# The ends of int64, and bits at which the kernels add in another way.
widths = st.sampled_from([1, 15, 24, 31, 32, 47, 63])
numbers = widths.flatmap(lambda bits: st.integers(0, 2**bits - 1))
anything = numbers | st.integers(-(2**63), 2**63 - 1)
times = st.integers(0, 60)  # few, so that ticks meet, and meet the edges
tick = st.tuples(times, anything, anything, st.integers(0, SYMBOLS - 1), st.just(0))
any_ticks = st.lists(tick, max_size=60)
splits = st.lists(st.integers(0, 9), max_size=30)


def batches(ticks: list[Tick], sizes: Sizes) -> Iterator[Rows]:
    """Ticks in batches of these sizes, the rest in a last one."""
    first = 0
    for size in sizes:
        yield rows_of(ticks[first : first + size])
        first += size
    yield rows_of(ticks[first:])


def total(ticks: list[Tick]) -> list[Sums]:
    """The sums of ticks by hand, in Python's own integers."""
    by_symbol = [[t for t in ticks if t[3] == n] for n in range(SYMBOLS)]
    return [
        Sums(sum(t[1] * t[2] for t in mine), sum(t[2] for t in mine), len(mine))
        for mine in by_symbol
    ]


def in_time(ticks: list[Tick], span: int, lateness: int) -> tuple[list[Tick], int]:
    """What a time window holds after all of these, and how many were late.

    Looks at every tick again, each against all that came before it.
    """
    on_time = [
        tick
        for n, tick in enumerate(ticks)
        if tick[0] >= max(t[0] for t in ticks[: n + 1]) - lateness
    ]
    end = max((t[0] for t in ticks), default=0)
    inside = [t for t in on_time if end - span < t[0] <= end]
    return inside, len(ticks) - len(on_time)


def last_of_each(ticks: list[Tick], n: int) -> list[Tick]:
    """The last n ticks of each symbol."""
    return [t for s in range(SYMBOLS) for t in [t for t in ticks if t[3] == s][-n:]]


# What a window holds ---------------------------------------------------------


@given(any_ticks, splits, st.integers(1, 70), st.integers(0, 69))
def test_a_time_window_is_exact_in_any_order_and_any_batches(
    ticks: list[Tick], sizes: Sizes, span: int, lateness: int
):
    window = TimeWindow(SYMBOLS, span, min(lateness, span - 1))
    seen: list[Tick] = []
    for rows in batches(ticks, sizes):
        window.add(rows)
        seen += rows.tolist()
        inside, late = in_time(seen, span, window.lateness_ns)
        assert window.sums() == total(inside)
        assert (window.held(), window.late) == (len(inside), late)


@given(any_ticks, splits, st.integers(1, 12))
def test_a_count_window_is_exact_in_any_batches(
    ticks: list[Tick], sizes: Sizes, n: int
):
    window = CountWindow(SYMBOLS, n)
    seen: list[Tick] = []
    for rows in batches(ticks, sizes):
        window.add(rows)
        seen += rows.tolist()
        assert window.sums() == total(last_of_each(seen, n))
        assert window.held() == len(last_of_each(seen, n))


@given(any_ticks, splits, splits)
def test_how_ticks_were_batched_cannot_be_seen(
    ticks: list[Tick], one: Sizes, other: Sizes
):
    makers: list[Callable[[], TimeWindow | CountWindow]] = [
        lambda: TimeWindow(SYMBOLS, 20, 10),
        lambda: CountWindow(SYMBOLS, 4),
    ]
    for make in makers:
        window, twin = make(), make()
        for rows in batches(ticks, one):
            window.add(rows)
        for rows in batches(ticks, other):
            twin.add(rows)
        assert window.sums() == twin.sums()
        assert repr(window) == repr(twin)


@given(any_ticks, splits, st.integers(1, 70))
def test_the_lessons_agree_with_the_fast_window_in_order(
    ticks: list[Tick], sizes: Sizes, span: int
):
    lessons = (NaiveWindow(SYMBOLS, span), RollingWindow(SYMBOLS, span))
    ticks = sorted(ticks)
    for lesson in lessons:
        for rows in batches(ticks, sizes):
            lesson.add(rows)
        assert lesson.sums() == total(in_time(ticks, span, 0)[0])


@given(any_ticks)
def test_windows_are_kernels_whose_part_is_what_they_hold(ticks: list[Tick]):
    kernels: list[Kernel] = [TimeWindow(SYMBOLS, 5, 4), CountWindow(SYMBOLS, 5)]
    for window in kernels:
        window.add(rows_of(ticks))
        merged = RunningSums(SYMBOLS)
        merged.merge(window.part())
        assert merged.sums() == window.sums()


# Its edges -------------------------------------------------------------------


def at(*times_ns: int, symbol: int = 0) -> Rows:
    """One share at a price of 100, at each of these times."""
    return rows_of([(time_ns, 100, 1, symbol, 0) for time_ns in times_ns])


def test_a_tick_leaves_when_it_is_as_old_as_the_span():
    window = TimeWindow(1, span_ns=10)
    window.add(at(0, 1))
    window.add(at(9))
    assert window.held() == 3
    window.add(at(10))  # 0 goes, 1 stays
    assert window.held() == 3
    window.add(at(11, 11))
    assert window.held() == 4
    window.add(at(1000))
    assert window.held() == 1


def test_the_watermark_itself_is_not_late():
    window = TimeWindow(1, span_ns=10, lateness_ns=5)
    window.add(at(100, 95, 94, 100))
    assert (window.held(), window.late) == (3, 1)


def test_without_lateness_a_tick_of_the_same_time_is_still_in_order():
    window = TimeWindow(1, span_ns=10)
    window.add(at(100))
    window.add(at(100, 99))
    assert (window.held(), window.late) == (2, 1)


def test_a_late_tick_does_not_move_the_window():
    window = TimeWindow(1, span_ns=10)
    window.add(at(100))
    window.add(at(50))
    assert (window.newest_ns, window.held(), window.late) == (100, 1, 1)


def test_a_tick_put_where_it_belongs_leaves_when_its_time_has_come():
    window = TimeWindow(1, span_ns=10, lateness_ns=9)
    window.add(at(100, 105, 96))  # 96 belongs before 100
    window.add(at(106))
    assert window.held() == 3
    window.add(at(109))
    assert window.held() == 4
    window.add(at(110))
    assert window.held() == 4


def test_a_symbol_that_does_not_trade_leaves_with_the_time_of_the_others():
    window = TimeWindow(2, span_ns=10)
    window.add(at(0, symbol=0))
    window.add(at(10, symbol=1))
    assert window.sums() == [Sums(), Sums(100, 1, 1)]
    with pytest.raises(EmptyBatch):
        window.sums()[0].vwap()


def test_an_empty_batch_changes_nothing():
    for window in (TimeWindow(1, 10), CountWindow(1, 10)):
        window.add(NO_ROWS)
        assert window.sums() == [Sums()]
        window.add(at(5))
        window.add(NO_ROWS)
        assert window.sums() == [Sums(100, 1, 1)]


def test_rows_may_be_strided_and_may_change_afterwards():
    """A worker's memory is written again after its batch was summed."""
    rows = Market(seed=3, symbols=SYMBOLS).take(100).copy()
    ticks = rows[::2].tolist()
    time_window, count_window = TimeWindow(SYMBOLS, 10**8), CountWindow(SYMBOLS, 4)
    for window in (time_window, count_window):
        window.add(rows[::2])
    rows["price"] = 0
    later = Market(seed=3, symbols=SYMBOLS).take(140)[100:]
    for window in (time_window, count_window):
        window.add(later)
    seen = ticks + later.tolist()
    assert time_window.sums() == total(in_time(seen, 10**8, 0)[0])
    assert count_window.sums() == total(last_of_each(seen, 4))


@pytest.mark.parametrize(
    ("span_ns", "lateness_ns"), [(0, 0), (10, 10), (10, -1), (2**62, 0)]
)
def test_a_span_that_a_tick_on_time_could_miss_is_refused(
    span_ns: int, lateness_ns: int
):
    with pytest.raises(SettingsError, match=f"span_ns={span_ns}"):
        TimeWindow(1, span_ns, lateness_ns)


def test_an_answer_does_not_change_with_what_comes_later():
    for window in (
        *(NaiveWindow(1, 10), RollingWindow(1, 10)),
        *(TimeWindow(1, 10), CountWindow(1, 10)),
    ):
        window.add(at(5))
        answer = window.sums()
        window.add(at(6))
        assert answer == [Sums(100, 1, 1)]


def test_a_count_window_keeps_many_symbols_apart():
    """300: more than one byte tells apart."""
    window = CountWindow(300, 1)
    first, second = (
        rows_of([(0, price, 1, symbol, 0) for symbol in range(300)]) for price in (7, 8)
    )
    window.add(first)
    window.add(second[::-1])
    assert window.sums() == [Sums(8, 1, 1)] * 300


def test_a_window_of_no_ticks_is_refused():
    with pytest.raises(SettingsError, match="at least 1 tick"):
        CountWindow(1, 0)


def test_a_window_says_how_full_it_is():
    time_window, count_window = TimeWindow(1, 10**9), CountWindow(2, 3)
    for rows in (at(5, 7), at(6)):
        time_window.add(rows)
        count_window.add(rows)
    assert repr(time_window) == "<TimeWindow of 1 s, 2 ticks, 1 late>"
    assert repr(count_window) == "<CountWindow of 3 a symbol, 3 ticks>"
    count_window.add(at(8))
    assert repr(count_window) == "<CountWindow of 3 a symbol, 3 ticks>"


# Its work, counted -----------------------------------------------------------


class Counting(NumpyKernel):
    """A kernel that counts the rows it is given."""

    rows = 0

    def add(self, rows: Rows) -> None:
        self.rows += len(rows)
        super().add(rows)


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of windows.py run while a function does."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != windows.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("held", [10, 1000, 5000])
def test_a_tick_is_added_twice_however_many_are_held(held: int):
    rows = at(*range(20_000))
    for window in (TimeWindow(1, held), CountWindow(1, held)):
        come, gone = window.come, window.gone = Counting(1), Counting(1)
        for first in range(0, 20_000, 100):
            window.add(rows[first : first + 100])
        assert window.held() == come.rows - gone.rows == held
        assert come.rows <= 20_000  # fewer: those that would go at once


@pytest.mark.parametrize("held", [10, 1000, 5000])
def test_the_queue_moves_no_more_ticks_than_come(held: int):
    """A move is seen by where the queue then stands in its array."""
    queue, moved, rows = TimeQueue(), 0, at(*range(20_000))
    for n in range(20_000):
        array, start = queue.array, queue.start
        queue.append(rows[n : n + 1])
        if queue.array is not array or queue.start != start:
            moved += queue.stop - queue.start - 1
        queue.pop_until(n - held)
    assert moved <= 20_000
    assert len(queue.array) <= 3 * (held + 2)


def test_the_naive_lesson_works_more_for_a_wider_window_and_the_other_does_not():
    def work(lesson: NaiveWindow | RollingWindow) -> int:
        lesson.add(at(*range(1000)))
        return lines_run(lambda: (lesson.add(at(1000)), lesson.sums()))

    assert work(NaiveWindow(1, 900)) > work(NaiveWindow(1, 90)) + 2 * 800
    assert work(RollingWindow(1, 900)) == work(RollingWindow(1, 90))


# Lessons ---------------------------------------------------------------------


def test_a_fat_print_stays_in_a_float_window_for_ever_and_leaves_ours():
    """One print of 10^9 at 10^9: floats of that size are 128 apart."""
    random = Random(1)
    trades = [
        (random.randrange(80, 120), random.randrange(1, 20_000)) for _ in range(3000)
    ]
    trades[1000] = 10**9, 10**9
    window, left_over = CountWindow(1, 500), set()
    floats = float_vwaps([(float(p), float(s)) for p, s in trades], 500)
    for n, ((price, size), vwap) in enumerate(zip(trades, floats, strict=True), 1):
        window.add(rows_of([(0, price, size, 0, 0)]))
        value = sum(p * s for p, s in trades[max(0, n - 500) : n])
        volume = sum(s for _, s in trades[max(0, n - 500) : n])
        assert window.sums() == [Sums(value, volume, min(n, 500))]
        if n <= 1000:  # before the print, floats are exact to the last bit
            assert vwap == value / volume
        elif n > 1500:  # it has left the window: what has it left there?
            left_over.add(round(vwap * volume) - value)
            assert abs(vwap - value / volume) > 5e-5
    assert len(left_over) == 1  # the same to the end


def test_the_lessons_fit_on_a_page_and_differ_in_twelve_lines():
    sources = [
        inspect.getsource(lesson).splitlines()
        for lesson in (NaiveWindow, RollingWindow, float_vwaps)
    ]
    for source in sources:
        assert len(source) <= 20
        assert max(map(len, source)) <= 76
    changed = [line for line in ndiff(sources[0], sources[1]) if line[0] in "+-"]
    assert len(changed) <= 12
