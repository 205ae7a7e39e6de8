"""The metrics of one pipeline: reading functions, called when somebody asks.

A stage counts with plain ints of its own and registers functions that read
them. Nothing happens per tick; a scrape calls every function once, whether it
wants the Prometheus exposition or the JSON body.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from quants.histogram import Histogram

Label = tuple[str, ...]
Read = Callable[[], float | Mapping[Label, float]]
ReadHistogram = Callable[[], Histogram | Mapping[Label, Histogram]]


def wants_exposition(accept: str, format: str | None = None) -> bool:
    """Whether a GET /metrics gets the Prometheus text, not the JSON body.

    Every Prometheus-compatible scraper names one of its two types; curl and
    browsers do not. `?format=` decides for a person.
    """
    if format in ("prometheus", "json"):
        return format == "prometheus"
    named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return bool(named & {"text/plain", "application/openmetrics-text"})


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, its help, its labels and how to read it."""

    kind: str
    name: str
    help: str
    read: Callable[[], Any]
    labels: Label

    def readings(self) -> Mapping[Label, Any]:
        """What is read now, by label values; the empty tuple if it has none."""
        return self.read() if self.labels else {(): self.read()}


class Registry(Collector):
    """The metrics of one pipeline, read on demand.

    `read` takes no argument. It returns a number (or a Histogram); of a
    metric with labels a mapping from label values, a tuple of strings in the
    order of `labels`, to numbers (or Histograms). A name registered again is
    replaced, so a cell can run twice.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._json_fields: dict[str, Callable[[], float]] = {}
        self._collectors = CollectorRegistry()
        self._collectors.register(self)
        ProcessCollector(registry=self._collectors)
        GCCollector(registry=self._collectors)

    def __repr__(self) -> str:
        return f"<Registry {len(self._families)} metrics>"

    def counter(self, name: str, help: str, read: Read, labels: Label = ()) -> None:
        """Register a number that only grows; its name ends in `_total`."""
        self._families[name] = Family("counter", name, help, read, labels)

    def gauge(self, name: str, help: str, read: Read, labels: Label = ()) -> None:
        """Register a number that comes and goes."""
        self._families[name] = Family("gauge", name, help, read, labels)

    def histogram(
        self, name: str, help: str, read: ReadHistogram, labels: Label = ()
    ) -> None:
        """Register a histogram of durations; its name ends in `_seconds`."""
        self._families[name] = Family("histogram", name, help, read, labels)

    def json_field(self, name: str, read: Callable[[], float]) -> None:
        """Register a key of the JSON body alone; they come first, in order."""
        self._json_fields[name] = read

    def collect(self) -> Iterator[Metric]:
        """Read everything, in the form prometheus_client encodes."""
        for family in self._families.values():
            yield metric_of(family)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The body for a scraper and its Content-Type, OpenMetrics or text."""
        encode, content_type = choose_encoder(accept)
        return encode(self._collectors), content_type

    def json_body(self) -> bytes:
        """The body for everybody else: one object, a number or null per key."""
        body: dict[str, Any] = {
            name: finite(read()) for name, read in self._json_fields.items()
        }
        for family in self._families.values():
            body[family.name] = nested(family.readings())
        return json.dumps(body, allow_nan=False, indent=1).encode()


def metric_of(family: Family) -> Metric:
    """A family with its readings of this moment, as prometheus_client's."""
    if family.kind == "histogram":
        return histogram_metric_of(family)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for values, number in family.readings().items():
        metric.add_metric(values, number)
    return metric


def histogram_metric_of(family: Family) -> Metric:
    """The same for histograms: exact counts at 32 bounds from 1 us."""
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for values, histogram in family.readings().items():
        *counts, _ = histogram.cumulative()  # the last bound is infinite
        buckets = [(repr(bound), count) for bound, count in counts]
        buckets.append(("+Inf", histogram.count))
        metric.add_metric(values, buckets, histogram.sum_seconds)
    return metric


def nested(readings: Mapping[Label, Any]) -> Any:
    """Readings as JSON: one object inside another for each label."""
    root: dict[str, Any] = {}
    for values, reading in readings.items():
        plain = summary(reading) if isinstance(reading, Histogram) else finite(reading)
        if not values:
            return plain
        inner = root
        for value in values[:-1]:
            inner = inner.setdefault(value, {})
        inner[values[-1]] = plain
    return root


def summary(histogram: Histogram) -> dict[str, float | None]:
    """A histogram in four numbers; durations in seconds."""
    return {
        "count": histogram.count,
        "p50": finite(histogram.quantile(0.5)),
        "p99": finite(histogram.quantile(0.99)),
        "maximum": finite(histogram.maximum),
    }


def finite(number: float) -> float | None:
    """The number, or None for the ones JSON has no word for."""
    return number if isfinite(number) else None
