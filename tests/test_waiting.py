"""What an ill Redis can cost: a deadline, a bulkhead, a breaker."""

import asyncio
import os
import signal
import threading
import time

import pytest
import redis

from quants.breaker import State
from quants.errors import NotAsked, RedisFault
from quants.metrics import Registry
from quants.redis_server import connect, redis_server
from quants.waiting import CALL_SECONDS, RedisThreads, round_trip, threads_for

NO_REDIS = "redis://127.0.0.1:1/0"


def threads(url=NO_REDIS, count=2, **options):
    return RedisThreads(url, Registry(), threads=count, **options)


def ping(client, what):
    return client.ping(), what


def refuse(client, what):
    raise redis.ResponseError(what)


def lose(client, what):
    raise redis.ConnectionError(what)


async def until(fact, seconds=20):
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.002)


async def answered(waiting):
    async with asyncio.timeout(20):
        while True:
            try:
                return await waiting.call(ping, None)
            except RedisFault:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("calls_per_second", "seconds_per_call", "expected"),
    [
        (25, 0.0002, 2),  # 0.005 wait on average: two all the same
        (100, 0.01, 2),  # 1 waits, in half of the time of two
        (101, 0.01, 3),
        (1000, 0.01, 20),
        (1e6, 0.25, 32),
    ],
)
def test_threads_follow_littles_law_within_bounds(
    calls_per_second, seconds_per_call, expected
):
    assert threads_for(calls_per_second, seconds_per_call) == expected


def test_a_round_trip_is_measured_and_without_redis_it_is_the_deadline():
    with redis_server() as server:
        assert 0 < round_trip(server.url) < 1
    assert round_trip(NO_REDIS) == CALL_SECONDS


async def test_a_call_that_ends_after_the_client_leaves_no_connection():
    closed = threading.Event()

    def late(client, _):
        closed.wait()
        client.ping()

    with redis_server() as server, connect(server.url) as client:
        async with threads(server.url) as waiting:
            call = asyncio.create_task(waiting.call(late, None))
            await until(lambda: waiting.in_flight)
            call.cancel()
        closed.set()
        await until(lambda: not waiting.in_flight)
        assert client.info("clients")["connected_clients"] == 1  # this one


async def test_the_number_of_threads_is_worked_out_and_explained():
    with redis_server() as server:
        waiting = RedisThreads(server.url, Registry(), calls_per_second=25)
        async with waiting:
            assert waiting.threads == 2
        assert waiting.why.startswith("25 calls/s of ")
    async with RedisThreads(NO_REDIS, Registry(), calls_per_second=25) as without:
        assert without.threads == threads_for(25, CALL_SECONDS) == 13


async def test_a_call_runs_on_a_thread_and_returns_what_it_returns():
    with redis_server() as server:
        async with threads(server.url) as waiting:
            assert await waiting.call(ping, "x") == (True, "x")
    assert waiting.seconds.count == 1


async def test_it_can_be_entered_again():
    with redis_server() as server:
        waiting = threads(server.url)
        for _ in range(2):
            async with waiting:
                assert await waiting.call(ping, "x")


async def test_cancelled_in_the_middle_of_a_call_it_leaves_no_connection():
    """Nor in the middle of measuring; no thread hands one back when all is closed."""
    with redis_server() as server, connect(server.url) as client:

        async def ask():
            async with RedisThreads(server.url, Registry(), calls_per_second=1) as all_:
                await all_.call(lambda client, _: client.blpop(["none"], 0.1), None)

        for wait in (0.0, 0.0001, 0.001, 0.003, 0.01, 0.03):
            asking = asyncio.create_task(ask())
            await asyncio.sleep(wait)
            asking.cancel()
            await asyncio.wait([asking])
        await until(lambda: client.info("clients")["connected_clients"] == 1)


async def test_a_deadline_ends_a_call_and_its_thread_stays_held():
    release = threading.Event()
    async with threads(call_seconds=0.01) as waiting:
        with pytest.raises(RedisFault, match=r"no answer within 0\.01 s"):
            await waiting.call(lambda client, _: release.wait(10), None)
        assert waiting.in_flight == 1
        release.set()
        await until(lambda: waiting.in_flight == 0)


async def test_one_call_more_than_threads_is_refused_at_once():
    release = threading.Event()
    async with threads(count=3, call_seconds=20) as waiting:
        calls = [
            asyncio.create_task(waiting.call(lambda client, i: release.wait(10), i))
            for i in range(3)
        ]
        await until(lambda: waiting.in_flight == 3)
        with pytest.raises(NotAsked, match="all 3 threads"):
            await waiting.call(ping, None)
        assert not any(call.done() for call in calls)
        release.set()
        assert await asyncio.gather(*calls) == [True] * 3
    assert waiting.busy == 1
    assert waiting.breaker.state is State.CLOSED


async def test_an_answer_that_is_there_counts_however_late_the_loop_looks():
    async with threads(call_seconds=0.01) as waiting:
        call = asyncio.create_task(waiting.call(lambda client, what: what, "x"))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - a loop that is held is the point
        assert await call == "x"
    assert waiting.breaker.state is State.CLOSED


async def test_two_calls_without_an_answer_open_the_breaker_and_none_is_made():
    async with threads() as waiting:
        for _ in range(2):
            with pytest.raises(RedisFault, match="gone"):
                await waiting.call(lose, "gone")
        asked = []
        with pytest.raises(NotAsked, match="Redis is away"):
            await waiting.call(lambda client, what: asked.append(what), 1)
        assert asked == []


async def test_an_error_is_an_answer_and_leaves_the_breaker_closed():
    async with threads() as waiting:
        for _ in range(5):
            with pytest.raises(RedisFault, match="Redis refuses: OOM"):
                await waiting.call(refuse, "OOM command not allowed")
    assert waiting.breaker.opened == 0


async def test_a_mistake_of_ours_is_no_fault_of_redis():
    async with threads() as waiting:
        with pytest.raises(ZeroDivisionError):
            await waiting.call(lambda client, what: 1 // what, 0)


async def test_a_cancelled_probe_does_not_keep_the_breaker_half_open():
    now, release = [0.0], threading.Event()
    async with threads(clock=lambda: now[0], call_seconds=20) as waiting:
        for _ in range(2):
            with pytest.raises(RedisFault):
                await waiting.call(lose, "gone")
        now[0] += 1
        probe = asyncio.create_task(waiting.call(lambda c, _: release.wait(10), 0))
        await until(lambda: waiting.breaker.state is State.HALF_OPEN)
        probe.cancel()
        release.set()
        now[0] += 1
        assert await waiting.call(lambda client, what: what, "x") == "x"
    assert waiting.breaker.state is State.CLOSED


async def test_a_stopped_redis_costs_two_deadlines_and_then_nothing():
    """The loop runs on all the while, and each thread is free again."""
    with redis_server() as server, connect(server.url) as client:
        pid, beats = client.info("server")["process_id"], 0
        async with threads(server.url) as waiting:
            await waiting.call(ping, None)
            os.kill(pid, signal.SIGSTOP)

            async def ask():
                while waiting.breaker.state is State.CLOSED:
                    with pytest.raises(RedisFault):
                        await waiting.call(ping, None)

            asking = asyncio.create_task(ask())
            while not asking.done():
                await asyncio.sleep(0.005)
                beats += 1
            await asking
            assert waiting.seconds.count == 1 + 2
            assert beats > 2
            with pytest.raises(NotAsked):
                await waiting.call(ping, None)
            await until(lambda: waiting.in_flight == 0)
            os.kill(pid, signal.SIGCONT)
            await answered(waiting)
        assert waiting.breaker.state is State.CLOSED
        assert waiting.breaker.opened == 1


async def test_metrics_tell_threads_calls_and_breaker():
    registry = Registry()
    async with RedisThreads(NO_REDIS, registry, threads=7) as waiting:
        for _ in range(3):
            with pytest.raises(RedisFault):
                await waiting.call(lose, "gone")
    exposition = registry.exposition("text/plain")[0].decode()
    for line in (
        "quants_redis_threads 7.0",
        "quants_redis_breaker_state 2.0",
        "quants_redis_breaker_opened_total 1.0",
        'quants_redis_calls_refused_total{reason="away"} 1.0',
        'quants_redis_calls_refused_total{reason="busy"} 0.0',
        "quants_redis_call_seconds_count 2",
    ):
        assert line in exposition
