"""One alert for a breach that lasts, however its ticks come."""

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from quants.gate import Gate

SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND


def let_pass(gate, ticks):
    """Positions that pass, of ticks as (symbol, time_ns, broken, back)."""
    symbol, time_ns, broken, back = (
        np.array(c, np.int64) for c in zip(*ticks, strict=True)
    )
    return gate.passing(
        symbol, time_ns, broken.nonzero()[0], lambda at: back[at].astype(bool)
    )


def breaches(count, apart_ns, start=START):
    return [(0, start + i * apart_ns, True, False) for i in range(count)]


def test_of_10_000_identical_breaches_one_passes_and_9_999_are_suppressed():
    gate = Gate(symbols=1, cooldown_ns=SECOND)
    assert let_pass(gate, breaches(10_000, SECOND // 10_000)) == [0]
    assert repr(gate) == "<Gate 1 shut, 9999 suppressed>"


def test_a_breach_that_lasts_an_hour_is_one_alert_in_any_framing():
    gate = Gate(symbols=1, cooldown_ns=SECOND)
    ticks = breaches(10_000, 3600 * SECOND // 10_000)
    passing = [let_pass(gate, ticks[i : i + 7]) for i in range(0, 10_000, 7)]
    assert passing == [[0], *([[]] * (len(passing) - 1))]
    assert gate.suppressed == 9_999


def test_a_breach_passes_again_once_it_was_over_and_the_cooldown_is_too():
    gate = Gate(symbols=1, cooldown_ns=SECOND)
    assert let_pass(gate, breaches(1, 0)) == [0]
    over = (0, START + 1, False, True)
    assert let_pass(gate, [over, *breaches(3, SECOND // 2)]) == [3]
    assert let_pass(gate, breaches(1, 0, START + 9 * SECOND)) == []


def test_a_tick_inside_but_not_by_the_margin_does_not_open_the_gate():
    gate = Gate(symbols=1, cooldown_ns=0)
    grazing, back = (0, START, False, False), (0, START, False, True)
    breach = (0, START, True, False)
    assert let_pass(gate, [breach, grazing, breach, back, breach]) == [0, 4]


def test_each_symbol_has_a_gate_of_its_own():
    gate = Gate(symbols=2, cooldown_ns=SECOND)
    assert let_pass(gate, [(0, START, True, False), (1, START, True, False)]) == [0, 1]
    assert let_pass(gate, [(1, START + 1, False, True)]) == []
    assert gate.shut.tolist() == [True, False]
    later = START + SECOND
    assert let_pass(gate, [(0, later, True, False), (1, later, True, False)]) == [1]


def test_where_no_gate_is_shut_and_nothing_is_broken_nobody_asks_who_is_back():
    def nobody_asks(at):
        raise AssertionError

    none = np.empty(0, np.intp)
    gate = Gate(symbols=1, cooldown_ns=SECOND)
    some = np.zeros(9, np.intp), np.zeros(9, int)
    assert gate.passing(*some, none, nobody_asks) == []
    assert let_pass(gate, [*breaches(1, 0), (0, START, False, True)]) == [0]
    assert gate.passing(*some, none, nobody_asks) == []


def slowly(ticks, cooldown_ns):
    alerted, shut, passing = dict[int, int](), set[int](), []
    for i, (symbol, time_ns, broken, back) in enumerate(ticks):
        cool = symbol not in alerted or abs(time_ns - alerted[symbol]) >= cooldown_ns
        if broken and cool and symbol not in shut:
            alerted[symbol] = time_ns
            shut.add(symbol)
            passing.append(i)
        elif not broken and back:
            shut.discard(symbol)
    return passing


steps = st.tuples(st.integers(0, 2), st.integers(-25, 25), st.booleans(), st.booleans())


@given(steps=st.lists(steps, min_size=1), cuts=st.lists(st.integers(0, 99)))
@example(
    steps=[(0, 0, True, False), (0, 11, False, True), (0, -10, True, False)], cuts=[1]
)
def test_any_framing_lets_the_same_breaches_pass_even_if_clocks_step_back(steps, cuts):
    times = START + np.cumsum([step[1] for step in steps])
    ticks = [(s, int(t), *how) for (s, _, *how), t in zip(steps, times, strict=True)]
    gate = Gate(symbols=3, cooldown_ns=10)
    edges = sorted({0, *(cut for cut in cuts if cut < len(ticks)), len(ticks)})
    passing = [
        first + i
        for first, end in pairwise(edges)
        for i in let_pass(gate, ticks[first:end])
    ]
    assert passing == slowly(ticks, 10)
    assert gate.suppressed == sum(broken for *_, broken, _ in ticks) - len(passing)
