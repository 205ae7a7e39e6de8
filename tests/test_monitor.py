"""quants/monitor.py against gc.get_stats, the operating system and worked times."""

import asyncio
import gc
import json
import math
import mmap
import shutil
import subprocess
import threading
import time

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.errors import SettingsError
from quants.histogram import Histogram
from quants.metrics import Registry
from quants.monitor import Monitor, delays, freeze_after, freeze_gc
from quants.report import memory_line
from quants.settings import Settings
from tests.test_cli import quants


class VirtualTime:
    """A clock that moves only when somebody sleeps, at once.

    `late` gives extra seconds for the sleeps to come; when they are used up
    the sleeper is cancelled.
    """

    def __init__(self, late=()):
        self.seconds, self.late = 1000.0, list(late)

    def ns(self):
        return round(self.seconds * 1e9)

    def clock(self):
        return self.seconds

    async def sleep(self, seconds):
        if not self.late:
            raise asyncio.CancelledError
        self.seconds += seconds + self.late.pop(0)


@pytest.fixture
def quiet_gc():
    """No collection but those a test asks for."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def beats(late):
    virtual = VirtualTime(late)
    monitor = Monitor(Registry(), 0.01, virtual.ns, virtual.sleep)
    with pytest.raises(asyncio.CancelledError):
        await monitor.run()
    return monitor


def make_dead_cycle():
    one: list[object] = []
    other = [one]
    one.append(other)


def scraped(registry):
    """What a scrape shows: by name, generation and bound."""
    body, _ = registry.exposition("text/plain")
    return {
        (sample.name, sample.labels.get("generation"), sample.labels.get("le")): (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def collections_by_generation():
    return [generation["collections"] for generation in gc.get_stats()]


def test_every_collection_is_counted_under_its_generation(quiet_gc):
    before = collections_by_generation()
    with Monitor(Registry()) as monitor:
        for generation in (0, 1, 2, 0):
            gc.collect(generation)
    after = collections_by_generation()
    expected = {
        generation: counts[1] - counts[0]
        for generation, counts in enumerate(zip(before, after, strict=True))
        if counts[1] > counts[0]
    }
    assert {key: pauses.count for key, pauses in monitor.pauses.items()} == expected
    assert monitor.collections == sum(expected.values()) == 4


def test_a_pause_lasts_from_the_start_of_a_collection_to_its_stop(quiet_gc):
    times_ns = iter([0, 1_000, 8_000])
    with Monitor(Registry(), clock_ns=lambda: next(times_ns)) as monitor:
        gc.collect()
    assert monitor.pause.maximum == 7e-6


def test_a_pause_is_no_longer_than_the_call_that_caused_it(quiet_gc):
    heap: list[list[int]] = [[] for _ in range(100_000)]
    with Monitor(Registry()) as monitor:
        start = time.perf_counter()
        gc.collect()
        outside = time.perf_counter() - start
    assert 0 < monitor.pause.maximum <= outside
    assert len(heap) == 100_000


def test_the_objects_of_a_dead_cycle_are_counted(quiet_gc):
    with Monitor(Registry()) as monitor:
        make_dead_cycle()
        gc.collect()
    assert sum(monitor.collected.values()) >= 2  # 2 exactly, where there is a GIL


def test_objects_that_cannot_be_freed_are_counted():
    registry = Registry()
    monitor = Monitor(registry)
    for generation, uncollectable in [(0, 0), (2, 3), (2, 4)]:
        monitor._on_gc("start", {})
        info = {"collected": 1, "uncollectable": uncollectable}
        monitor._on_gc("stop", {"generation": generation, **info})
    found = scraped(registry)
    name = "quants_gc_uncollectable_objects_total"
    assert (found[name, "0", None], found[name, "2", None]) == (0, 7)


ROUNDS = 9


@pytest.mark.skipif(
    "duration" not in gc.get_stats()[0], reason="Python times its pauses from 3.15 on"
)
def test_pauses_agree_with_those_that_python_measures(quiet_gc):
    heap: list[list[int]] = [[] for _ in range(200_000)]
    theirs: list[float] = []
    ours: list[float] = []

    def note(phase, info):
        if phase == "stop":
            theirs.append(info["duration"])

    gc.callbacks.append(note)
    try:
        for _ in range(ROUNDS):
            with Monitor(Registry()) as monitor:
                gc.collect()
            ours.append(monitor.pause.maximum)
    finally:
        gc.callbacks.remove(note)
    # Ours begins and ends outside of theirs; the machine can stop us between.
    apart = [our - their for our, their in zip(ours, theirs, strict=True)]
    assert min(apart) > -1e-6
    assert min(apart) < 0.05 * min(theirs)
    assert len(heap) == 200_000


def test_the_threshold_holds_while_a_monitor_is_entered():
    before = gc.get_threshold()
    registry = Registry()
    with Monitor(registry, gc_threshold=12_345) as monitor:
        inside, found = gc.get_threshold(), scraped(registry)
    assert inside == monitor.thresholds == (12_345, *before[1:])
    assert found["quants_gc_threshold", "0", None] == 12_345
    assert found["quants_gc_threshold", "1", None] == before[1]
    assert gc.get_threshold() == before


def test_without_a_threshold_python_keeps_its_own():
    before = gc.get_threshold()
    with Monitor(Registry()) as monitor:
        assert gc.get_threshold() == monitor.thresholds == before


def test_callback_and_threshold_go_away_with_their_monitor_even_after_an_error():
    before = list(gc.callbacks), gc.get_threshold()
    with pytest.raises(ZeroDivisionError), Monitor(Registry(), gc_threshold=7_000):
        raise ZeroDivisionError
    assert (list(gc.callbacks), gc.get_threshold()) == before


def test_a_scrape_survives_the_collection_it_sets_off(quiet_gc):
    class CollectsWhenRead(int):
        def __str__(self):
            gc.collect()
            return "7"

    registry = Registry()
    with Monitor(registry) as monitor:
        monitor.pauses[CollectsWhenRead(7)] = Histogram()
        text = registry.exposition()[0].decode()
        assert 'quants_gc_pause_seconds_count{generation="7"} 0.0' in text
        assert monitor.collections >= 1


@pytest.mark.parametrize(
    ("late_ns", "expected"),
    [(-5, [0]), (0, [0]), (9, [9]), (10, [10, 0]), (35, [35, 25, 15, 5])],
)
def test_a_stall_delays_every_beat_that_falls_into_it(late_ns, expected):
    assert list(delays(late_ns, beat_ns=10)) == expected


async def test_lag_is_counted_from_the_intended_moment():
    monitor = await beats(late=[0.0, 0.0, 0.035, 0.0])
    # Beats at 10 and 20 ms in time; those due at 30, 40, 50 and 60 ms run at
    # 65 ms; the one due at 70 ms is in time again.
    assert monitor.lag.count == 7
    assert monitor.lag.maximum == pytest.approx(0.035)
    assert monitor.lag.sum_seconds == pytest.approx(0.035 + 0.025 + 0.015 + 0.005)


async def test_a_blocked_loop_shows_up_as_lag():
    async def sleep_once(seconds):
        if monitor.lag.count:
            raise asyncio.CancelledError
        await asyncio.sleep(seconds)

    monitor = Monitor(Registry(), beat_seconds=0.005, sleep=sleep_once)
    asyncio.get_running_loop().call_soon(time.sleep, 0.06)
    with pytest.raises(asyncio.CancelledError):
        await monitor.run()
    assert monitor.lag.maximum >= 0.05


@pytest.mark.parametrize(("beats_of_10_ms", "seen"), [(90, False), (110, True)])
async def test_memory_is_read_again_each_second(beats_of_10_ms, seen):
    ballast: list[mmap.mmap] = []  # fresh pages: a heap may have had them already

    async def sleep(seconds):
        await virtual.sleep(seconds)
        if virtual.seconds > 1000.5 and not ballast:
            ballast.append(mmap.mmap(-1, 50_000_000))
            ballast[0].write(b"x" * 50_000_000)

    virtual = VirtualTime([0.0] * beats_of_10_ms)
    monitor = Monitor(Registry(), 0.01, virtual.ns, sleep)
    before = monitor.rss_bytes
    with pytest.raises(asyncio.CancelledError):
        await monitor.run()
    ballast[0].close()  # here, and not while the next case looks
    assert (monitor.rss_bytes > before + 25_000_000) is seen


async def test_all_the_metrics_of_a_monitor_can_be_scraped(quiet_gc):
    registry = Registry()
    with Monitor(registry) as monitor:
        gc.collect(0)
    monitor.lag.record(1_500_000)
    monitor.read_uss()
    found = scraped(registry)
    assert found["quants_gc_pause_seconds_count", "0", None] == 1
    assert found["quants_gc_collected_objects_total", "0", None] >= 0
    assert found["quants_event_loop_lag_seconds_sum", None, None] == 0.0015
    assert found["quants_memory_rss_bytes", None, None] == monitor.rss_bytes > 0
    assert found["quants_memory_uss_bytes", None, None] == monitor.uss_bytes
    assert found["quants_allocated_blocks", None, None] > 10_000
    assert found["quants_event_loop_stalls_total", None, None] == 0


def test_blocks_are_those_that_python_holds():
    registry = Registry()
    Monitor(registry)
    name = ("quants_allocated_blocks", None, None)
    before = scraped(registry)[name]
    held = [object() for _ in range(100_000)]
    assert scraped(registry)[name] - before == pytest.approx(len(held), rel=0.05)


@pytest.mark.parametrize(("beats_of_10_ms", "readings"), [(90, 1), (2010, 3)])
async def test_the_memory_of_this_process_alone_is_read_each_ten_seconds(
    beats_of_10_ms, readings, monkeypatch
):
    class AtOnce(threading.Thread):
        def start(self):
            super().start()
            self.join()

    read = []

    class Noting(Monitor):
        def read_uss(self):
            read.append(threading.current_thread().name)
            super().read_uss()

    monkeypatch.setattr("quants.monitor.Thread", AtOnce)
    virtual = VirtualTime([0.0] * beats_of_10_ms)
    monitor = Noting(Registry(), 0.01, virtual.ns, virtual.sleep)
    assert math.isnan(monitor.uss_bytes)
    with pytest.raises(asyncio.CancelledError):
        await monitor.run()
    assert read == ["read-uss"] * readings  # off the loop
    assert 0 < monitor.uss_bytes < 2 * psutil.Process().memory_info().rss


def test_memory_that_no_other_process_has_is_counted_as_ours():
    monitor = Monitor(Registry())
    monitor.read_uss()
    before = monitor.uss_bytes
    with mmap.mmap(-1, 50_000_000) as ballast:
        ballast.write(b"x" * 50_000_000)
        monitor.read_uss()
    assert monitor.uss_bytes - before > 45_000_000


@pytest.mark.parametrize("refusal", [psutil.AccessDenied, PermissionError, None])
def test_a_system_that_does_not_tell_leaves_it_out(refusal, monkeypatch):
    class Silent:
        def memory_full_info(self):
            if refusal:
                raise refusal
            return psutil.Process().memory_info()  # without the field

    monitor = Monitor(Registry())
    monkeypatch.setattr(monitor, "_process", Silent())
    monitor.read_uss()
    assert math.isnan(monitor.uss_bytes)
    assert memory_line({"memory_rss_mb": 81.2, "memory_uss_mb": None}) == (
        "81 MB resident"
    )


def test_a_run_reports_threshold_memory_and_stalls(tmp_path):
    options = ("--duration", "0.5", "--metrics-port", "0", "--gc-threshold", "4321")
    ran = quants("run", *options, "--report", "r.json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["settings"]["gc_threshold"] == report["gc"]["thresholds"][0] == 4321
    assert report["gc"]["uncollectable"] == 0
    assert 0 < report["memory_uss_mb"] <= report["memory_rss_mb"] * 1.5
    assert min(10, report["stall_count"]) == len(report["stalls"])
    assert "MB of it shared with nobody" in ran.stdout


def test_a_threshold_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="gc-threshold=0: at least 1 object"):
        Settings(gc_threshold=0)


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool, of Prometheus, is not on PATH"
)
def test_promtool_finds_nothing_to_say_about_a_monitor():
    registry = Registry()
    with Monitor(registry):
        gc.collect()
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=registry.exposition("text/plain")[0],
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_freezing_collects_first_and_hides_what_is_alive(quiet_gc):
    make_dead_cycle()
    with Monitor(Registry()) as monitor:
        frozen = freeze_gc()
    try:
        assert sum(monitor.collected.values()) >= 2
        assert frozen > 1000
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("ticks_per_second", "frozen_at"),
    [(1_000_000, 2.0), (5_000, 2.0), (1_000, 10.0)],
)
async def test_the_freeze_waits_for_two_seconds_and_ten_thousand_ticks(
    ticks_per_second, frozen_at
):
    virtual = VirtualTime([0.0] * 1000)
    started = virtual.seconds

    def ticks_seen():
        return round((virtual.seconds - started) * ticks_per_second)

    task = asyncio.create_task(
        freeze_after(ticks_seen, clock=virtual.clock, sleep=virtual.sleep)
    )
    await asyncio.sleep(0)
    try:
        assert gc.get_freeze_count() > 1000
        assert virtual.seconds - started == pytest.approx(frozen_at, abs=0.051)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert gc.get_freeze_count() == 0


async def test_a_run_that_ends_early_never_freezes():
    virtual = VirtualTime([0.0] * 10)
    with pytest.raises(asyncio.CancelledError):
        await freeze_after(lambda: 0, clock=virtual.clock, sleep=virtual.sleep)
    assert gc.get_freeze_count() == 0


def test_the_repr_of_a_monitor_tells_its_state():
    assert repr(Monitor(Registry())).startswith("<Monitor 0 collections, lag <Histo")
