"""Ten scrapes a second of the saturated pump: JSON, text and OpenMetrics in turn.

A body is built on the event loop, in time that the ticks do not get; at most
five of each form a second, so more scrapers would not cost more bodies. The
scraper is this process, which has nothing else to do.

The little that ten scrapes cost would drown in the noise of two runs. So the
pump is scraped a hundred times a second and keeps no body; a tenth of what
that costs is what ten cost, and the noise is divided likewise.

Throughput is ticks per second of the pump's CPU time, and so are the scrapes
counted: on a machine that others use, a second on the wall holds less of the
pump but as many scrapes, and their share would only say how busy it is.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from statistics import median
from threading import Event, Thread

from msgspec.structs import replace

from benchmarks.checks import check
from benchmarks.runs import Report, bench, run
from benchmarks.size import Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, find, in_turn
from quants.host import free_port

PER_SECOND = 10
TIMES = 10  # as many scrapes as that are measured
ACCEPTS = ("application/json", "text/plain", "application/openmetrics-text")
TICKS_PER_SECOND = 8_000_000  # about

CLAIM = Claim(
    "10 scrapes/s: at least 97 % of the throughput of a pump left alone",
    "scraped", "left alone", "ticks/CPU s", "at least", 0.97,
)  # fmt: skip


def measure(size: Size) -> list[Finding]:
    """The claim: scraped, left alone, and left alone again, in turn."""
    ticks = max(1000, int(TICKS_PER_SECOND * size.seconds))
    with bench(size.loop_ticks) as shared:
        source, reports = in_memory(shared.rows), dict[str, list[Report]]()
        scrapes = list[int]()

        def rate(name: str, scraped: bool) -> float:
            plan = shared.plan("ours", ticks)
            plan = replace(plan, metrics_port=free_port(), keep_bodies=False)
            with scraping(plan.metrics_port if scraped else 0, scrapes):
                sent, received = run(plan)
            check(plan, source, sent, received)
            reports.setdefault(name, []).append(received)
            return ticks / received.cpu_seconds

        sides = {"scraped": True, "alone": False, "again": False}
        rates = in_turn({n: partial(rate, n, s) for n, s in sides.items()}, size.rounds)
    costs = list(map(cost, reports["scraped"], reports["alone"], scrapes))
    alone = rates["alone"]
    scraped = [r * (1 - PER_SECOND * c) for r, c in zip(alone, costs, strict=True)]
    again = [r + (a - r) / TIMES for r, a in zip(alone, rates["again"], strict=True)]
    facts = [
        f"a scrape: {median(costs) * 1e3:.1f} ms of CPU; {median(scrapes):g} a run of "
        f"{ticks:,} ticks, which are verified",
        *(wall(name, found) for name, found in reports.items()),
    ]
    return [find(CLAIM, scraped, alone, again, facts)]


def cost(scraped: Report, alone: Report, scrapes: int) -> float:
    """CPU seconds of a scrape: what a run took longer, by its scrapes."""
    return (scraped.cpu_seconds - alone.cpu_seconds) / max(1, scrapes)


def wall(name: str, reports: list[Report]) -> str:
    """The same by the clock on the wall, which a busy machine distorts."""
    return f"{name}: {median(report.rate for report in reports):,.0f} ticks/s"


@contextmanager
def scraping(port: int, scrapes: list[int]) -> Iterator[None]:
    """Scrape a port while the block runs; 0 leaves everything alone."""
    done, answered = Event(), list[int]()
    thread = Thread(target=scrape, args=(port, done, answered))
    if port:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if port:
            thread.join()
            scrapes.append(len(answered))


def scrape(port: int, done: Event, answered: list[int]) -> None:
    """Ask as a scraper does, over one connection, until it is done."""
    accepts, due = cycle(ACCEPTS), time.monotonic()
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        while not done.wait(max(0.0, due - time.monotonic())):
            due += 1 / (PER_SECOND * TIMES)
            try:
                connection.request("GET", "/metrics", headers={"Accept": next(accepts)})
                with connection.getresponse() as response:
                    answered.append(len(response.read()))
            except (OSError, HTTPException):  # not there yet, or not any more
                connection.close()
