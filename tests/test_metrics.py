"""quants/metrics.py: what a scraper reads, what a person reads."""

import json
import math
import shutil
import subprocess
from itertools import count

import pytest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from quants.histogram import Histogram
from quants.metrics import Registry, wants_exposition

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def registry():
    """One metric of each kind, with the names of the real ones."""
    pauses = Histogram()
    for duration_ns in (900, 1000, 1001, 5_000_000):
        pauses.record(duration_ns)
    registry = Registry()
    registry.json_field("ticks_processed", lambda: 41)
    registry.json_field("vwap_latency_p99", lambda: math.nan)
    registry.counter("quants_ticks_processed_total", "Ticks.", lambda: 41)
    registry.gauge("quants_log_written_seq", "Last seq written.", lambda: 7)
    registry.counter(
        "quants_consumer_ticks_total",
        "Ticks by consumer and outcome.",
        lambda: {("log", "processed"): 40, ("log", "queued"): 1, ("risk", "queued"): 2},
        ("consumer", "outcome"),
    )
    registry.histogram(
        "quants_gc_pause_seconds",
        "GC pauses.",
        lambda: {("0",): pauses},
        ("generation",),
    )
    return registry


def samples(families):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("accept", "format", "expected"),
    [
        (PROMETHEUS_2, None, True),
        (PROMETHEUS_3, None, True),
        ("text/plain", None, True),
        ("TEXT/PLAIN; version=0.0.4", None, True),
        ("*/*", None, False),
        ("", None, False),
        (BROWSER, None, False),
        ("application/json", None, False),
        ("*/*", "prometheus", True),
        (PROMETHEUS_3, "json", False),
        (PROMETHEUS_3, "nonsense", True),
    ],
)
def test_who_names_a_prometheus_type_gets_the_exposition(accept, format, expected):
    assert wants_exposition(accept, format) is expected


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        (PROMETHEUS_2, "application/openmetrics-text", open_metrics_families),
        (PROMETHEUS_3, "application/openmetrics-text", open_metrics_families),
        ("text/plain", "text/plain; version=0.0.4", text_string_to_metric_families),
        ("*/*", "text/plain; version=0.0.4", text_string_to_metric_families),
    ],
)
def test_a_scraper_reads_back_every_number(registry, accept, content_type, parse):
    body, given = registry.exposition(accept)
    assert given.startswith(content_type)
    found = samples(parse(body.decode()))
    zero = ("generation", "0")
    assert found[("quants_ticks_processed_total",)] == 41
    assert found[("quants_log_written_seq",)] == 7
    assert (
        found[
            ("quants_consumer_ticks_total", ("consumer", "log"), ("outcome", "queued"))
        ]
        == 1
    )
    assert found[("quants_gc_pause_seconds_bucket", zero, ("le", "1e-06"))] == 2
    assert found[("quants_gc_pause_seconds_bucket", zero, ("le", "2e-06"))] == 3
    assert found[("quants_gc_pause_seconds_bucket", zero, ("le", "+Inf"))] == 4
    assert found[("quants_gc_pause_seconds_count", zero)] == 4
    assert found[("quants_gc_pause_seconds_sum", zero)] == 5_002_901 / 1e9


HELP = 'A help with "quotes", a back\\slash and\na second line.'
ODD: dict[tuple[str, ...], float] = {
    ('C:\\new "folder"', "a\nb"): 1,
    ("ü", ""): 2.5,
    ("inf", "x"): math.inf,
    ("large", "x"): 1e300,
}
SIGNED: dict[tuple[str, ...], float] = {("-inf", ""): -math.inf, ("full", ""): True}


class Written(Collector):
    """The metrics of `registry` and some that are odd, as objects of the library."""

    def __init__(self, histogram):
        self.odd = CounterMetricFamily("quants_odd_total", HELP, labels=["path", "b"])
        for (path, b), number in ODD.items():
            self.odd.add_metric([path, b], number)
        self.signed = GaugeMetricFamily("quants_signed", "S.", labels=["path", "b"])
        for (path, b), number in SIGNED.items():
            self.signed.add_metric([path, b], number)
        self.empty = GaugeMetricFamily("quants_empty", "None.", labels=["consumer"])
        self.pauses = HistogramMetricFamily("quants_pause_seconds", "P.", labels=["g"])
        counts = [(repr(bound), n) for bound, n in histogram.cumulative()[:-1]]
        buckets = [*counts, ("+Inf", histogram.count)]
        self.pauses.add_metric(["0"], buckets, histogram.sum_seconds)

    def collect(self):
        yield from (self.odd, self.signed, self.empty, self.pauses)


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3, "text/plain"])
def test_we_write_what_prometheus_client_would(accept):
    histogram, registry = Histogram(), Registry()
    for duration_ns in (500, 1001, 70_000, 10**13):
        histogram.record(duration_ns)
    registry.counter("quants_odd_total", HELP, lambda: ODD, ("path", "b"))
    registry.gauge("quants_signed", "S.", lambda: SIGNED, ("path", "b"))
    registry.gauge("quants_empty", "None.", dict, ("consumer",))
    registry.histogram(
        "quants_pause_seconds", "P.", lambda: {("0",): histogram}, ("g",)
    )
    encode, content_type = choose_encoder(accept)
    body, given = registry.exposition(accept)
    assert given == content_type
    families = (
        open_metrics_families
        if "openmetrics" in given
        else text_string_to_metric_families
    )
    expected = list(families(encode(Written(histogram)).decode()))
    found = list(families(body.decode()))[: len(expected)]
    assert [(f.name, f.type, f.documentation) for f in found] == [
        (f.name, f.type, f.documentation) for f in expected
    ]
    assert samples(found) == samples(expected)


def test_every_registry_has_the_garbage_collector_in_it(registry):
    for one in (registry, Registry()):
        text = one.exposition()[0].decode()
        assert 'python_gc_collections_total{generation="0"}' in text


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool, of Prometheus, is not on PATH"
)
def test_promtool_finds_nothing_to_say(registry):
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=registry.exposition("text/plain")[0],
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_json_body_starts_with_its_own_fields_in_order(registry):
    body = json.loads(registry.json_body())
    assert list(body)[:3] == [
        "ticks_processed",
        "vwap_latency_p99",
        "quants_ticks_processed_total",
    ]
    assert body["quants_consumer_ticks_total"] == {
        "log": {"processed": 40, "queued": 1},
        "risk": {"queued": 2},
    }
    assert body["quants_gc_pause_seconds"] == {
        "0": {"count": 4, "p50": 1e-06, "p99": 0.005, "maximum": 0.005}
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_null_where_there_is_no_number(number):
    registry = Registry()
    registry.json_field("field", lambda: number)
    registry.gauge("quants_gauge", "A gauge.", lambda: number)
    registry.histogram("quants_empty_seconds", "Nothing yet.", Histogram)
    body = json.loads(registry.json_body(), parse_constant=pytest.fail)
    assert (body["field"], body["quants_gauge"]) == (None, None)
    assert body["quants_empty_seconds"]["p99"] is None


def test_a_reading_function_is_called_only_when_somebody_asks():
    times_asked = count()
    registry = Registry()
    registry.gauge("quants_gauge", "A gauge.", lambda: next(times_asked))
    assert b"quants_gauge 0.0" in registry.exposition()[0]
    assert json.loads(registry.json_body())["quants_gauge"] == 1


def test_a_name_registered_again_is_replaced():
    registry = Registry()
    registry.gauge("quants_gauge", "Of the first run.", lambda: 1)
    registry.gauge("quants_gauge", "Of the second run.", lambda: 2)
    assert json.loads(registry.json_body()) == {"quants_gauge": 2}


def test_an_integer_stays_exact_in_json():
    registry = Registry()
    registry.counter("quants_seq_total", "A seq.", lambda: 2**63 + 1)
    assert json.loads(registry.json_body())["quants_seq_total"] == 2**63 + 1
