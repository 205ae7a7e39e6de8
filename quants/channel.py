"""A bounded channel between two tasks, and the fan-out that feeds several.

The capacity is the backpressure. When a channel is full its policy decides:

    block        the sender waits; nothing is lost, the feed slows down
    drop_oldest  the oldest batch goes, counted in `dropped`
    conflate     the queue shrinks to the latest row of each symbol

Ticks are conserved, at every moment and exactly:

    received = processed + dropped + conflated + queued

A batch is processed when its consumer comes back for the next one, so the
batch in hand is still queued. Costs are per batch, not per tick.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from quants.tick import Batch, latest_per_symbol

Policy = Literal["block", "drop_oldest", "conflate"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a channel has seen: ticks, except the last three (batches)."""

    received: int
    processed: int
    dropped: int
    conflated: int
    queued: int
    depth: int
    capacity: int
    high_watermark: int


class Channel(AsyncIterator[Batch]):
    """A bounded queue of batches with one consumer.

    Args:
        name: who consumes: vwap, log, risk.
        capacity: batches it holds before its policy acts, at least 1.
        policy: what happens then.
        capacity_bytes: a second bound, on the frames it holds.

    Attributes:
        held_ns: how long the consumer had batches in hand, its waits included.
    """

    def __init__(
        self,
        name: str,
        capacity: int = 64,
        policy: Policy = "block",
        capacity_bytes: float = float("inf"),
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.name, self.capacity, self.policy = name, capacity, policy
        self.capacity_bytes = capacity_bytes
        self.closed = False  # set once, by close()
        self._batches: deque[Batch] = deque()
        self._bytes = 0  # of the frames in _batches
        self._in_hand = 0  # ticks the consumer holds
        self.held_ns = self._taken_ns = 0  # taken: when, if a batch is in hand
        self._clock_ns = clock_ns
        self._received = self._processed = self._dropped = self._conflated = 0
        self._high_watermark = 0
        self._not_empty, self._not_full = asyncio.Event(), asyncio.Event()
        self._not_full.set()

    def __repr__(self) -> str:
        s = self.statistics()
        return (
            f"<Channel {self.name} {s.depth}/{s.capacity}, "
            f"high watermark {s.high_watermark}, {s.dropped} dropped>"
        )

    def statistics(self) -> Statistics:
        """The counters of this moment; they always add up."""
        queued = sum(map(len, self._batches)) + self._in_hand
        return Statistics(
            self._received, self._processed, self._dropped, self._conflated,
            queued, len(self._batches), self.capacity, self._high_watermark,
        )  # fmt: skip

    @property
    def in_hand_seconds(self) -> float:
        """How long the consumer has had its batch; 0 if it has none."""
        return (self._clock_ns() - self._taken_ns) / 1e9 if self._taken_ns else 0.0

    @property
    def full(self) -> bool:
        """Whether the next batch meets the policy."""
        held = len(self._batches)
        return held >= self.capacity or self._bytes >= self.capacity_bytes

    async def send(self, batch: Batch) -> None:
        """Put a batch in; under `block`, wait while the channel is full."""
        while self.policy == "block" and self.full and not self.closed:
            self._not_full.clear()
            await self._not_full.wait()
        self.put(batch)

    def put(self, batch: Batch) -> None:
        """Put a batch in now; a full channel makes room by its policy."""
        self._received += len(batch)
        if self.full:
            batch = self._make_room(batch)
        self._batches.append(batch)
        self._bytes += len(batch.frame)
        self._high_watermark = max(self._high_watermark, len(self._batches))
        self._not_empty.set()

    def _make_room(self, newer: Batch) -> Batch:
        if self.policy == "conflate":
            before = sum(map(len, self._batches)) + len(newer)
            while self._batches:
                newer = latest_per_symbol(self._batches.pop(), newer)
            self._bytes = 0
            self._conflated += before - len(newer)
        while self.policy == "drop_oldest" and self._batches and self.full:
            self._dropped += len(self._take())
        return newer

    def _take(self) -> Batch:
        batch = self._batches.popleft()
        self._bytes -= len(batch.frame)
        return batch

    def abandon(self) -> int:
        """Count what a consumer that failed has in hand as dropped; how much."""
        lost, self._in_hand = self._in_hand, 0
        self._dropped += lost
        self._come_back()
        return lost

    def close(self) -> None:
        """Say that no batch will follow: the consumer's loop ends when empty."""
        self.closed = True
        self._not_empty.set()
        self._not_full.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        self._come_back()
        while not self._batches:
            if self.closed:
                raise StopAsyncIteration
            self._not_empty.clear()
            await self._not_empty.wait()
        batch = self._take()
        self._in_hand = len(batch)
        self._not_full.set()
        self._taken_ns = self._clock_ns()
        return batch

    def _come_back(self) -> None:
        self._processed += self._in_hand
        if self._taken_ns:
            self.held_ns += self._clock_ns() - self._taken_ns
        self._in_hand = self._taken_ns = 0


async def fan_out(batches: AsyncIterable[Batch], channels: Sequence[Channel]) -> None:
    """Send every batch to every channel, the same object to all.

    A slow consumer under `block` slows the feed; the others only wait for it.
    The end of the batches, or an error on the way, closes the channels.
    """
    try:
        async for batch in batches:
            for channel in channels:
                await channel.send(batch)
    finally:
        for channel in channels:
            channel.close()
