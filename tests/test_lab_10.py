"""Notebook 10: judges, what the collector walks and frees, its exercise."""

import asyncio
import gc
from typing import Any

import pytest

from quants.lab import desk, freezing, growing, pauses, policed, session
from quants.lab.board import judge
from quants.lab.freezing import CLIENTS, Fates, Pile, fates, piles
from quants.lab.gc_policy_task import GC_POLICY, GcPolicy, Load, Step, played
from quants.lab.growing import Days
from quants.lab.guests import BUFFER_BYTES, Client, Guests
from quants.lab.pauses import FULL, MILLION, Grown, Pause, Walks, Watch, set_aside
from quants.lab.policed import MOST_MB, MOST_WALKED, Policed, Run
from quants.lab.source import show, show_diff
from quants.monitor import gc_threshold
from tests.exercising import try_all

SHOWN: list[Any] = []  # by the experiment, in place of a page


def collector() -> tuple[Any, ...]:
    return gc.isenabled(), gc.get_threshold(), len(gc.callbacks), gc.get_debug()


@pytest.fixture(autouse=True)
async def as_it_was(monkeypatch: pytest.MonkeyPatch):
    """Nothing is displayed or left, and the collector is as it was found."""

    class Handle:
        def display(self, shown):
            SHOWN.append(shown)

        update = display

    SHOWN.clear()
    monkeypatch.setattr(desk, "DisplayHandle", Handle)
    gc.unfreeze()  # what a start of Python 3.12 has frozen
    before = collector()
    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"
    assert collector() == before
    assert gc.get_freeze_count() < 1000  # some versions freeze a few themselves


# judges ----------------------------------------------------------------------------


def day(*pauses: tuple[int, float, int], kept: int = 1000) -> Grown:
    """Collections: generation, seconds, walked."""
    notes = (Pause(0, generation, took, walked) for generation, took, walked in pauses)
    return Grown(tuple(notes), kept)


YOUNG = (0, 1e-5, 0)


def full(walked: int, seconds: float = 0.05) -> tuple[int, float, int]:
    return (FULL, seconds, walked)


def left(**here: int) -> Fates:
    """Fates that are typical, but for these."""
    all_here = {story: CLIENTS * (story in STAY) for story in freezing.STORIES}
    return Fates(all_here | {k.replace("_", ", "): n for k, n in here.items()}, 0)


STAY = ("left, frozen", "frozen, left")


def heaps(own: int, rare: int, never: int) -> list[Pile]:
    ways = zip(freezing.WAYS, (own, rare, never), strict=True)
    return [Pile(way, (0, most, 7), 3) for way, most in ways]


def budgets(own: int, walked: int, waited_mb: float) -> Policed:
    pythons, policys = (
        Run((0.5, mb), (Pause(1000, FULL, 0.01, most),))
        for most, mb in ((own, 0.5), (walked, waited_mb))
    )
    return Policed(pythons, policys, Load(10.0, MOST_MB))


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("the-longest-pause-is-a-full-collection", day(YOUNG, full(9)), "SUPPORTED"),
        (
            "the-longest-pause-is-a-full-collection",
            day((0, 0.2, 0), full(9)),
            "REFUTED",
        ),
        ("the-longest-pause-is-a-full-collection", day(YOUNG), "INCONCLUSIVE"),
        (
            "a-full-collection-walks-the-living",
            Walks({10: 0.001, 1000: 0.1}),
            "SUPPORTED",
        ),
        (
            "a-full-collection-walks-the-living",
            Walks({10: 0.1, 1000: 0.1}),
            "REFUTED",
        ),
        (
            "what-is-frozen-is-not-walked",
            Days(day(full(growing.LOADED + 5)), day(full(400_000))),
            "SUPPORTED",
        ),
        (
            "what-is-frozen-is-not-walked",
            Days(day(full(growing.LOADED + 5)), day(full(9), full(growing.LOADED + 4))),
            "REFUTED",
        ),
        ("what-is-frozen-is-not-walked", Days(day(full(9)), day(full(9))), "REFUTED"),
        (
            "what-is-frozen-is-not-walked",
            Days(day(full(growing.LOADED)), day(YOUNG)),
            "INCONCLUSIVE",
        ),
        ("a-dead-cycle-that-is-frozen-stays", left(), "SUPPORTED"),
        ("a-dead-cycle-that-is-frozen-stays", left(left_frozen=0), "REFUTED"),
        ("a-dead-cycle-that-is-frozen-stays", left(left_collected_frozen=1), "REFUTED"),
        ("a-frozen-cycle-that-dies-stays", left(), "SUPPORTED"),
        ("a-frozen-cycle-that-dies-stays", left(frozen_left=0), "REFUTED"),
        ("rare-collections-pile-up-the-dead", heaps(300, 5000, 20_000), "SUPPORTED"),
        ("rare-collections-pile-up-the-dead", heaps(300, 400, 20_000), "REFUTED"),
        ("rare-collections-pile-up-the-dead", heaps(300, 5000, 5000), "REFUTED"),
        (
            "a-policy-keeps-both-budgets",
            budgets(5 * MOST_WALKED, MOST_WALKED, MOST_MB),
            "SUPPORTED",
        ),
        (
            "a-policy-keeps-both-budgets",
            budgets(5 * MOST_WALKED, 2 * MOST_WALKED, MOST_MB),
            "REFUTED",
        ),
        (
            "a-policy-keeps-both-budgets",
            budgets(5 * MOST_WALKED, MOST_WALKED, MOST_MB + 0.5),
            "REFUTED",
        ),
        (
            "a-policy-keeps-both-budgets",
            budgets(MOST_WALKED, MOST_WALKED, MOST_MB),
            "INCONCLUSIVE",
        ),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


# the collector ---------------------------------------------------------------------


def test_what_is_set_aside_is_not_walked_and_comes_back():
    mine = [[i] for i in range(10_000)]
    notes: list[Pause] = []
    with gc_threshold(123):
        with set_aside(), Watch([], notes):
            gc.disable()
            gc.set_threshold(5)
            gc.collect()
        assert gc.isenabled()
        assert gc.get_threshold()[0] == 123
    assert 0 <= notes[-1].walked < len(mine)
    with Watch([], notes):
        gc.collect()
    assert notes[-1].walked > len(mine)


def test_a_note_says_generation_time_and_how_much_was_kept():
    held, notes = [[1], [2]], list[Pause]()
    with set_aside(), Watch(held, notes):
        kept = [[i] for i in range(5000)]
        gc.collect()
        gc.collect(0)
    first, second = notes[-2:]
    assert (first.alive, first.generation, second.generation) == (2, FULL, 0)
    assert len(kept) <= first.walked < len(kept) + 1000
    assert second.walked == 0
    assert first.seconds > 0


def test_a_walk_is_one_full_collection_beside_so_many():
    notes: list[Pause] = []
    with set_aside(), Watch([], notes):
        seconds = pauses.walk(20_000)
    (only,) = (note for note in notes if note.walked >= 20_000)
    assert only.generation == FULL
    assert seconds >= only.seconds


async def test_a_walk_takes_longer_beside_more():
    found = await pauses.walks((1000, 300_000), rounds=2)
    assert judge("a-full-collection-walks-the-living", found).word == "SUPPORTED"
    assert repr(found).startswith("A full collection takes ")
    assert found.each_seconds == found.seconds[300_000] / 300_000
    assert pauses.grows(found).undescribed() == []


# live ------------------------------------------------------------------------------


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(growing, "RATE", 2_000_000)


@pytest.mark.usefixtures("hurry")
async def test_a_pump_keeps_what_it_should_and_its_pauses_are_noted():
    found = await growing.growing(300_000)
    assert found.kept == 300_000
    assert found.pauses[-1].alive <= 300_000
    assert judge("the-longest-pause-is-a-full-collection", found).word == "SUPPORTED"
    assert repr(found).startswith("300,000 containers kept, ")
    count = sum(map(int, found.generations.replace(",", " ").rstrip(".").split()[-3:]))
    assert count == len(found.pauses) or count > 999
    still = SHOWN[-1]
    assert still.undescribed() == []
    assert still.n == f"n = {len(found.pauses):,} collections"


@pytest.mark.usefixtures("hurry")
async def test_a_frozen_day_walks_only_what_came_later():
    found = await growing.days()
    assert judge("what-is-frozen-is-not-walked", found).word == "SUPPORTED"
    assert repr(found).count("a full one walked") == 2
    assert found.before.kept == found.after.kept == growing.MORE


async def test_stop_ends_a_day_and_lets_go(monkeypatch: pytest.MonkeyPatch):
    async def stopped(self, look, still):
        assert look()
        assert still().undescribed() == []
        await asyncio.sleep(0)  # the day begins

    monkeypatch.setattr(desk.Desk, "run", stopped)
    found = await growing.days()
    assert repr(await session.session()) == "<Session lab, 1 tasks>"  # its monitor
    assert not found.before.full
    assert judge("what-is-frozen-is-not-walked", found).word == "INCONCLUSIVE"


def test_a_run_without_a_collection_says_so():
    assert repr(day(kept=5)) == "5 containers kept, and no collection yet."
    assert growing.told(day(YOUNG)) == "1 collections, none of them full."


# the price -------------------------------------------------------------------------


def test_a_client_that_leaves_waits_for_the_collector():
    guests = Guests()
    with set_aside(), pauses.no_collector():
        Client(guests)
        assert (guests.came, guests.gone, guests.here) == (1, 0, 1)
        assert guests.megabytes == BUFFER_BYTES / 1e6
        gc.collect()
    assert guests.here == 0


def test_a_client_whose_cycle_is_cut_needs_no_collector():
    guests = Guests()
    with pauses.no_collector():
        client = Client(guests)
        client.told(5)
        client.close()
        assert guests.here == 1
        del client
        assert guests.here == 0


def test_only_what_is_frozen_as_a_cycle_stays():
    found = fates()
    assert list(found.here.values()) == [CLIENTS, 0, CLIENTS, 0, 0]
    assert found.thawed == 0
    assert judge("a-dead-cycle-that-is-frozen-stays", found).word == "SUPPORTED"
    assert judge("a-frozen-cycle-that-dies-stays", found).word == "SUPPORTED"


def test_the_rarer_the_collections_the_larger_the_pile():
    found = piles()
    own, rare, never = found
    assert judge("rare-collections-pile-up-the-dead", found).word == "SUPPORTED"
    assert own.collections > rare.collections > never.collections == 0
    assert rare.most <= freezing.RARE
    assert freezing.saw(found).undescribed() == []


# the exercise ----------------------------------------------------------------------


class Wrong(GcPolicy):
    """Does what the reference does, but for `calls`."""

    def too_long(self, load: Load) -> bool:
        return load.pause_ms > self.most.pause_ms

    def too_much(self, load: Load) -> bool:
        return load.garbage_mb > self.most.garbage_mb


class NeverCollects(Wrong):
    def calls(self, now, soon):
        return []


class CountsSteps(Wrong):
    steps = 0

    def calls(self, now, soon):
        self.steps += 1
        return ["collect"] if self.steps % 10 == 0 else []


class CollectsEachTime(Wrong):
    def calls(self, now, soon):
        return ["collect"]


class IsTooLateForGarbage(Wrong):
    def calls(self, now, soon):
        if self.too_long(soon):
            return ["collect", "freeze"]
        return ["collect"] if self.too_much(now) else []


class NeverFreezes(Wrong):
    def calls(self, now, soon):
        return ["collect"] if self.too_much(soon) else []


class FreezesGarbage(Wrong):
    def calls(self, now, soon):
        if self.too_long(soon):
            return ["freeze", "collect"]
        return ["collect"] if self.too_much(soon) else []


class IsTooLateForThePause(Wrong):
    def calls(self, now, soon):
        if self.too_long(now):
            return ["collect", "freeze"]
        return ["collect"] if self.too_much(soon) else []


class FreezesEachTime(Wrong):
    def calls(self, now, soon):
        if self.too_long(soon) or self.too_much(soon):
            return ["collect", "freeze"]
        return []


MISCONCEPTIONS: dict[Any, str] = {
    NeverCollects: "nothing ever comes for it",
    CountsSteps: "Do not count steps",
    CollectsEachTime: "a pause for nothing",
    IsTooLateForGarbage: "not now, about the garbage",
    NeverFreezes: "What is frozen is not walked",
    FreezesGarbage: "First collect, then freeze",
    IsTooLateForThePause: "not now, about the pause",
    FreezesEachTime: "Freeze only for the pause's sake",
}


def test_each_misconception_meets_its_own_hint():
    try_all(GC_POLICY, MISCONCEPTIONS)


def test_a_day_by_hand():
    """5 ms and 4 MB a step, of 10 and 10: by the third something must be called."""
    found = played(GcPolicy(10, 10), [Step(5, 4), Step(5, 4), Step(5, 4), Step()])
    assert (found.longest_ms, found.collections, found.frozen_mb) == (10, 1, 0)
    assert (found.pause_ms, found.garbage_mb, found.most_mb) == (5, 4, 8)


def test_guests_who_are_there_at_a_freeze_are_garbage_for_ever():
    found = played(
        FreezesEachTime(9, 1), [Step(guests_mb=2), Step(guests_mb=3), Step()]
    )
    assert found.frozen_mb == 5


def test_soon_is_a_step_later():
    guests = Guests()
    guests.came = 300
    now, soon = policed.loads(50_000, guests, each_ms=0.001)
    assert now == Load(50, 1.5)
    assert soon == Load(60, 2)


async def test_the_reference_keeps_real_budgets_and_no_policy_does_not():
    walks = Walks({MILLION: 0.05})
    found = await policed.policed(GcPolicy, walks)
    assert judge("a-policy-keeps-both-budgets", found).word == "SUPPORTED"
    assert max(found.policy.waited_mb) == MOST_MB  # the budget was used
    walks_used = [pause.walked > 0.9 * MOST_WALKED for pause in found.policy.pauses]
    assert sum(walks_used) == policed.STEPS * policed.KEPT / MOST_WALKED  # as well
    assert found.picture().undescribed() == []
    assert "Budgets: 10.0 ms, which is 100,000 containers, and 2 MB." in repr(found)


@pytest.mark.parametrize("wrong", [NeverCollects, NeverFreezes])
async def test_a_wrong_policy_breaks_a_real_budget(wrong: type[GcPolicy]):
    found = await policed.policed(wrong, Walks({MILLION: 0.05}))
    assert judge("a-policy-keeps-both-budgets", found).word == "REFUTED"


def test_what_the_notebook_shows_fits():
    show(Watch.note)
    show_diff(growing.load, growing.load_frozen)
