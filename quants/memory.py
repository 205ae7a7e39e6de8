"""Where memory is held: references, dead cycles, allocations.

A counter on a scrape costs nothing; the other two are tools for some seconds.
Looking for cycles keeps what it finds, and tracing allocations makes a program
that allocates 10 to 240 times slower: neither belongs into a run as such.
"""

import asyncio
import gc
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from quants.metrics import Registry

# ---- references


class Watched:
    """Counts the references to objects that are suspected of staying too long.

    Only a difference means something. A count includes those that ask, differs
    between interpreters, and says nothing of immortal objects (None, small
    numbers) or, without a GIL, of ones that other threads share. The count of
    an object that is gone is 0.
    """

    def __init__(self, registry: Registry) -> None:
        self._things: dict[str, Callable[[], object | None]] = {}
        self._first: dict[str, int] = {}
        registry.gauge(
            "quants_watched_references",
            "References to a watched object; only differences mean something.",
            lambda: {(name,): count for name, count in self.references().items()},
            ("name",),
        )

    def __repr__(self) -> str:
        grown = ", ".join(f"{name} {n:+}" for name, n in self.growth().items())
        return f"<Watched {grown or 'nothing'}>"

    def watch(self, name: str, thing: object) -> None:
        """Count the references to a thing from now on.

        It is not kept alive, unless it is of a kind without weak references,
        as lists, dicts and numbers are: that is kept until `forget`.
        """
        try:
            self._things[name] = weakref.ref(thing)
        except TypeError:
            self._things[name] = partial(same, thing)
        del thing
        self._first[name] = references_to(self._things[name])

    def forget(self, name: str) -> None:
        """Count it no more."""
        del self._things[name], self._first[name]

    def references(self) -> dict[str, int]:
        """References to each now."""
        return {name: references_to(get) for name, get in self._things.copy().items()}

    def growth(self) -> dict[str, int]:
        """References to each, more than when it was first watched."""
        return {
            name: now - self._first[name] for name, now in self.references().items()
        }


def same(thing: object) -> object:
    """The thing itself: a weak reference where there is none."""
    return thing


def references_to(get: Callable[[], object | None]) -> int:
    """References to what a (weak) reference leads to; 0 if it is gone."""
    thing = get()
    return 0 if thing is None else sys.getrefcount(thing)


# ---- cycles


class Node:
    """Something that can point at another."""

    __slots__ = ("__weakref__", "other")
    other: "Node"


def dead_cycle() -> "weakref.ref[Node]":
    """Two objects that know only each other; a weak reference to one."""
    a, b = Node(), Node()
    a.other, b.other = b, a
    return weakref.ref(a)


def outlive_and_collect() -> tuple[bool, int, bool]:
    """A dead cycle before and after a collection.

    Returns: alive before; how many objects the collector found, 2, on a
    free-threaded build at least 2; alive after.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        a = dead_cycle()
        before = a() is not None
        return before, gc.collect(), a() is not None
    finally:
        if was_on:
            gc.enable()


@contextmanager
def cycles(most: int = 100_000) -> Iterator[Counter[str]]:
    """Count, by type, the objects of the cycles that die in this block.

    The collector keeps what it would free (DEBUG_SAVEALL); the count is there
    when the block is over, and then all is freed. Costs three full collections.

    Args:
        most: objects to keep, and what they refer to. With so many found, the
            rest is freed unseen.
    """
    found: Counter[str] = Counter()
    gc.collect()  # what died before is not ours
    flags, before = gc.get_debug(), len(gc.garbage)

    def stop_at_most(phase: str, info: dict[str, Any]) -> None:
        if phase == "stop" and len(gc.garbage) >= before + most:
            gc.set_debug(flags)
            del gc.garbage[before + most :]

    gc.callbacks.append(stop_at_most)
    gc.set_debug(flags | gc.DEBUG_SAVEALL)
    try:
        yield found
    finally:
        gc.collect()
        gc.set_debug(flags)
        gc.callbacks.remove(stop_at_most)
        found.update(type_name(thing) for thing in gc.garbage[before:])
        del gc.garbage[before:]
        gc.collect()


def type_name(thing: object) -> str:
    """The name of a thing's type, with its module if that is not Python's own."""
    kind = type(thing)
    builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}"


# ---- allocations


class Allocation(NamedTuple):
    """Memory that a line allocated and that is still there, in bytes and blocks."""

    file: str
    line: int
    bytes: int
    blocks: int


async def top_allocations(
    seconds: float,
    n: int = 10,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Allocation]:
    """The n lines that hold most of what is allocated within some seconds.

    Cost: allocations take 10 times as long meanwhile; the comparison stops the
    loop for as long as it takes, some 10 ms for 10,000 places.
    """
    was_on = tracemalloc.is_tracing()
    if not was_on:
        tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        await sleep(seconds)
        after = tracemalloc.take_snapshot()
    finally:
        if not was_on:
            tracemalloc.stop()
    return grown(before, after)[:n]


def grown(
    before: tracemalloc.Snapshot, after: tracemalloc.Snapshot
) -> list[Allocation]:
    """Lines that hold more than before, most first; not those of the tracer."""
    tracer = [tracemalloc.Filter(False, tracemalloc.__file__)]
    old, new = before.filter_traces(tracer), after.filter_traces(tracer)
    changes = sorted(new.compare_to(old, "lineno"), key=lambda c: -c.size_diff)
    return [allocation_of(c) for c in changes if c.size_diff > 0]


def allocation_of(change: tracemalloc.StatisticDiff) -> Allocation:
    """What one line holds more than before."""
    place = change.traceback[0]
    return Allocation(place.filename, place.lineno, change.size_diff, change.count_diff)
