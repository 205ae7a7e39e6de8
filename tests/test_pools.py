"""quants/pools.py, and the two simple pools: leases kept too long, or forgotten."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.errors import StaleLease
from quants.market import Market
from quants.metrics import Registry
from quants.pools import TickPool
from quants.simple_pools import FreeListPool, WeakrefPool
from quants.tick import rows_of

TICK_1 = (1, 100, 10, 0)
TICK_2 = (2, 200, 20, 1)


def shown(lease):
    return lease.time_ns, lease.price, lease.size, lease.symbol


def state(pool):
    return pool.hits, pool.misses, pool.leaked, pool.in_use


def test_a_lease_shows_its_tick():
    with TickPool(1).lease(*TICK_1) as lease:
        assert shown(lease) == TICK_1


@pytest.mark.parametrize("field", ["time_ns", "price", "size", "symbol"])
def test_a_stale_lease_raises_instead_of_reading_the_next_tick(field):
    pool = TickPool(1)
    with pool.lease(*TICK_1) as old:
        pass
    with pool.lease(*TICK_2) as new:
        assert pool.hits == 2  # the same payload, used again
        with pytest.raises(StaleLease, match=r"lease 0 is over.* at lease 1: copy"):
            getattr(old, field)
        assert shown(new) == TICK_2


def test_a_second_release_takes_nothing_from_the_next_tick():
    pool = TickPool(1)
    old = pool.lease(*TICK_1)
    old.release()
    new = pool.lease(*TICK_2)
    old.release()
    assert (shown(new), pool.in_use) == (TICK_2, 1)


def test_an_error_ends_the_lease_of_its_with():
    pool = TickPool(1)
    with pytest.raises(ZeroDivisionError), pool.lease(*TICK_1):
        raise ZeroDivisionError
    assert pool.in_use == 0


def test_an_empty_pool_allocates_and_keeps_no_more_than_its_size():
    pool = TickPool(2)
    for _ in range(2):
        for lease in [pool.lease(*TICK_1) for _ in range(5)]:
            lease.release()
    assert state(pool) == (4, 6, 0, 0)


def test_a_forgotten_lease_comes_back_and_is_counted():
    pool = TickPool(1)
    pool.lease(*TICK_1)
    gc.collect()
    with pool.lease(*TICK_2) as lease:
        assert shown(lease) == TICK_2
    assert state(pool) == (2, 0, 1, 0)


def test_a_lease_lost_in_a_garbage_cycle_comes_back_too():
    pool = TickPool(1)
    cycle: list[object] = [pool.lease(*TICK_1)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert state(pool) == (1, 0, 1, 0)


def test_a_lease_that_dies_after_its_release_is_no_leak():
    pool = TickPool(1)
    lease = pool.lease(*TICK_1)
    lease.release()
    del lease
    gc.collect()
    assert state(pool) == (1, 0, 0, 0)


@pytest.mark.parametrize("size", [1, 50, 100])
def test_reading_rows_through_leases_shows_the_rows(size):
    rows = Market(seed=1).take(100)
    pool = TickPool(size)
    read = [shown(lease) for lease in pool.read(rows)]
    assert read == [tuple(row.tolist()[:4]) for row in rows]
    assert state(pool) == (size, 100 - size, 0, 0)


def test_the_leases_of_rows_last_until_the_loop_ends():
    pool = TickPool(2)
    rows = rows_of([(*TICK_1, 0), (*TICK_2, 0)])
    seen = []
    for lease in pool.read(rows):
        seen.append(lease)
        assert shown(seen[0]) == TICK_1
    with pytest.raises(StaleLease):
        shown(seen[0])


def test_leaving_the_loop_early_releases_as_well():
    pool = TickPool(2)
    leases = pool.read(rows_of([(*TICK_1, 0), (*TICK_2, 0)]))
    assert shown(next(leases)) == TICK_1
    assert pool.in_use == 1
    del leases
    gc.collect()
    assert state(pool) == (1, 0, 0, 0)


@given(st.integers(0, 3), st.lists(st.sampled_from(["lease", "release", "forget"])))
def test_leases_are_conserved(size, steps):
    pool, held, given_out, forgotten = TickPool(size), [], 0, 0
    for step in steps:
        if step == "lease":
            held.append(pool.lease(given_out, 0, 0, 0))
            given_out += 1
        elif held and step == "release":
            held.pop(0).release()
        elif held:
            held.pop(0)
            forgotten += 1
    assert pool.hits + pool.misses == given_out
    assert (pool.in_use, pool.leaked) == (len(held), forgotten)
    oldest = given_out - len(held)
    assert [lease.time_ns for lease in held] == list(range(oldest, given_out))


def test_the_counters_of_a_pool_can_be_scraped():
    registry = Registry()
    pool = TickPool(1, registry)
    leases = [pool.lease(*TICK_1), pool.lease(*TICK_2), pool.lease(*TICK_2)]
    leases.pop()
    text = registry.exposition()[0].decode()
    assert "\nquants_pool_hits_total 1.0\n" in text
    assert "\nquants_pool_misses_total 2.0\n" in text
    assert "\nquants_pool_leaked_total 1.0\n" in text


def test_the_repr_of_a_pool_tells_its_state():
    pool = TickPool(3)
    with pool.lease(*TICK_1):
        assert repr(pool) == "<TickPool 1/3 in use, 1 hits, 0 misses, 0 leaked>"


# The same steps with all three: what the simple pools cannot do ----------------


@pytest.mark.parametrize("kind", [FreeListPool, WeakrefPool, TickPool])
def test_every_pool_hands_the_same_payload_out_again(kind):
    pool = kind(1)
    for tick in (TICK_1, TICK_2, TICK_1):
        with pool.lease(*tick) as held:
            assert shown(held) == tick
    assert (pool.hits, pool.misses) == (3, 0)


@pytest.mark.parametrize("kind", [FreeListPool, WeakrefPool])
def test_in_a_simple_pool_a_stale_tick_is_the_tick_of_somebody_else(kind):
    pool = kind(1)
    old = pool.lease(*TICK_1)
    old.release()
    new = pool.lease(*TICK_2)
    assert shown(old) == shown(new) == TICK_2  # TickPool raises StaleLease


@pytest.mark.parametrize("kind", [FreeListPool, WeakrefPool])
def test_an_empty_simple_pool_allocates_and_keeps_no_more_than_its_size(kind):
    pool = kind(2)
    for _ in range(2):
        for tick in [pool.lease(*TICK_1) for _ in range(5)]:
            tick.release()
    assert (pool.hits, pool.misses, pool.free) == (4, 6, 2)


@pytest.mark.parametrize("kind", [FreeListPool, WeakrefPool])
@pytest.mark.parametrize("size", [2, 50, 100])
def test_a_simple_pool_shows_the_rows_and_has_all_payloads_back(kind, size):
    rows = Market(seed=1).take(100)
    pool = kind(size)
    read = [shown(tick) for tick in pool.read(rows)]
    gc.collect()
    assert read == [tuple(row.tolist()[:4]) for row in rows]
    assert (pool.hits + pool.misses, pool.free) == (100, size)


def test_a_free_list_loses_a_forgotten_payload_and_counts_it_nowhere():
    pool = FreeListPool(2)
    pool.lease(*TICK_1)
    gc.collect()
    assert (pool.free, pool.hits, pool.misses) == (1, 1, 0)
    with pool.lease(*TICK_1), pool.lease(*TICK_2):
        assert (pool.hits, pool.misses) == (2, 1)  # as if too small


def test_a_free_list_gives_what_was_released_twice_to_two():
    pool = FreeListPool(2)
    tick = pool.lease(*TICK_1)
    pool.lease(*TICK_1)
    tick.release()
    tick.release()
    one, other = pool.lease(*TICK_1), pool.lease(*TICK_2)
    assert shown(one) == shown(other) == TICK_2


def test_leaving_the_loop_early_gives_back_to_a_free_list_as_well():
    pool = FreeListPool(2)
    ticks = pool.read(rows_of([(*TICK_1, 0), (*TICK_2, 0)]))
    assert shown(next(ticks)) == TICK_1
    assert pool.free == 1
    del ticks
    gc.collect()
    assert pool.free == 2


def test_a_weakref_pool_needs_no_release():
    pool = WeakrefPool(1)
    handle = pool.lease(*TICK_1)
    assert pool.free == 0
    del handle
    gc.collect()
    assert pool.free == 1


def test_a_handle_that_is_held_keeps_its_payload():
    pool = WeakrefPool(1)
    held = pool.lease(*TICK_1)
    other = pool.lease(*TICK_2)
    gc.collect()
    assert (shown(held), shown(other), pool.misses) == (TICK_1, TICK_2, 1)


def test_a_handle_in_a_dead_cycle_comes_back_when_the_collector_runs():
    pool = WeakrefPool(1)
    gc.disable()
    try:
        cycle: list[object] = [pool.lease(*TICK_1)]
        cycle.append(cycle)
        del cycle
        assert pool.free == 0
        gc.collect()
        assert pool.free == 1
    finally:
        gc.enable()


def test_a_handle_that_dies_after_its_release_gives_nothing_back_again():
    pool = WeakrefPool(2)
    handle = pool.lease(*TICK_1)
    handle.release()
    handle.release()
    new = [pool.lease(*TICK_1), pool.lease(*TICK_2)]
    del handle
    gc.collect()
    assert ([shown(each) for each in new], pool.free) == ([TICK_1, TICK_2], 0)


@pytest.mark.parametrize("kind", [FreeListPool, WeakrefPool])
def test_the_repr_of_a_simple_pool_tells_its_state(kind):
    pool = kind(3)
    with pool.lease(*TICK_1):
        assert repr(pool) == f"<{kind.__name__} 2/3 free, 1 hits, 0 misses>"
