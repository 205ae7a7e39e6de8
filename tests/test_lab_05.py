"""Notebook 05: judges, notes made by hand, experiments, and its exercise."""

import multiprocessing
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from multiprocessing import resource_tracker
from typing import Any

import pytest

from quants import engines
from quants.evidence import CLAIMS as SAID
from quants.evidence import Conclusion
from quants.lab import race as racing
from quants.lab import session, turns_broken, turns_taken
from quants.lab.board import judge
from quants.lab.race import Lap, Race, RacePicture, race
from quants.lab.shared_vwap import SHARED_VWAP, SharedVwap
from quants.lab.source import show_diff
from quants.lab.turns_broken import Lost, Poured, Starved, missing
from quants.lab.turns_taken import WhoRan, counters, overlap, spans, who_ran
from quants.turns import gil_enabled
from tests.exercising import made, try_all


@pytest.fixture(autouse=True)
async def closed(monkeypatch: pytest.MonkeyPatch):
    """Nothing is displayed; every session is closed, and nothing is left."""

    class Handle:
        def display(self, shown):
            self.shown = shown

        update = display

    monkeypatch.setattr(racing, "DisplayHandle", Handle)
    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


# judges ----------------------------------------------------------------------------


def laps(**cores: float) -> tuple[Lap, ...]:
    return tuple(Lap(name, 1.0, 5e6, busy) for name, busy in cores.items())  # type: ignore[arg-type]


def who(*threads: list[tuple[float, float]]) -> WhoRan:
    first, second = threads
    return WhoRan((first, second), ([(0.0, 1.0)], [(0.0, 1.0)]), 99, True)


def answers(alone: float, long: list[float]) -> Starved:
    return Starved({"alone": [alone] * 60, "thread, long turns": long})


IN_TURNS = who([(0, 5), (10, 15)], [(5, 10), (15, 20)])
AT_ONCE = who([(0, 20)], [(0, 20)])
HALF = who([(0, 20)], [(0, 3), (6, 9), (19, 20)])


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("vwap-threads-share-one-core", Race(laps(threads=0.9), True), "SUPPORTED"),
        ("vwap-threads-share-one-core", Race(laps(threads=1.8), True), "REFUTED"),
        # Without a GIL a busy machine proves nothing.
        ("vwap-threads-share-one-core", Race(laps(threads=0.9), False), "INCONCLUSIVE"),
        ("vwap-threads-share-one-core", Race(laps(threads=1.8), False), "REFUTED"),
        ("where-one-has-a-bar-the-other-has-a-gap", IN_TURNS, "SUPPORTED"),
        ("where-one-has-a-bar-the-other-has-a-gap", AT_ONCE, "REFUTED"),
        ("where-one-has-a-bar-the-other-has-a-gap", HALF, "INCONCLUSIVE"),
        (
            "where-one-has-a-bar-the-other-has-a-gap",
            replace(IN_TURNS, gil=False),
            "INCONCLUSIVE",
        ),
        ("adding-in-place-loses-nothing", Lost(9, 0, 5), "SUPPORTED"),
        ("adding-in-place-loses-nothing", Lost(9, 1, 5), "REFUTED"),
        ("a-call-in-between-loses-updates", Lost(9, 0, 1), "SUPPORTED"),
        ("a-call-in-between-loses-updates", Lost(9, 0, 0), "REFUTED"),
        ("an-answer-waits-for-its-turn", answers(0.001, [0.051] * 20), "SUPPORTED"),
        (
            "an-answer-waits-for-its-turn",
            answers(0.001, [0.051] * 5 + [0.001] * 15),
            "SUPPORTED",
        ),
        ("an-answer-waits-for-its-turn", answers(0.001, [0.01] * 20), "REFUTED"),
        # It waits as long alone: then something else keeps it waiting.
        ("an-answer-waits-for-its-turn", answers(0.06, [0.06] * 20), "INCONCLUSIVE"),
        (
            "an-answer-waits-for-its-turn",
            answers(0.001, [0.051] * 2 + [0.001] * 18),
            "INCONCLUSIVE",
        ),
        (
            "an-answer-waits-for-its-turn",
            Starved(
                {
                    "alone": [0.06] * 5 + [0.001] * 55,
                    "thread, long turns": [0.051] * 15 + [0.001] * 5,
                }
            ),
            "SUPPORTED",  # a busy machine: alone some wait, beside it most
        ),
        ("shared-sums-are-exact", Poured(9, 1.0, True), "SUPPORTED"),
        ("shared-sums-are-exact", Poured(9, 1.0, False), "REFUTED"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("word", ["SUPPORTED", "REFUTED", "INCONCLUSIVE"])
def test_what_the_signs_say_is_the_verdict(name: str, word: Any):
    assert judge(name, Conclusion(word, "", ())).word == word


# by hand ---------------------------------------------------------------------------


def test_a_worker_ran_between_notes_that_are_close_together():
    track = [(at, 0.0, 0) for at in (0.0, 0.5, 1.0, 6.0, 6.5, 8.5)]
    assert spans(track) == [(0.0, 1.0), (6.0, 6.5)]


def test_overlap_is_the_share_of_the_time_that_both_are_there():
    assert overlap([(0, 4), (6, 10)], [(3, 7)]) == 0.5  # 3-4 and 6-7 of 3-7
    assert overlap([(0, 5)], [(5, 9)]) == 0.0


def test_a_race_tells_fastest_laps_against_inlines():
    one = [Lap("inline", 1, 2e6, 0.9), Lap("threads", 1, 2e6, 0.9)]
    other = [Lap("processes", 2, 3e6, 0.8), Lap("processes", 3, 4e6, 1.9)]
    found = Race((*one, *other, Lap("shared", 3, 4e6, 1.9)), True)
    assert found.speed_up("processes") == "2.0x"
    assert found.speed_up("threads") == "1.0x"
    assert "threads 1.0x on 0.9 cores; processes 2.0x on 1.9 cores" in repr(found)
    assert found.cores("processes") == 1.9


# experiments -----------------------------------------------------------------------


async def test_a_race_gives_each_engine_a_lap_at_least():
    found = await race(seconds=0)
    assert tuple(lap.engine for lap in found.laps) == racing.RUNNERS
    assert all(lap.ticks_per_second > 0 for lap in found.laps)
    assert found.gil == gil_enabled()


async def test_who_switches_sees_one_engine_and_gets_more_time():
    show = racing.Show(1.0)
    show.widgets()
    show.switch(("threads",))
    assert show.running == ("threads",)
    assert show.deadline > time.monotonic() + racing.TOUCHED_SECONDS - 1
    show.stop()
    assert show.deadline == 0


def test_the_picture_of_a_race_moves_on_and_ends_whole():
    picture = RacePicture(6.0)
    assert picture.update([Lap("threads", 1.0, 5e6, 1.0)])  # higher than before
    assert not picture.update([Lap("threads", 2.0, 5e6, 1.0)])
    assert picture.update([Lap("threads", 6.5, 5e6, 1.0)])
    assert picture.rate.get_xlim() == (3.5, 9.5)
    assert picture.undescribed() == []


def test_a_turn_that_the_system_interrupts_is_still_one():
    rows = [[(0.0, 1.0), (1.5, 2.0), (5.0, 6.0)], [(2.0, 5.0)]]
    assert turns_taken.turns(rows) == [2.0, 3.0, 1.0]


async def test_two_threads_never_run_at_once_with_a_gil():
    found = await who_ran()
    if gil_enabled():
        assert overlap(*found.threads) < 0.1
        assert sum(map(len, found.threads)) >= 4
    assert repr(found).endswith("the switch interval is 5 ms.")
    assert found.picture().undescribed() == []


def test_workers_that_cannot_start_are_told_of(monkeypatch):
    monkeypatch.setattr(turns_taken, "work", None)
    with pytest.raises(EOFError), counters(1, 2):
        pass
    assert multiprocessing.active_children() == []


async def test_a_call_in_between_loses_updates_and_nothing_else_does():
    found = await turns_broken.lost()
    assert found.by_call > 0
    if gil_enabled():
        assert found.in_place == 0


@pytest.mark.parametrize("gil", [True, False])
def test_threads_that_never_met_are_tried_again(monkeypatch, gil: bool):
    lost = {turns_broken.add: 0, turns_broken.add_by_call: 0}
    monkeypatch.setattr(turns_broken, "missing", lost.__getitem__)
    monkeypatch.setattr(turns_broken, "gil_enabled", lambda: gil)
    rounds = turns_broken.MOST_ROUNDS * 2 * turns_broken.TIMES
    assert turns_broken.count_lost().made == rounds
    lost[turns_broken.add_by_call] = 1
    assert (turns_broken.count_lost().made == rounds) is not gil
    lost[turns_broken.add] = 1
    assert turns_broken.count_lost().made < rounds


def test_one_that_is_alone_loses_nothing():
    def locked(counter, times, lock=threading.Lock()):  # noqa: B008 - one for all
        with lock:
            turns_broken.add_by_call(counter, times)

    assert missing(locked) == 0


async def test_an_answer_waits_for_a_turn_and_the_interval_is_put_back():
    before = sys.getswitchinterval()
    found = await turns_broken.starved()
    assert sys.getswitchinterval() == before
    assert found.picture().undescribed() == []
    if gil_enabled():
        assert found.median("thread, long turns") > 0.04


async def test_the_reference_sums_what_four_threads_pour():
    found = await turns_broken.poured(SharedVwap)
    assert found.exact
    assert found.ticks == turns_broken.TICKS


async def test_a_wrong_vwap_is_not_exact():
    class Doubled(SharedVwap):
        def vwap(self) -> Fraction | None:
            return 2 * (super().vwap() or Fraction(1))

    assert not (await turns_broken.poured(Doubled)).exact


async def test_what_looks_after_shared_memory_is_no_leak():
    await session.session()
    resource_tracker.ensure_running()


def test_what_the_notebook_shows_fits():
    show_diff(engines.threads, engines.processes)
    show_diff(turns_broken.add, turns_broken.add_by_call)


# the exercise ----------------------------------------------------------------------

HEAD = "from fractions import Fraction\nfrom threading import Lock\n"
MEAN = (
    HEAD
    + '''
class SharedVwap:
    """The mean of prices."""
    def __init__(self): self.prices, self.lock = [], Lock()
    def add(self, price, size):
        with self.lock: self.prices.append(price)
    def vwap(self):
        with self.lock:
            n = len(self.prices)
            return Fraction(sum(self.prices), n) if n else None
'''
)
UNLOCKED = (
    HEAD
    + '''
class SharedVwap:
    """The GIL will see to it."""
    def __init__(self): self.money = self.size = 0
    def add(self, price, size):
        self.money += price * size
        self.size += size
    def vwap(self):
        return Fraction(self.money, self.size) if self.size else None
'''
)
READS_UNLOCKED = (
    HEAD
    + '''
class SharedVwap:
    """Reading changes nothing, so it needs no lock."""
    def __init__(self): self.money, self.size, self.lock = 0, 0, Lock()
    def add(self, price, size):
        with self.lock:
            self.money += price * size
            self.size += size
    def vwap(self):
        return Fraction(self.money, self.size) if self.size else None
'''
)
TWO_BLOCKS = (
    HEAD
    + '''
class SharedVwap:
    """Each sum is safe."""
    def __init__(self): self.money, self.size, self.lock = 0, 0, Lock()
    def add(self, price, size):
        with self.lock:
            self.money += price * size
        with self.lock:
            self.size += size
    def vwap(self):
        with self.lock:
            return Fraction(self.money, self.size) if self.size else None
'''
)
KEPT = (
    HEAD
    + '''
class SharedVwap:
    """Acquire, work, release."""
    def __init__(self): self.money, self.size, self.lock = 0, 0, Lock()
    def add(self, price, size):
        self.lock.acquire()
        self.money += price * size
        self.size += size
        self.lock.release()
    def vwap(self):
        with self.lock:
            return Fraction(self.money, self.size) if self.size else None
'''
)
OWNED = '''
from fractions import Fraction
from queue import Queue
from threading import Thread

class SharedVwap:
    """One thread owns the sums; all others send it what they have."""
    def __init__(self):
        self.money = self.size = 0
        self.queue = Queue()
        Thread(target=self.own, daemon=True).start()
    def own(self):
        while True:
            product, size, answer = self.queue.get()
            self.money += product
            self.size += size
            if answer is not None:
                done = Fraction(self.money, self.size) if self.size else None
                answer.put(done)
    def add(self, price, size):
        self.queue.put((price * size, size, None))
    def vwap(self):
        answer = Queue()
        self.queue.put((0, 0, answer))
        return answer.get()
'''


def test_each_misconception_meets_its_own_hint():
    wrong = {
        MEAN: "two sums, of price * size and of size",
        UNLOCKED: "An update was lost",
        READS_UNLOCKED: "needs the lock too",
        TWO_BLOCKS: "between your two additions",
        KEPT: "never given back",
    }
    named = {}
    for number, (source, hint) in enumerate(wrong.items()):
        answer = made(source, "SharedVwap")
        answer.__qualname__ = f"wrong {number}"
        named[answer] = hint
    try_all(SHARED_VWAP, named)


def test_a_single_owner_is_right_too():
    assert SHARED_VWAP.failure(made(OWNED, "SharedVwap")) is None


def test_checking_takes_less_than_two_seconds_of_its_five():
    since = time.thread_time()
    assert replace(SHARED_VWAP, wrong=0).failure(SharedVwap) is None
    assert time.thread_time() - since < 2
