"""quants/monitor.py against gc.get_stats, the operating system and worked times."""

import asyncio
import gc
import mmap
import shutil
import subprocess
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quants.histogram import Histogram
from quants.metrics import Registry
from quants.monitor import Monitor, delays, freeze_after, freeze_gc


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


def test_the_callback_goes_away_with_its_monitor_even_after_an_error():
    before = list(gc.callbacks)
    with pytest.raises(ZeroDivisionError), Monitor(Registry()):
        raise ZeroDivisionError
    assert gc.callbacks == before


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
    gc.collect()  # or the ballast of the case before is freed while this one runs
    monitor = Monitor(Registry(), 0.01, virtual.ns, sleep)
    before = monitor.rss_bytes
    with pytest.raises(asyncio.CancelledError):
        await monitor.run()
    assert (monitor.rss_bytes > before + 25_000_000) is seen


async def test_all_the_metrics_of_a_monitor_can_be_scraped(quiet_gc):
    registry = Registry()
    with Monitor(registry) as monitor:
        gc.collect(0)
    monitor.lag.record(1_500_000)
    body, _ = registry.exposition("text/plain")
    found = {
        (sample.name, sample.labels.get("generation"), sample.labels.get("le")): (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["quants_gc_pause_seconds_count", "0", None] == 1
    assert found["quants_gc_collected_objects_total", "0", None] >= 0
    assert found["quants_event_loop_lag_seconds_sum", None, None] == 0.0015
    assert found["quants_memory_rss_bytes", None, None] == monitor.rss_bytes > 0


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
