"""Notebook 11: two clocks, percentiles, a scraped pump, and the observer's cost."""

import asyncio
import statistics
from dataclasses import replace
from math import inf, isnan

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.evidence import find
from quants.lab import desk, endpoint, observer, omission, percentiles, scraped, stalled
from quants.lab.board import judge
from quants.lab.hist_task import LATENCY_HIST, LatencyHist
from quants.lab.observer import Overhead, Reads
from quants.lab.omission import Waits, from_due, from_send, on_paper
from quants.lab.percentiles import STALLS, Grown, Workers
from quants.lab.scraped import (
    RECEIVED,
    SENT,
    Scrape,
    Seen,
    Stall,
    between,
    buckets,
)
from quants.lab.source import show, show_diff
from quants.server import MetricsServer
from quants.vwap import Vwap
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


# two clocks ----------------------------------------------------------------------


async def test_on_paper_the_times_are_those_worked_out_by_hand():
    send, due = [await on_paper(client) for client in (from_send, from_due)]
    assert [len(waits.took) for waits in (send, due)] == [800, 800]
    # Ask 60 is due at 0.3 s, 0.1 ms into a stall of 0.4 s; an answer takes 0.6 ms.
    assert send.took[60] == due.took[60] == pytest.approx(0.3999 + 0.0006)
    assert sorted(send.took)[-2] == pytest.approx(0.0006)
    # Each later ask was due 5 ms later, and is answered 0.6 ms after the last one.
    assert due.took[70] == pytest.approx(0.4005 - 10 * 0.0044)
    late = [i for i, seconds in enumerate(due.took) if seconds > 0.00061]
    assert late == [*range(60, 60 + len(late))]
    assert len(late) == 91  # 0.3999 s, gained 4.4 ms at a time
    assert send.mean == pytest.approx(statistics.mean(send.took))
    assert (send.slow, due.slow) == (1, 46)


async def test_without_a_stall_both_clocks_agree():
    send, due = [await on_paper(client, stall=0) for client in (from_send, from_due)]
    assert send.took == pytest.approx(due.took)
    assert judge("a-stall-is-one-slow-answer", send, due).word == "INCONCLUSIVE"
    assert judge("the-clock-hides-the-stall", send, due).word == "INCONCLUSIVE"


async def test_on_paper_the_verdicts_are_these():
    send, due = [await on_paper(client) for client in (from_send, from_due)]
    assert judge("mean-and-p99-show-a-stall", send).word == "REFUTED"
    assert judge("mean-and-p99-show-a-stall", due).word == "SUPPORTED"
    assert judge("the-clock-hides-the-stall", send, due).word == "SUPPORTED"
    assert judge("a-stall-is-one-slow-answer", send, due).word == "SUPPORTED"


def waits(quick: int, slow: int) -> Waits:
    """So many answers within a millisecond, and so many after 0.4 s."""
    return Waits("from_send", (0.001,) * quick + (0.4,) * slow)


@pytest.mark.parametrize(
    ("claim", "evidence", "word"),
    [
        ("mean-and-p99-show-a-stall", (waits(99, 0),), "INCONCLUSIVE"),
        ("mean-and-p99-show-a-stall", (waits(90, 10),), "SUPPORTED"),
        ("mean-and-p99-show-a-stall", (waits(999, 1),), "REFUTED"),
        ("a-stall-is-one-slow-answer", (waits(9, 2), waits(9, 19)), "REFUTED"),
        ("a-stall-is-one-slow-answer", (waits(9, 0), waits(9, 19)), "INCONCLUSIVE"),
        ("the-clock-hides-the-stall", (waits(9, 9), waits(9, 9)), "REFUTED"),
        ("the-clock-hides-the-stall", (waits(999, 1), waits(9, 9)), "SUPPORTED"),
    ],
)
def test_the_answers_decide(claim, evidence, word):
    assert judge(claim, *evidence).word == word


async def test_a_real_server_stalls_once_and_each_clock_tells_it(shown, monkeypatch):
    monkeypatch.setattr(stalled, "STALLED", 20)
    monkeypatch.setattr(stalled, "ASKS", 120)
    runs = [await stalled.asked(client) for client in (from_send, from_due)]
    send, due = runs
    assert [len(run.took) for run in runs] == [120, 120]
    assert judge("a-stall-is-one-slow-answer", *runs).word == "SUPPORTED"
    assert send.ages.maximum >= omission.STALL_SECONDS
    assert sum(t > 0.05 for t in due.took[21:]) >= 30  # asks that fell into it
    assert "120 answers" in repr(due)
    assert shown[-1].n == "n = 120 answers"
    assert stalled.beside(send, due).png()


async def test_nothing_is_asked_after_the_deadline(monkeypatch):
    monkeypatch.setattr(stalled, "DEADLINE", 1.0)
    times = iter([*[0.5] * 3, 1.5, *[2.0] * 1000])
    assert list(stalled.dues(0.0, lambda: next(times))) == [0.0, 0.005, 0.01]


def test_what_the_notebook_shows_fits():
    show(scraped.buckets)
    show(scraped.between)
    show(MetricsServer.body)
    changed = show_diff(from_send, from_due).data
    assert "-        began = clock()" in changed
    assert "+        took.append(clock() - due)" in changed


# percentiles ---------------------------------------------------------------------


async def test_a_percentile_moves_when_the_stall_takes_what_it_leaves_out():
    grown = await percentiles.growing()
    moves = {name: grown.moves_at(name) for name in percentiles.QUANTILES}
    assert moves == {"p50": 0.5, "p90": 0.1, "p99": 0.01, "p99.9": 0.001}
    assert grown.first == "p99.9"
    assert judge("the-highest-percentile-moves-first", grown).word == "SUPPORTED"
    assert grown.picture().png()
    assert "p99 at 10 ms" in repr(grown)


def moving(**at: int) -> Grown:
    """Curves that jump at the stall of this number; 0 never moves."""
    names = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}
    places = range(len(STALLS))
    return Grown(
        {
            name: tuple(9.0 if 0 < at[key] <= place else 1.0 for place in places)
            for key, name in names.items()
        }
    )


@pytest.mark.parametrize(
    ("grown", "word"),
    [
        (moving(p50=9, p90=7, p99=5, p999=1), "SUPPORTED"),
        (moving(p50=9, p90=7, p99=1, p999=5), "REFUTED"),
        (moving(p50=0, p90=0, p99=0, p999=0), "INCONCLUSIVE"),
    ],
)
def test_the_order_of_moving_decides(grown: Grown, word: str):
    assert judge("the-highest-percentile-moves-first", grown).word == word


def test_a_merge_is_right_and_an_average_is_not():
    found = percentiles.workers()
    assert judge("p99s-can-be-averaged", found).word == "REFUTED"
    assert judge("histograms-merge", found).word == "SUPPORTED"
    assert found.every.count == found.merged.count == 10_000
    assert "merged" in repr(found)
    stuck = found.each["stuck"]
    alike = Workers({"one": stuck, "other": stuck}, stuck)
    assert judge("p99s-can-be-averaged", alike).word == "SUPPORTED"
    assert judge("histograms-merge", alike).word == "REFUTED"  # counted twice


def test_the_workers_are_the_same_each_time():
    assert repr(percentiles.workers()) == repr(percentiles.workers())


# the scraped pump ----------------------------------------------------------------


async def exposition() -> tuple[scraped.SmallPump, str]:
    """A pump that has summed some ticks, and what it says of itself."""
    pump = await scraped.small_pump()
    async with asyncio.timeout(20), aiohttp.ClientSession() as http:
        while pump.vwap.latency.count < 50:
            await asyncio.sleep(0.02)
        return pump, await scraped.scrape(http, pump)


async def test_buckets_are_those_a_real_parser_reads():
    _, text = await exposition()
    for family in text_string_to_metric_families(text):
        if family.name not in (SENT, RECEIVED):
            continue
        cumulative = {
            float(sample.labels["le"]): sample.value
            for sample in family.samples
            if sample.name.endswith("_bucket")
        }
        counts, reached = buckets(text, family.name), 0
        assert list(counts) == list(cumulative)
        for bound, count in counts.items():
            reached += count
            assert reached == cumulative[bound]
        assert reached >= 50
    sent, received = (sum(buckets(text, name).values()) for name in (SENT, RECEIVED))
    assert sent == received  # in ticks, both
    told = scraped.told(text)
    assert told.count("_bucket") == sum(map(bool, buckets(text, SENT).values()))
    assert "# TYPE quants_vwap_latency_seconds histogram" in told


async def test_the_lines_of_a_scrape_are_of_one_histogram():
    pump, _ = await exposition()
    names = {
        line.split("_seconds")[0] for line in (await scraped.lines(pump)).split("\n")
    }
    assert {name.split()[-1] for name in names} == {"quants_vwap_latency"}
    assert "1000 ticks/s" in repr(pump)


async def test_scrapes_of_a_pump_that_stalls_show_it_from_due_only(shown, monkeypatch):
    monkeypatch.setattr(endpoint, "CALM_SECONDS", 0.6)
    pump = await scraped.small_pump()
    seen = await endpoint.watch(pump, LatencyHist, seconds=2.6)
    assert len(seen.stalls) in (1, 2)
    assert seen.late(SENT) >= 200 * len(seen.stalls)
    assert judge("due-times-show-the-stall", seen).word == "SUPPORTED"
    assert judge("windows-merge-to-the-whole", seen).word == "SUPPORTED"
    assert seen.points[-1].p99 >= omission.STALL_SECONDS > seen.points[-1].p50
    assert f"{len(seen.scrapes)} scrapes" in repr(seen)
    assert 0.6 <= seen.stalls[0].seconds <= 1.5
    assert shown[-1].png()


async def test_the_slider_turns_the_stall(monkeypatch):
    sliders = []
    monkeypatch.setattr(
        desk.Desk, "slider", lambda self, name, values, value, act: sliders.append(act)
    )
    monkeypatch.setattr(endpoint, "CALM_SECONDS", 0.3)
    pump = await scraped.small_pump()
    going = asyncio.create_task(endpoint.watch(pump, seconds=1.0))
    async with asyncio.timeout(20):
        while not sliders:
            await asyncio.sleep(0.01)
    sliders[0](0)
    seen = await going
    assert seen.stalls == []
    assert judge("due-times-show-the-stall", seen).word == "INCONCLUSIVE"


def test_the_axis_grows_with_the_time():
    picture, seen = endpoint.SeenPicture(1.0), Seen()
    assert repr(seen) == "Nothing was scraped yet."
    assert not picture.update(seen)
    for number in range(3):
        counts = {0.001: number, 0.5: 0, inf: 0}
        seen.add(Scrape(number, {SENT: counts, RECEIVED: dict.fromkeys(counts, 0)}))
    assert picture.update(seen)
    assert picture.figure.axes[0].get_xlim()[1] > 2
    assert not picture.update(seen)
    assert seen.points[-1].p99 == 0.001
    assert isnan(seen.points[-1].held_p99)


def seen_with(sent: int, received: int, length: float = 0.4) -> Seen:
    """Two scrapes and a stall, with so many ticks late by each clock."""
    seen = Seen(stalls=[Stall(0.0, length)])
    for sent_late, received_late in ((5, 0), (5 + sent, received)):
        counts = {SENT: {0.001: 9, 0.5: sent_late}}
        counts[RECEIVED] = {0.001: 9, 0.5: received_late}
        seen.add(Scrape(0.0, counts))
    return seen


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (seen_with(400, 0), "SUPPORTED"),
        (seen_with(400, 100), "REFUTED"),
        (seen_with(0, 0), "REFUTED"),
        (seen_with(400, 0, length=0.04), "INCONCLUSIVE"),
    ],
)
def test_the_late_ticks_decide(seen: Seen, word: str):
    assert judge("due-times-show-the-stall", seen).word == word


class Forgetful(LatencyHist):
    """Merges nothing."""

    def merge(self, other):
        pass


def test_merged_windows_decide():
    claim = "windows-merge-to-the-whole"
    assert judge(claim, Seen()).word == "INCONCLUSIVE"
    assert judge(claim, seen_with(4, 2)).word == "SUPPORTED"
    assert judge(claim, replace(seen_with(4, 2), hist=Forgetful)).word == "REFUTED"


def test_what_lies_between_two_scrapes_is_their_difference():
    assert between({1.0: 2, 2.0: 0}, {1.0: 5, 2.0: 1}) == {1.0: 3, 2.0: 1}


# the observer --------------------------------------------------------------------


async def test_nothing_is_read_until_somebody_asks_and_a_crowd_reads_five_times():
    found = await observer.reads(ticks=10_050)
    assert found == Reads(10_050, 0, 1000, 5)
    assert judge("who-does-not-look-does-not-pay", found).word == "SUPPORTED"
    assert judge("a-crowd-shares-a-look", found).word == "SUPPORTED"
    assert "nobody asked: 0 reads" in repr(found)


async def test_a_stage_that_reads_its_metrics_is_noticed(monkeypatch):
    class Nosy(Vwap):
        def __init__(self, symbols, registry):
            super().__init__(symbols, registry)
            self.registry = registry

        async def run(self, batches):
            await super().run(batches)
            self.registry.json_body()

    monkeypatch.setattr(observer, "Vwap", Nosy)
    assert (await observer.reads(ticks=100)).unasked == 1


@pytest.mark.parametrize(
    ("claim", "found", "word"),
    [
        ("who-does-not-look-does-not-pay", Reads(50, 50, 9, 5), "REFUTED"),
        ("who-does-not-look-does-not-pay", Reads(50, 0, 0, 0), "INCONCLUSIVE"),
        ("a-crowd-shares-a-look", Reads(50, 0, 1000, 1000), "REFUTED"),
        ("a-crowd-shares-a-look", Reads(50, 0, 3, 3), "INCONCLUSIVE"),
    ],
)
def test_the_reads_decide(claim: str, found: Reads, word: str):
    assert judge(claim, found).word == word


async def test_the_overhead_is_measured_in_turn_and_drawn():
    found = await observer.overhead(rounds=3)
    assert list(found.ns) == list(observer.WAYS)
    assert found.batching.pairs == 3
    assert found.batching.left > found.batching.right  # some fifty times as much
    assert found.picture().png()
    assert "ns a tick" in repr(found)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(50.0, "SUPPORTED"), (2.0, "REFUTED"), (5.2, "INCONCLUSIVE")],
)
def test_the_ratio_decides_whether_a_batch_shares(ratio: float, word: str):
    each, batch, again = [ratio] * 9, [1.0] * 9, [1.1] * 9
    finding = find(observer.BATCHING, each, batch, again)
    assert judge("a-batch-shares-its-record", Overhead({}, finding)).word == word


# the histogram to write ----------------------------------------------------------


class Replaces(LatencyHist):
    """A bucket of the other one replaces its own."""

    def merge(self, other):
        self.update(other)


class KnowsItsBucketsOnly(LatencyHist):
    """Takes it that both have the same ones."""

    def merge(self, other):
        for bound in other:
            self[bound] += other[bound]


class EmptiesTheOther(LatencyHist):
    """Takes out what it adds."""

    def merge(self, other):
        while other:
            bound, count = other.popitem()
            self[bound] = self.get(bound, 0) + count


class CountsBounds(LatencyHist):
    """Takes the quantile of the bounds, whatever lies in them."""

    def quantile(self, q):
        bounds = sorted(bound for bound, count in self.items() if count)
        return bounds[int(q * len(bounds))] if bounds else None


class Passes(LatencyHist):
    """Stops only beyond the share."""

    def quantile(self, q):
        reached, wanted = 0, q * sum(self.values())
        for bound in sorted(self):
            reached += self[bound]
            if reached > wanted:
                return bound
        return None


class CutsOff(LatencyHist):
    """Rounds the number of durations down."""

    def quantile(self, q):
        reached, wanted = 0, int(q * sum(self.values()))
        for bound in sorted(self):
            reached += self[bound]
            if reached and reached >= wanted:
                return bound
        return None


class TakesThemAsTheyCame(LatencyHist):
    """Forgets that a dictionary has no order but that of its making."""

    def quantile(self, q):
        reached, wanted = 0, q * sum(self.values())
        for bound, count in self.items():
            reached += count
            if reached and reached >= wanted:
                return bound
        return None


class MakesOneUp(LatencyHist):
    """Says zero where nothing was counted."""

    def quantile(self, q):
        return super().quantile(q) if self else 0.0


class FindsItInAnEmptyOne(LatencyHist):
    """Stops at the first bucket if all are empty."""

    def quantile(self, q):
        reached, wanted = 0, q * sum(self.values())
        for bound in sorted(self):
            reached += self[bound]
            if reached >= wanted:
                return bound
        return None


def test_the_exercise_knows_its_misconceptions():
    try_all(
        LATENCY_HIST,
        {
            Replaces: "add them, none replaces the other",
            KnowsItsBucketsOnly: "a bucket that this one lacks",
            EmptiesTheOther: "changed the other histogram",
            CountsBounds: "go by their counts",
            Passes: "not only when it is passed",
            CutsOff: "cut off, it is too low",
            TakesThemAsTheyCame: "walk through sorted(self)",
            MakesOneUp: "Of no durations there is no quantile",
            FindsItInAnEmptyOne: "no quantile lies in an empty one",
        },
    )


def test_the_solution_agrees_with_the_histogram_of_the_package():
    found = percentiles.workers()
    merged = LatencyHist({})
    for ages in found.each.values():
        merged.merge(LatencyHist({row.up_to: row.weight for row in ages.rows()}))
    bounds = [row.up_to for row in found.every.rows()]
    for q in (0.001, 0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0):
        exact = found.every.quantile(q)
        assert merged.quantile(q) == next(b for b in bounds if b >= exact)
