"""Notebook 04: a disk on the loop, groups, threads, a kill, and the log to write."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from quants.doomed import Seal
from quants.lab import desk, disks, group_commit, kills, pool_threads, session
from quants.lab import stop_the_world as world
from quants.lab.board import judge
from quants.lab.disks import Arriving, Beat, Heart, Logged, log_each, log_groups
from quants.lab.group_commit import Sizes
from quants.lab.kills import Killed
from quants.lab.pool_threads import Threads, count_threads, tick_by_tick
from quants.lab.safe_log_task import SAFE_LOG, safe_log
from quants.lab.source import show, show_diff
from quants.recovery import scan
from quants.ticklog import PerTickLog, TickLog
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


# a disk and a loop ---------------------------------------------------------------


async def test_each_way_has_every_tick_confirmed():
    ways: tuple[disks.Way, ...] = ("each tick", "groups", "TickLog")
    for way in ways:
        assert (await disks.logged(way, ticks=40)).ticks == 40
    logs = sorted((await session.session()).folder.glob("*.log"))
    assert [log.stat().st_size for log in logs[:2]] == [40 * 32, 40 * 32]
    assert scan(logs[2]).ticks == 40


async def test_each_tick_has_a_confirmation_of_its_own_and_a_group_shares_one():
    each = await disks.logged("each tick", ticks=50)
    groups = await disks.logged("groups", ticks=50)
    assert each.syncs == 50
    assert groups.syncs < 50
    assert "50 confirmations" in repr(each)
    assert world.lags(each, groups).png()


async def test_the_scripted_disk_takes_its_time(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        since = time.perf_counter()
        disks.slow_sync(file.fileno())
        assert time.perf_counter() - since >= disks.SLOW_SECONDS


async def test_a_heartbeat_counts_every_beat_that_a_stall_delays():
    heart = Heart()
    beating = asyncio.create_task(heart.run())
    await asyncio.sleep(0.02)
    before = len(heart.beats)
    time.sleep(0.2)  # noqa: ASYNC251 - the stall
    await asyncio.sleep(0.02)
    beating.cancel()
    late = [beat.late for beat in heart.beats[before:]]
    assert sum(each > 0.05 for each in late) >= 10
    dues = [beat.due for beat in heart.beats]
    assert dues == sorted({*dues})


async def test_all_beats_of_a_stall_come_before_the_next_one():
    heart = Heart()
    beating = asyncio.create_task(heart.run())
    await asyncio.sleep(0.02)
    before = len(heart.beats)
    time.sleep(0.2)  # noqa: ASYNC251 - the stall
    for _ in range(3):  # turns of the loop, which another stall could follow
        await asyncio.sleep(0)
    beating.cancel()
    assert len(heart.beats) - before >= 19


async def test_ticks_arrive_once_each_in_order():
    arriving, seen = Arriving(20_000, 200), 0
    async for batch in arriving:
        assert batch.first_seq == seen + 1
        seen += len(batch)
    assert seen == 200
    assert arriving.due == 0


async def test_the_world_stops_live_and_a_still_picture_stays(shown, monkeypatch):
    monkeypatch.setattr(world, "CALM_SECONDS", 0.2)
    monkeypatch.setattr(world, "MOST_TICKS", 120)
    run = await world.each_tick()
    assert run.syncs == run.ticks == 120
    assert len(shown) == 2
    assert shown[-1].png()


async def test_the_slider_turns_the_rate(monkeypatch):
    sliders = []

    def slider(self, name, values, value, act):
        sliders.append(act)

    monkeypatch.setattr(desk.Desk, "slider", slider)
    monkeypatch.setattr(world, "MOST_TICKS", 60)
    monkeypatch.setattr(world, "CALM_SECONDS", 60)
    rates, turn = [], Arriving.turn

    def noted(self, rate):
        rates.append(rate)
        turn(self, rate)

    monkeypatch.setattr(Arriving, "turn", noted)
    going = asyncio.create_task(world.each_tick())
    async with asyncio.timeout(20):
        while not sliders:
            await asyncio.sleep(0.01)
    sliders[0](500)
    await going
    assert rates == [500]


def felt(late: float, ticks: int = 500, syncs: int = 500) -> Logged:
    """A run whose heartbeats all came so late."""
    beats = tuple(Beat(i / 100, late) for i in range(9))
    return Logged("groups", ticks, syncs, 1.0, beats)


@pytest.mark.parametrize(
    ("claim", "evidence", "word"),
    [
        ("a-blocking-disk-stops-the-loop", (felt(0.2), felt(0.001)), "SUPPORTED"),
        ("a-blocking-disk-stops-the-loop", (felt(0.001), felt(0.001)), "REFUTED"),
        ("a-blocking-disk-stops-the-loop", (felt(0.3), felt(0.1)), "INCONCLUSIVE"),
        ("a-group-shares-one-wait", (felt(0, syncs=70),), "SUPPORTED"),
        ("a-group-shares-one-wait", (felt(0, syncs=70), felt(0)), "REFUTED"),
    ],
)
def test_what_the_loop_felt_decides(claim, evidence, word):
    assert judge(claim, *evidence).word == word


# groups --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hundred", "word"),
    [(0.006, "SUPPORTED"), (0.3, "REFUTED"), (0.1, "INCONCLUSIVE")],
)
def test_what_a_tick_of_a_hundred_costs_decides(hundred: float, word: str):
    seconds = dict.fromkeys(group_commit.GROUPS, 0.005) | {100: hundred}
    found = Sizes(seconds, seconds)
    assert judge("a-confirmation-is-paid-per-group", found).word == word
    assert found.within_budget == pytest.approx(250)


async def test_groups_of_each_size_are_measured_and_drawn(monkeypatch):
    monkeypatch.setattr(group_commit, "TIMES", 2)
    found = await group_commit.sizes()
    assert list(found.scripted) == list(found.own) == list(group_commit.GROUPS)
    assert min(found.scripted.values()) >= disks.SLOW_SECONDS
    assert found.picture().png()
    assert "the scripted one takes 5 ms" in repr(await group_commit.probe(3))


def test_what_the_notebook_shows_fits():
    show(TickLog.run)
    show(PerTickLog.run)
    changed = show_diff(log_each, log_groups).data
    assert "+        await asyncio.to_thread(sync, file.fileno())" in changed


# threads -------------------------------------------------------------------------


async def test_awaited_writes_are_calls_in_a_pool_and_a_list_is_none():
    in_turn, at_once, listed = await pool_threads.counted(40)
    assert in_turn.calls >= 40
    assert at_once.calls >= 40
    assert at_once.most == min(40, 32, (os.cpu_count() or 1) + 4)
    assert (listed.calls, listed.most) == (0, 0)
    assert pool_threads.picture([in_turn, at_once, listed]).png()
    assert judge("file-io-needs-no-threads", [in_turn, at_once, listed]).word == (
        "REFUTED"
    )


def test_threads_are_counted_anew_each_time(tmp_path):
    first, second = (
        count_threads(tick_by_tick, tmp_path / "lines", 10) for _ in range(2)
    )
    assert first.looks[0] == second.looks[0] == (0.0, 0)
    assert first.calls == second.calls


@pytest.mark.parametrize(
    ("calls", "word"), [(102, "REFUTED"), (0, "SUPPORTED"), (2, "INCONCLUSIVE")]
)
def test_calls_in_the_pool_decide(calls: int, word: str):
    found = [Threads("in turn", 100, ((0.0, 0),), calls)] * 3
    assert judge("file-io-needs-no-threads", found).word == word


# kills ---------------------------------------------------------------------------


async def test_a_kill_takes_a_buffer_and_nothing_that_was_written():
    buffered, tick_log, safe = await asyncio.gather(
        kills.kill("buffered"),
        kills.kill("TickLog"),
        kills.kill("safe_log", safe_log),
    )
    assert buffered.lost > 0
    assert (tick_log.lost, safe.lost) == (0, 0)
    assert safe.held - safe.said <= 1
    words = (judge("what-was-written-survives-a-kill", k) for k in (buffered, tick_log))
    assert [each.word for each in words] == ["REFUTED", "SUPPORTED"]


async def test_the_log_that_is_killed_is_the_one_that_was_given():
    def safe_log(path, seal):
        path.touch()
        return open(f"{path}.elsewhere", "wb", buffering=0)

    killed = await kills.kill("safe_log", safe_log)
    assert (killed.held, killed.lost) == (0, killed.said)
    assert killed.said >= kills.ENOUGH["safe_log"]


def test_a_process_that_ends_before_it_logged_has_said_nothing(capfd):
    assert kills.last_words(["safe_log", "nowhere", "no source"], 1) == 0
    assert "FileNotFoundError" in capfd.readouterr().err


def test_a_short_life_waits_for_no_pictures():
    code = "import sys, quants.doomed; print('quants.lab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


def test_a_lost_tick_refutes_and_silence_decides_nothing():
    good = Killed("TickLog", 100, 120)
    claims = ("written", "appended")
    for claim in (f"what-was-{each}-survives-a-kill" for each in claims):
        assert judge(claim, good).word == "SUPPORTED"
        assert judge(claim, replace(good, held=99)).word == "REFUTED"
        assert judge(claim, replace(good, said=0)).word == "INCONCLUSIVE"
    assert judge("your-log-survives-a-kill", replace(good, held=0)).word == "REFUTED"
    assert "100 ticks were logged" in repr(good)


# the log to write ----------------------------------------------------------------


def has_a_buffer(path, seal):
    file = open(path, "a+b")  # noqa: SIM115 - returned
    file.seek(0)
    whole = b"".join(map(seal.on, seal.off(file.read())))
    file.truncate(len(whole))
    return file


def begins_anew(path, seal):
    return open(path, "wb", buffering=0)


def needs_an_old_file(path, seal):
    return open(path, "r+b", buffering=0)


def forgets_the_seals(path, seal):
    file = open(path, "a+b", buffering=0)  # noqa: SIM115 - returned
    file.seek(0)
    file.truncate(sum(map(len, seal.off(file.read()))))
    return file


def goes_on_behind_the_torn_end(path, seal):
    return open(path, "ab", buffering=0)


def test_the_exercise_knows_its_misconceptions():
    try_all(
        SAFE_LOG,
        {
            needs_an_old_file: "Return the file, open for writing",
            has_a_buffer: "A buffer dies with its process",
            begins_anew: "all it had held was gone",
            forgets_the_seals: "count those of its seal",
            goes_on_behind_the_torn_end: "it lies behind the torn batch",
        },
    )


def test_a_log_that_never_seeks_is_told_so():
    def never_seeks(path, seal):
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 - returned
        file.truncate(len(b"".join(map(seal.on, seal.off(file.read())))))
        return file

    assert "after seek(0)" in (SAFE_LOG.failure(never_seeks) or "")


def test_a_seal_stands_no_changed_byte():
    seal, batches = Seal(), [b"one", b"", b"three"]
    data = b"".join(map(seal.on, batches))
    assert seal.off(data) == batches
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        found = seal.off(bytes(changed))
        assert found == batches[: len(found)]
        assert len(found) < len(batches)
