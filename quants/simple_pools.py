"""Two simple pools: a free list, and one that weak references refill.

They are the lessons before `TickPool`, and are used like it: `read(rows)`, or
`lease(...)` and `release()`. The free list trusts whoever holds a tick. The
weakref pool trusts nobody to release, and waits until the holder is gone.
What each cannot do is in its docstring, and in tests/test_pools.py.
"""

from collections.abc import Iterator
from typing import Self
from weakref import finalize

from quants.pools import Payload
from quants.tick import Rows


class Pooled(Payload):
    """A payload that is handed out itself, until `release`."""

    __slots__ = ("_pool",)

    def __init__(self, pool: "FreeListPool") -> None:
        super().__init__()
        self._pool = pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the payload back; a second time gives it to two."""
        self._pool.take_back(self)


class FreeListPool:
    """A free list: payloads wait in a list, and come back by `release`.

    It cannot see a mistake. A tick read after its release is the tick of
    somebody else; one released twice is handed out twice; one never released
    is lost, counted nowhere, and later shows up as a miss.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = self.misses = 0
        self._free = [Pooled(self) for _ in range(size)]

    def __repr__(self) -> str:
        return (
            f"<FreeListPool {self.free}/{self.size} free, {self.hits} hits, "
            f"{self.misses} misses>"
        )

    @property
    def free(self) -> int:
        """Payloads that wait; how many are in use, nobody knows."""
        return len(self._free)

    def read(self, rows: Rows) -> Iterator[Pooled]:
        """Rows, shape (n,), as ticks; all of them end with the iteration."""
        ticks = []
        try:
            for time_ns, price, size, symbol, _ in rows.tolist():
                ticks.append(self.lease(time_ns, price, size, symbol))
                yield ticks[-1]
        finally:
            for tick in ticks:
                tick.release()

    def lease(self, time_ns: int, price: int, size: int, symbol: int) -> Pooled:
        """Put a tick into a payload and hand it out."""
        if self._free:
            payload = self._free.pop()
            self.hits += 1
        else:
            payload = Pooled(self)
            self.misses += 1
        payload.time_ns, payload.price = time_ns, price
        payload.size, payload.symbol = size, symbol
        return payload

    def take_back(self, payload: Pooled) -> None:
        """Keep a payload for the next tick; one above `size` is let go."""
        if len(self._free) < self.size:
            self._free.append(payload)


class Handle:
    """Shows a tick for as long as it is held; its death is the release."""

    __slots__ = ("__weakref__", "_end", "_payload")

    def __init__(self, pool: "WeakrefPool", payload: Payload) -> None:
        self._payload = payload
        # When it runs we are dead: it is the finalizer that has the payload.
        self._end = finalize(self, pool.take_back, payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Do not wait for the end; a second time does nothing."""
        self._end()

    @property
    def time_ns(self) -> int:
        return self._payload.time_ns

    @property
    def price(self) -> int:
        return self._payload.price

    @property
    def size(self) -> int:
        return self._payload.size

    @property
    def symbol(self) -> int:
        return self._payload.symbol


class WeakrefPool:
    """Payloads that come back by themselves, when their handle dies.

    It cannot say when. A handle in a variable, a traceback or a dead cycle
    keeps its payload, the last until the garbage collector runs; and nobody
    hears that a release was forgotten. A released handle that is still held
    reads the tick of somebody else. Each lease makes a handle, a finalizer
    and its weak reference, to save one object.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = self.misses = 0
        self._free = [Payload() for _ in range(size)]

    def __repr__(self) -> str:
        return (
            f"<WeakrefPool {self.free}/{self.size} free, {self.hits} hits, "
            f"{self.misses} misses>"
        )

    @property
    def free(self) -> int:
        """Payloads that wait."""
        return len(self._free)

    def read(self, rows: Rows) -> Iterator[Handle]:
        """Rows, shape (n,), as handles; each ends when it is let go."""
        for time_ns, price, size, symbol, _ in rows.tolist():
            yield self.lease(time_ns, price, size, symbol)

    def lease(self, time_ns: int, price: int, size: int, symbol: int) -> Handle:
        """Put a tick into a payload and hand out a handle of it."""
        if self._free:
            payload = self._free.pop()
            self.hits += 1
        else:
            payload = Payload()
            self.misses += 1
        payload.time_ns, payload.price = time_ns, price
        payload.size, payload.symbol = size, symbol
        return Handle(self, payload)

    def take_back(self, payload: Payload) -> None:
        """Keep a payload for the next tick; one above `size` is let go."""
        if len(self._free) < self.size:
            self._free.append(payload)
