"""Ticks are conserved: received = processed + dropped + conflated + queued."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.channel import Channel, Policy, fan_out
from quants.frame import ticks_frame
from quants.tick import Batch, gap, rows_of

POLICIES = get_args(Policy)


def batch(first_seq: int, *symbols: int) -> Batch:
    """Ticks whose price is their sequence number."""
    rows = rows_of([(0, first_seq + i, 1, s, 0) for i, s in enumerate(symbols)])
    frame = ticks_frame(rows, first_seq, 0)
    return Batch(rows, first_seq, len(symbols), 0, frame)


async def feed(batches: Iterable[Batch]) -> AsyncIterator[Batch]:
    for each in batches:
        yield each


async def all_others_wait() -> None:
    """Let every task go on until it waits for another."""
    for _ in range(10):
        await asyncio.sleep(0)


def conserved(channel: Channel) -> bool:
    s = channel.statistics()
    return s.received == s.processed + s.dropped + s.conflated + s.queued


class Bench:
    """A channel, its consumer and a model of both, checked after each step."""

    def __init__(self, policy: Policy, capacity: int) -> None:
        self.channel = Channel("bench", capacity, policy)
        self.sends: list[asyncio.Task[None]] = []
        self.taking: asyncio.Task[Batch] | None = None
        self.next_seq = 1
        self.taken: list[Batch] = []

    async def step(self, action: str, ticks: int) -> None:
        await getattr(self, action)(ticks)
        await all_others_wait()
        if self.taking is not None and self.taking.done():
            self.taken.append(self.taking.result())
            self.taking = None
        self.check()

    async def send(self, ticks: int) -> None:
        symbols = [(self.next_seq + i) % 3 for i in range(ticks)]
        sent = batch(self.next_seq, *symbols) if ticks else gap(self.next_seq, 1)
        self.next_seq = sent.next_seq
        self.sends.append(asyncio.create_task(self.channel.send(sent)))

    async def take(self, _: int) -> None:
        if self.taking is None:
            self.taking = asyncio.ensure_future(anext(self.channel))

    async def give_up(self, _: int) -> None:
        """The consumer is cancelled while it waits, as by a timeout."""
        if self.taking is not None:
            self.taking.cancel()
            await asyncio.wait([self.taking])
            self.taking = None

    def check(self) -> None:
        s = self.channel.statistics()
        waiting = sum(not send.done() for send in self.sends)
        assert conserved(self.channel), s
        assert s.depth <= s.capacity
        assert s.high_watermark >= s.depth
        prices = [int(p) for b in self.taken for p in b.rows["price"]]
        assert prices == sorted(set(prices))
        if self.channel.policy == "block":
            whole = [seq for b in self.taken for seq in range(b.first_seq, b.next_seq)]
            assert whole == list(range(1, len(whole) + 1))
            assert s.dropped == s.conflated == 0
            assert not waiting or s.depth == s.capacity
        else:
            assert not waiting

    async def close(self) -> None:
        for task in [*self.sends, *filter(None, [self.taking])]:
            task.cancel()
            await asyncio.wait([task])
        assert conserved(self.channel)


STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "take", "give_up"]), st.integers(0, 5)),
    max_size=40,
)


@pytest.mark.parametrize("policy", POLICIES)
@given(capacity=st.integers(1, 4), steps=STEPS)
def test_ticks_are_conserved_at_every_step(policy, capacity, steps):
    async def scenario() -> None:
        bench = Bench(policy, capacity)
        for action, ticks in steps:
            await bench.step(action, ticks)
        await bench.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_consumer_ten_times_too_slow_leaves_no_tick_unaccounted(
    policy, record_property
):
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    channel, steps = Channel("slow", 4, policy), 0

    async def consume() -> list[Batch]:
        nonlocal steps
        taken = []
        async for each in channel:
            assert conserved(channel)
            taken.append(each)
            for _ in range(10):
                await asyncio.sleep(0)
                steps += 1
        return taken

    consumer = asyncio.create_task(consume())
    seq = 1
    for _ in range(200):
        ticks = [draw.randrange(8) for _ in range(draw.randint(1, 50))]
        await channel.send(batch(seq, *ticks))
        seq += len(ticks)
        assert conserved(channel)
        await asyncio.sleep(0)
    channel.close()
    taken = await consumer
    s = channel.statistics()
    assert s.received == seq - 1
    assert s.processed == sum(map(len, taken))
    assert s.queued == s.depth == 0
    lost = {"block": 0, "drop_oldest": s.dropped, "conflate": s.conflated}[policy]
    assert s.received == s.processed + lost
    assert (lost == 0) == (policy == "block")
    for outcome in "received", "processed", "dropped", "conflated":
        record_property(outcome, getattr(s, outcome))


async def test_a_full_channel_makes_its_sender_wait():
    channel = Channel("vwap", capacity=2)
    await channel.send(batch(1, 0))
    await channel.send(batch(2, 0))
    third = asyncio.create_task(channel.send(batch(3, 0)))
    await all_others_wait()
    assert not third.done()
    assert channel.full
    assert (await anext(channel)).first_seq == 1
    await third
    assert channel.statistics().depth == 2


async def test_the_batch_in_hand_is_queued_until_its_consumer_comes_back():
    channel = Channel("vwap")
    await channel.send(batch(1, 0, 0, 0))
    await anext(channel)
    s = channel.statistics()
    assert (s.processed, s.queued, s.depth) == (0, 3, 0)
    channel.close()
    with pytest.raises(StopAsyncIteration):
        await anext(channel)
    s = channel.statistics()
    assert (s.processed, s.queued) == (3, 0)


async def test_the_end_of_the_batches_closes_the_channels():
    channels = [Channel("vwap"), Channel("log")]
    await fan_out(feed([batch(1, 0), batch(2, 0)]), channels)
    for channel in channels:
        assert channel.closed
        assert [b.first_seq async for b in channel] == [1, 2]


async def test_an_error_on_the_way_closes_the_channels_too():
    async def broken() -> AsyncIterator[Batch]:
        yield batch(1, 0)
        raise ConnectionError("cut")

    channel = Channel("vwap")
    with pytest.raises(ConnectionError, match="cut"):
        await fan_out(broken(), [channel])
    assert [b.first_seq async for b in channel] == [1]


async def test_every_consumer_gets_the_same_object():
    sent, channels = batch(1, 0, 1), [Channel("vwap"), Channel("log"), Channel("risk")]
    await fan_out(feed([sent]), channels)
    for channel in channels:
        assert await anext(channel) is sent


async def test_a_slow_consumer_slows_the_feed_and_loses_nothing():
    slow, quick = Channel("slow", 1), Channel("quick", 100)
    sender = asyncio.create_task(
        fan_out(feed(batch(i, 0) for i in range(10)), [quick, slow])
    )
    await all_others_wait()
    assert quick.statistics().depth == 2  # the second one waits for `slow`
    assert [b.first_seq async for b in slow] == list(range(10))
    await sender
    assert [b.first_seq async for b in quick] == list(range(10))


async def test_drop_oldest_drops_whole_batches_from_the_front():
    channel = Channel("risk", 2, "drop_oldest")
    for each in [batch(1, 0, 0), batch(3, 0, 0, 0), batch(6, 0), batch(7, 0)]:
        await channel.send(each)
    channel.close()
    assert channel.statistics().dropped == 5
    assert [b.first_seq async for b in channel] == [6, 7]


async def test_conflate_keeps_the_latest_row_of_each_symbol_in_order():
    channel = Channel("risk", 2, "conflate")
    sent = [batch(1, 0, 1, 2), batch(4, 1, 1), batch(6, 2, 0)]
    latest: dict[int, int] = {}
    for each in sent:
        await channel.send(each)
        for _, price, _, symbol, _ in each.rows.tolist():
            latest.pop(symbol, None)
            latest[symbol] = price
    channel.close()
    kept = [each async for each in channel]
    assert [row["price"] for b in kept for row in b.rows] == list(latest.values())
    assert [len(b) for b in kept] == [3]
    assert channel.statistics().conflated == 7 - 3


async def test_a_channel_that_is_not_full_does_not_conflate():
    channel = Channel("risk", 3, "conflate")
    sent = [batch(1, 0, 0), batch(3, 0, 0)]
    for each in sent:
        await channel.send(each)
    channel.close()
    assert [b async for b in channel] == sent


async def test_the_bytes_of_its_frames_bound_a_channel_too():
    frame = batch(1, 0).frame
    channel = Channel("to a client", 1000, capacity_bytes=3 * len(frame))
    for seq in 1, 2, 3:
        assert not channel.full
        await channel.send(batch(seq, 0))
    assert channel.full
    await anext(channel)
    assert not channel.full


async def test_drop_oldest_holds_at_most_one_batch_above_its_bytes():
    small = len(batch(1, 0).frame)
    channel = Channel("to a client", 1000, "drop_oldest", capacity_bytes=3 * small)
    for seq in range(1, 100):
        await channel.send(batch(seq, *range(seq % 5 + 1)))
        held = sum(len(b.frame) for b in channel._batches)
        assert held == channel._bytes <= 3 * small + len(batch(1, *range(5)).frame)


async def test_closing_wakes_a_waiting_sender():
    channel = Channel("vwap", 1)
    await channel.send(batch(1, 0))
    sender = asyncio.create_task(channel.send(batch(2, 0)))
    await all_others_wait()
    channel.close()
    await asyncio.wait_for(sender, 10)
    assert [b.first_seq async for b in channel] == [1, 2]
    assert conserved(channel)


async def test_closing_wakes_a_waiting_consumer():
    channel = Channel("vwap")
    consumer = asyncio.create_task(anext(channel, None))
    await all_others_wait()
    channel.close()
    assert await asyncio.wait_for(consumer, 10) is None


async def test_a_consumer_cancelled_while_it_waits_loses_nothing():
    channel = Channel("vwap")
    for seq in range(1, 20):
        waiting = asyncio.ensure_future(anext(channel))
        await all_others_wait()
        channel.put(batch(seq, 0))  # and cancelled before it could take it
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await anext(channel)).first_seq == seq


async def test_a_sender_cancelled_while_it_waits_has_sent_nothing():
    channel = Channel("vwap", 1)
    await channel.send(batch(1, 0))
    sender = asyncio.create_task(channel.send(batch(2, 0, 0)))
    await all_others_wait()
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    assert channel.statistics().received == 1
    assert (await anext(channel)).first_seq == 1
    assert channel.statistics().depth == 0


async def test_several_senders_of_one_channel_never_overfill_it():
    channel = Channel("vwap", 1)
    senders = [asyncio.create_task(channel.send(batch(i, 0))) for i in range(1, 6)]
    seen = []
    for _ in senders:
        await all_others_wait()
        assert channel.statistics().depth == 1
        seen.append((await anext(channel)).first_seq)
    assert sorted(seen) == [1, 2, 3, 4, 5]


async def test_the_high_watermark_remembers_the_deepest_queue():
    channel = Channel("vwap", 8)
    for seq in range(1, 6):
        await channel.send(batch(seq, 0))
    for _ in range(5):
        await anext(channel)
    await channel.send(batch(6, 0))
    s = channel.statistics()
    assert (s.high_watermark, s.depth) == (5, 1)


async def test_its_repr_tells_its_state():
    channel = Channel("vwap", 2, "drop_oldest")
    for seq in 1, 3, 5:
        await channel.send(batch(seq, 0, 0))
    await anext(channel)
    assert repr(channel) == "<Channel vwap 1/2, high watermark 2, 2 dropped>"


async def test_what_a_consumer_holds_is_timed_and_what_it_waits_for_is_not():
    now = 100
    channel = Channel("vwap", clock_ns=lambda: now)
    channel.put(batch(1, 0))
    await anext(channel)
    now += 30  # in hand
    assert channel.held_ns == 0
    waiting = asyncio.create_task(anext(channel))
    await all_others_wait()
    now += 1000  # nothing to do
    channel.put(batch(2, 0))
    await waiting
    now += 5
    channel.close()
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(channel)
        now += 1000  # nothing is in hand
    assert channel.held_ns == 35
