"""The history of a feed: what it holds in memory, what its log adds to it."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from quants.cli import main
from quants.feed import Wire
from quants.feed_client import Subscription
from quants.feed_server import FeedServer
from quants.frame import Kind, encode
from quants.history import History
from quants.market import Market
from quants.pace import AS_FAST_AS_TAKEN
from quants.recovery import replay
from quants.serve import logged
from quants.tick import Batch, Rows, gap
from tests.test_feed_server import (
    FLOOD,
    WIRES,
    Numbered,
    numbered,
    publish_without_end,
    subscribed,
    told,
    until,
)
from tests.test_ticklog import append_all, batches, log_at, ticks


def spans(found: Iterator[Batch] | list[Batch]) -> list[tuple[int, int, bool]]:
    return [(batch.first_seq, batch.span, batch.is_gap) for batch in found]


def tens(*firsts: int) -> list[tuple[int, int, bool]]:
    """What `spans` says of ticks, ten a batch."""
    return [(first, 10, False) for first in firsts]


# In memory -------------------------------------------------------------------


def test_the_latest_is_all_from_a_number_on_whole_batches():
    history = History(ring_ticks=100)
    for batch in batches(5):  # 1 to 50, ten a batch
        history.append(batch)
    assert spans(history.latest(21)) == [
        (21, 10, False),
        (31, 10, False),
        (41, 10, False),
    ]
    assert spans(history.latest(25))[0] == (21, 10, False)
    assert spans(history.latest(51)) == []
    assert spans(history.latest(1000)) == []


def test_what_has_left_the_memory_is_a_gap():
    history = History(ring_ticks=20)
    for batch in batches(5):
        history.append(batch)
    assert (history.oldest, history.next_seq) == (31, 51)
    assert spans(history.latest(4)) == [(4, 27, True), (31, 10, False), (41, 10, False)]


def test_what_the_archive_has_not_got_yet_stays_in_memory():
    history, archive = History(ring_ticks=20), Broken()
    history.archive, archive.next_seq = archive, 11
    for batch in batches(5):
        history.append(batch)
    assert history.oldest == 11
    archive.next_seq = 10_000
    history.append(ticks(51, 10))
    assert history.oldest == 41


# In the log ------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 10, 11, 25, 1999, 2000])
async def test_an_archive_reads_from_any_number_on(tmp_path, first, monkeypatch):
    monkeypatch.setattr("quants.archive.MARK_BYTES", 1000)
    log = log_at(tmp_path / "log")
    await append_all(log, batches(200))
    assert len(log.archive._offsets) > 50
    read = list(log.archive.read(first, 2001))
    expected = batches(200)[(first - 1) // 10 :]
    assert [batch.frame for batch in read] == [batch.frame for batch in expected]


async def test_an_archive_reads_no_further_than_it_is_asked_or_has(tmp_path):
    log = log_at(tmp_path / "log")
    assert list(log.archive.read(1, 100)) == []
    await append_all(log, batches(10))
    assert spans(log.archive.read(31, 51)) == tens(31, 41)
    assert spans(log.archive.read(91, 500)) == tens(91)
    assert spans(log.archive.read(101, 500)) == []


async def test_an_archive_begins_behind_what_earlier_runs_have_logged(tmp_path):
    await append_all(log_at(tmp_path / "log", stream="before"), [ticks(1, 1000)])
    log = log_at(tmp_path / "log")
    await append_all(log, batches(3))
    assert spans(log.archive.read(1, 31)) == [
        (1, 10, False),
        (11, 10, False),
        (21, 10, False),
    ]


async def test_rot_in_the_log_ends_what_the_archive_gives(tmp_path):
    log = log_at(tmp_path / "log")
    await append_all(log, batches(10))
    content = bytearray((tmp_path / "log").read_bytes())
    content[-352 * 5 + 100] ^= 1  # in the sixth
    (tmp_path / "log").write_bytes(content)
    assert spans(log.archive.read(1, 101)) == tens(1, 11, 21, 31, 41)


async def test_gap_frames_come_out_of_the_archive_as_gaps(tmp_path):
    log = log_at(tmp_path / "log")
    hole = gap(11, 5, 0, encode(Kind.GAP, 11, 5, 0))
    await append_all(log, [ticks(1, 10), hole, ticks(16, 10)])
    assert spans(log.archive.read(1, 26)) == [
        (1, 10, False),
        (11, 5, True),
        (16, 10, False),
    ]


class Moving:
    """An archive; whenever it is asked, the feed has published more meanwhile."""

    def __init__(self, history: History, times: int) -> None:
        self.history, self.times, self.asked = history, times, list[int]()
        self.all, self.next_seq = batches(1000), 10_000

    def read(self, first: int, last: int) -> Iterator[Batch]:
        self.asked.append(first)
        for batch in self.all:
            if first < batch.next_seq and batch.first_seq < last:
                yield batch
        if self.times:
            self.times -= 1
            start = self.history.next_seq // 10
            for batch in self.all[start : start + 10]:
                self.history.append(batch)


async def test_the_archive_is_asked_again_until_the_memory_goes_on():
    history = History(ring_ticks=50)
    for batch in batches(20):
        history.append(batch)
    history.archive = archive = Moving(history, times=3)
    found = [batch async for batch in history.older(1)]
    assert found[-1].next_seq == history.oldest == 451
    found += history.latest(451)
    assert [batch.frame for batch in found] == [b.frame for b in archive.all[:50]]
    assert archive.asked == [1, 151, 251, 351]


class Broken:
    """An archive whose file is gone."""

    next_seq = 10_000

    def read(self, first: int, last: int) -> Iterator[Batch]:
        if first < last:
            raise FileNotFoundError(first, last)
        yield from ()


async def test_a_log_that_cannot_be_read_leaves_a_gap(caplog):
    history = History(ring_ticks=10)
    for batch in batches(3):
        history.append(batch)
    history.archive = Broken()
    assert [batch async for batch in history.older(1)] == []
    assert spans(history.latest(1)) == [(1, 20, True), (21, 10, False)]
    assert "a gap instead" in caplog.text


# Over the wire ---------------------------------------------------------------


async def all_rows(subscription: Subscription) -> Rows:
    """The rows of a subscription, which must come in unbroken order."""
    found, expected = list[Rows](), 1
    async for batch in subscription:
        assert batch.first_seq == expected
        assert not batch.is_gap
        expected = batch.next_seq
        found.append(batch.rows)
    return np.concatenate(found)


def from_the_start(server: FeedServer, wire: Wire) -> Subscription:
    """A subscription that had been cut off before the first tick."""
    subscription = Subscription(server.url, wire)
    subscription.receiver.expected = 1
    subscription.receiver.stream = server.stream
    return subscription


@pytest.mark.parametrize("wire", WIRES)
async def test_what_the_ring_has_lost_comes_from_the_log(tmp_path, wire):
    server = FeedServer(Numbered(), AS_FAST_AS_TAKEN, ring_ticks=5000)
    async with server, logged(server, tmp_path / "log"):
        publishing = asyncio.create_task(server.publish(300_000))
        await until(lambda: server.history.oldest > 50_000)
        async with from_the_start(server, wire) as subscription:
            rows = await all_rows(subscription)
        await publishing
    assert np.array_equal(rows, numbered(1, 300_000))
    assert subscription.receiver.duplicates == 0
    logged_rows = np.concatenate([batch.rows for batch in replay(tmp_path / "log")])
    assert np.array_equal(logged_rows, rows)


async def test_hand_over_to_live_loses_nothing_whenever_it_comes(tmp_path):
    """Twenty come back, one after the other, while the feed runs as fast as it can."""
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    server = FeedServer(Market(), AS_FAST_AS_TAKEN, ring_ticks=1)
    async with server, logged(server, tmp_path / "log"), asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(server.publish(1_000_000))
        readers = []
        for _ in range(20):
            for _ in range(draw.randrange(20)):
                await asyncio.sleep(0)
            subscription = from_the_start(server, "binary")
            await subscription.__aenter__()
            readers.append((subscription, tasks.create_task(all_rows(subscription))))
        await publishing
        expected = Market().take(1_000_000)
        for subscription, reading in readers:
            assert np.array_equal(await reading, expected)
            await subscription.__aexit__()


async def test_who_resumes_from_the_log_does_not_slow_the_feed(tmp_path):
    """It is passed by, and its channel stays empty, until it has caught up."""
    server = FeedServer(Numbered(), AS_FAST_AS_TAKEN, ring_ticks=1000)
    async with server, logged(server, tmp_path / "log"):
        await publish_without_end(server, 3_000_000)
        async with from_the_start(server, "binary"):
            # It reads nothing: 96 MB fit in no socket.
            subscriber = server._subscribers[0]
            await until(lambda: not subscriber.live)
            before = server.sent
            await publish_without_end(server, before + 1_000_000)
            assert not subscriber.live
            assert subscriber.channel.statistics().high_watermark <= 1


async def test_what_waits_in_the_channel_is_not_sent_a_second_time():
    """It asks for all again, while most of it still waits to be sent."""
    async with (
        FeedServer(Numbered(), AS_FAST_AS_TAKEN, ring_ticks=FLOOD) as server,
        subscribed(server) as (ws, _),
    ):
        publishing = asyncio.create_task(server.publish(250_000))
        channel = server._subscribers[0].channel
        await until(lambda: channel.statistics().depth > 20)
        await ws.send(json.dumps({"from_seq": 1}))
        said = [told(await ws.recv())]
        while said[-1]["kind"] != "end" or said[-1]["first"] < 250_001:
            said.append(told(await ws.recv()))
        await publishing
    frames = [each for each in said if each["kind"] == "tick"]
    again = max(i for i, each in enumerate(frames) if each["first"] == 1)
    assert again > 0
    assert sum(each["span"] for each in frames[again:]) == 250_000


def test_the_command_logs_what_it_publishes(tmp_path: Path):
    file = tmp_path / "own.log"
    command = ["feed", "--tick-rate", "20000", "--duration", "0.2", "--log-file", file]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0
    assert f"{file}: 4,000 ticks, stream " in result.output
    rows = np.concatenate([batch.rows for batch in replay(file)])
    assert np.array_equal(rows, Market(1, 8, 20_000).take(4000))
