"""What the live page shows: the figures of the report, and names that exist."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from quants import page
from quants.alerts import Alert
from quants.page import shown
from quants.pipeline import Pipeline
from quants.report import Report, report_of
from quants.settings import Settings

HTML = (Path(page.__file__).with_name("page.html")).read_text(encoding="utf-8")
SCRIPT = HTML.split("<script>")[1].split("</script>")[0]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    log = tmp_path_factory.mktemp("page") / "ticks.log"
    return Settings(tick_rate=20_000, duration=0.5, metrics_port=0, log_file=log)


async def finished(settings: Settings) -> tuple[Report, Report]:
    """What the page would show after a run, as JSON brings it; and the report."""
    pipeline = Pipeline(settings)
    assert pipeline.look() is None
    await pipeline.run()
    look = msgspec.json.decode(msgspec.json.encode(pipeline.look()))
    return look, report_of(pipeline)


async def test_the_page_says_what_the_report_says(settings: Settings):
    look, report = await finished(settings)
    counts = report["counts"]
    assert look["received"] == counts["received"] == 10_000
    for name, consumer in counts["consumers"].items():
        assert consumer.items() <= look["consumers"][name].items()
    assert {row[0]: row[1:] for row in look["vwap"]["rows"]} == {
        name: [row["vwap"], row["ticks"]] for name, row in report["vwap"].items()
    }
    assert look["latency"]["p99"] == report["latency_seconds"]["p99"]
    assert look["alerts"]["rules"] == report["alerts"]
    assert look["log"]["durable"] == report["log"]["durable_seq"] == 10_000
    assert sum(weight for _, weight in look["latency"]["rows"]) == 10_000


async def test_the_last_alerts_are_the_latest_first(settings: Settings):
    look, report = await finished(replace(settings, tick_rate=200_000))
    latest = look["alerts"]["latest"]
    raised = sum(counts["raised"] for counts in report["alerts"].values())
    assert len(latest) == min(5, raised) > 0
    numbers = [alert["seq"] for alert in latest]
    assert numbers == sorted(numbers, reverse=True)


async def test_of_many_symbols_the_first_are_shown_and_the_rest_counted(
    settings: Settings,
):
    look, report = await finished(replace(settings, symbols=page.SYMBOLS + 7))
    assert len(look["vwap"]["rows"]) == page.SYMBOLS
    assert look["vwap"]["symbols"] == len(report["vwap"]) == page.SYMBOLS + 7


async def test_a_loss_is_told(settings: Settings):
    pipeline = Pipeline(settings)
    await pipeline.run()
    receiver = pipeline.subscription.receiver
    receiver.gaps, receiver.gap_ticks, receiver.duplicates = 2, 300, 4
    pipeline.vwap.set_aside = 5
    look = shown(pipeline)
    assert (look["gaps"], look["gap_ticks"], look["duplicates"]) == (2, 300, 4)
    assert look["consumers"]["vwap"]["dropped"] == 5
    assert look["engine"]["set_aside_ticks"] == 5


async def test_an_outage_of_redis_is_shown_with_what_waits(settings: Settings):
    pipeline = Pipeline(settings)
    await pipeline.run()
    alerts = shown(pipeline)["alerts"]
    assert (alerts["redis"], alerts["waiting"]) == ("closed", 0)
    pipeline.risk.redis.breaker.failed()
    pipeline.risk.redis.breaker.failed()
    pipeline.risk.outbox.put([Alert("s:1:gap", "gap", "*", 1, 0, "1", "0")])
    alerts = shown(pipeline)["alerts"]
    assert (alerts["redis"], alerts["waiting"]) == ("open", 1)


async def test_the_script_reads_only_what_it_is_given(settings: Settings):
    look, _ = await finished(settings)
    for part in ("engine", "alerts", "log", "vwap"):
        assert set(re.findall(rf"now\.{part}\.(\w+)", SCRIPT)) <= look[part].keys()
    consumer = look["consumers"]["vwap"].keys()
    assert {"held_seconds", "high_watermark", "depth", "capacity"} <= consumer
    assert set(re.findall(r"\bnow\.(\w+)", SCRIPT)) <= look.keys()


def test_every_name_in_the_script_is_an_element_of_the_page():
    used = set(re.findall(r'(?:byId|put|fill|histogram)\("([\w-]+)"', SCRIPT))
    assert len(used) > 10
    assert used <= set(re.findall(r'id="([\w-]+)"', HTML))


def test_the_page_names_no_other_place():
    named = set(re.findall(r"https?://[^\"' ]+", HTML))
    assert named == {"http://www.w3.org/2000/svg"}  # a name, never asked for
    assert 'src="' not in HTML
    assert "url(" not in HTML


def test_nothing_on_the_page_moves_by_itself():
    assert not re.findall(r"transition|animat|@keyframes", HTML)


def test_every_drawing_and_part_has_a_name_for_those_who_do_not_see_it():
    assert all('role="img"' in tag for tag in re.findall("<svg[^>]*>", HTML))
    titles = re.findall(r'<section[^>]*aria-labelledby="([\w-]+)"', HTML)
    assert len(titles) == HTML.count("<section")
    assert all(f'<h2 id="{title}"' in HTML for title in titles)
