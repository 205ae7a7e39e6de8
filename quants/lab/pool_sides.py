"""A tick as a tuple, as an object, and from three pools: summed a batch at a time.

All ticks of a batch are alive together, as in the pump. The free list and
`TickPool` are given each tick back; the weakref pool sees its ticks die.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from quants.lab.live import BLUE, GREY, INK, VERMILION
from quants.pools import TickPool
from quants.simple_pools import FreeListPool, WeakrefPool

TICKS = 1000  # of a batch; each pool is as large

Four = tuple[int, int, int, int]  # time_ns, price, size, symbol


class Slots:
    """The plain object that a pool would save."""

    __slots__ = ("price", "size", "symbol", "time_ns")

    def __init__(self, time_ns: int, price: int, size: int, symbol: int) -> None:
        self.time_ns, self.price = time_ns, price
        self.size, self.symbol = size, symbol


def as_tuples(ticks: list[Four]) -> int:
    """Σ price·size of ticks, each a new tuple, all alive together."""
    made = [(time_ns, price, size, n) for time_ns, price, size, n in ticks]
    total = 0
    for tick in made:
        total += tick[1] * tick[2]
    return total


def from_pool(lease: Callable[..., Any], ticks: list[Four]) -> int:
    """The same, each tick from a pool or a class; it goes back by itself."""
    made = [lease(time_ns, price, size, n) for time_ns, price, size, n in ticks]
    total = 0
    for tick in made:
        total += tick.price * tick.size
    return total


def and_back(lease: Callable[..., Any], ticks: list[Four]) -> int:
    """The same, each tick given back by hand."""
    made = [lease(time_ns, price, size, n) for time_ns, price, size, n in ticks]
    total = 0
    for tick in made:
        total += tick.price * tick.size
    for tick in made:
        tick.release()
    return total


class Side(NamedTuple):
    """How to get a tick, and what sums a batch of them."""

    make: Callable[..., Any]
    total: Callable[[list[Four]], int]
    colour: str


def sides() -> dict[str, Side]:
    """All of them, each pool fresh and full."""
    free, weak = FreeListPool(TICKS).lease, WeakrefPool(TICKS).lease
    lease = TickPool(TICKS).lease
    return {
        "tuple": Side(as_tuple, as_tuples, INK),
        "object": Side(Slots, partial(from_pool, Slots), GREY),
        "free list": Side(free, partial(and_back, free), BLUE),
        "TickPool": Side(lease, partial(and_back, lease), BLUE),
        "weakref pool": Side(weak, partial(from_pool, weak), VERMILION),
    }


def as_tuple(*four: int) -> tuple[int, ...]:
    """A tuple of what it is called with."""
    return four
