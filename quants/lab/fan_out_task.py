"""The exercise of notebook 03: a bounded fan-out with three policies.

A `Line` knows its bound and its policy and keeps neither: that is the task.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from functools import partial
from typing import Any, Self

from quants.channel import Policy
from quants.lab.exercise import Answer, Case, Exercise
from quants.tick import Batch, latest_per_symbol, rows_of

CAPACITY = 64  # batches
TURNS = 50  # of the loop, after which whoever is not done waits


class Line(AsyncIterator[Batch]):
    """A queue of batches with one consumer; who puts keeps the bound.

    Attributes:
        queue: the batches that wait, oldest first.
        dropped, conflated: ticks, counted by who puts.
        most: batches that ever waited.
    """

    def __init__(self, policy: Policy, capacity: int = CAPACITY) -> None:
        self.policy, self.capacity = policy, capacity
        self.queue: deque[Batch] = deque()
        self.dropped = self.conflated = self.processed = self.most = 0
        self.closed = False
        self._in_hand = 0  # ticks
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Line {self.policy} {len(self.queue)}/{self.capacity}>"

    @property
    def full(self) -> bool:
        """Whether as many batches wait as may."""
        return len(self.queue) >= self.capacity

    @property
    def queued(self) -> int:
        """Ticks that wait or are in hand."""
        return sum(map(len, self.queue)) + self._in_hand

    @property
    def accounted(self) -> int:
        """Ticks whose fate is known."""
        return self.processed + self.dropped + self.conflated + self.queued

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            await self._change()

    def put(self, batch: Batch) -> None:
        """Append a batch, full or not."""
        self.queue.append(batch)
        self.most = max(self.most, len(self.queue))
        self._changed.set()

    def merge(self, batch: Batch) -> Batch:
        """Empty the queue; of each symbol's ticks, there and in batch, the last."""
        while self.queue:
            batch = latest_per_symbol(self.queue.pop(), batch)
        return batch

    def close(self) -> None:
        """Nothing follows."""
        self.closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        self.processed, self._in_hand = self.processed + self._in_hand, 0
        while not self.queue:
            if self.closed:
                raise StopAsyncIteration
            await self._change()
        batch = self.queue.popleft()
        self._in_hand = len(batch)
        self._changed.set()
        return batch


async def fan_out(batches: AsyncIterable[Batch], lines: Sequence[Line]) -> None:
    """line.put(batch) for each batch and line; at the end line.close().

    A line that is line.full acts first, by its line.policy:
    block        await line.room()
    drop_oldest  line.queue.popleft() goes; its ticks count in line.dropped
    conflate     line.merge(batch) empties the queue into one batch: put
                 that; the ticks that vanish count in line.conflated
    In ticks: len(batch), and line.queued for all that the line holds.
    """
    async for batch in batches:
        for line in lines:
            newest = batch
            if line.full and line.policy == "block":
                await line.room()
            elif line.full and line.policy == "drop_oldest":
                line.dropped += len(line.queue.popleft())
            elif line.full:
                before = line.queued + len(batch)
                newest = line.merge(batch)
                line.conflated += before - line.queued - len(newest)
            line.put(newest)
    for line in lines:
        line.close()


# ---- how an answer is tried


def batch_of(first_seq: int, ticks: int = 2) -> Batch:
    """Ticks of two symbols in turn, the first of a third; the price is its number."""
    seqs = range(first_seq, first_seq + ticks)
    rows = rows_of([(0, seq, 1, seq % 2 if seq > 1 else 2, 0) for seq in seqs])
    return Batch(rows, first_seq, ticks, 0)


BATCHES = tuple(batch_of(first) for first in (1, 3, 5, 7, 9))


async def played(answer: Answer, capacity: int, *policies: Policy) -> list[Line]:
    """Lines of these policies, before anybody has taken anything."""
    lines = [Line(policy, capacity) for policy in policies]
    putting = asyncio.ensure_future(answer(in_turn(), lines))
    for _ in range(TURNS):
        await asyncio.sleep(0)
    if putting.done():
        putting.result()
    putting.cancel()
    await asyncio.wait([putting])
    return lines


async def in_turn() -> AsyncIterator[Batch]:
    """The batches of every case."""
    for batch in BATCHES:
        yield batch
        await asyncio.sleep(0)


def looked(field: str, answer: Answer, capacity: int, *policies: Policy) -> list[Any]:
    """One fact about each line, after an answer has put all it could."""
    lines = asyncio.run(played(answer, capacity, *policies))
    return [getattr(line, field) for line in lines]


def prices(answer: Answer, capacity: int, *policies: Policy) -> list[list[int]]:
    """The prices, which are the numbers, that wait in each line."""
    lines = asyncio.run(played(answer, capacity, *policies))
    return [[p for b in line.queue for p in b.rows["price"].tolist()] for line in lines]


def through(answer: Answer, capacity: int, *policies: Policy) -> list[int]:
    """Ticks that consumers got who came late, from each line."""

    async def run() -> list[int]:
        lines = [Line(policy, capacity) for policy in policies]
        putting = asyncio.ensure_future(answer(in_turn(), lines))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        taking = [asyncio.ensure_future(drained(line)) for line in lines]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for task in (putting, *taking):
            task.cancel()
        await asyncio.wait([putting, *taking])
        return [line.processed for line in lines]

    return asyncio.run(run())


async def drained(line: Line) -> None:
    """Take all that comes."""
    async for _ in line:
        pass


depths, dropped, conflated, closed = (
    partial(looked, field) for field in ("most", "dropped", "conflated", "closed")
)

FAN_OUT = Exercise(
    fan_out,
    (
        Case(
            (8, "block", "drop_oldest"), [[*range(1, 11)], [*range(1, 11)]],
            "Two lines with room for all: each batch goes into each line, in order, "
            "by line.put(batch).", prices,
        ),
        Case(
            (8, "block", "conflate"), [True, True],
            "The batches ended, and the consumers still wait for more: at the end, "
            "line.close() for every line.", closed,
        ),
        Case(
            (2, "block"), [2],
            "Two batches fit, more were put: memory is the bound again. Under block "
            "a full line makes you wait: await line.room().", depths,
        ),
        Case(
            (2, "block"), [10],
            "A consumer that came late did not get all ticks: block waits, it never "
            "throws away, and it puts the batch when there is room.", through,
        ),
        Case(
            (2, "drop_oldest"), [[7, 8, 9, 10]],
            "Under drop_oldest the newest two batches should wait. On a market, old "
            "prices are the ones to lose: line.queue.popleft(), then put.", prices,
        ),
        Case(
            (2, "drop_oldest"), [6],
            "Three batches of two ticks were dropped: six. line.dropped is in ticks, "
            "so add the len() of what popleft() returns.", dropped,
        ),
        Case(
            (2, "conflate"), [[1, 9, 10]],
            "Under conflate the newest tick of each symbol should wait, also of one "
            "that is seldom traded: put line.merge(batch).", prices,
        ),
        Case(
            (2, "conflate"), [7],
            "Ten ticks came and three are left, so seven were conflated. Count before "
            "the merge, line.queued and len(batch), and after it.", conflated,
        ),
        Case(
            (2, "conflate", "drop_oldest"), [[1, 9, 10], [7, 8, 9, 10]],
            "The second line got what the first one had merged. What a merge makes is "
            "for one line: give it a name of its own.", prices,
        ),
    ),
    "Ask a line whether it is full before each put, and only then for its policy. "
    "Keep what conflation makes in a name of its own.",
)  # fmt: skip
