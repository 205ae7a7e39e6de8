"""The rules against an oracle that looks at one tick after the other."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quants.alerts import Alert
from quants.counting_rules import around
from quants.limits import FIELDS
from quants.market import Market
from quants.metrics import Registry
from quants.rules import Rules
from quants.tick import Batch, Symbol, gap, rows_of

AAPL, BTC = SYMBOLS = [Symbol("AAPL", 2, 0), Symbol("BTC", 3, 1)]
SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND
BAND = {"price_low": "180.00", "price_high": "190.00"}


def answer(fields):
    """What Redis says of a hash with these fields."""
    return [fields.get(field) for field in FIELDS]


def rules_with(*hashes, **options):
    rules = Rules(SYMBOLS, "s1", Registry(), **options)
    rules.limits.update([answer(fields) for fields in hashes])
    return rules


def batch(ticks, first_seq=1):
    """Ticks as (time_ns, price, size, symbol)."""
    rows = rows_of([(START + t, *values, 0) for t, *values in ticks])
    return Batch(rows, first_seq, len(rows), 0)


def in_pieces(rules, ticks, cuts=()):
    """The alerts of ticks that come cut into batches; None is a missing tick."""
    edges = {0, len(ticks), *(cut for cut in cuts if cut < len(ticks))}
    edges |= {i + near for i, t in enumerate(ticks) if t is None for near in (0, 1)}
    alerts = []
    for first, end in pairwise(sorted(edges)):
        one = ticks[first:end]
        missing = one == [None]
        alerts += rules.check(gap(first + 1, 1) if missing else batch(one, first + 1))
    return alerts


# ---- the oracle


class Oracle:
    """Every rule in fractions, tick by tick, from all that was ever seen."""

    def __init__(self, hashes, cooldown_ns):
        self.hashes, self.cooldown_ns = hashes, cooldown_ns
        self.second: Any = None  # before the first tick
        self.seen = []  # (second, symbol, price, size)
        self.last = {}  # of each symbol: seq, time
        self.time_ns = 0
        self.shut, self.alerted = set(), {}  # by rule and symbol
        self.suppressed: Counter[str] = Counter()
        self.ids = []

    def limit(self, symbol, field):
        text = self.hashes[symbol].get(field)
        return None if text is None else Fraction(text)

    def missing(self, seq):
        self.judge("gap", 0, self.time_ns, seq, broken=True, back=False)

    def tick(self, seq, time_ns, price, size, symbol):
        self.time_ns = time_ns
        self.shut.discard(("gap", 0))
        begin = None if self.second is None else self.second * SECOND
        if begin is None or not begin - 10 * SECOND <= time_ns < begin + SECOND:
            self.turn(time_ns // SECOND)
        exact = Fraction(price, 10 ** SYMBOLS[symbol].price_decimals)
        volume = Fraction(size, 10 ** SYMBOLS[symbol].size_decimals)
        self.seen.append((self.second, symbol, exact, volume))
        for rule, (broken, back) in self.verdicts(symbol, exact, volume).items():
            self.judge(rule, symbol, time_ns, seq, broken, back)
        self.last[symbol] = seq, max(time_ns, self.second * SECOND)
        self.shut.discard(("stale", symbol))

    def turn(self, second):
        self.second, now = second, second * SECOND
        self.seen = [each for each in self.seen if second - 10 <= each[0] < second]
        self.vwaps = [self.vwap(symbol) for symbol in range(len(SYMBOLS))]
        for symbol, (seq, time_ns) in sorted(self.last.items()):
            self.last[symbol] = seq, min(time_ns, now)
            limit = self.limit(symbol, "stale_seconds")
            silent = Fraction(now - self.last[symbol][1], SECOND)
            if limit is not None and silent >= limit:
                before = self.suppressed["stale"]
                self.judge("stale", symbol, now, seq, broken=True, back=False)
                self.suppressed["stale"] = before  # a silence is one breach

    def vwap(self, symbol):
        mine = [(price, size) for _, s, price, size in self.seen if s == symbol]
        volume = sum(size for _, size in mine)
        return sum(p * size for p, size in mine) / volume if volume > 0 else None

    def verdicts(self, symbol, price, size):
        """Of each rule: is it broken, and is the tick clear of the limit?"""
        limit = {field: self.limit(symbol, field) for field in FIELDS[:-1]}
        low, high, vwap = limit["price_low"], limit["price_high"], self.vwaps[symbol]
        around = (None, None)
        if limit["vwap_percent"] is not None and vwap is not None:
            reach = abs(vwap) * limit["vwap_percent"] / 100
            around = vwap - reach, vwap + reach
        mine = [each for each in self.seen if each[1] == symbol]
        spent = sum(price * size for _, _, price, size in mine)
        ticks = sum(each[0] == self.second for each in mine)
        verdicts = {
            "price_band": self.in_band(symbol, price, low, high),
            "vwap_band": self.in_band(symbol, price, *around),
        }
        for rule, field, value in (
            ("notional", "notional", price * size),
            ("exposure", "exposure", spent),
            ("message_rate", "ticks_per_second", ticks),
        ):
            broken = limit[field] is not None and value > limit[field]
            verdicts[rule] = broken, not broken
        return dict(sorted(verdicts.items()))

    def in_band(self, symbol, price, low, high):
        """A margin is a 2000th of the bound, in whole units of the price."""
        unit = Fraction(1, 10 ** SYMBOLS[symbol].price_decimals)
        broken = (low is not None and price < low) or (
            high is not None and price > high
        )
        low = None if low is None else math.ceil(low / unit)
        high = None if high is None else math.floor(high / unit)
        inner_low = None if low is None else low + abs(low) // 2000
        inner_high = None if high is None else high - abs(high) // 2000
        if inner_low is not None and inner_high is not None and inner_low > inner_high:
            return broken, not broken
        back = (inner_low is None or price / unit >= inner_low) and (
            inner_high is None or price / unit <= inner_high
        )
        return broken, back

    def judge(self, rule, symbol, time_ns, seq, broken, back):
        key = rule, symbol
        cool = key not in self.alerted or (
            abs(time_ns - self.alerted[key]) >= self.cooldown_ns
        )
        if broken and cool and key not in self.shut:
            self.ids.append(f"s1:{seq}:{rule}")
            self.alerted[key] = time_ns
            self.shut.add(key)
        elif broken:
            self.suppressed[rule] += 1
        elif back:
            self.shut.discard(key)


steps = st.sampled_from([0, 1, 10**8, 4 * 10**8, SECOND, 5 * SECOND // 2]) | (
    st.sampled_from([-1, -SECOND, -9 * SECOND, -13 * SECOND, 13 * SECOND])
)
moves = st.none() | st.tuples(
    steps,
    st.integers(17_980, 18_020)
    | st.integers(18_985, 19_005)
    | st.integers(17_000, 19_500)
    | st.just(-18_000),
    st.integers(-3, 120),
    st.integers(0, 1),
)
texts = {
    "price_low": ["180.005", "17.9", "-180"],
    "price_high": ["190.00", "180.1", "-180.0"],
    "notional": ["18000.00", "200"],
    "exposure": ["40000.5", "360", "0"],
    "vwap_percent": ["0.5", "1.25", "0"],
    "stale_seconds": ["1", "2.4999999999", "0.1"],
    "ticks_per_second": ["2", "3.9", "0"],
}
hashes = st.fixed_dictionaries(
    {}, optional={field: st.sampled_from(some) for field, some in texts.items()}
)


some = st.tuples(st.integers(0, 2**28), *[st.integers(-9, 9)] * 2, st.integers(0, 1))


@given(
    moves=st.lists(some, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60)),
    limit=st.sampled_from(["0", "0.2", "2"]),
)
def test_an_exposure_that_grows_and_shrinks_is_exact(moves, cuts, limit):
    agree(moves, cuts, [{"exposure": limit}] * 2, cooldown_ns=0)


@given(
    moves=st.lists(moves, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60)),
    hashes=st.tuples(hashes, hashes),
    cooldown_ns=st.sampled_from([0, 10**8, SECOND, 3 * SECOND]),
)
@example(  # a second ago it was silent, and the alert before that still cools
    moves=[(0, 1, 1, 0), (2 * SECOND, 1, 1, 0), (SECOND, 1, 1, 1), (SECOND, 1, 1, 1)],
    cuts=[],
    hashes=({"stale_seconds": "1"}, {}),
    cooldown_ns=3 * SECOND,
)
def test_alerts_are_those_that_fractions_find_in_any_framing(
    moves, cuts, hashes, cooldown_ns
):
    agree(moves, cuts, hashes, cooldown_ns)


def agree(moves, cuts, hashes, cooldown_ns):
    """Rules and oracle say the same of ticks whose times are steps."""
    time_ns, oracle = 0, Oracle(hashes, cooldown_ns)
    ticks: list[tuple[int, ...] | None] = []
    for seq, move in enumerate(moves, 1):
        if move is None:
            ticks.append(None)
            oracle.missing(seq)
            continue
        time_ns += move[0]
        ticks.append((time_ns, *move[1:]))
        oracle.tick(seq, START + time_ns, *move[1:])
    for framing in (cuts, range(len(ticks))):
        rules = rules_with(*hashes, cooldown_ns=cooldown_ns)
        assert [alert.id for alert in in_pieces(rules, ticks, framing)] == oracle.ids
        suppressed = {rule: n for rule, n in rules.suppressed.items() if n}
        assert suppressed == {rule: n for rule, n in oracle.suppressed.items() if n}


# ---- worked by hand


def test_an_alert_says_what_was_beyond_which_limit():
    rules = rules_with(
        {"price_low": "180.005", "price_high": "190.00", "notional": "18000"},
        {"price_low": "1", "notional": "0.25"},
    )
    ticks = [
        (0, 18000, 1, 0),  # below a low that rounds up to 180.01
        (1, 18500, 98, 0),  # 18130
        (2, 500, 6, 1),  # below, and 0.500 × 0.6
        (3, 18001, 99, 0),  # AAPL's notional is beyond its limit as before
    ]
    alerts = rules.check(batch(ticks, first_seq=41))
    assert [(a.id, a.symbol, a.time_ns, a.value, a.limit) for a in alerts] == [
        ("s1:41:price_band", "AAPL", START, "180.00", "180.01"),
        ("s1:42:notional", "AAPL", START + 1, "18130.00", "18000.00"),
        ("s1:43:notional", "BTC", START + 2, "0.3000", "0.2500"),
        ("s1:43:price_band", "BTC", START + 2, "0.500", "1.000"),
    ]


def test_of_10_000_identical_breaches_one_is_an_alert_and_9_999_are_suppressed():
    rules = rules_with(BAND)
    ticks = [(i * SECOND // 10_000, 19001, 1, 0) for i in range(10_000)]
    assert len(rules.check(batch(ticks))) == rules.raised["price_band"] == 1
    assert rules.suppressed == {"price_band": 9_999, "notional": 0, "gap": 0}


def test_a_price_is_back_inside_at_a_2000th_of_the_bound():
    rules = rules_with(BAND, cooldown_ns=0)
    prices = [19_001, 18_992, 19_001, 18_991, 19_001]  # 19,000 - 9 = 18,991
    ids = [a.id for a in rules.check(batch([(0, price, 1, 0) for price in prices]))]
    assert ids == ["s1:1:price_band", "s1:5:price_band"]


@pytest.mark.parametrize(
    ("fields", "prices"),
    [
        ({"price_low": "190.00"}, [18_999, 19_008, 18_999, 19_009, 18_999]),
        ({"price_high": "-190.00"}, [-18_999, -19_008, -18_999, -19_009, -18_999]),
        # A margin on both sides would leave nothing of this band.
        ({"price_low": "190.00", "price_high": "190.10"}, [1, 19_011, 19_010, 1]),
    ],
)
def test_each_bound_has_a_margin_unless_the_band_is_too_narrow(fields, prices):
    rules = rules_with(fields, cooldown_ns=0)
    alerts = rules.check(batch([(0, price, 1, 0) for price in prices]))
    assert [alert.seq for alert in alerts] == [1, len(prices)]


def test_without_hysteresis_a_price_at_the_bound_is_back_inside():
    rules = rules_with(BAND, cooldown_ns=0, hysteresis_percent=0)
    ticks = [(0, price, 1, 0) for price in (19_001, 19_000, 19_001)]
    assert len(rules.check(batch(ticks))) == 2


def test_the_vwap_band_is_that_of_the_last_complete_seconds():
    rules = rules_with({"vwap_percent": "1"})
    trades = [(0, 10_000, 1, 0), (1, 20_000, 3, 0)]  # their VWAP: 175.00
    assert rules.check(batch(trades)) == []  # there is none yet
    inside = [(SECOND, 17_325, 1, 0), (SECOND + 1, 17_675, 1, 0)]
    assert rules.check(batch(inside, 3)) == []
    (low,) = rules.check(batch([(SECOND + 2, 17_324, 1, 0)], 5))
    assert (low.id, low.value, low.limit) == ("s1:5:vwap_band", "173.24", "173.25")
    after = 11 * SECOND  # second 1 is inside still, second 0 is not: 174.41…
    (high,) = rules.check(batch([(after, 17_500, 1, 0), (after, 17_616, 1, 0)], 6))
    assert (high.id, high.value, high.limit) == ("s1:7:vwap_band", "176.16", "176.15")
    assert rules.check(batch([(22 * SECOND, 1, 1, 0)], 8)) == []  # none again


@given(
    price_size=st.integers(-(10**30), 10**30),
    size=st.integers(1, 10**20),
    percent=st.decimals(0, 10**6, places=9),
)
def test_the_bounds_around_a_vwap_are_the_innermost_integers(price_size, size, percent):
    vwap = Fraction(price_size, size)
    reach = abs(vwap) * Fraction(percent) / 100
    bounds = around(price_size, size, int(percent * 10**9))
    assert bounds == (math.ceil(vwap - reach), math.floor(vwap + reach))


def test_volume_that_is_negative_has_no_vwap():
    rules = rules_with({"vwap_percent": "1"})
    assert rules.check(batch([(0, 10_000, -1, 0), (SECOND, 1, 1, 0)])) == []


def test_the_exposure_is_of_the_last_seconds_and_the_tick_itself():
    rules = rules_with({"exposure": "1000"}, cooldown_ns=0)
    ticks = [(second * SECOND, 10_000, 1, 0) for second in range(12)]  # 100 each
    (alert,) = rules.check(batch(ticks))  # the 11th; then the first has gone
    assert (alert.id, alert.value, alert.limit) == (
        "s1:11:exposure", "1100.00", "1000.00",
    )  # fmt: skip
    assert rules.suppressed["exposure"] == 1


def test_the_message_rate_counts_the_ticks_of_a_second():
    rules = rules_with({"ticks_per_second": "3"}, {}, cooldown_ns=0)
    ticks = [(i * SECOND // 8, 10_000, 1, i % 2) for i in range(24)]  # 4 a second
    alerts = rules.check(batch(ticks))
    assert [(a.seq, a.value, a.limit) for a in alerts] == [
        (7, "4", "3"), (15, "4", "3"), (23, "4", "3"),
    ]  # fmt: skip


def test_a_symbol_is_stale_where_a_second_begins_without_it():
    rules = rules_with({"stale_seconds": "1.5"})
    assert rules.check(batch([(SECOND // 2, 1, 1, 0), (SECOND, 1, 1, 1)])) == []
    (alert,) = rules.check(batch([(5 * SECOND // 2, 1, 1, 1)], 3))
    assert alert == Alert(
        "s1:1:stale", "stale", "AAPL", 1, START + 2 * SECOND, "1.500000000",
        "1.500000000",
    )  # fmt: skip
    assert rules.check(batch([(60 * SECOND, 1, 1, 1)], 4)) == []
    rules.check(batch([(61 * SECOND, 1, 1, 0)], 5))
    (again,) = rules.check(batch([(63 * SECOND, 1, 1, 1)], 6))
    assert (again.id, again.value) == ("s1:5:stale", "2.000000000")


def test_a_tick_that_comes_late_ends_a_silence_when_it_comes():
    rules = rules_with({"stale_seconds": "2"})
    assert len(rules.check(batch([(0, 1, 1, 0), (5 * SECOND, 1, 1, 1)]))) == 1
    assert rules.check(batch([(SECOND, 1, 1, 0), (6 * SECOND, 1, 1, 1)], 3)) == []
    (alert,) = rules.check(batch([(7 * SECOND, 1, 1, 1)], 5))
    assert (alert.id, alert.value) == ("s1:3:stale", "2.000000000")


def test_where_the_clock_steps_back_silence_counts_from_there():
    rules = rules_with({"stale_seconds": "2"})
    seconds = (100, 0), (50, 1), (51, 1), (52, 1)
    ticks = [(second * SECOND, 1, 1, symbol) for second, symbol in seconds]
    (alert,) = rules.check(batch(ticks))
    assert (alert.id, alert.value) == ("s1:1:stale", "2.000000000")
    assert alert.time_ns == START + 52 * SECOND


def test_a_feed_that_falls_silent_is_stale_by_the_clock_and_once():
    rules = rules_with({"stale_seconds": "3"}, {"stale_seconds": "4"})
    assert rules.silent(9) == []  # no tick has ever come
    rules.check(batch([(0, 1, 1, 0), (SECOND, 1, 1, 1)]))
    assert rules.silent(1.9) == []
    (alert,) = rules.silent(2.25)
    assert (alert.id, alert.value) == ("s1:1:stale", "3.250000000")
    assert alert.time_ns == START + SECOND + 2_250_000_000
    assert [a.id for a in rules.silent(9)] == ["s1:2:stale"]
    assert rules.silent(99) == []
    assert rules.check(batch([(99 * SECOND, 1, 1, 0)], 3)) == []  # told already
    assert rules.raised["stale"] == 2
    assert [a.id for a in rules.silent(3)] == ["s1:3:stale"]


def test_a_gap_is_an_alert_at_the_time_of_the_tick_before_it():
    rules = rules_with({})
    rules.check(batch([(0, 18_500, 1, 0), (5 * SECOND, 18_500, 1, 0)]))
    assert rules.check(gap(3, 7)) == [
        Alert("s1:3:gap", "gap", "*", 3, START + 5 * SECOND, "7", "0")
    ]


def test_of_a_hundred_gaps_within_a_second_one_is_an_alert():
    rules = rules_with({})
    for i in range(100):
        rules.check(batch([(i, 18_500, 1, 0)], first_seq=1 + 2 * i))
        rules.check(gap(2 + 2 * i, 1))
    assert (rules.raised["gap"], rules.suppressed["gap"]) == (1, 99)
    rules.check(batch([(2 * SECOND, 18_500, 1, 0)], first_seq=201))
    rules.check(gap(202, 1))
    assert (rules.raised["gap"], rules.suppressed["gap"]) == (2, 99)


# ---- limits that come and go


def test_a_rule_begins_with_its_limit_and_ends_with_it():
    rules = rules_with({}, {})
    trade = batch([(0, 10_000, 20, 0)] * 2)
    assert rules.check(trade) == []
    assert list(rules.suppressed) == ["price_band", "notional", "gap"]
    rules.limits.update([answer({"exposure": "3000", "ticks_per_second": "9"})] * 2)
    assert [a.rule for a in rules.check(trade)] == ["exposure"]
    assert list(rules.suppressed)[3:] == ["exposure", "message_rate"]
    rules.limits.update([answer({})] * 2)
    for _ in range(9):
        assert rules.check(trade) == []
    rules.limits.update([answer({"exposure": "3000"})] * 2)
    later = batch([(2 * SECOND, 10_000, 20, 0)] * 2)
    assert [a.id for a in rules.check(later)] == ["s1:2:exposure"]  # from nothing


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"exposure": "100"}, "exposure"),
        ({"ticks_per_second": "0"}, "message_rate"),
        ({"vwap_percent": "0"}, "vwap_band"),
        ({"stale_seconds": "1"}, "stale"),
    ],
)
def test_a_limit_that_changes_counts_for_the_next_tick(fields, rule):
    rules = rules_with(dict.fromkeys(fields, "1000000"))
    rules.check(batch([(0, 10_000, 1, 0), (SECOND, 10_000, 1, 0)]))
    rules.limits.update([answer(fields)])
    rules.check(batch([(SECOND, 10_001, 1, 0), (3 * SECOND, 10_000, 1, 1)], 3))
    assert rules.raised[rule] == 1


def test_a_limit_that_is_set_while_the_feed_is_silent_counts_at_once():
    rules = rules_with({"stale_seconds": "60"})
    rules.check(batch([(0, 1, 1, 0)]))
    rules.limits.update([answer({"stale_seconds": "2"})])
    assert [alert.limit for alert in rules.silent(2)] == ["2.000000000"]


def test_what_a_gate_held_back_is_forgotten_with_the_limit():
    rules = rules_with({"ticks_per_second": "0"})
    rules.check(batch([(0, 1, 1, 0)]))
    rules.limits.update([answer({})])
    rules.check(batch([(1, 1, 1, 0)], 2))
    rules.limits.update([answer({"ticks_per_second": "0"})])
    assert [a.seq for a in rules.check(batch([(SECOND, 1, 1, 0)], 3))] == [3]


# ---- at size


def test_the_first_second_of_1970_is_a_second_too():
    rules = rules_with({"exposure": "100"})
    for seq, time_ns in enumerate((0, SECOND), 1):
        rows = rows_of([(time_ns, 6_000, 1, 0, 0)])
        rules.check(Batch(rows, seq, 1, 0))
    assert rules.raised["exposure"] == 1


def test_a_market_gives_the_same_alerts_in_batches_of_every_size():
    """100,000 ticks under every rule, whose limits break now and then."""
    everything = {
        "price_low": "189", "price_high": "191", "notional": "150000",
        "exposure": "30000000", "vwap_percent": "0.03", "stale_seconds": "0.005",
        "ticks_per_second": "3500",
    }  # fmt: skip

    def alerts(size):
        market = Market(tick_rate=10_000)
        rules = Rules(market.symbols, "s1", Registry(), cooldown_ns=SECOND // 10)
        rules.limits.update([answer(everything)] * len(market.symbols))
        rows = market.take(100_000)
        batches = (
            Batch(rows[i : i + size], i + 1, len(rows[i : i + size]), 0)
            for i in range(0, len(rows), size)
        )
        return [
            alert for one in batches for alert in rules.check(one)
        ], rules.suppressed

    whole = alerts(100_000)
    assert set(Counter(alert.rule for alert in whole[0])) == {
        "price_band", "notional", "exposure", "vwap_band", "stale", "message_rate",
    }  # fmt: skip
    assert alerts(1_000) == whole
    assert alerts(37) == whole


def test_sums_beyond_int64_are_exact():
    rules = rules_with({}, {"exposure": str(2**62 * 10**6 // 10**4)})
    ticks = [(0, 2**62, 10**6, 1), (1, 1, 1, 1)]  # at its limit, and one unit more
    assert [a.id for a in rules.check(batch(ticks))] == ["s1:2:exposure"]
    assert rules.suppressed["exposure"] == 0
    assert np.iinfo(np.int64).max < 2**62 * 10**6
