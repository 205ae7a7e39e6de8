"""The supervisor: a failed consumer is started again, and what it lost is counted."""

import asyncio
import logging
from collections.abc import AsyncIterable

import pytest

from quants.channel import Channel
from quants.errors import EnvironmentFault, QuantsError, StageFailed, our_own, sole
from quants.metrics import Registry
from quants.supervisor import Supervisor
from quants.tick import Batch
from quants.vwap import Inline, Vwap
from tests.test_ticklog import ticks


class Frail:
    """A consumer that raises, or hangs, at the numbers it is told."""

    def __init__(self, *weak_at: int, fault: Exception | None = None) -> None:
        self.weak_at, self.fault = set(weak_at), fault
        self.seen: list[int] = []

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        async for batch in batches:
            if batch.first_seq in self.weak_at:
                self.weak_at.discard(batch.first_seq)
                if self.fault is None:
                    await asyncio.Event().wait()  # for ever
                raise self.fault or AssertionError
            self.seen.append(batch.first_seq)


def filled(count: int, name: str = "risk", rows: int = 10) -> Channel:
    channel = Channel(name, capacity=count)
    for i in range(count):
        channel.put(ticks(1 + i * rows, rows))
    channel.close()
    return channel


async def test_a_consumer_that_raises_goes_on_with_the_next_batch(caplog):
    channel, stage = filled(10), Frail(21, 71, fault=ValueError("no such limit"))
    supervisor = Supervisor(Registry(), [])
    await supervisor.run(stage, channel)
    assert stage.seen == [1, 11, 31, 41, 51, 61, 81, 91]
    s = channel.statistics()
    assert (s.received, s.processed, s.dropped, s.queued) == (100, 80, 20, 0)
    assert supervisor.restarts == {"risk": 2}
    assert supervisor.notes[0] == (
        "risk lost 10 ticks and restarted: ValueError('no such limit')"
    )
    assert [each.levelno for each in caplog.records] == [logging.WARNING] * 2
    assert not any(each.exc_info for each in caplog.records)  # --debug shows it


async def test_the_budget_spent_its_fault_ends_the_pump():
    channel = filled(10)
    stage = Frail(1, 11, 21, 31, fault=ValueError("again"))
    supervisor = Supervisor(Registry(), [], budget=3)
    with pytest.raises(StageFailed, match=r"risk failed after 3 restarts: .*again"):
        await supervisor.run(stage, channel)
    s = channel.statistics()
    assert (s.processed, s.dropped, s.queued) == (0, 40, 60)
    assert supervisor.restarts == {"risk": 3}


async def test_the_budget_is_each_consumers_own():
    supervisor = Supervisor(Registry(), [], budget=1)
    for name in ("vwap", "log", "risk"):
        await supervisor.run(Frail(1, fault=KeyError("x")), filled(2, name))
    assert supervisor.restarts == {"vwap": 1, "log": 1, "risk": 1}


async def test_an_error_of_our_own_is_not_tried_again():
    channel, full = filled(3), EnvironmentFault("log x: No space left on device")
    stage = Frail(11, fault=ExceptionGroup("a task group's", [KeyError("x"), full]))
    supervisor = Supervisor(Registry(), [])
    with pytest.raises(EnvironmentFault) as caught:
        await supervisor.run(stage, channel)
    assert caught.value is full
    assert not supervisor.restarts


async def test_a_consumer_that_hangs_is_cancelled_and_started_again(monkeypatch):
    monkeypatch.setattr("quants.supervisor.LOOK_SECONDS", 0.001)
    channel, stage = filled(5), Frail(21)
    supervisor = Supervisor(Registry(), [], hang_seconds=0.02)
    async with asyncio.timeout(30):
        await supervisor.run(stage, channel)
    assert stage.seen == [1, 11, 31, 41]
    assert channel.statistics().dropped == 10
    assert "hung for 0.02 s" in supervisor.notes[0]


async def test_a_consumer_that_only_waits_does_not_hang(monkeypatch):
    """With no batch in hand there is nothing that it could hang over."""
    monkeypatch.setattr("quants.supervisor.LOOK_SECONDS", 0.001)
    channel, stage = Channel("risk"), Frail()
    supervisor = Supervisor(Registry(), [], hang_seconds=0.01)
    running = asyncio.create_task(supervisor.run(stage, channel))
    channel.put(ticks(1, 10))
    while not stage.seen:
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)  # ten times as long: nothing may happen in it
    assert not running.done()
    assert not supervisor.restarts
    channel.close()
    await running


async def test_to_cancel_the_supervisor_is_to_cancel_the_stage():
    channel, stage = filled(2), Frail(11)
    running = asyncio.create_task(Supervisor(Registry(), []).run(stage, channel))
    while not stage.seen:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(asyncio.all_tasks()) == 1  # this one
    assert channel.statistics().queued == 10  # in hand to the last


class HalfWay:
    """A kernel that has added one tick of two when it fails."""

    def add(self, rows: object) -> None:
        raise MemoryError


async def test_sums_that_may_hold_half_a_batch_are_not_trusted_again():
    engine = Inline(HalfWay())  # type: ignore[arg-type]
    vwap = Vwap((), Registry(), engine=engine)
    supervisor = Supervisor(Registry(), [])
    with pytest.raises(StageFailed, match="vwap failed after 0 restarts: MemoryError"):
        await supervisor.run(vwap, filled(2, "vwap"))


def test_our_own_error_is_found_however_deep():
    ours = QuantsError("told")
    assert our_own(ours) is ours
    assert (
        our_own(ExceptionGroup("", [ValueError(), ExceptionGroup("", [ours])])) is ours
    )
    assert our_own(ValueError()) is None
    assert our_own(ExceptionGroup("", [ValueError()])) is None


def test_a_group_of_one_is_about_that_one():
    fault = ValueError()
    assert sole(ExceptionGroup("", [ExceptionGroup("", [fault])])) is fault
    both = ExceptionGroup("", [fault, KeyError()])
    assert sole(ExceptionGroup("", [both])) is both


async def test_restarts_are_a_metric():
    registry = Registry()
    await Supervisor(registry, []).run(Frail(1, fault=OSError()), filled(2))
    text = registry.exposition("text/plain")[0].decode()
    assert 'quants_consumer_restarts_total{consumer="risk"} 1.0' in text
