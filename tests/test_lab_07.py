"""Notebook 07: judges, windows counted and measured, floats, the GIL, its exercise."""

import asyncio
import sys
from collections import deque
from dataclasses import replace
from fractions import Fraction
from operator import mul
from threading import Thread
from typing import Any

import numpy as np
import pytest

from quants.lab import desk as desks
from quants.lab import drift, fat_print, gil_free, rolling, session, window_costs
from quants.lab.board import judge
from quants.lab.drift import Drift
from quants.lab.fat_print import HELD, LATER, PRINTED, FatPrint
from quants.lab.gil_free import FEW, LOOP, MANY, NAP, Calls, Seen
from quants.lab.rolling import Cost, Filled, Side, lines_run
from quants.lab.rolling_task import ROLLING_VWAP, RollingVwap
from quants.lab.source import show, show_diff
from quants.lab.window_costs import MANY as MANY_AT_ONCE
from quants.lab.window_costs import ONE, ROLLING, WINDOWS, Budget, Costs, costs
from quants.market import Market
from quants.turns import gil_enabled
from quants.windows import NaiveWindow, RollingWindow, float_vwaps
from tests.exercising import made, try_all

SHOWN: list[Any] = []  # by an experiment, in place of a page


@pytest.fixture(autouse=True)
async def closed(monkeypatch: pytest.MonkeyPatch):
    """Nothing is displayed; every session is closed, and nothing is left."""

    class Handle:
        def display(self, shown):
            SHOWN.append(shown)

        update = display

    SHOWN.clear()
    monkeypatch.setattr(desks, "DisplayHandle", Handle)
    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


# judges ----------------------------------------------------------------------------


def of(way: str, *lines: float, us: float = 400.0) -> Costs:
    """Costs of a way, from the narrowest window to the widest."""
    pairs = zip(WINDOWS, lines, strict=True)
    return Costs({Side(way, held): Cost(us, count) for held, count in pairs})


def at_once(one_us: float = 34.0, lines: float = 0.2) -> Budget:
    return Budget(
        {ONE: Cost(one_us, 174), ROLLING: Cost(3, 33), MANY_AT_ONCE: Cost(0.05, lines)}
    )


DRIFT = Drift(10, 1000, 1000, 10.01, 10.02, 12.0, 9, {"float64": {}, "float32": {}})


def off(before: float, after: float, kind: str = "floats") -> FatPrint:
    tail = LATER - PRINTED
    return FatPrint({kind: (before,) * PRINTED + (after,) * tail})


def seen(few: int = 0, many: int = 1, lists: int = 0, loop: int = 0) -> Calls:
    """Turns of the other thread, by what is called."""
    turns = {
        (NAP, MANY): 1, (LOOP, MANY): loop,
        ("price * size", FEW): few, ("price * size", MANY): many,
        ("tolist", MANY): lists, ("np.array(list)", MANY): 0,
        ("sum of objects", MANY): 0,
    }  # fmt: skip
    return Calls(tuple(Seen(*named, 9, count) for named, count in turns.items()))


GROWING, STEADY, BETWEEN = (76, 661, 6511, 65011), (33,) * 4, (33, 33, 99, 990)


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("a-wide-window-breaks-the-budget", of("naive", *GROWING), "SUPPORTED"),
        ("a-wide-window-breaks-the-budget", of("naive", *GROWING, us=9), "REFUTED"),
        (
            "a-wide-window-breaks-the-budget",
            of("naive", *GROWING, us=22),
            "INCONCLUSIVE",
        ),
        ("adding-up-anew-grows-with-the-window", of("naive", *GROWING), "SUPPORTED"),
        ("adding-up-anew-grows-with-the-window", of("naive", *STEADY), "REFUTED"),
        ("adding-up-anew-grows-with-the-window", of("naive", *BETWEEN), "INCONCLUSIVE"),
        ("adding-and-taking-away-does-not", of("rolling", *STEADY), "SUPPORTED"),
        ("adding-and-taking-away-does-not", of("rolling", *GROWING), "REFUTED"),
        ("adding-and-taking-away-does-not", of("rolling", *BETWEEN), "INCONCLUSIVE"),
        ("your-window-does-not-care-how-wide", of("yours", *STEADY), "SUPPORTED"),
        ("your-window-does-not-care-how-wide", of("yours", *GROWING), "REFUTED"),
        ("numpy-for-one-tick-is-slower", at_once(), "SUPPORTED"),
        ("numpy-for-one-tick-is-slower", at_once(one_us=1), "REFUTED"),
        ("numpy-for-one-tick-is-slower", at_once(one_us=4), "INCONCLUSIVE"),
        ("a-batch-shares-its-lines", at_once(), "SUPPORTED"),
        ("a-batch-shares-its-lines", at_once(lines=2), "REFUTED"),
        ("ten-million-floats-add-up", DRIFT, "REFUTED"),
        ("ten-million-floats-add-up", replace(DRIFT, float64=10.0), "SUPPORTED"),
        ("floats-depend-on-who-adds", DRIFT, "SUPPORTED"),
        ("floats-depend-on-who-adds", replace(DRIFT, dealt_float64=10.01), "REFUTED"),
        ("whole-numbers-do-not", DRIFT, "SUPPORTED"),
        ("whole-numbers-do-not", replace(DRIFT, dealt_cents=1001), "REFUTED"),
        ("a-float-window-forgets", off(1e-13, 1e-3), "REFUTED"),
        ("a-float-window-forgets", off(1e-13, 2e-13), "SUPPORTED"),
        ("your-window-is-exact", off(0, 0, "yours"), "SUPPORTED"),
        ("your-window-is-exact", off(0, 1e-15, "yours"), "REFUTED"),
        ("numpy-gives-the-gil-back", seen(), "REFUTED"),
        ("numpy-gives-the-gil-back", seen(loop=5), "INCONCLUSIVE"),  # no GIL
        ("many-rows-give-the-gil-back", seen(), "SUPPORTED"),
        ("many-rows-give-the-gil-back", seen(few=1), "REFUTED"),
        ("many-rows-give-the-gil-back", seen(many=0), "REFUTED"),
        ("many-rows-give-the-gil-back", seen(loop=5), "INCONCLUSIVE"),
        ("python-objects-keep-the-gil", seen(), "SUPPORTED"),
        ("python-objects-keep-the-gil", seen(lists=1), "REFUTED"),
        ("python-objects-keep-the-gil", seen(loop=5), "INCONCLUSIVE"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


def test_numpy_would_give_the_gil_back_if_every_call_did():
    every = Calls(tuple(each._replace(turns=each.call != LOOP) for each in seen().seen))
    assert judge("numpy-gives-the-gil-back", every).word == "SUPPORTED"


# windows ---------------------------------------------------------------------------


def test_lines_are_counted_in_this_thread_alone():
    def three() -> int:
        total = 1
        total += 1
        return total

    def many() -> None:
        for _ in range(5000):
            three()

    elsewhere = Thread(target=many)

    def starts_another() -> None:
        elsewhere.start()
        elsewhere.join()

    before = sys.gettrace()
    assert lines_run(three) == 3
    assert lines_run(starts_another) < 1000  # those of starting it
    assert sys.gettrace() is before


def test_every_window_holds_what_it_says_and_lets_one_go_for_one():
    for kind in (NaiveWindow, RollingWindow):
        window, ticks = kind(1, 50 * rolling.TICK_NS), rolling.market()
        for count in (50, 1, 7):
            window.add(ticks.take(count))
            assert len(window.ticks) == window.sums()[0].ticks == 50


async def test_the_lines_of_a_tick_grow_with_a_naive_window_alone():
    found = await costs("naive", "rolling", "NumPy", yours=RollingVwap)
    for id in (
        "adding-up-anew-grows-with-the-window",
        "adding-and-taking-away-does-not",
        "your-window-does-not-care-how-wide",
    ):
        assert judge(id, found).word == "SUPPORTED"
    naive = [cost.lines for cost in found.line("naive")]
    each = (naive[-1] - naive[-2]) / (WINDOWS[-1] - WINDOWS[-2])
    assert each == (naive[-2] - naive[-3]) / (WINDOWS[-2] - WINDOWS[-3])  # a line
    assert [cost.lines for cost in found.line("yours")] == [
        found.line("yours")[0][1]
    ] * 4
    assert found.picture().undescribed() == []
    assert repr(found).startswith("With 500 ticks in the window one more costs: naive ")


async def test_a_reader_who_adds_up_anew_is_told():
    found = await costs(yours=AddsUpAnew)
    assert judge("your-window-does-not-care-how-wide", found).word == "REFUTED"


async def test_a_batch_shares_what_a_single_tick_pays_alone():
    found = await window_costs.budget()
    assert judge("a-batch-shares-its-lines", found).word == "SUPPORTED"
    alone, together = found.found[ONE].lines, found.found[MANY_AT_ONCE].lines
    assert alone == pytest.approx(1000 * together, rel=0.1)
    assert found.picture().undescribed() == []
    assert "Tick by tick, NumPy takes" in repr(found)


async def test_a_window_fills_up_and_leaves_a_picture():
    found = await rolling.fill(100, seconds=0.4)
    held = [ticks for ticks, _ in found.dots]
    assert held == [min(n, 100) for n in range(1, len(held) + 1)]
    assert "makes the next one" in repr(found)
    _, picture = SHOWN
    assert picture.undescribed() == []
    assert picture.n == f"n = {len(held)} ticks"


async def test_the_slider_widens_the_window(monkeypatch: pytest.MonkeyPatch):
    class Slid(desks.Desk):
        def slider(self, name, values, value, act):
            asyncio.get_running_loop().call_soon(act, 300)

    monkeypatch.setattr(rolling, "Desk", Slid)
    found = await rolling.fill(100, seconds=2.0)
    assert max(ticks for ticks, _ in found.dots) > 100


def test_what_each_tick_in_the_window_costs_is_told_by_the_quickest_later_dot():
    dots = ((10, 1.0), (80, 40.0), (90, 900.0), (100, 60.0))
    found = Filled(dots)
    assert found.each_us == 0.5
    assert "0.50 µs dearer: 40 of them" in repr(found)


# floats ----------------------------------------------------------------------------


def test_sums_are_those_of_a_plain_loop():
    """Oracle: one addition after the other, and Python's own whole numbers."""
    ticks = 3 * drift.CHUNK // 2
    found = drift.added(ticks)
    rows = Market(symbols=1).take(ticks)
    pairs = list(zip(rows["price"].tolist(), rows["size"].tolist(), strict=True))
    total = sum(price * size for price, size in pairs)
    assert found.cents == found.dealt_cents == total
    plain, exact, first = 0.0, 0, 0
    for n, (price, size) in enumerate(pairs, 1):
        plain += price / 100 * size
        exact += price * size
        first = first or (n if plain != exact / 100 else 0)
    assert (found.float64, found.first) == (plain, first)
    narrow = np.float32(0)
    for price, size in pairs:
        narrow += np.float32(price / 100 * size)
    assert found.float32 == narrow
    halves = [0.0, 0.0]
    for n, (price, size) in enumerate(pairs):
        halves[n // drift.CHUNK % 2] += price / 100 * size
    assert found.dealt_float64 == sum(halves)


def test_digits_are_those_before_the_first_wrong_one():
    assert drift.digits(1.0, 1000.0) == pytest.approx(3)
    assert drift.digits(0.0, 1000.0) == drift.DIGITS


def test_marks_are_a_series_of_one_two_five():
    assert list(drift.marks(0, 100)) == [10, 20, 50, 100]
    assert list(drift.marks(100, 1000)) == [200, 500, 1000]


async def test_ten_million_ticks_drift_in_floats_and_not_in_cents():
    found = await drift.drift()
    assert found.ticks == 10_000_000
    for id, word in (
        ("ten-million-floats-add-up", "REFUTED"),
        ("floats-depend-on-who-adds", "SUPPORTED"),
        ("whole-numbers-do-not", "SUPPORTED"),
    ):
        assert judge(id, found).word == word
    right = {kind: list(line.values()) for kind, line in found.right.items()}
    assert right["float32"][-1] < 3 < 12 < right["float64"][-1] < 15
    assert found.off(10.5) == Fraction(found.cents, 100) - Fraction(21, 2)
    assert found.told in repr(found)
    assert found.picture().undescribed() == []


def test_a_fat_print_stays_in_floats_and_leaves_an_exact_window():
    found = fat_print.fat_print(yours=RollingVwap)
    assert judge("a-float-window-forgets", found).word == "REFUTED"
    assert judge("your-window-is-exact", found).word == "SUPPORTED"
    assert len(found.off["yours"]) == LATER
    assert found.picture().undescribed() == []
    assert repr(found).count("before the faulty tick off by $") == 2


def test_the_exact_vwaps_are_those_of_the_last_ticks():
    ticks = fat_print.with_fat_print()
    found = fat_print.exact_vwaps(ticks)
    for n in (1, HELD, PRINTED + 1, LATER):
        last = ticks[max(0, n - HELD) : n]
        value, volume = sum(p * s for p, s in last), sum(s for _, s in last)
        assert found[n - 1] == Fraction(value, volume) / 100


def test_a_window_that_rounds_is_not_exact():
    found = fat_print.fat_print(yours=RoundsADecimal)
    assert judge("your-window-is-exact", found).word == "REFUTED"


# the GIL ---------------------------------------------------------------------------


@pytest.mark.skipif(not gil_enabled(), reason="there is no GIL to give back")
async def test_what_keeps_the_gil_is_seen_without_a_clock():
    found = await gil_free.calls()
    assert found.conclusive
    assert not found.gives("price * size", FEW)
    assert found.gives("price * size")
    for id, word in (
        ("numpy-gives-the-gil-back", "REFUTED"),
        ("many-rows-give-the-gil-back", "SUPPORTED"),
        ("python-objects-keep-the-gil", "SUPPORTED"),
    ):
        assert judge(id, found).word == word
    assert len(repr(found).splitlines()) == 1 + len(found.seen)


def test_what_the_notebook_shows_fits():
    show_diff(NaiveWindow, RollingWindow)
    show_diff(drift.dollars, drift.cents)
    show(float_vwaps)


# the exercise ----------------------------------------------------------------------


class NeverLetsGo(RollingVwap):
    def add(self, price: int, size: int) -> None:
        self._price_size += price * size
        self._size += size


class LetsGoTooSoon(RollingVwap):
    def __init__(self, n: int) -> None:
        super().__init__(max(1, n - 1))


class TakesTheWrongOne(RollingVwap):
    def add(self, price: int, size: int) -> None:
        self._ticks.append((price, size))
        self._price_size += price * size
        self._size += size
        if len(self._ticks) > self._n:
            oldest, _ = self._ticks.popleft()
            self._price_size -= oldest * size
            self._size -= size


class RoundsDown(RollingVwap):
    def vwap(self) -> Any:
        return self._price_size // self._size if self._size else None


class RoundsADecimal(RollingVwap):
    def vwap(self) -> Any:
        return self._price_size / self._size if self._size else None


class AddsUpAnew:
    def __init__(self, n: int) -> None:
        self.ticks: deque[tuple[int, int]] = deque(maxlen=n)

    def add(self, price: int, size: int) -> None:
        self.ticks.append((price, size))

    def vwap(self) -> Any:
        size = sum(s for _, s in self.ticks)
        return Fraction(sum(p * s for p, s in self.ticks), size) if size else None


class AddsUpInC(AddsUpAnew):
    def vwap(self) -> Any:
        prices, sizes = zip(*self.ticks, strict=True) if self.ticks else ((), ())
        return (
            Fraction(sum(map(mul, prices, sizes)), sum(sizes)) if sum(sizes) else None
        )


class FitsNoInt64(AddsUpAnew):
    def vwap(self) -> Any:
        prices, sizes = np.array(self.ticks, np.int64).reshape(-1, 2).T
        size = int(sizes.sum())
        return Fraction(int((prices * sizes).sum()), size) if size else None


class DividesByNothing(RollingVwap):
    def vwap(self) -> Any:
        return Fraction(self._price_size, self._size) if self._ticks else None


class ForgetsTheSum(RollingVwap):
    def vwap(self) -> Any:
        return Fraction(self._ticks[-1][0]) if self._size else None


def test_each_misconception_meets_its_own_hint():
    try_all(
        ROLLING_VWAP,
        {
            ForgetsTheSum: "are 80 for 5",
            LetsGoTooSoon: "not earlier",
            NeverLetsGo: "the first one still counts",
            TakesTheWrongOne: "the oldest price times the oldest size",
            RoundsDown: "throws the half away",
            RoundsADecimal: "nor any decimal",
            FitsNoInt64: "NumPy's int64 does not either",
            DividesByNothing: "no size to divide by",
            AddsUpAnew: "it adds up anew",
        },
    )


def test_adding_up_anew_is_seen_in_c_as_well():
    assert "adds up anew" in (ROLLING_VWAP.failure(AddsUpInC) or "")


def test_an_answer_from_a_cell_is_right_and_kept():
    source = ROLLING_VWAP.stub().replace("...  # yours", "pass")
    assert ROLLING_VWAP.failure(made(source, "RollingVwap")) is not None
