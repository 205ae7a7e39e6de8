"""Notebook 09: a leak, who holds it, pages, pools, and the ring to find."""

import asyncio
import gc
import sys
import tracemalloc
import weakref
from collections import Counter
from typing import Any

import pytest

from quants.evidence import find
from quants.lab import leaks, pages, pool_claim, pool_sides, tallies
from quants.lab.board import judge
from quants.lab.leak_task import FIND_LEAK, LADDER, Found, Made, hunt, hunted, is_ring
from quants.lab.pages import Mark, Tide
from quants.lab.pool_claim import TIMES, Weighed, Weight
from quants.lab.referrers import Graph, Kind, photograph
from quants.lab.source import show, show_diff
from quants.lab.tallies import Growth, Look, LooseShare, Share, Shares, Tally
from quants.market import Market
from quants.memory import dead_cycle
from quants.simple_pools import FreeListPool
from quants.tick import Batch
from quants.turns import gil_enabled
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


@pytest.fixture(autouse=True)
def collector_as_before():
    """Whatever happens, the collector and the tracer are left as found."""

    def state() -> tuple[Any, ...]:
        tracing = tracemalloc.is_tracing()
        return gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), tracing

    before = state()
    yield
    assert state() == before


def a_batch(seed: int = 1) -> Batch:
    return Batch(Market(seed).take(100), 1, 100, 0)


# the stage -------------------------------------------------------------------------


def alive_without_a_name(share: type[Share]) -> bool:
    """Whether a tally outlives its last name; found by a weak reference."""
    gc.disable()
    try:
        tally = Tally(a_batch(), share)
        gone = weakref.ref(tally)
        del tally
        return gone() is not None
    finally:
        gc.enable()
        gc.collect()


def test_a_tally_outlives_its_last_name_unless_its_shares_hold_it_weakly():
    assert alive_without_a_name(Share)
    assert not alive_without_a_name(LooseShare)


async def test_the_cut_changes_no_result():
    async def three():
        for seed in (1, 2, 3):
            yield a_batch(seed)

    found = []
    for share in (Share, LooseShare):
        stage = Shares(share)
        await stage.run(three())
        found.append((stage.done, stage.largest))
    rows = a_batch(3).rows
    volumes = Counter[int]()
    for symbol, size in zip(
        rows["symbol"].tolist(), rows["size"].tolist(), strict=True
    ):
        volumes[symbol] += size
    most = max(volumes.values()) / volumes.total() * 100
    assert [done for done, _ in found] == [3, 3]
    assert [largest for _, largest in found] == pytest.approx([most] * 2)


def test_a_loose_share_raises_when_its_tally_is_gone():
    (share, *_), gone = Tally(a_batch(), LooseShare).shares, ReferenceError
    with pytest.raises(gone):
        share.percent()


# growth ----------------------------------------------------------------------------


async def test_every_batch_lives_until_the_collector_runs_by_hand():
    growth = await leaks.lived("collector off", seconds=0.3)
    assert growth.before.alive == growth.before.done > 3
    assert growth.after.alive == 1
    assert growth.collected >= 2 * growth.before.done
    assert growth.before.live_mb > 10 * growth.after.live_mb / 2
    assert judge("what-is-done-is-freed", growth).word == "REFUTED"
    assert judge("the-collector-frees-them", growth).word == "SUPPORTED"


async def test_with_the_ring_cut_only_the_batch_in_hand_is_alive():
    growth = await leaks.lived("ring cut", seconds=0.3)
    assert growth.before.done > 3
    assert [look.alive for look in growth.looks[1:]] == [1] * len(growth.looks[1:])
    assert judge("a-weak-link-cuts-the-ring", growth).word == "SUPPORTED"
    assert judge("the-collector-frees-them", growth).word == "INCONCLUSIVE"


async def test_a_live_growth_is_collected_and_leaves_a_picture(shown):
    growth = await leaks.grow(seconds=0.5)
    assert isinstance(shown[-1], leaks.GrowthPicture)
    assert shown[-1].n == f"n = {growth.looks[-1].done:,} batches"
    assert "gc.collect() found" in repr(growth)
    assert leaks.pictured(growth, await leaks.lived("ring cut", 0.2)).png()


async def test_a_growth_that_would_fill_the_memory_ends_early(monkeypatch):
    monkeypatch.setattr(leaks, "MOST_MB", 0.2)
    growth = await leaks.grow(seconds=60)
    assert growth.looks[-1].seconds < 30


async def fail_while_it_leaks() -> None:
    async with tallies.running("collector off"):
        assert not gc.isenabled()
        assert tracemalloc.is_tracing()
        raise ZeroDivisionError


@pytest.mark.parametrize("was_on", [True, False])
async def test_the_collector_is_left_as_it_was_found(was_on: bool):
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            await fail_while_it_leaks()
        assert gc.isenabled() == was_on
        assert not tracemalloc.is_tracing()
        async with tallies.running("collector on"):
            assert gc.isenabled()
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


async def test_what_was_grown_is_freed():
    async with tallies.running("collector off") as run:
        stage = run.stage
        await asyncio.sleep(0.1)
    assert len(stage.tallies) == 0 < stage.done


async def test_the_frames_are_where_most_bytes_are_born():
    births = await leaks.births(seconds=0.3, n=4)
    first = births.lines[0]
    assert first.file.endswith("frame.py")
    assert first.bytes > 2 * births.lines[-1].bytes
    assert "frame.py" in repr(births)
    assert "payload" in repr(births)


# holders ---------------------------------------------------------------------------


class Holder:
    def __init__(self, held: object) -> None:
        self.held = held


def test_a_photograph_shows_who_holds_whom_and_by_what():
    thing = Holder(None)
    above = [Holder(thing), Holder(thing)]
    graph = photograph(thing).graph()
    one, two = Kind(0, "Holder"), Kind(1, "Holder")
    assert graph.arrows[two, one] == ".held"
    assert graph.kinds[two] == len(above) == 2
    assert graph.arrows[Kind(2, "list"), two] == "[ ]"
    assert graph.kinds[Kind(2, "list")] == 1  # `above`, and no list of the camera's
    assert graph.ring == set()


def test_functions_at_work_and_the_camera_itself_are_not_on_it():
    thing = Holder(None)
    names = [thing.held for _ in range(3)]

    def running():
        mine = thing
        yield mine

    generator = running()
    assert next(generator) is thing
    taken = photograph(thing)
    # The cell through which `running` sees it is a holder, and its function.
    kinds = {type(holder).__name__ for holder in taken.holders(thing)}
    assert kinds <= {"cell"}
    assert names == [None] * 3


def test_the_ring_of_a_leak_stands_out_and_its_picture_says_so():
    tally = Tally(a_batch(), Share)
    shares = len(tally.shares)
    graph = photograph(tally.batch).graph()
    assert {kind.name for kind in graph.ring} == {"Tally", "Share", "list"}
    assert graph.kinds[Kind(2, "Share")] == shares
    assert "Batch    is held by Tally" in repr(graph)
    assert graph.picture().png()
    assert not photograph(dead := dead_cycle()).graph().ring
    assert dead() is not None
    gc.collect()


def test_a_graph_keeps_nothing_alive():
    tally = Tally(a_batch(), LooseShare)
    gone = weakref.ref(tally)
    graph = photograph(tally.batch).graph()
    del tally
    assert gone() is None
    assert graph.kinds


async def test_who_holds_a_batch_that_is_done():
    graph = await leaks.who_holds()
    assert judge("a-batch-hangs-on-a-ring", graph).word == "SUPPORTED"
    assert {kind.name for kind in graph.ring} == {"Tally", "Share", "list"}


# pages -----------------------------------------------------------------------------


async def test_a_tide_drops_nearly_all_and_makes_as_many():
    found = await pages.tide(trades=40_000)
    made, dropped, again, gone = (mark.live_mb for mark in found.marks)
    assert dropped < made / 15
    assert again == pytest.approx(made, rel=0.02)
    assert gone == 0.0
    assert found.picture().png()
    assert repr(found).count("MB RSS") == 4


def test_a_trade_takes_what_its_parts_take():
    trades = pages.make(3)
    parts = [trades, *trades, *(number for trade in trades for number in trade)]
    assert len({id(part) for part in parts}) == 10
    assert pages.bytes_of(trades) == sum(map(sys.getsizeof, parts))


def marks(*rss: float) -> Tide:
    live = (50.0, 2.5, 50.0, 0.0)
    return Tide(tuple(map(Mark, "abcd", live, rss)))


def test_shares_of_a_tide_by_hand():
    found = marks(50.0, 31.0, 40.5, 0.0)
    assert found.stays == pytest.approx(1 - 19 / 47.5)
    assert found.taken_again == pytest.approx(9.5 / 47.5)


# pools -----------------------------------------------------------------------------


def test_every_side_finds_the_same_sum():
    ticks = [tuple(row[:4]) for row in Market().take(pool_sides.TICKS).tolist()]
    expected = sum(price * size for _, price, size, _ in ticks)
    for name, side in pool_sides.sides().items():
        assert [side.total(ticks) for _ in range(3)] == [expected] * 3, name
        tick = side.make(*ticks[0])
        assert (tick[1] if name == "tuple" else tick.price) == ticks[0][1]


def test_a_tick_given_back_by_hand_is_back_in_its_pool():
    pool = FreeListPool(3)
    assert pool_sides.and_back(pool.lease, [(0, 2, 3, 0), (0, 5, 7, 0)]) == 41
    assert (pool.free, pool.misses) == (3, 0)


def test_blocks_are_counted_as_python_counts_them():
    ticks: list[Any] = [(n, n, n, n) for n in range(1000, 3000)]
    assert pool_claim.blocks(lambda *four: None, ticks) == 0
    assert pool_claim.blocks(lambda *four: list(four), ticks) == 2  # and its items
    assert pool_claim.blocks(lambda *four: [list(four)], ticks) == 4


def test_freed_tuples_that_wait_to_be_used_again_hide_no_block():
    ticks: list[Any] = [(n, n, n, n) for n in range(1000)]
    waiting = [(n, n, n, n) for n in range(3000)]
    del waiting
    assert pool_claim.blocks(lambda *four: four, ticks) == 1


def test_a_pool_is_weighed_and_refuted():
    found = pool_claim.weigh()
    blocks = {name: weight.blocks for name, weight in found.weights.items()}
    assert (blocks["tuple"], blocks["object"], blocks["free list"]) == (1, 1, 0)
    assert blocks["weakref pool"] > blocks["TickPool"] > 1
    assert found.helps == "no"
    assert judge("a-weakref-pool-allocates-less", found).word == "REFUTED"
    assert judge("a-free-list-allocates-nothing", found).word == "SUPPORTED"
    assert judge("a-weakref-pool-saves-time", found).word == "REFUTED"
    if gil_enabled():
        assert judge("a-weakref-pool-spares-the-collector", found).word == "REFUTED"
    assert found.picture().png()
    assert "weakref pool" in repr(found)


# judges ----------------------------------------------------------------------------


def grown(done: int, alive: int, left: int = 1) -> Growth:
    before, after = Look(1.0, done, alive, 9.0, 9.0), Look(1.0, done, left, 0.1, 9.0)
    return Growth("collector off", (before, after), before, after, 99)


def ringed(cut: bool = False, registry: bool = False) -> Graph:
    batch, tally, share, log = map(
        Kind, (0, 1, 2, 1), ("Batch", "Tally", "Share", "list")
    )
    arrows = {(tally, batch): ".batch", (share, tally): ".tally"}
    if not cut:
        arrows[tally, share] = ".share"
    if registry:
        arrows[log, batch] = "[ ]"
    return Graph(Counter(kind for arrow in arrows for kind in {*arrow}), arrows)


def weighed(
    blocks: tuple[int, int] = (1, 6),
    runs: tuple[int, int] = (1, 700),
    ns: tuple[float, float] = (70.0, 1300.0),
    free: int = 0,
) -> Weighed:
    weights = {
        name: Weight(blocks[i], runs[i], ns[i])
        for i, name in enumerate(("tuple", "weakref pool"))
    }
    weights["free list"] = Weight(free, 0, 200.0)
    plain, pool = ([each] * 9 for each in ns)
    return Weighed(weights, find(TIMES, pool, plain, plain))


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("a-ring-outlives-its-names", (True, 2, False), "SUPPORTED"),
        ("a-ring-outlives-its-names", (False, 0, False), "REFUTED"),
        ("a-ring-outlives-its-names", (True, 0, True), "REFUTED"),
        ("a-ring-outlives-its-names", (True, 0, False), "REFUTED"),
        ("what-is-done-is-freed", grown(100, 1), "SUPPORTED"),
        ("what-is-done-is-freed", grown(100, 100), "REFUTED"),
        ("what-is-done-is-freed", grown(100, 60), "INCONCLUSIVE"),
        ("what-is-done-is-freed", grown(1, 1), "INCONCLUSIVE"),
        ("the-collector-frees-them", grown(100, 100), "SUPPORTED"),
        ("the-collector-frees-them", grown(100, 100, left=40), "REFUTED"),
        ("the-collector-frees-them", grown(100, 1), "INCONCLUSIVE"),
        ("a-batch-hangs-on-a-ring", ringed(), "SUPPORTED"),
        ("a-batch-hangs-on-a-ring", ringed(registry=True), "REFUTED"),
        ("a-batch-hangs-on-a-ring", ringed(cut=True), "REFUTED"),
        ("a-batch-hangs-on-a-ring", Graph(Counter([Kind(0, "Batch")]), {}), "REFUTED"),
        ("a-weak-link-cuts-the-ring", grown(100, 1), "SUPPORTED"),
        ("a-weak-link-cuts-the-ring", grown(100, 100), "REFUTED"),
        ("what-is-freed-goes-back-to-the-system", marks(50, 50, 50, 0), "REFUTED"),
        ("what-is-freed-goes-back-to-the-system", marks(50, 5, 50, 0), "SUPPORTED"),
        ("what-is-freed-goes-back-to-the-system", marks(50, 27, 50, 0), "INCONCLUSIVE"),
        ("what-is-freed-is-used-again", marks(50, 50, 51, 0), "SUPPORTED"),
        ("what-is-freed-is-used-again", marks(50, 50, 95, 0), "REFUTED"),
        ("what-is-freed-is-used-again", marks(50, 50, 72, 0), "INCONCLUSIVE"),
        ("the-ring-is-found", Found(("Tally", "Share", "list"), True), "SUPPORTED"),
        ("the-ring-is-found", Found(("Tally", "Share", "list"), False), "REFUTED"),
        ("the-ring-is-found", Found(("dict", "list"), True), "REFUTED"),
        ("a-weakref-pool-allocates-less", weighed(), "REFUTED"),
        ("a-weakref-pool-allocates-less", weighed(blocks=(1, 0)), "SUPPORTED"),
        ("a-weakref-pool-allocates-less", weighed(blocks=(1, 1)), "INCONCLUSIVE"),
        ("a-weakref-pool-spares-the-collector", weighed(), "REFUTED"),
        ("a-weakref-pool-spares-the-collector", weighed(runs=(90, 1)), "SUPPORTED"),
        ("a-weakref-pool-spares-the-collector", weighed(runs=(0, 3)), "INCONCLUSIVE"),
        ("a-weakref-pool-saves-time", weighed(), "REFUTED"),
        ("a-weakref-pool-saves-time", weighed(ns=(70, 35)), "SUPPORTED"),
        ("a-weakref-pool-saves-time", weighed(ns=(70, 100)), "INCONCLUSIVE"),
        ("a-free-list-allocates-nothing", weighed(), "SUPPORTED"),
        ("a-free-list-allocates-nothing", weighed(free=1), "REFUTED"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


def test_a_guess_about_the_pool_is_answered_with_what_was_counted():
    assert weighed().helps == "no"
    assert weighed(ns=(70, 35)).helps == weighed(blocks=(1, 0)).helps == "yes"


# the exercise ----------------------------------------------------------------------


def direct_holders_only(thing, holders):
    for holder in holders(thing):
        if any(above is thing for above in holders(holder)):
            return [thing, holder]
    return []


def waits_for_the_thing(thing, holders, path=None, seen=None):
    path, seen = path or [thing], seen or set()
    for holder in holders(path[-1]):
        if holder is thing:
            return path
        if id(holder) not in seen:
            seen.add(id(holder))
            if ring := waits_for_the_thing(thing, holders, [*path, holder], seen):
                return ring
    return []


def returns_the_whole_path(thing, holders, path=None):
    path = path or [thing]
    for holder in holders(path[-1]):
        if any(holder is each for each in path):
            return path
        if ring := returns_the_whole_path(thing, holders, [*path, holder]):
            return ring
    return []


def place_of(thing, path):
    return next((n for n, each in enumerate(path) if each is thing), None)


def follows_the_first_holder(thing, holders):
    path = [thing]
    while above := holders(path[-1]):
        if (place := place_of(above[0], path)) is not None:
            return path[place:]
        path.append(above[0])
    return []


def takes_twice_seen_for_a_ring(thing, holders):
    seen = {id(thing)}

    def climb(path):
        for holder in holders(path[-1]):
            if id(holder) in seen:
                return path[place_of(holder, path) or 0 :]
            seen.add(id(holder))
            if ring := climb([*path, holder]):
                return ring
        return []

    return climb([thing])


def compares_by_equality(thing, holders):
    finished = set()

    def climb(path):
        for holder in holders(path[-1]):
            if holder in path:
                return path[path.index(holder) :]
            if id(holder) not in finished and (ring := climb([*path, holder])):
                return ring
        finished.add(id(path[-1]))
        return []

    return climb([thing])


def climbs_again_and_again(thing, holders):
    def climb(path):
        for holder in holders(path[-1]):
            if (place := place_of(holder, path)) is not None:
                return path[place:]
            if ring := climb([*path, holder]):
                return ring
        return []

    return climb([thing])


MISCONCEPTIONS = {
    direct_holders_only: "Ask for the holders of the holders",
    waits_for_the_thing: "You found nothing, but there is a ring",
    returns_the_whole_path: "hangs on the ring [tally, share, list]",
    follows_the_first_holder: "The first holder led nowhere",
    takes_twice_seen_for_a_ring: "two ways up to `top`",
    compares_by_equality: "Compare with `is`",
    climbs_again_and_again: "do not climb from them again",
}


def test_find_leak_knows_its_misconceptions():
    try_all(FIND_LEAK, MISCONCEPTIONS)


def test_rings_by_hand():
    made = Made("a < b < c < a", "d < a")
    a, b, c, d = (made.things[name] for name in "abcd")
    assert is_ring([a, b, c], made.holders)
    assert is_ring([b, c, a], made.holders)
    for wrong in ([], None, [a, c, b], [a, b], [d, a, b, c], [a, b, c, a, b, c]):
        assert not is_ring(wrong, made.holders)


def test_the_ladder_has_more_ways_than_anybody_can_climb():
    made = Made(*LADDER)
    assert FIND_LEAK.solution(made.things["batch"], made.holders) == []
    assert made.questions == len(made.things) == 121


async def test_the_reference_finds_the_ring_of_the_real_leak():
    found = await hunted(FIND_LEAK.solution)
    assert Counter(found.names) == {"Tally": 1, "Share": 1, "list": 1}
    assert judge("the-ring-is-found", found).word == "SUPPORTED"
    assert repr(found).startswith("The ring: ")


def test_where_there_is_no_ring_none_is_found():
    tally = Tally(a_batch(), LooseShare)
    found = hunt(FIND_LEAK.solution, tally.batch)
    assert repr(found) == "No ring: nothing."
    assert not found.ring
    del tally


# what is shown ---------------------------------------------------------------------


def test_the_functions_that_the_notebook_shows_fit():
    for each in (dead_cycle, Tally, Shares.run):
        assert show(each)
    diff = show_diff(Share.__init__, LooseShare.__init__).data
    changed = [line for line in diff.splitlines() if line[:1] in "+-"]
    assert [line.split() for line in changed] == [
        ["-", "self.tally", "=", "tally"],
        ["+", "self.tally", "=", "proxy(tally)"],
    ]
