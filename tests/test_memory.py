"""quants/memory.py against weak references, gc and tracemalloc themselves."""

import asyncio
import gc
import tracemalloc
import weakref
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.memory import Node, Watched, cycles, outlive_and_collect, top_allocations
from quants.metrics import Registry
from quants.turns import gil_enabled

FREE_THREADED = not gil_enabled()


@pytest.fixture(autouse=True)
def collector_as_before():
    """Whatever a test does, the collector is left as it was found."""
    before = gc.get_debug(), gc.isenabled(), list(gc.garbage), list(gc.callbacks)
    yield
    after = gc.get_debug(), gc.isenabled(), list(gc.garbage), list(gc.callbacks)
    assert after == before


def make_cycle(n: int = 1) -> "weakref.ref[Node]":
    for _ in range(n):
        a, b = Node(), Node()
        a.other, b.other = b, a
    return weakref.ref(a)


# -- references ---------------------------------------------------------------


def test_each_reference_more_or_less_is_counted():
    watched, thing = Watched(Registry()), Node()
    watched.watch("node", thing)
    assert watched.growth() == {"node": 0}
    held = [thing] * 7
    assert watched.growth() == {"node": 7}
    del held[2:]
    assert watched.growth() == {"node": 2}


def test_watching_keeps_nothing_alive_and_what_is_gone_has_no_references():
    watched, thing = Watched(Registry()), Node()
    watched.watch("node", thing)
    alive = weakref.ref(thing)
    del thing
    assert alive() is None
    assert watched.references() == {"node": 0}


def test_what_has_no_weak_references_is_kept_until_it_is_forgotten():
    class Noticed:
        pass

    inside = Noticed()
    watched, thing, gone = Watched(Registry()), [inside], weakref.ref(inside)
    del inside
    watched.watch("list", thing)
    again = thing
    assert watched.growth() == {"list": 1}
    del thing, again
    assert gone() is not None
    watched.forget("list")
    assert gone() is None
    assert watched.references() == watched.growth() == {}


def test_a_name_that_is_watched_again_is_the_new_thing():
    watched, one, other = Watched(Registry()), Node(), Node()
    watched.watch("node", one)
    held = [one, one]
    watched.watch("node", other)
    assert watched.growth() == {"node": 0}
    assert len(held) == 2


def test_a_scrape_reads_the_references():
    registry = Registry()
    watched, thing = Watched(registry), Node()
    watched.watch("node", thing)

    def scraped() -> float:
        text = registry.exposition("text/plain")[0].decode()
        families = text_string_to_metric_families(text)
        samples = [s for f in families for s in f.samples]
        (value,) = (s.value for s in samples if s.name == "quants_watched_references")
        return value

    before = scraped()
    held = [thing] * 3
    assert scraped() - before == len(held)
    assert repr(watched) == "<Watched node +3>"


# -- cycles -------------------------------------------------------------------


def test_a_dead_cycle_outlives_its_names_until_it_is_collected():
    before, collected, after = outlive_and_collect()
    assert (before, after) == (True, False)
    assert collected >= 2 if FREE_THREADED else collected == 2


def test_the_demonstration_leaves_a_collector_off_that_was_off():
    gc.disable()
    try:
        outlive_and_collect()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_types_of_dead_cycles_are_counted():
    class Leaky:
        def __init__(self) -> None:
            self.itself = self

    make_cycle(50)  # died before: not counted
    with cycles() as found:
        make_cycle(3)
        Leaky()
        kept = Node()
        kept.other = kept
    assert found["quants.memory.Node"] == 6
    name = f"{__name__}.test_the_types_of_dead_cycles_are_counted.<locals>.Leaky"
    assert found[name] == 1


def test_cycles_that_the_collector_met_meanwhile_are_counted_once():
    with cycles() as found:
        for _ in range(5):
            make_cycle(10)
            gc.collect()
    assert found["quants.memory.Node"] == 100


def nodes() -> int:
    """How many there are; weak references die in a collection, kept or not."""
    return sum(type(thing) is Node for thing in gc.get_objects())


def test_what_was_counted_is_freed():
    gc.collect()
    before = nodes()
    with cycles():
        make_cycle(30)
        gc.collect()
        assert nodes() == before + 60
    assert nodes() == before


def fail_among_cycles() -> None:
    make_cycle(3)
    gc.collect()
    raise ZeroDivisionError


def test_garbage_of_before_and_flags_are_given_back_after_an_error():
    gc.garbage.append("before")
    gc.set_debug(gc.DEBUG_UNCOLLECTABLE)
    try:
        with pytest.raises(ZeroDivisionError), cycles() as found:
            fail_among_cycles()
        assert found["quants.memory.Node"] == 6
        assert "str" not in found
        assert gc.garbage == ["before"]
        assert gc.get_debug() == gc.DEBUG_UNCOLLECTABLE
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_no_more_is_kept_than_was_asked_for():
    gc.collect()
    before, kept = nodes(), []
    with cycles(most=100) as found:
        for _ in range(10):
            make_cycle(40)
            gc.collect()
            kept.append(nodes() - before)
    assert kept[:2] == [80, 160]  # of those found last, the rest waits a round
    assert kept[2:] == [kept[2]] * 8
    assert 100 <= kept[2] < 200  # some with the other of their pair
    assert found.total() == 100
    assert nodes() == before


def test_cycles_are_counted_while_a_loop_runs():
    async def main() -> Counter[str]:
        with cycles() as found:
            await asyncio.gather(*map(asyncio.to_thread, [make_cycle] * 5))
        return found

    assert asyncio.run(main())["quants.memory.Node"] == 10


# -- allocations --------------------------------------------------------------


async def test_the_line_that_holds_most_comes_first():
    held: list[bytearray] = []

    async def work(seconds: float) -> None:
        held.extend(bytearray(100_000) for _ in range(30))  # this line
        held.append(bytearray(500_000))
        del small[:]

    small = [bytes(1000 + i) for i in range(100)]
    found = await top_allocations(1.0, 2, sleep=work)
    first = work.__code__.co_firstlineno
    assert [each.file for each in found] == [__file__] * 2
    assert [each.line for each in found] == [first + 1, first + 2]
    assert found[0].bytes >= 3_000_000
    assert found[0].blocks >= 30
    assert 500_000 <= found[1].bytes < 600_000


async def test_it_traces_for_the_time_asked_and_no_longer():
    asked: list[tuple[float, bool]] = []

    async def note(seconds: float) -> None:
        asked.append((seconds, tracemalloc.is_tracing()))

    assert await top_allocations(0.25, 0, sleep=note) == []
    assert asked == [(0.25, True)]
    assert not tracemalloc.is_tracing()


async def test_tracing_ends_with_an_error_and_stays_on_if_it_was():
    async def fail(seconds: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await top_allocations(1.0, sleep=fail)
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        with pytest.raises(ZeroDivisionError):
            await top_allocations(1.0, sleep=fail)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


async def test_freed_memory_and_the_tracer_itself_are_no_allocations():
    tracemalloc.start()
    try:
        held = [bytearray(1_000_000)]

        async def free(seconds: float) -> None:
            held.clear()

        found = await top_allocations(1.0, 1_000_000, sleep=free)
    finally:
        tracemalloc.stop()
    assert all(each.bytes > 0 for each in found)
    assert tracemalloc.__file__ not in [each.file for each in found]
