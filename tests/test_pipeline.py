"""The whole pump in one process: what goes in is what comes out."""

import asyncio
import gc
import itertools
import json
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pandas as pd
import pytest

from quants.alerts import Alert
from quants.cli import run_pump
from quants.feed_server import FeedServer
from quants.market import Market
from quants.pipeline import Pipeline
from quants.readings import Snapshot
from quants.recovery import scan
from quants.report import problems, report_of, summary_of
from quants.rules import Rules
from quants.settings import Settings
from quants.tick import TICK, Batch, Symbol


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        tick_rate=20_000,
        duration=0.5,
        metrics_port=0,
        log_file=tmp_path / "ticks.log",
    )


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
    """The pipeline as a task, past its opening; awaited at the end."""
    task = asyncio.create_task(pipeline.run())
    ready = asyncio.create_task(pipeline.ready.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    yield task
    await task


async def finished(settings: Settings) -> Pipeline:
    pipeline = Pipeline(settings)
    await pipeline.run()
    return pipeline


def rows_in_log(path: Path) -> np.ndarray[Any, np.dtype[np.void]]:
    """The ticks of a log, by nothing but struct and the contract."""
    log, at = path.read_bytes(), 0
    parts: list[np.ndarray[Any, np.dtype[np.void]]] = []
    while at < len(log):
        magic, version, kind, count, _, span, _, _ = struct.unpack_from(
            "<4sBBHIIQQ", log, at
        )
        assert (magic, version) == (b"QTIK", 1)
        size = 32 + (span if kind == 6 else 32 * count)
        if kind == 1:
            parts.append(np.frombuffer(log[at + 32 : at + size], TICK))
        at += size
    return np.concatenate(parts)


def sums_by_pandas(rows: np.ndarray[Any, np.dtype[np.void]]) -> dict[int, list[int]]:
    table = pd.DataFrame({name: rows[name].tolist() for name in TICK.names or ()})
    table["price_size"] = table["price"].astype(object) * table["size"].astype(object)
    sums = table.groupby("symbol")[["price_size", "size"]].sum()
    return {int(s): [int(a), int(b)] for s, a, b in sums.itertuples()}


def sums_in(report: dict[str, Any]) -> dict[int, list[int]]:
    rows = report["vwap"].values()
    return {i: [r["price_size_sum"], r["size_sum"]] for i, r in enumerate(rows)}


async def test_the_log_holds_the_ticks_whose_sums_the_report_gives(settings: Settings):
    """1,000,000 ticks: log -> rows -> pandas equals the report, exactly."""
    settings = replace(settings, tick_rate=500_000, duration=2.0)
    report = report_of(await finished(settings))
    rows = rows_in_log(settings.log_file)
    assert len(rows) == report["counts"]["sent"] == 1_000_000
    assert sums_by_pandas(rows) == sums_in(report)
    assert np.array_equal(rows, Market(tick_rate=500_000).take(1_000_000))
    assert report["log"]["written_seq"] == report["log"]["durable_seq"] == 1_000_000


async def test_the_vwap_text_is_the_exact_quotient(settings: Settings):
    report = report_of(await finished(settings))
    for row in report["vwap"].values():
        exact = Fraction(row["price_size_sum"], row["size_sum"]) / 100
        assert abs(Fraction(row["vwap"]) / exact - 1) < Fraction(1, 10**12)
        assert row["complete"]


@pytest.mark.parametrize(
    "other", [{"wire": "json"}, {"kernel": "python"}, {"tick_rate": 40_000}]
)
async def test_no_way_of_computing_changes_the_sums(settings: Settings, other):
    """The same 5,000 ticks, once plainly and once another way."""
    plain = replace(settings, duration=5000 / settings.tick_rate)
    changed = replace(settings, log_file=settings.log_file.with_suffix(".2"), **other)
    changed = replace(changed, duration=5000 / changed.tick_rate)
    first, second = await finished(plain), await finished(changed)
    assert sums_in(report_of(first)) == sums_in(report_of(second))
    one, two = rows_in_log(plain.log_file), rows_in_log(changed.log_file)
    assert np.array_equal(one["price"], two["price"])


def conserved(now: Snapshot) -> bool:
    """DESIGN's law: nothing appears, nothing vanishes."""
    return all(
        s.received == s.processed + s.dropped + s.conflated + s.queued
        for s in now.consumers.values()
    )


async def test_ticks_are_conserved_at_every_moment(settings: Settings):
    pipeline = Pipeline(replace(settings, tick_rate=200_000))
    seen = []
    async with running(pipeline) as task:
        while not task.done():
            await asyncio.sleep(0)
            seen.append(pipeline.snapshot())
    seen.append(pipeline.snapshot())
    assert len(seen) > 100
    assert all(map(conserved, seen))
    for now in seen:
        assert now.sent is not None
        in_flight = now.sent - now.received - now.gap_ticks
        assert in_flight >= 0
    assert in_flight == 0
    assert now.received == 100_000


async def test_metrics_begin_with_the_keys_that_dashboards_expect(settings: Settings):
    pipeline = Pipeline(replace(settings, duration=None))
    async with running(pipeline):
        url = f"{pipeline.metrics.url}metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            body = await answer.json()
        pipeline.stop()
    first = list(body)[:5]
    assert first == [
        "ticks_processed", "vwap_latency_p99", "memory_rss_mb", "gc_collections",
        "gc_pause_p99_ms",
    ]  # fmt: skip


async def test_stop_drains_what_was_sent(settings: Settings):
    pipeline = Pipeline(replace(settings, duration=None, tick_rate=100_000))
    async with running(pipeline):
        while pipeline.snapshot().received < 5_000:
            await asyncio.sleep(0)
        pipeline.stop()
    now = pipeline.snapshot()
    assert now.sent == now.received == len(rows_in_log(settings.log_file))
    assert all(s.processed == now.sent for s in now.consumers.values())


async def test_freezing_shields_the_objects_of_the_start_up(settings: Settings):
    """--freeze-gc waits for 2 s and 10,000 ticks; the end takes it back."""
    before = gc.get_freeze_count()  # some Pythons freeze a few on their own
    pipeline = Pipeline(replace(settings, duration=3.0, freeze_gc=True))
    async with running(pipeline) as task:
        while gc.get_freeze_count() == before and not task.done():
            await asyncio.sleep(0.01)
        assert gc.get_freeze_count() > before + 10_000
        assert pipeline.snapshot().received >= 10_000
    assert gc.get_freeze_count() == 0


async def test_the_report_is_json_and_keeps_every_promised_key(settings: Settings):
    report = report_of(await finished(settings))
    assert json.loads(json.dumps(report, default=str)).keys() >= {
        "settings", "host", "counts", "vwap", "latency_seconds", "loop_lag_seconds",
        "gc", "memory_rss_mb", "log", "pool", "alerts",
    }  # fmt: skip
    assert report["counts"].keys() >= {
        "sent", "received", "gaps", "gap_ticks", "duplicates", "consumers",
    }  # fmt: skip
    for consumer in report["counts"]["consumers"].values():
        assert consumer.keys() == {
            "received", "processed", "dropped", "conflated", "queued",
        }  # fmt: skip
    assert report["log"].keys() == {
        "path", "stream", "first_seq", "last_seq", "written_seq", "durable_seq",
        "ticks", "bytes",
    }  # fmt: skip
    assert report["gc"].keys() >= {"collections", "pauses", "p99_ms"}


async def test_a_gap_makes_the_report_incomplete_and_names_the_loss(
    settings: Settings,
):
    pipeline = await finished(settings)
    pipeline.subscription.receiver.gap_ticks = 3
    report = report_of(pipeline)
    assert problems(pipeline) == ["3 ticks are missing: the feed skipped them"]
    assert not any(row["complete"] for row in report["vwap"].values())
    assert "(incomplete)" in summary_of(report, pipeline)


def failing(monkeypatch: pytest.MonkeyPatch, calls: Container[int]) -> None:
    """Let the risk stage raise at these batches, counted from 1."""
    number, check = itertools.count(1), Rules.check

    def sometimes(rules: Rules, batch: Batch) -> list[Alert]:
        if next(number) in calls:
            raise ZeroDivisionError("a bug")
        return check(rules, batch)

    monkeypatch.setattr(Rules, "check", sometimes)


async def test_a_consumer_that_raises_costs_a_batch_and_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    failing(monkeypatch, {5})
    pipeline = await finished(settings)
    report = report_of(pipeline)
    dropped = report["counts"]["consumers"]["risk"]["dropped"]
    assert dropped > 0
    assert report["problems"] == [f"risk dropped {dropped} ticks"]
    assert report["counts"]["restarts"] == {"risk": 1}
    told = f"risk lost {dropped} ticks and restarted: ZeroDivisionError('a bug')"
    assert told in report["notes"]
    for name in ("vwap", "log"):
        assert report["counts"]["consumers"][name]["processed"] == 10_000
    assert all(row["complete"] for row in report["vwap"].values())


async def test_a_consumer_that_goes_on_raising_ends_the_run_with_a_report(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    failing(monkeypatch, range(5, 1000))
    file = settings.log_file.with_name("report.json")
    assert await run_pump(replace(settings, report=file)) == 1
    said = capsys.readouterr()
    assert "quants: risk failed after 3 restarts: ZeroDivisionError" in said.err
    report = json.loads(file.read_text(encoding="utf-8"))
    assert "risk failed after 3 restarts" in report["problems"][0]
    kept = scan(settings.log_file)
    assert kept.torn is None
    assert kept.ticks == report["log"]["written_seq"] > 0


async def test_the_summary_shows_the_pause_histogram_and_the_counts(
    settings: Settings,
):
    pipeline = await finished(settings)
    text = summary_of(report_of(pipeline), pipeline)
    assert "10,000 ticks in 0." in text
    assert "GC pauses" in text
    assert "pool          unused" in text
    assert asdict(pipeline.snapshot())["received"] == 10_000


async def test_a_coin_with_eight_decimals_passes_through_exactly(settings: Settings):
    """Its sums need 66 bits and more; int64 would wrap around."""
    coin = Symbol("BTCUSDT", price_decimals=2, size_decimals=8)
    market = Market(seed=3, symbols=[coin], tick_rate=200_000)
    async with FeedServer(market, 200_000) as feed:
        follower = replace(settings, feed_url=feed.url, tick_rate=1000, duration=None)
        pipeline = Pipeline(follower)
        async with running(pipeline):
            await feed.publish(200_000)
    report = report_of(pipeline)
    sums = sums_in(report)
    assert sums == sums_by_pandas(rows_in_log(settings.log_file))
    assert sums[0][0] > 2**63
    assert report["vwap"]["BTCUSDT"]["size_decimals"] == 8
    assert report["counts"]["sent"] is None
    assert report["counts"]["received"] == 200_000


def promtool_says(promtool: str, body: bytes) -> tuple[int, bytes]:
    told = subprocess.run(
        [promtool, "check", "metrics"], input=body, capture_output=True, check=False
    )
    return told.returncode, told.stdout + told.stderr


async def test_promtool_finds_nothing_to_say_about_a_running_pump(settings: Settings):
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not on PATH (Debian: apt install prometheus)")
    pipeline = Pipeline(replace(settings, duration=None))
    async with running(pipeline):
        url = f"{pipeline.metrics.url}metrics"
        headers = {"Accept": "text/plain"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(url) as answer,
        ):
            body = await answer.read()
        pipeline.stop()
    assert promtool_says(promtool, body) == (0, b"")


async def test_a_rate_that_was_not_kept_is_a_problem(settings: Settings):
    pipeline = await finished(settings)
    assert problems(pipeline) == []
    assert pipeline.first_tick is not None
    pipeline.last_tick = pipeline.first_tick + 0.5 + 10.1
    (problem,) = problems(pipeline)
    assert "the ticks of 0.5 s took 10.6 s" in problem


async def test_stop_before_the_first_tick_ends_at_once(settings: Settings):
    pipeline = Pipeline(settings)
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    pipeline.stop()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not settings.log_file.exists()
