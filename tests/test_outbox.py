"""Alerts leave in order, wait while Redis is away, and none is forgotten."""

import asyncio

import pytest
import redis

from quants.alerts import Alert
from quants.outbox import ALERTS_PER_CALL, Outbox, backoff


def alert(seq, rule="price_band"):
    return Alert(f"s1:{seq}:{rule}", rule, "AAPL", seq, seq, "190.01", "190.00")


def test_waits_double_up_to_a_second():
    assert [backoff(n) for n in (1, 2, 3, 6, 5000)] == [0.05, 0.1, 0.2, 1, 1]


class Writes:
    """A Redis of Python: takes alerts, or fails as often as it is told."""

    def __init__(self, failures=0):
        self.failures, self.calls, self.naps = failures, [], []

    async def write(self, alerts):
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise redis.ConnectionError("away")
        self.calls.append(list(alerts))

    async def sleep(self, seconds):
        self.naps.append(seconds)
        await asyncio.sleep(0)


async def drain(outbox, writes):
    async with asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(outbox.deliver(writes.write))
        assert await outbox.drained(5)
        delivering.cancel()


async def test_alerts_leave_in_order_and_many_at_a_time():
    writes = Writes()
    outbox = Outbox(sleep=writes.sleep)
    for seq in range(ALERTS_PER_CALL + 2):
        outbox.put(alert(seq))
    await drain(outbox, writes)
    assert [len(call) for call in writes.calls] == [ALERTS_PER_CALL, 2]
    assert [a.seq for call in writes.calls for a in call] == list(range(258))
    assert outbox.delivered["price_band"] == 258
    assert len(outbox) == 0


async def test_what_fails_is_tried_again_before_anything_newer():
    writes = Writes(failures=3)
    outbox = Outbox(sleep=writes.sleep)
    outbox.put(alert(1))
    outbox.put(alert(2, "notional"))
    await drain(outbox, writes)
    assert [a.seq for call in writes.calls for a in call] == [1, 2]
    assert writes.naps == [0.05, 0.1, 0.2]
    assert outbox.failures == 3
    assert outbox.delivered == {"price_band": 1, "notional": 1}


async def test_a_full_outbox_keeps_the_oldest_and_counts_the_lost():
    outbox, writes = Outbox(capacity=2), Writes()
    for seq in (1, 2, 3):
        outbox.put(alert(seq))
    assert repr(outbox) == "<Outbox 2/2, 1 lost>"
    await drain(outbox, writes)
    assert [a.seq for a in writes.calls[0]] == [1, 2]


async def test_draining_gives_up_at_its_deadline():
    outbox = Outbox()
    outbox.put(alert(1))
    assert not await outbox.drained(0)
    assert len(outbox) == 1


async def test_an_error_that_is_not_the_servers_ends_the_delivery():
    async def write(alerts):
        raise TypeError("a mistake of ours")

    outbox = Outbox()
    outbox.put(alert(1))
    with pytest.raises(TypeError):
        await outbox.deliver(write)
