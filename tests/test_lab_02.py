"""Notebook 02: stopwatches, profilers, prices, and a planted cost."""

import asyncio
import re
import sys
from collections import Counter
from functools import partial
from statistics import median
from typing import Any

import pytest

from quants.evidence import Finding, in_turn
from quants.lab import (
    board,
    notionals,
    planted,
    prices,
    profilers,
    timing,
)
from quants.lab.cost_task import COST_OF, Machine, cost_of
from quants.lab.planted import Found
from quants.lab.profilers import Look
from quants.lab.source import show_diff
from quants.lab.timing import Comparison, Shots
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


# a stopwatch ---------------------------------------------------------------------


async def test_shots_are_told_apart_by_what_came_before_them(shown):
    shots = await timing.shots(0.8)
    assert len(shots.first) >= 2
    assert len(shots.later) == (timing.SHOTS - 1) * len(shots.first)
    assert all(seconds > 0 for seconds in shots.first + shots.later)
    shown[-1].png()  # complete


def test_a_comparison_in_turn_measures_every_side_before_the_next_round():
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return 1.0

    sides = {name: partial(side, name) for name in "ab"}
    assert timing.one_after_the_other(sides, 2) == {"a": [1, 1], "b": [1, 1]}
    assert "".join(order) == "aabb"
    order.clear()
    assert in_turn(sides, 2) == {"a": [1, 1], "b": [1, 1]}
    assert "".join(order) == "abba"


def test_one_after_the_other_the_same_code_differs_and_in_turn_it_does_not():
    before = sys.gettrace()
    apart = timing.compare(timing.one_after_the_other)
    turns = timing.compare(in_turn)
    assert (apart.way, turns.way) == ("one_after_the_other", "in_turn")
    assert apart.ratio > 2
    assert 0.5 < turns.ratio < 2
    assert sys.gettrace() is before


def test_the_lesson_is_the_difference_and_fits_a_page():
    assert (
        "+    for turn in range(rounds):"
        in show_diff(timing.one_after_the_other, in_turn).data
    )
    assert (
        "+    return sum(map(mul, prices, sizes))"
        in show_diff(notionals.tick_by_tick, notionals.whole_batch).data
    )


# three profilers -------------------------------------------------------------------


async def test_every_profiler_shares_out_the_whole_time():
    look = await profilers.look(0.4)
    for shares in (look.truth, look.signal, look.cprofile):
        assert sum(shares.values()) == pytest.approx(1, abs=0.05)
        assert set(shares) == set(notionals.PARTS)
    assert look.samples[0] > 0
    look.picture().png()


def test_both_ways_to_sum_give_the_same_sum():
    prices, sizes = [1899, 41000, 5], [100, 3, 7]
    expected = 1899 * 100 + 41000 * 3 + 5 * 7
    assert notionals.tick_by_tick(prices, sizes) == expected
    assert notionals.whole_batch(prices, sizes) == expected


def test_a_part_owns_what_it_calls():
    assert profilers.part_of("notional") == "tick_by_tick"
    assert profilers.part_of("<built-in method builtins.sum>") == "whole_batch"
    assert profilers.part_of("<method 'poll' of 'select.epoll' objects>") == "waiting"
    assert profilers.part_of("EpollSelector.select") == "waiting"
    stack = (("m", "Handle._run", 1), ("m", "tick_by_tick", 2), ("m", "notional", 3))
    assert profilers.part_of_stack(stack) == "tick_by_tick"
    idle = (("m", "Handle._run", 1), ("m", "EpollSelector.select", 2))
    assert profilers.part_of_stack(idle) == "waiting"
    assert profilers.part_of_stack((("m", "Handle._run", 1),)) == "the rest"


def test_shares_of_a_total_leave_the_rest():
    assert profilers.shares({"waiting": 1.0}, 4.0)["the rest"] == 0.75
    assert profilers.shares(Counter()) == dict.fromkeys(notionals.PARTS, 0.0)


def test_seconds_that_overrun_their_total_are_still_the_whole():
    assert sum(profilers.shares({"waiting": 5.0}, 4.0).values()) == 1.0


# prices ----------------------------------------------------------------------------


async def test_a_bill_has_every_item_and_ends_its_loops():
    bill = await prices.bill(rounds=3)
    assert all(bill.us[item] > 0 for items in prices.BILLS.values() for item in items)
    assert bill.total("debug mode") > bill.us["task, debug"]
    assert "its budget is 20 µs" in repr(bill)
    bill.picture().png()


def test_a_record_is_written_or_not(tmp_path):
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        prices.logs_to(file, 10).debug("%d ticks", 7)
        prices.logs_to(file, 20).debug("%d ticks", 8)
    text = (tmp_path / "log").read_text("utf-8")
    assert re.fullmatch(r"[\d-]+ [\d:,]+ lesson 7 ticks\n", text)


# a planted cost ----------------------------------------------------------------------


def test_a_planted_cost_is_found_beside_a_hog():
    found = planted.find_planted(cost_of, lambda names: names[2])
    assert found.guilty == "format"
    assert set(found.alone) == {"receive", "vwap", "format", "limits"}
    assert found.beside["format"] > 2 * found.alone["format"]
    found.picture().png()


def test_who_does_not_look_blames_whoever_comes_first():
    found = planted.find_planted(lambda *_: 1.0, lambda names: names[-1])
    assert found.accused == "receive"
    assert board.judge("the-planted-cost-is-found", found).word == "REFUTED"


def test_the_stages_do_the_work_of_the_naive_pump():
    calls = planted.stages()
    assert [tick.seq for tick in calls["receive"]()] == [1, 2, 3, 4, 5]
    assert calls["format"]()[0].startswith("1 ")
    assert calls["limits"]() == [True] * planted.TICKS
    assert all(vwap > 0 for vwap in calls["vwap"]())


# verdicts ------------------------------------------------------------------------


def finding(verdict: Any) -> Finding:
    claim = prices.DEAR_LOG
    return Finding(claim, 1, 1, 1, 1, 15, verdict)


def bill(logs: str, debug: str) -> prices.Bill:
    return prices.Bill({}, finding(logs), finding(debug))


def look(truth=(0.5, 0.3), signal=(0.5, 0.3), thread=(0.0, 0.1), cprofile=(0.2, 0.7),
         sleep=0.001, samples=(300, 150)) -> Look:  # fmt: skip
    told, heard, seen, traced = (
        {"whole_batch": a, "tick_by_tick": b, "waiting": 1 - a - b}
        for a, b in (truth, signal, thread, cprofile)
    )
    return Look(told, heard, seen, traced, sleep, samples)


def found(accused: str) -> Found:
    costs = dict.fromkeys(("receive", "vwap", "format", "limits"), 1.0)
    return Found("cost_of", "vwap", costs, costs | {accused: 3.0}, costs)


def compared(apart: float, turn: float) -> list[Comparison]:
    return [Comparison("one_after_the_other", apart, 1), Comparison("in_turn", turn, 1)]


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("one-shot-is-no-measurement", [Shots((4.0,), (2.0,))], "SUPPORTED"),
        ("one-shot-is-no-measurement", [Shots((2.0,), (2.0,))], "REFUTED"),
        ("one-shot-is-no-measurement", [Shots((2.4,), (2.0,))], "INCONCLUSIVE"),
        ("in-turn-tells-the-same-code", compared(2.0, 1.1), "SUPPORTED"),
        ("in-turn-tells-the-same-code", compared(2.0, 0.6), "REFUTED"),
        ("in-turn-tells-the-same-code", compared(1.1, 1.0), "INCONCLUSIVE"),
        ("cprofile-blames-small-calls", [look()], "SUPPORTED"),
        ("cprofile-blames-small-calls", [look(cprofile=(0.5, 0.3))], "REFUTED"),
        ("cprofile-blames-small-calls", [look(truth=(0.3, 0.5))], "INCONCLUSIVE"),
        ("cprofile-shows-waiting-as-poll", [look()], "SUPPORTED"),
        ("cprofile-shows-waiting-as-poll", [look(sleep=0.2)], "REFUTED"),
        ("cprofile-shows-waiting-as-poll", [look(truth=(0.6, 0.4))], "INCONCLUSIVE"),
        ("a-sampling-thread-is-blind", [look()], "SUPPORTED"),
        ("a-sampling-thread-is-blind", [look(thread=(0.5, 0.2))], "REFUTED"),
        ("a-sampling-thread-is-blind", [look(samples=(300, 3))], "INCONCLUSIVE"),
        ("a-signal-sampler-sees", [look()], "SUPPORTED"),
        ("a-signal-sampler-sees", [look(signal=(0.3, 0.4))], "REFUTED"),
        ("a-signal-sampler-sees", [look(signal=(0.2, 0.1))], "REFUTED"),
        ("a-signal-sampler-sees", [look(samples=(0, 150))], "INCONCLUSIVE"),
        ("a-log-line-is-dear", [bill("SUPPORTED", "REFUTED")], "SUPPORTED"),
        ("a-log-line-is-dear", [bill("REFUTED", "SUPPORTED")], "REFUTED"),
        ("debug-mode-is-dear", [bill("REFUTED", "SUPPORTED")], "SUPPORTED"),
        ("debug-mode-is-dear", [bill("SUPPORTED", "INCONCLUSIVE")], "INCONCLUSIVE"),
        ("the-planted-cost-is-found", [found("vwap")], "SUPPORTED"),
        ("the-planted-cost-is-found", [found("limits")], "REFUTED"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(
    id: str, evidence: list[Any], word: str
):
    assert board.judge(id, *evidence).word == word


# the exercise ------------------------------------------------------------------------


def the_total(fn, clock):
    since = clock()
    for _ in range(1000):
        fn()
    return clock() - since


def one_shot(fn, clock):
    since = clock()
    fn()
    return clock() - since


def one_call_a_try(fn, clock):
    tries = []
    for _ in range(1000):
        since = clock()
        fn()
        tries.append(clock() - since)
    return min(tries)


def the_average(fn, clock):
    since = clock()
    for _ in range(20_000):
        fn()
    return (clock() - since) / 20_000


def long_tries(fn, clock):
    return min(the_average(fn, clock) for _ in range(3))


MISCONCEPTIONS = {
    the_total: "divide by the number of calls",
    one_shot: "The first call is slow",
    one_call_a_try: "shorter than the step of the clock",
    the_average: "An average pays for",
}


def test_solution_stub_and_misconceptions_are_told_apart():
    try_all(COST_OF, MISCONCEPTIONS)


def test_a_try_that_is_longer_than_a_turn_is_no_try():
    assert "longer than a turn" in (COST_OF.failure(long_tries) or "")


def test_other_right_answers_are_right():
    def medians(fn, clock):
        tries = []
        for _ in range(60):
            since = clock()
            for _ in range(100):
                fn()
            tries.append((clock() - since) / 100)
        return median(tries)

    assert COST_OF.failure(medians) is None


def test_an_answer_that_never_has_enough_is_told_so():
    def endless(fn, clock):
        while True:
            fn()

    assert "more than 200,000 times" in (COST_OF.failure(endless) or "")


def test_the_made_up_machine_gives_every_other_turn_away():
    machine = Machine(cost=0.001, slice=0.01)
    for _ in range(100):
        machine.fn()
    assert machine.clock() == pytest.approx(0.2, abs=0.01)


async def test_experiments_leave_a_loop_that_runs():
    await asyncio.to_thread(prices.measured, 1)
    await asyncio.sleep(0)
