"""A feed over a network that fails in every way, hundreds of times a minute.

The real server and the real client talk over `virtual`: no test waits, and
each history follows from its seed. What must hold is counted by the network
and by the source, never by the code under test.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest

from quants.feed import Wire
from quants.feed_client import Subscription
from quants.feed_server import FeedServer, Policy
from quants.market import Market
from quants.tick import Batch, Rows
from tests import virtual
from tests.network import Connection, Trace
from tests.virtual import VirtualLoop

WIRES: list[Wire] = ["binary", "json"]
HEARTBEAT = 0.25  # seconds
TICKS = 2000
Note = Callable[[str, int], None]  # record_property: figures for the summary


class Storm:
    """Faults for the next connections, drawn one by one; then fine weather.

    A connection is refused, or cut at a byte of either direction, which hits
    every step of the protocol; or after a while it is cut, stalled for some
    time, or swallows everything without a word.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.draw = loop, loop.draw
        self.left = self.draw.randint(2, 7)
        self.longest_delay = self.draw.choice([0.0, 0.001, HEARTBEAT / 4])
        self.faults: Counter[str] = Counter()

    def __call__(self, connection: Connection) -> None:
        for way in connection.up, connection.down:
            way.delay = lambda: self.draw.random() * self.longest_delay
        if self.left:
            self.left -= 1
            faults = [self.cut_later, self.stall, self.swallow]
            if not connection.up.sent:
                faults += [self.refuse, self.cut_up, self.cut_down]
            fault = self.draw.choice(faults)
            self.faults[fault.__name__] += 1
            fault(connection)

    def refuse(self, connection: Connection) -> None:
        raise ConnectionRefusedError(f"the network refuses {connection.number}")

    def cut_up(self, connection: Connection) -> None:
        connection.up.cut_after = self.draw.randrange(300)  # handshake, request

    def cut_down(self, connection: Connection) -> None:
        # By powers of two: as often in 700 bytes of greeting as behind them.
        connection.down.cut_after = int(math.exp2(self.draw.uniform(5, 14)))

    def cut_later(self, connection: Connection) -> None:
        self.loop.call_later(self._while(), connection.cut)

    def swallow(self, connection: Connection) -> None:
        self.loop.call_later(self._while(), connection.swallow)

    def stall(self, connection: Connection) -> None:
        connection.down.stalled = True
        self.loop.call_later(self._while(), connection.down.resume)

    def _while(self) -> float:
        return math.exp2(self.draw.uniform(-10, 0))


class Lossy:
    """Drops, repeats and swaps frames of a server, the welcome aside."""

    def __init__(self, draw: random.Random, share: float) -> None:
        self.draw, self.share = draw, share
        self.fates: Counter[str] = Counter()
        self._welcomed = False
        self._held: list[bytes] = []

    def __call__(self, frame: bytes) -> list[bytes]:
        held, self._held = self._held, []
        if frame[0] not in (0x81, 0x82) or not self._welcomed:
            self._welcomed = self._welcomed or frame[0] == 0x81
            return [frame, *held]
        if self.draw.random() >= self.share:
            return [frame, *held]
        fate = self.draw.choice(["dropped", "repeated", "swapped"])
        self.fates[fate] += 1
        if fate == "swapped":
            self._held = [frame]
        return ([frame, frame] if fate == "repeated" else []) + held


async def collect(subscription: Subscription) -> list[Batch]:
    return [batch async for batch in subscription]


def accounted(batches: list[Batch], source: Rows) -> tuple[int, int]:
    """Ticks received and missing: each number once, each row the source's."""
    next_seq, received, missing = 1, 0, 0
    for batch in batches:
        assert batch.first_seq == next_seq
        assert batch.span > 0
        if batch.is_gap:
            missing += batch.span
        else:
            rows = source[next_seq - 1 : next_seq - 1 + len(batch)]
            assert batch.rows.tobytes() == rows.tobytes()
            received += len(batch)
        next_seq += batch.span
    assert next_seq == len(source) + 1
    return received, missing


@contextmanager
def small_buffers(size: int = 4096) -> Iterator[None]:
    """So that a thousand ticks are enough to be too slow, in some hundred frames."""
    with ExitStack() as stack:
        for name in (
            "quants.feed_server.CHANNEL_BYTES",
            "quants.subscriber.SOCKET_BYTES",
            "tests.network.SOCKET_BYTES",
            "tests.network.HIGH_WATER",
        ):
            stack.enter_context(patch(name, size))
        stack.enter_context(patch("tests.network.LOW_WATER", size // 4))
        stack.enter_context(patch("quants.feed_server.WAKE_UP_SECONDS", 0.01))
        yield


# -- the bench itself ------------------------------------------------------------


def told(seed: int) -> Trace:
    """What arrives, and when, while three subscribers go through a storm."""

    async def story(loop: VirtualLoop) -> Trace:
        async with FeedServer(Market(), 2000, clock=loop.time) as server:
            feeds = [Subscription(server.url, chance=loop.draw.random) for _ in "abc"]
            async with feeds[0], feeds[1], feeds[2]:
                loop.plan = Storm(loop)
                reading = [asyncio.create_task(collect(feed)) for feed in feeds]
                await server.publish(500)
                loop.connections[0].cut()
                await asyncio.gather(*reading)
        return loop.trace

    return virtual.run(story, seed)


@pytest.mark.schedules(3, 20)
def test_one_seed_is_one_history_and_another_is_another(fault_seed: int):
    history = told(fault_seed)
    assert len(history) > 100
    assert told(fault_seed) == history
    assert told(fault_seed + 1) != history


def test_time_passes_only_when_everybody_waits():
    async def story(loop: VirtualLoop) -> list[float]:
        async def sleep(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return loop.time()

        began = loop.time()
        ends = await asyncio.gather(*(sleep(hours * 60.0) for hours in (9, 0, 5)))
        return [end - began for end in ends]

    assert virtual.run(story) == pytest.approx([540, 0, 300], abs=1e-3)


def test_tasks_that_are_ready_together_run_in_the_order_of_the_seed():
    async def story(loop: VirtualLoop) -> str:
        order: list[str] = []

        async def say(name: str) -> None:
            order.append(name)

        async with asyncio.TaskGroup() as tasks:
            for name in "abcd":
                tasks.create_task(say(name))
        return "".join(order)

    orders = {virtual.run(story, seed) for seed in range(200)}
    assert len(orders) == 24  # each of 4 · 3 · 2 · 1 ways


def test_a_story_in_which_everybody_waits_for_ever_ends():
    async def story(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(TimeoutError):
        virtual.run(story)


class Run:
    """One subscription through a storm, and what came of it."""

    def __init__(self, seed: int, wire: Wire, share: float = 0.0) -> None:
        self.seed, self.wire, self.share = seed, wire, share
        self.edits: list[Lossy] = []
        with small_buffers():
            virtual.run(self._story, seed)

    async def _story(self, loop: VirtualLoop) -> None:
        policies: list[Policy] = ["wait", "disconnect"]
        self.policy = loop.draw.choice(policies + ["drop_oldest"] * (self.share > 0))
        rate = loop.draw.choice([500, 2_000, 8_000])
        server = FeedServer(
            Market(self.seed),
            rate,
            policy=self.policy,
            heartbeat_seconds=HEARTBEAT,
            clock=loop.time,
        )
        feed = Subscription("", self.wire, chance=loop.draw.random)
        async with server:
            feed.url = server.url
            async with feed:
                self.storm = Storm(loop)
                loop.plan = self._plan
                self._plan(loop.connections[0])
                reading = asyncio.create_task(collect(feed))
                await server.publish(TICKS)
                self.batches = await reading
        self.receiver, self.reconnects = feed.receiver, feed.reconnects
        self.seconds = loop.time()

    def _plan(self, connection: Connection) -> None:
        if self.share:
            self.edits.append(Lossy(self.storm.draw, self.share))
            connection.down.edited.edit = self.edits[-1]
        self.storm(connection)

    def figures(self, note: Note) -> None:
        counts = Counter(self.storm.faults)
        for edit in self.edits:
            counts.update(edit.fates)
        note("reconnects", self.reconnects)
        note("duplicates", self.receiver.duplicates)
        note("gap ticks", self.receiver.gap_ticks)
        for fault, times in sorted(counts.items()):
            note(fault, times)


# -- cuts, losses: what arrives (row 6) --------------------------------------------


@pytest.mark.schedules(20, 120)
@pytest.mark.parametrize("wire", WIRES)
def test_cuts_at_any_step_lose_nothing_and_repeat_nothing(
    wire: Wire, fault_seed: int, record_property: Note
):
    run = Run(fault_seed, wire)
    run.figures(record_property)
    source = Market(fault_seed).take(TICKS)
    assert accounted(run.batches, source) == (TICKS, 0)
    assert run.receiver.received == TICKS
    assert (run.receiver.gaps, run.receiver.gap_ticks) == (0, 0)


@pytest.mark.schedules(20, 120)
@pytest.mark.parametrize("wire", WIRES)
def test_what_the_network_loses_is_a_gap_and_every_number_comes_once(
    wire: Wire, fault_seed: int, record_property: Note
):
    run = Run(fault_seed, wire, share=0.05)
    run.figures(record_property)
    received, missing = accounted(run.batches, Market(fault_seed).take(TICKS))
    assert (run.receiver.received, run.receiver.gap_ticks) == (received, missing)
    assert received + missing == TICKS
