"""A pool of tick objects, with leases that notice when they are stale.

The pool owns its payloads and hands out leases. A release moves the payload's
generation on, so a lease kept too long raises instead of reading the tick of
somebody else. A weak reference is the leak net, not the way back: when its
callback runs the lease is dead, so it is the pool that knows the payload.

Do not expect speed. To make a tick, read it and let it go takes a tuple 68 ns,
an object with slots 165, a free list 220, a lease 980 and a `weakref.finalize`
1350 (benchmarks/pools.py, Python 3.11; `simple_pools` has the other two pools).
The garbage collector counts what is alive: one tick at a time never makes it
run, whatever it is; 1000 at once make it run four times as leases, once as
plain objects, never as a free list. What this pool gives is a bound, and a loud
error for a tick that is used after its release.
"""

from collections.abc import Iterator
from functools import partial
from typing import Self
from weakref import ref

from quants.errors import StaleLease
from quants.metrics import Registry
from quants.tick import Rows

COUNTERS = {
    "hits": "Leases served from the pool.",
    "misses": "Leases for which a payload was allocated.",
    "leaked": "Leases that died without a release.",
}


class Payload:
    """The object that is used again: a tick, and how often it was released."""

    __slots__ = ("generation", "price", "size", "symbol", "time_ns")

    def __init__(self) -> None:
        self.generation = self.time_ns = self.price = self.size = self.symbol = 0


class Lease:
    """The right to read one tick until `release`, or the end of a `with`."""

    __slots__ = ("__weakref__", "_generation", "_net", "_payload", "_pool")

    def __init__(self, pool: "TickPool", payload: Payload) -> None:
        self._pool, self._payload = pool, payload
        self._generation = payload.generation
        self._net = pool.watch(self, payload)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the payload back; a second time does nothing."""
        self._pool.take_back(self._net)

    def tick(self) -> Payload:
        """The payload, for as long as the lease lasts."""
        if self._payload.generation == self._generation:
            return self._payload
        raise StaleLease(
            f"lease {self._generation} is over, its payload is at lease "
            f"{self._payload.generation}: copy what you keep before the release"
        )

    @property
    def time_ns(self) -> int:
        return self.tick().time_ns

    @property
    def price(self) -> int:
        return self.tick().price

    @property
    def size(self) -> int:
        return self.tick().size

    @property
    def symbol(self) -> int:
        return self.tick().symbol


class TickPool:
    """Payloads for `size` ticks at a time; an empty pool allocates.

    Attributes: hits, misses, leaked: see `COUNTERS`.
    """

    def __init__(self, size: int, registry: Registry | None = None) -> None:
        self.size = size
        self.hits = self.misses = self.leaked = 0
        self._free = [Payload() for _ in range(size)]
        # The pool owns the weak references: one that dies in the same garbage
        # cycle as its lease is never called back.
        self._leased: dict[ref[Lease], Payload] = {}
        if registry:
            for name, help in COUNTERS.items():
                read = partial(getattr, self, name)
                registry.counter(f"quants_pool_{name}_total", help, read)

    def __repr__(self) -> str:
        return (
            f"<TickPool {self.in_use}/{self.size} in use, {self.hits} hits, "
            f"{self.misses} misses, {self.leaked} leaked>"
        )

    @property
    def in_use(self) -> int:
        """Payloads on lease now."""
        return len(self._leased)

    def read(self, rows: Rows) -> Iterator[Lease]:
        """Rows, shape (n,), as leases; all of them end with the iteration."""
        leases = []
        try:
            for time_ns, price, size, symbol, _ in rows.tolist():
                leases.append(self.lease(time_ns, price, size, symbol))
                yield leases[-1]
        finally:
            for lease in leases:
                lease.release()

    def lease(self, time_ns: int, price: int, size: int, symbol: int) -> Lease:
        """Put a tick into a payload and hand out the lease of it."""
        if self._free:
            payload = self._free.pop()
            self.hits += 1
        else:
            payload = Payload()
            self.misses += 1
        payload.time_ns, payload.price = time_ns, price
        payload.size, payload.symbol = size, symbol
        return Lease(self, payload)

    def watch(self, lease: Lease, payload: Payload) -> "ref[Lease]":
        """Note who has the payload, without keeping the lease alive."""
        net = ref(lease, self._lost)
        self._leased[net] = payload
        return net

    def take_back(self, net: "ref[Lease]") -> None:
        """End a lease; a payload above `size` is let go."""
        payload = self._leased.pop(net, None)
        if payload:
            payload.generation += 1
            if len(self._free) < self.size:
                self._free.append(payload)

    def count(self, hits: int, misses: int, leaked: int) -> None:
        """Add what a pool in another process has done in our name."""
        self.hits += hits
        self.misses += misses
        self.leaked += leaked

    def _lost(self, net: "ref[Lease]") -> None:
        self.leaked += net in self._leased  # a released lease is not
        self.take_back(net)
