"""Limits are followed: a change is known at once, a loss is noticed."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager

import pytest

from quants.host import free_port
from quants.limits import FIELDS, Answer, limit_key
from quants.redis_server import connect, redis_server
from quants.tick import Symbol
from quants.tracking import Tracker
from tests.redises import durable, stopped

AAPL, BTC = SYMBOLS = [Symbol("AAPL", 2, 0), Symbol("BTC", 8, 8)]
HIGH = FIELDS.index("price_high")


class Told:
    """What a tracker has told the loop."""

    def __init__(self, url):
        self.answers: list[Sequence[Answer]] = []
        self.losses = 0
        self.tracker = Tracker(url, SYMBOLS, self.answers.append, self.lose)

    def lose(self):
        self.losses += 1

    @property
    def highs(self):
        return [answer[HIGH] for answer in self.answers[-1]] if self.answers else []


@asynccontextmanager
async def following(url):
    told = Told(url)
    async with told.tracker:
        yield told


async def until(fact, seconds=20):
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.002)


@pytest.fixture
def client():
    with redis_server() as server, connect(server.url) as client:
        client.url = server.url
        yield client


async def test_what_is_set_is_read_at_first_and_a_change_without_a_poll(client):
    client.hset(limit_key(AAPL), "price_high", "190")
    async with following(client.url) as told:
        await until(lambda: told.highs == ["190", None])
        assert told.tracker.tracked
        client.hset(limit_key(BTC), "price_high", "7")
        await until(lambda: told.highs == ["190", "7"])
        client.delete(limit_key(AAPL))
        await until(lambda: told.highs == [None, "7"])
    assert told.losses == 0


async def test_only_the_limits_that_changed_are_read_again(client):
    async with following(client.url) as told:
        await until(lambda: told.answers)
        before = hmgets(client)
        for i in range(3):
            client.hset(limit_key(BTC), "price_high", i)
            await until(lambda: told.highs == [None, str(i)])  # noqa: B023 - used now
        client.set("quants:alerts:x", "no limit")
        client.hset("quants:limit:NOBODY", "price_high", 1)
        client.hset(limit_key(AAPL), "price_high", "9")
        await until(lambda: told.highs == ["9", "2"])
        assert hmgets(client) - before == 4


def hmgets(client):
    return client.info("commandstats").get("cmdstat_hmget", {"calls": 0})["calls"]


async def test_an_emptied_database_has_no_limits(client):
    client.hset(limit_key(AAPL), "price_high", "190")
    async with following(client.url) as told:
        await until(lambda: told.highs == ["190", None])
        client.flushall()
        await until(lambda: told.highs == [None, None])


async def test_of_a_thousand_changes_the_last_one_counts(client):
    async with following(client.url) as told:
        for i in range(1000):
            client.hset(limit_key(AAPL), "price_high", i)
        await until(lambda: told.highs == ["999", None])


async def test_while_nothing_changes_it_still_hears_that_limits_hold(client):
    async with following(client.url) as told:
        await until(lambda: len(told.answers) > 3)
        assert told.answers[-1] == told.answers[0]


async def test_a_stopped_redis_is_lost_and_what_changed_meanwhile_is_read(client):
    async with following(client.url) as told:
        await until(lambda: told.tracker.tracked)
        with stopped(client):
            await until(lambda: told.losses)
            assert not told.tracker.tracked
        client.hset(limit_key(AAPL), "price_high", "8")
        await until(lambda: told.tracker.tracked and told.highs == ["8", None])


async def test_a_connection_that_redis_cuts_is_made_again(client):
    async with following(client.url) as told:
        await until(lambda: told.tracker.tracked)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: told.losses)
        client.hset(limit_key(AAPL), "price_high", "8")
        await until(lambda: told.tracker.tracked and told.highs == ["8", None])


async def test_a_redis_that_comes_later_is_found(tmp_path):
    port = free_port()
    async with following(f"redis://127.0.0.1:{port}/0") as told:
        await until(lambda: told.losses)
        with durable(port, tmp_path):
            await until(lambda: told.tracker.tracked)


async def test_a_stand_in_that_cannot_track_says_so_and_is_left_alone():
    with redis_server(path="") as server:
        async with following(server.url) as told:
            await until(lambda: told.tracker.refused)
            assert "unknown command" in told.tracker.refused
    assert (told.tracker.tracked, told.losses) == (False, 0)


async def test_a_user_who_may_not_track_is_told_why(client):
    rights = ["on", ">right", "~*", "+@all", "-client"]
    client.execute_command("ACL", "SETUSER", "reader", *rights)
    url = client.url.replace("//", "//reader:right@")
    async with following(url) as told:
        await until(lambda: told.tracker.refused)
    assert "no permissions" in told.tracker.refused


async def test_its_thread_ends_with_its_block(client):
    async with following(client.url) as told:
        await until(lambda: told.tracker.tracked)
    assert not told.tracker._thread.is_alive()
    assert repr(told.tracker) == "<Tracker of 2 limits, tracked>"


async def test_its_end_waits_for_no_news(client, monkeypatch):
    monkeypatch.setattr("quants.tracking.IDLE_SECONDS", 20.0)
    async with asyncio.timeout(10):
        async with following(client.url) as told:
            await until(lambda: told.tracker.tracked)


async def test_nothing_is_told_after_its_block(client):
    async with following(client.url) as told:
        await until(lambda: told.tracker.tracked)
        client.hset(limit_key(AAPL), "price_high", "8")
        time.sleep(0.1)  # noqa: ASYNC251 - so that a push waits for the loop
        heard = len(told.answers)
    await asyncio.sleep(0)
    assert len(told.answers) == heard
