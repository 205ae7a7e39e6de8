"""The metrics of one pipeline: reading functions, called when somebody asks.

A stage counts with plain ints of its own and registers functions that read
them. Nothing happens per tick; a scrape calls every function once, whether it
wants the Prometheus exposition or the JSON body.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

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

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    read: Callable[[], Any]
    labels: Label

    def readings(self) -> Mapping[Label, Any]:
        """What is read now, by label values; the empty tuple if it has none."""
        return self.read() if self.labels else {(): self.read()}


class Registry:
    """The metrics of one pipeline, read on demand.

    `read` takes no argument. It returns a number (or a Histogram); of a
    metric with labels a mapping from label values, a tuple of strings in the
    order of `labels`, to numbers (or Histograms). A name registered again is
    replaced, so a cell can run twice.
    """

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._json_fields: dict[str, Callable[[], float]] = {}
        self._others = CollectorRegistry()  # those of prometheus_client
        ProcessCollector(registry=self._others)
        GCCollector(registry=self._others)

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

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The body for a scraper and its Content-Type, OpenMetrics or text."""
        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        ours = [
            f"{line}\n"
            for family in self._families.values()
            for line in lines(family, openmetrics)
        ]
        return "".join(ours).encode() + encode(self._others), content_type

    def json_body(self) -> bytes:
        """The body for everybody else: one object, a number or null per key."""
        body: dict[str, Any] = {n: read() for n, read in self._json_fields.items()}
        for family in self._families.values():
            body[family.name] = nested(family.readings())
        return msgspec.json.format(msgspec.json.encode(body), indent=1)


def lines(family: Family, openmetrics: bool) -> Iterator[str]:
    """A family with its readings of this moment, as a scraper wants it.

    prometheus_client writes the same from objects of its own, for three times
    the price, which every tick of the moment would pay.

    Source: prometheus.io/docs/instrumenting/exposition_formats; in OpenMetrics
    a counter is titled without its `_total`.
    """
    title = family.name
    if openmetrics and family.kind == "counter":
        title = title.removesuffix("_total")
    yield f"# HELP {title} {escaped(family.help, quotes=openmetrics)}"
    yield f"# TYPE {title} {family.kind}"
    for values, reading in family.readings().items():
        pairs = zip(family.labels, values, strict=True)
        labels = [f'{name}="{escaped(value)}"' for name, value in pairs]
        if isinstance(reading, Histogram):
            yield from histogram_lines(family.name, labels, reading)
        else:
            yield line(family.name, labels, reading)


def histogram_lines(name: str, labels: list[str], counts: Histogram) -> Iterator[str]:
    """A histogram: exact counts at 31 bounds from 1 us, and of all."""
    start = name + "_bucket{" + "".join(f"{label}," for label in labels)
    *bounded, _ = counts.cumulative()  # the last bound is infinite
    for bound, count in bounded:
        yield f'{start}le="{bound!r}"}} {count}'
    yield f'{start}le="+Inf"}} {counts.count}'
    yield line(f"{name}_count", labels, counts.count)
    yield line(f"{name}_sum", labels, counts.sum_seconds)


def line(name: str, labels: list[str], number: float) -> str:
    """One number with its name and labels."""
    braces = "{" + ",".join(labels) + "}" if labels else ""
    return f"{name}{braces} {float(number)}"


def escaped(text: str, quotes: bool = True) -> str:
    """Text on one line; only in a help of the older format quotes stay."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def nested(readings: Mapping[Label, Any]) -> Any:
    """Readings as JSON: one object inside another for each label."""
    root: dict[str, Any] = {}
    for values, reading in readings.items():
        plain = summary(reading) if isinstance(reading, Histogram) else reading
        if not values:
            return plain
        inner = root
        for value in values[:-1]:
            inner = inner.setdefault(value, {})
        inner[values[-1]] = plain
    return root


def summary(histogram: Histogram) -> dict[str, float]:
    """A histogram in four numbers; durations in seconds; nan if it is empty."""
    return {
        "count": histogram.count,
        "p50": histogram.quantile(0.5),
        "p99": histogram.quantile(0.99),
        "maximum": histogram.maximum,
    }
