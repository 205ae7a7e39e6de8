"""Notebook 08: a full pool, Little and Erlang, a breaker, and the gate to write."""

import asyncio
import heapq
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import factorial

import pytest
import redis

from quants.breaker import Breaker, State
from quants.errors import RedisFault
from quants.host import suspended
from quants.lab import brownout, desk, erlang, gated, lanes, outage, shared_pool, waits
from quants.lab.board import judge
from quants.lab.checks import Check, Checks, Look
from quants.lab.erlang import sojourn
from quants.lab.lanes import Lane, Lanes
from quants.lab.outage import Outage, Phase
from quants.lab.risk_gate_task import RISK_GATE, RiskGate
from quants.lab.session import session
from quants.lab.shared_pool import THREADS, Ride, ask, ask_soon
from quants.lab.slow_redis import SlowRedis, answers
from quants.lab.source import show, show_diff
from quants.lab.waits import Load, Sweep
from quants.redis_server import RedisServer, connect, redis_server
from quants.waiting import RedisThreads, threads_for
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


async def until(fact, seconds=20):
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.002)


# a Redis that takes its time -------------------------------------------------------


async def test_each_question_waits_and_each_answer_comes_through():
    server, clock = await (await session()).redis(), asyncio.get_running_loop().time
    async with SlowRedis(server.url) as slow:
        with connect(slow.url, 20) as client:
            await asyncio.to_thread(client.ping)
            before, since = slow.questions, clock()
            slow.takes(0.05)
            assert await asyncio.to_thread(client.echo, "x") == "x"
            assert clock() - since >= 0.05
            assert slow.questions == before + 1


async def test_a_client_that_gives_up_leaves_nothing():
    server = await (await session()).redis()
    async with SlowRedis(server.url) as slow:
        slow.takes(600)
        with connect(slow.url, 0.02) as client, pytest.raises(redis.TimeoutError):
            await asyncio.to_thread(client.ping)
        assert slow.questions == 1
        slow.takes(0)
        with connect(slow.url, 20) as client:
            assert await asyncio.to_thread(client.ping)


@pytest.mark.parametrize("path", [None, "/nowhere"])
def test_our_own_redis_is_stopped_and_goes_on_whichever_it_is(path):
    """Also the stand-in; a picture says which of them answered."""
    with redis_server(path=path) as server, connect(server.url, 20) as client:
        assert server.pid is not None
        with suspended(server.pid), pytest.raises(redis.TimeoutError):
            connect(server.url, 0.2).ping()
        assert client.ping()
        who = "fakeredis stands in" if path else "redis-server of our own"
        assert answers(server) == f"answers: {who}"


# checks at a steady rate -----------------------------------------------------------


async def test_checks_come_whatever_became_of_those_before():
    release = asyncio.Event()

    async def wait():
        await release.wait()
        return "answered"

    async with Checks(wait, 1000) as checks:
        await until(lambda: checks.inside >= 50)
        assert checks.done == []
        asyncio.get_running_loop().call_later(0.05, release.set)
    assert checks.inside == 0
    assert len(checks.done) == checks.begun
    dues = sorted(check.begun for check in checks.done)
    assert all(b - a == pytest.approx(0.001) for a, b in pairwise(dues))
    assert max(look.inside for look in checks.looks) >= 50


async def test_a_check_that_raises_is_no_secret():
    async def fail():
        raise RedisFault("gone")

    with pytest.raises(RedisFault, match="gone"):
        async with Checks(fail, 1000) as checks:
            await until(lambda: checks.begun > 3)


async def test_what_a_late_loop_delays_counts():
    now = [0.0]

    async def answer():
        return "answered"

    async with Checks(answer, 10, clock=lambda: now[0]) as checks:
        await until(lambda: checks.done)
        now[0] = 1.0  # nine are late by now, the first of them by most
        await until(lambda: len(checks.done) >= 11)
    took = [check.took for check in checks.done[1:11]]
    assert took == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


# a pool that is shared -------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """A brown-out of half the length."""
    for name, seconds in (("SLOW_FROM", 0.2), ("SLOW_TO", 0.9), ("OVER", 1.1)):
        monkeypatch.setattr(shared_pool, name, seconds)


async def test_a_slow_redis_stalls_a_log_that_shares_its_threads(shown, short):
    crowded = await brownout.watch(1.1)
    assert len(shown) == 2
    assert shown[-1].png()
    kept = await brownout.again()
    assert {check.fate for check in crowded.checks} == {"answered"}
    assert {check.fate for check in kept.checks} == {"answered", "gave up"}
    assert crowded.inside > THREADS >= kept.inside
    assert judge("a-full-pool-stalls-who-shares-it", crowded).word == "SUPPORTED"
    assert judge("a-deadline-leaves-room", crowded, kept).word == "SUPPORTED"
    assert brownout.pictured(kept).png()
    assert "given up" in repr(kept)


async def test_the_slider_says_how_long_redis_takes(monkeypatch, short):
    sliders, takes = [], []
    monkeypatch.setattr(desk.Desk, "slider", lambda *a: sliders.append(a[-1]))
    watching = asyncio.create_task(brownout.watch(0.5))
    await until(lambda: sliders)
    monkeypatch.setattr(SlowRedis, "takes", lambda _, seconds: takes.append(seconds))
    sliders[0](20)
    await watching
    assert takes == [0.02, shared_pool.CALM_MS / 1e3]  # the script said no more


def ride(slow: float, calm: float, inside: int = 100) -> Ride:
    """A brown-out in the second second, and writes that took so long."""
    writes = [
        Check(i / 10, slow if 10 <= i < 20 else calm, "answered") for i in range(30)
    ]
    looks = tuple(Look(check.begun, inside) for check in writes)
    return Ride("no deadline", (), tuple(writes), looks, (1.0, 2.0), "")


@pytest.mark.parametrize(
    ("slow", "calm", "word"),
    [
        (0.7, 0.001, "SUPPORTED"),
        (0.001, 0.001, "REFUTED"),
        (0.003, 0.001, "INCONCLUSIVE"),
        (0.0, 0.001, "INCONCLUSIVE"),
    ],
)
def test_what_the_writes_took_decides(slow: float, calm: float, word: str):
    assert judge("a-full-pool-stalls-who-shares-it", ride(slow, calm)).word == word


@pytest.mark.parametrize(
    ("without", "kept", "word"),
    [(90, 6, "SUPPORTED"), (90, 60, "REFUTED"), (6, 6, "INCONCLUSIVE")],
)
def test_how_many_were_inside_decides(without: int, kept: int, word: str):
    rides = (ride(0.7, 0.001, inside) for inside in (without, kept))
    assert judge("a-deadline-leaves-room", *rides).word == word


# theory ----------------------------------------------------------------------------


def waiting_chance(threads: int, load: Fraction) -> Fraction:
    """Erlang's C as the books sum it, exactly."""
    last = load**threads / factorial(threads) * threads / (threads - load)
    return last / (sum(load**n / factorial(n) for n in range(threads)) + last)


@pytest.mark.parametrize("threads", [1, 2, 4, 40])
@pytest.mark.parametrize("percent", [5, 50, 90, 99])
def test_a_stay_is_what_erlangs_sum_says(threads: int, percent: int):
    busy = Fraction(percent, 100)
    wait = waiting_chance(threads, threads * busy) / (threads * (1 - busy))
    assert sojourn(threads, float(busy)) == pytest.approx(float(1 + wait))


def test_one_and_two_threads_have_a_short_formula():
    for busy in (0.1, 0.5, 0.9):
        assert sojourn(1, busy) == pytest.approx(1 / (1 - busy))
        assert sojourn(2, busy) == pytest.approx(1 / (1 - busy**2))


def test_enough_threads_are_the_fewest_with_a_short_wait():
    found = erlang.enough(2000, 0.020)
    assert found > 40
    assert sojourn(found, 40 / found) <= 1.1 < sojourn(found - 1, 40 / (found - 1))
    assert threads_for(2000, 0.020) < 40  # the pump's own stops before


def test_the_calls_that_are_drawn_are_ordinary_ones():
    """In a queue that costs nothing they stay as long as theory says."""
    for load in waits.CALLS:
        draws = waits.drawn(load)
        assert draws == waits.drawn(load)
        free, stays = [0.0] * waits.THREADS, []
        for come, takes in zip(accumulate(draws.gaps), draws.takes, strict=True):
            come /= load * waits.THREADS
            ends = max(come, heapq.heappop(free)) + takes
            heapq.heappush(free, ends)
            stays.append(ends - come)
        longer = sum(stays) / sum(draws.takes)
        busy = sum(draws.takes) / (waits.THREADS * max(free))
        assert longer == pytest.approx(sojourn(waits.THREADS, busy), rel=0.07)
        assert busy == pytest.approx(load, rel=0.07)


# measured --------------------------------------------------------------------------


def test_a_mean_height_counts_each_look_until_the_next():
    assert waits.mean_height([(0.0, 4), (2.0, 0), (3.0, 9), (4.0, 99)]) == 17 / 4


async def test_a_busy_pool_is_measured_and_little_was_right(monkeypatch):
    monkeypatch.setattr(waits, "CALLS", {0.2: 30, 0.9: 120})
    found = await waits.sweep()
    assert [load.calls for load in found.loads] == [30, 120]
    assert judge("littles-law", found).word == "SUPPORTED"
    assert found.loads[0].busy < found.loads[1].busy
    assert found.picture().png()
    assert "a call stays" in repr(found)


def load(inside: float = 2.0, stayed: float = 0.010) -> Load:
    """100 calls/s that stay 20 times longer than none: two are inside."""
    return Load(4, 100, 1.0, 0.010, stayed, inside)


@pytest.mark.parametrize(
    ("inside", "word"),
    [(1.05, "SUPPORTED"), (1.5, "INCONCLUSIVE"), (3.0, "REFUTED"), (0.1, "REFUTED")],
)
def test_the_calls_inside_decide_about_littles_law(inside: float, word: str):
    assert judge("littles-law", Sweep((load(1.0), load(inside)), "")).word == word


@pytest.mark.parametrize(
    ("stayed", "word"),
    [(0.03, "SUPPORTED"), (0.012, "INCONCLUSIVE"), (0.0101, "REFUTED")],
)
def test_the_longer_stay_decides_about_a_busy_pool(stayed: float, word: str):
    found = Sweep((load(), load(stayed=stayed)), "")
    assert judge("a-busy-pool-is-late", found).word == word


# the lanes -------------------------------------------------------------------------


async def test_fewer_questions_find_the_same():
    found = await lanes.lanes()
    questions = [lane.questions for lane in found.lanes.values()]
    assert questions == [lanes.TICKS, 1, 0]
    assert judge("the-fastest-wait-is-none", found).word == "SUPPORTED"
    assert "a pipeline a batch" in repr(found)


def lanes_of(cached: Lane, pipeline: int = 1) -> Lanes:
    lanes = Lane(64, 0.1, [3]), Lane(pipeline, 0.001, [3]), cached
    return Lanes(64, dict(zip(("get", "pipeline", "cached"), lanes, strict=True)))


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (lanes_of(Lane(0, 1e-6, [3])), "SUPPORTED"),
        (lanes_of(Lane(0, 1e-6, [])), "REFUTED"),
        (lanes_of(Lane(1, 1e-6, [3])), "REFUTED"),
        (lanes_of(Lane(0, 1e-6, [3]), pipeline=64), "REFUTED"),
        (lanes_of(Lane(0, 1e-2, [3])), "INCONCLUSIVE"),
    ],
)
def test_the_questions_decide(found: Lanes, word: str):
    assert judge("the-fastest-wait-is-none", found).word == word


# an outage -------------------------------------------------------------------------


async def test_a_frozen_redis_is_asked_seldom_and_found_again(monkeypatch):
    monkeypatch.setattr(outage, "FROZEN", (("well", 0.2), ("frozen", 0.9)))
    found = await outage.freeze()
    states = [state for _, state in found.states]
    assert states[:2] == [State.CLOSED, State.OPEN]
    assert states[-1] is State.CLOSED
    assert judge("a-breaker-spares-those-who-wait", found).word == "SUPPORTED"
    assert judge("a-breaker-closes-again", found).word == "SUPPORTED"
    assert found.picture().png()
    assert "asked it" in repr(found)


def outage_of(asked: int, back: bool = True, away: int = 100) -> Outage:
    """So many checks in the second second, some of which asked."""
    checks = [
        Check(1 + i / away, 0.1, "gave up" if i < asked else "not asked")
        for i in range(away)
    ]
    last = Check(2.1, 0.1, "answered" if back else "not asked")
    phases = (Phase("well", 0, 1), Phase("frozen", 1, 2))
    states = ((0.0, State.CLOSED),)
    return Outage((*checks, last), states, phases, "")


@pytest.mark.parametrize(
    ("claim", "evidence", "word"),
    [
        ("a-breaker-spares-those-who-wait", outage_of(6), "SUPPORTED"),
        ("a-breaker-spares-those-who-wait", outage_of(60), "REFUTED"),
        ("a-breaker-spares-those-who-wait", outage_of(0, away=9), "INCONCLUSIVE"),
        ("a-breaker-closes-again", outage_of(6), "SUPPORTED"),
        ("a-breaker-closes-again", outage_of(6, back=False), "REFUTED"),
        ("your-gate-holds", outage_of(6), "SUPPORTED"),
        ("your-gate-holds", outage_of(60), "REFUTED"),
        ("your-gate-holds", outage_of(6, back=False), "REFUTED"),
        ("your-gate-holds", replace(outage_of(6), without=1), "REFUTED"),
        ("your-gate-holds", outage_of(0, away=9), "INCONCLUSIVE"),
    ],
)
def test_who_asked_decides(claim: str, evidence: Outage, word: str):
    assert judge(claim, evidence).word == word


@pytest.fixture
def brief(monkeypatch):
    """A brown-out of less than a second."""
    script = (("well", 0.1), ("slow", 0.3), ("frozen", 0.3))
    monkeypatch.setattr(gated, "BROWNOUT", script)


async def test_a_gate_holds_through_a_brown_out_and_one_without_a_breaker_does_not(
    brief,
):

    class Breakerless(RiskGate):
        def __init__(self, ask, breaker, seconds):
            super().__init__(ask, Breaker(threshold=10**9), seconds)

    found = await gated.gated(RiskGate)
    assert (found.recovered, found.without) == (True, 0)
    assert judge("your-gate-holds", found).word == "SUPPORTED"
    assert found.picture().png()
    asked = await gated.gated(Breakerless)
    assert asked.asked == len(asked.away)
    assert judge("your-gate-holds", asked).word == "REFUTED"


async def test_a_gate_that_forgets_leaves_checks_without_a_limit(brief):
    class Forgets(RiskGate):
        async def limit(self, symbol):
            self.known.clear()
            return await super().limit(symbol)

    found = await gated.gated(Forgets)
    assert found.without > len(found.away) / 2
    assert judge("your-gate-holds", found).word == "REFUTED"


async def test_it_works_on_the_stand_in_as_well(monkeypatch):
    lab = await session()
    stand_in = redis_server(path="/nowhere")
    server: RedisServer = await asyncio.to_thread(stand_in.__enter__)
    lab._stack.push(stand_in)
    lab._redis = lab.start(asyncio.sleep(0, server))
    monkeypatch.setattr(outage, "FROZEN", (("well", 0.1), ("frozen", 0.8)))
    found = await outage.freeze()
    assert judge("a-breaker-spares-those-who-wait", found).word == "SUPPORTED"
    assert found.recovered
    assert found.server == "answers: fakeredis stands in"
    questions = [lane.questions for lane in (await lanes.lanes()).lanes.values()]
    assert questions == [lanes.TICKS, 1, 0]


# the gate to write -----------------------------------------------------------------


class Gate:
    """What is the same in each misconception."""

    def __init__(self, ask, breaker, seconds):
        self.ask, self.breaker, self.seconds = ask, breaker, seconds
        self.known = {}

    async def asked(self, symbol):
        async with asyncio.timeout(self.seconds):
            return await self.ask(symbol)


class WithoutDeadline(Gate):
    async def limit(self, symbol):
        return await self.ask(symbol)


class GivesUp(Gate):
    async def limit(self, symbol):
        return await self.asked(symbol)


class KnowsNoFault(Gate):
    async def limit(self, symbol):
        try:
            self.known[symbol] = await self.asked(symbol)
        except TimeoutError:
            pass
        return self.known[symbol]


class NothingKnown(Gate):
    async def limit(self, symbol):
        try:
            self.known[symbol] = await self.asked(symbol)
        except (TimeoutError, RedisFault):
            pass
        return self.known[symbol]


class OneForAll(Gate):
    last = None

    async def limit(self, symbol):
        try:
            self.last = await self.asked(symbol)
        except (TimeoutError, RedisFault):
            pass
        return self.last


class NoneIsNoAnswer(Gate):
    async def limit(self, symbol):
        try:
            self.known[symbol] = await self.asked(symbol) or self.known.get(symbol)
        except (TimeoutError, RedisFault):
            pass
        return self.known.get(symbol)


class TellsNobody(Gate):
    async def limit(self, symbol):
        if self.breaker.admits():
            try:
                self.known[symbol] = await self.asked(symbol)
            except (TimeoutError, RedisFault):
                pass
        return self.known.get(symbol)


class AsksAllTheSame(Gate):
    async def limit(self, symbol):
        try:
            self.known[symbol] = await self.asked(symbol)
            self.breaker.succeeded()
        except (TimeoutError, RedisFault):
            self.breaker.failed()
        return self.known.get(symbol)


class NeverCloses(Gate):
    async def limit(self, symbol):
        if self.breaker.admits():
            try:
                self.known[symbol] = await self.asked(symbol)
            except (TimeoutError, RedisFault):
                self.breaker.failed()
        return self.known.get(symbol)


def test_the_exercise_knows_its_misconceptions():
    try_all(
        RISK_GATE,
        {
            WithoutDeadline: "Give the question a deadline",
            GivesUp: "200 still holds",
            KnowsNoFault: "no reason to forget what is known",
            NothingKnown: "None says so",
            OneForAll: "One symbol got the limit of another",
            NoneIsNoAnswer: "None is an answer, too",
            TellsNobody: "heard of no outage",
            AsksAllTheSame: "Redis was asked all the same",
            NeverCloses: "Who closes the breaker?",
        },
    )


def test_a_gate_that_waits_for_a_task_of_its_own_is_right_as_well():
    class Waits(RiskGate):
        async def limit(self, symbol):
            if self.breaker.admits():
                try:
                    asked = self.ask(symbol)
                    self.known[symbol] = await asyncio.wait_for(asked, self.seconds)
                    self.breaker.succeeded()
                except (TimeoutError, RedisFault):
                    self.breaker.failed()
            return self.known.get(symbol)

    assert RISK_GATE.failure(Waits) is None


def test_what_the_notebook_shows_fits():
    show(sojourn)
    show(threads_for)
    show(RedisThreads.call)
    show(Breaker.admits)
    changed = show_diff(ask, ask_soon).data
    assert "+    async with asyncio.timeout(DEADLINE):" in changed
