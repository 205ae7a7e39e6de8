"""Alerts leave in order, wait while Redis is away, and none is forgotten."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.alerts import Alert
from quants.errors import EnvironmentFault, NotAsked, RedisFault
from quants.outbox import ALERTS_PER_CALL, Outbox, alerts_in, backoff, lines_of


def alert(seq, rule="price_band"):
    return Alert(f"s1:{seq}:{rule}", rule, "AAPL", seq, seq, "190.01", "190.00")


def alerts(first, last):
    return [alert(seq) for seq in range(first, last + 1)]


def test_waits_double_and_then_stay():
    assert [backoff(n) for n in (1, 2, 3, 4, 5000)] == [0.05, 0.1, 0.2, 0.4, 0.4]


class Writes:
    """A Redis of Python: takes alerts, or fails as often as it is told."""

    def __init__(self, failures=0, fault=RedisFault):
        self.failures, self.calls, self.naps = failures, [], []
        self.fault = fault

    async def write(self, alerts):
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise self.fault("away")
        self.calls.append(list(alerts))

    async def sleep(self, seconds):
        self.naps.append(seconds)
        await asyncio.sleep(0)

    @property
    def seqs(self):
        return [a.seq for call in self.calls for a in call]


async def drain(outbox, writes):
    async with asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(outbox.deliver(writes.write))
        assert await outbox.drained(5)
        delivering.cancel()


async def failing(outbox, attempts=1):
    """Try to deliver, so often, in vain."""
    writes = Writes(failures=10**9)
    outbox._sleep = writes.sleep
    delivering = asyncio.create_task(outbox.deliver(writes.write))
    while len(writes.naps) < attempts:
        await asyncio.sleep(0)
    delivering.cancel()


def kept(path):
    return [line["seq"] for line in map(json.loads, path.read_text("utf-8").split())]


# ---- in memory


async def test_alerts_leave_in_order_and_many_at_a_time():
    writes = Writes()
    outbox = Outbox(sleep=writes.sleep)
    outbox.put(alerts(1, ALERTS_PER_CALL))
    outbox.put(alerts(257, 258))
    await drain(outbox, writes)
    assert [len(call) for call in writes.calls] == [ALERTS_PER_CALL, 2]
    assert writes.seqs == list(range(1, 259))
    assert outbox.delivered == {"price_band": 258}
    assert (len(outbox), outbox.high_watermark) == (0, 258)


async def test_what_fails_is_tried_again_before_anything_newer():
    writes = Writes(failures=3)
    outbox = Outbox(sleep=writes.sleep)
    outbox.put([alert(1), alert(2, "notional")])
    await drain(outbox, writes)
    assert writes.seqs == [1, 2]
    assert writes.naps == [0.05, 0.1, 0.2]
    assert outbox.failures == 3
    assert outbox.delivered == {"price_band": 1, "notional": 1}


async def test_a_call_that_was_not_made_is_no_failure_of_redis():
    writes = Writes(failures=3, fault=NotAsked)
    outbox = Outbox(sleep=writes.sleep)
    outbox.put([alert(1)])
    await drain(outbox, writes)
    assert (outbox.failures, len(writes.naps)) == (0, 3)


async def test_a_full_outbox_keeps_the_oldest_and_counts_the_lost():
    outbox, writes = Outbox(capacity=2), Writes()
    outbox.put(alerts(1, 1))
    outbox.put(alerts(2, 4))
    assert repr(outbox) == "<Outbox 2/2, 2 lost>"
    await drain(outbox, writes)
    assert writes.seqs == [1, 2]


async def test_draining_gives_up_at_its_deadline():
    outbox = Outbox()
    outbox.put([alert(1)])
    assert not await outbox.drained(0)
    assert len(outbox) == 1


async def test_an_error_that_is_not_the_servers_ends_the_delivery():
    async def write(alerts):
        raise TypeError("a mistake of ours")

    outbox = Outbox()
    outbox.put([alert(1)])
    with pytest.raises(TypeError):
        await outbox.deliver(write)


# ---- in a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ticks.log.outbox.jsonl"


async def test_while_all_goes_well_there_is_no_file(path):
    with Outbox(path=path) as outbox:
        outbox.put([alert(1)])
        assert not path.exists()
        await drain(outbox, Writes())
    assert not path.exists()


async def test_after_a_failure_the_file_holds_what_waits_and_what_comes(path):
    with Outbox(path=path) as outbox:
        outbox.put(alerts(1, 2))
        await failing(outbox)
        assert kept(path) == [1, 2]
        outbox.put(alerts(3, 3))
        await failing(outbox)
        outbox.put(alerts(4, 5))
        assert kept(path) == [1, 2, 3, 4, 5]
        first = path.read_text("utf-8").splitlines()[0]
        assert json.loads(first) == asdict(alert(1))
        await drain(outbox, Writes())
        assert not path.exists()


async def test_the_next_run_delivers_first_what_an_earlier_one_left(path):
    with Outbox(path=path) as outbox:
        outbox.put(alerts(1, 3))  # no delivery was even tried
    writes = Writes()
    with Outbox(path=path) as successor:
        successor.put(alerts(7, 8))
        assert (successor.inherited, len(successor)) == (3, 5)
        await drain(successor, writes)
    assert writes.seqs == [1, 2, 3, 7, 8]
    assert successor.delivered == {"price_band": 2}  # of its own
    assert not path.exists()


async def test_inherited_alerts_that_cannot_be_delivered_wait_for_a_third_run(path):
    path.write_bytes(lines_of(alerts(1, 2)))
    with Outbox(path=path) as outbox:
        outbox.put(alerts(3, 3))
        await failing(outbox)
    assert kept(path) == [1, 2, 3]


async def test_a_stage_that_starts_again_keeps_its_alerts_once(path):
    outbox, writes = Outbox(path=path), Writes()
    for seq in (1, 2):
        with outbox:
            outbox.put([alert(seq)])
            await failing(outbox)
    with outbox:
        await drain(outbox, writes)
    assert writes.seqs == [1, 2]
    assert outbox.inherited == 0


def test_a_torn_last_line_is_set_aside_and_counted(path: Path):
    whole = lines_of(alerts(1, 3))
    path.write_bytes(whole[:-20])
    outbox = Outbox(path=path)
    with outbox:
        assert (len(outbox), outbox.journal.torn) == (2, 1)
        outbox.put(alerts(9, 9))
        assert kept(path) == [1, 2, 9]
    torn = whole[:-20].split(b"\n")[-1]
    assert path.with_name(f"{path.name}.torn").read_bytes() == torn + b"\n"


def test_a_file_of_one_torn_line_leaves_nothing_that_waits(path: Path):
    path.write_bytes(b'{"id":"s1:1:ga')
    with Outbox(path=path) as outbox:
        assert (len(outbox), outbox.journal.torn) == (0, 1)
    assert not path.exists()


@given(count=st.integers(0, 5), cut=st.integers(0, 2000))
def test_of_a_file_cut_anywhere_every_whole_line_is_an_alert(count, cut):
    content = lines_of(alerts(1, count))[:cut]
    found, torn = alerts_in(content)
    assert found == alerts(1, content.count(b"\n"))
    assert lines_of(found) + b"".join(torn) == content


async def test_while_redis_comes_and_goes_the_file_stays_bounded(path):
    most = 0
    with Outbox(capacity=4, path=path) as outbox:
        outbox.put(alerts(1, 2))
        for seq in range(3, 103):
            await failing(outbox)
            outbox.put([alert(seq)])
            outbox._delivered([alert(seq - 2)])
            most = max(most, len(kept(path)))
    assert kept(path)[-2:] == [101, 102]
    assert most <= 3 * outbox.capacity


async def test_a_disk_that_refuses_is_noticed_and_written_to_when_it_can_be(
    path, caplog
):
    path.mkdir()
    with Outbox(path=None) as outbox:
        outbox.journal.path = path
        outbox.put([alert(1)])
        await failing(outbox)
        assert "memory only" in caplog.text
        path.rmdir()
        outbox.put([alert(2)])
        await failing(outbox)
        assert outbox.journal.fault is None
        assert kept(path) == [1, 2]


async def test_after_an_alert_could_not_be_added_the_file_is_written_anew(path, caplog):
    with Outbox(path=path) as outbox:
        outbox.put([alert(1)])
        await failing(outbox)
        path.unlink()
        path.mkdir()
        outbox.put([alert(2)])
        assert "memory only" in caplog.text
        path.rmdir()
        await failing(outbox)
        assert kept(path) == [1, 2]


def test_a_file_that_cannot_be_read_stops_the_run_in_a_sentence(path: Path):
    path.mkdir()
    with pytest.raises(EnvironmentFault, match="--log-file"), Outbox(path=path):
        pass
