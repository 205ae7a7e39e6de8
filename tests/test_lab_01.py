"""Notebook 01: hearts, deaths, stops and loops of our own."""

import asyncio
import gc
import threading
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from quants.lab import board, loops, nesting, own_loop, stops, tasks
from quants.lab.loops import Heart, Phase
from quants.lab.nesting import Nested
from quants.lab.own_loop import LoopThread, SmallPump, TwoPumps
from quants.lab.source import show_diff
from quants.lab.stops import Stop
from quants.lab.supervise_task import SUPERVISE, supervise
from quants.lab.tasks import Death
from quants.vwap import Vwap
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


# a loop is already running -------------------------------------------------------


async def test_running_a_loop_inside_a_loop_is_refused_in_one_line(capsys):
    loops.attempt(asyncio.run, asyncio.sleep(1))
    gc.collect()  # a coroutine that nobody awaited would warn
    said = "RuntimeError: asyncio.run() cannot be called from a running event loop\n"
    assert capsys.readouterr().out == said


async def test_a_heart_beats_while_a_cell_awaits_and_not_while_it_blocks(shown):
    async with loops.heartbeat(0.1) as heart:
        with heart.during("await") as waiting:
            await asyncio.sleep(0.3)
        with heart.during("block") as blocking:
            time.sleep(0.2)  # noqa: ASYNC251 - the subject
    assert len(waiting) > 1
    assert len(blocking) == 0
    assert "0 beats in block" in repr(heart)
    assert [type(each).__name__ for each in shown] == ["VBox", "Chart"]
    shown[-1].png()  # complete


async def test_a_beat_that_was_missed_counts_with_its_own_delay():
    now = 0.0

    async def sleep(seconds):
        nonlocal now
        now += max(seconds, 0.22 if now == 0 else 0.0)  # the first sleep is long
        if now > 0.5:
            raise asyncio.CancelledError

    heart = Heart(lambda: now, sleep)
    with suppress(asyncio.CancelledError):
        await heart.run()
    # Due at 0.05, 0.10, 0.15 and 0.20, and all of them come at 0.22.
    assert heart.late[1:5] == pytest.approx([0.17, 0.12, 0.07, 0.02])
    assert heart.beats[:3] == pytest.approx([0, 0.22, 0.25])
    assert all(b > a for a, b in pairwise(heart.beats))


def phase(*beats: float) -> Phase:
    heart = Heart(lambda: 0.0)
    heart.beats = list(beats)
    return Phase(heart, "a second", 0.0)


# a task dies ---------------------------------------------------------------------


async def test_a_task_that_nobody_awaits_dies_and_only_the_log_hears_of_it():
    death = await tasks.feed_and_plot(tasks.hoping)
    assert death.drawn_since > 1
    assert death.told is None
    assert death.logged is not None
    assert death.logged > 0.5


async def test_in_a_group_the_error_comes_out_and_the_plot_ends():
    death = await tasks.feed_and_plot(tasks.grouped)
    assert death.drawn_since <= 1
    assert death.told == "ValueError: could not convert string to float: 'n/a'"
    assert death.logged is None


def test_the_lesson_is_the_difference_and_fits_a_page():
    text = show_diff(tasks.hoping, tasks.grouped).data
    assert "+    async with asyncio.TaskGroup() as group:" in text
    text = show_diff(stops.swallows, stops.passes_on).data
    changed = [line for line in text.splitlines() if line[0] in "+-"]
    assert changed[2:] == ["+            raise"]


# a worker is told to stop ----------------------------------------------------------


async def test_who_swallows_a_cancellation_is_still_there_and_who_re_raises_is_not():
    keeps = await stops.cancel(stops.swallows, patience=0.05)
    passes = await stops.cancel(stops.passes_on, patience=5)
    assert (keeps.ended, passes.ended) == (False, True)
    assert keeps.said == passes.said == ("told to stop, tidied up",)


# a loop of our own -------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", [None, own_loop.uvloop_factory()])
async def test_a_loop_in_a_thread_runs_what_it_is_handed(new_loop):
    async def where():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    async def stays():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    ended: list[bool] = []
    with LoopThread(new_loop) as thread:
        found = await asyncio.wrap_future(thread.start_task(where()))
        thread.start_task(stays())
    assert found == ("uvloop" if new_loop else "asyncio")
    assert ended == [True]
    assert not thread.is_alive()


async def test_a_pump_in_a_thread_goes_on_while_this_loop_is_blocked():
    async with own_loop.two_pumps() as pumps:
        time.sleep(0.3)  # noqa: ASYNC251 - the subject
    here, there = pumps.ticks
    assert here == 0
    assert there > 0
    assert max(pumps.here.heart.late) > 0.2
    pumps.lags().png()


async def test_a_pump_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(own_loop, "Vwap", lambda *_: 1 / 0)
    with pytest.raises(ExceptionGroup) as caught:
        async with own_loop.two_pumps():
            pass
    assert caught.group_contains(ZeroDivisionError)


async def test_a_pump_that_fails_in_its_thread_says_so_here(monkeypatch):
    def vwap(*arguments):
        if threading.current_thread().name == "own-loop":
            raise ZeroDivisionError
        return Vwap(*arguments)

    monkeypatch.setattr(own_loop, "Vwap", vwap)
    with pytest.raises(ExceptionGroup) as caught:
        async with own_loop.two_pumps():
            pass
    assert caught.group_contains(ZeroDivisionError)


async def test_nested_loops_let_a_second_callback_into_the_first_one():
    found = await nesting.nested()
    assert found is not None
    assert found.order == ("the first begins", "the second runs", "the first ends")
    assert found.tasks_from == "asyncio.tasks"  # and no longer C's
    assert asyncio.Task.__module__ == "_asyncio"  # here, nothing has changed


async def test_without_nest_asyncio_there_is_nothing_to_say(monkeypatch):
    text = nesting.NESTED.replace("nest_asyncio", "no_such_module")
    monkeypatch.setattr(nesting, "NESTED", text)
    assert await nesting.nested() is None


# verdicts ------------------------------------------------------------------------


def pumps(here: int, there: int) -> TwoPumps:
    both = TwoPumps(SmallPump(), SmallPump())
    both.ticks = here, there
    return both


KEEPS, PASSES = Stop("keeps", (), False), Stop("passes", (), True)
UNNOTICED, TOLD = Death("hoping", 24, None, 1.2), Death("grouped", 1, "E", None)


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("waiting-lets-others-run", [phase(0.1, 0.2)], "SUPPORTED"),
        ("waiting-lets-others-run", [phase()], "REFUTED"),
        ("blocking-stops-the-loop", [phase()], "SUPPORTED"),
        ("blocking-stops-the-loop", [phase(0.1)], "REFUTED"),
        ("a-task-dies-unnoticed", [UNNOTICED], "SUPPORTED"),
        ("a-task-dies-unnoticed", [TOLD], "REFUTED"),
        ("a-task-dies-unnoticed", [Death("w", 1, None, None)], "INCONCLUSIVE"),
        ("a-group-tells", [TOLD], "SUPPORTED"),
        ("a-group-tells", [UNNOTICED], "REFUTED"),
        ("a-group-tells", [Death("w", 24, "E", None)], "REFUTED"),
        ("a-swallowed-cancellation-stops-nothing", [KEEPS, PASSES], "SUPPORTED"),
        ("a-swallowed-cancellation-stops-nothing", [PASSES, PASSES], "REFUTED"),
        ("a-swallowed-cancellation-stops-nothing", [KEEPS, KEEPS], "REFUTED"),
        ("a-loop-thread-survives-a-block", [pumps(0, 5000)], "SUPPORTED"),
        ("a-loop-thread-survives-a-block", [pumps(0, 0)], "REFUTED"),
        ("a-loop-thread-survives-a-block", [pumps(9, 5000)], "INCONCLUSIVE"),
        ("nesting-lets-others-in", [Nested("", 1, 1, ("a", "the second runs", "b"))],
         "SUPPORTED"),
        ("nesting-lets-others-in", [Nested("", 1, 1, ("a", "b", "the second runs"))],
         "REFUTED"),
        ("nesting-lets-others-in", [None], "INCONCLUSIVE"),
    ],
)  # fmt: skip
def test_a_verdict_is_computed_from_the_evidence(
    id: str, evidence: list[Any], word: str
):
    assert board.judge(id, *evidence).word == word


# the exercise ------------------------------------------------------------------------


async def one_by_one(*coros):
    return [await coro for coro in coros]


async def whoever_comes_first(*coros):
    return [await each for each in asyncio.as_completed(coros)]


async def errors_as_results(*coros):
    return await asyncio.gather(*coros, return_exceptions=True)


async def others_go_on(*coros):
    return await asyncio.gather(*coros)


async def cancels_and_goes(*coros):
    running = [asyncio.ensure_future(coro) for coro in coros]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for task in running:
            task.cancel()
        raise


async def leaves_them_when_cancelled(*coros):
    running = [asyncio.ensure_future(coro) for coro in coros]
    await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    failed = [task for task in running if not task.cancelled() and task.exception()]
    return [task.result() for task in failed or running]


MISCONCEPTIONS = {
    one_by_one: "run at the same",
    whoever_comes_first: "in the order of the arguments",
    errors_as_results: "is still an error",
    others_go_on: "still running: cancel it",
    cancels_and_goes: "wait for the end",
    leaves_them_when_cancelled: "means all of them",
}


def test_solution_stub_and_misconceptions_are_told_apart():
    try_all(SUPERVISE, MISCONCEPTIONS)


def test_a_right_answer_is_checked_within_two_seconds():
    began = time.process_time()
    assert SUPERVISE.failure(supervise) is None
    assert time.process_time() - began < 2


async def test_the_answer_takes_the_place_of_the_group():
    death = await tasks.feed_and_plot(supervise)
    assert board.judge("a-group-tells", death).word == "SUPPORTED"
