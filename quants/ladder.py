"""The ladder of engines: who beats inline, and from what batch size on.

Each rung is an engine at a batch size, held against inline, which ran twice in
every round: a difference within what these two differ by is none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import median
from typing import Any, Literal, NamedTuple

from rich import box
from rich.table import Table

from quants.engines import ENGINES, EngineName
from quants.evidence import MIN_PAIRS, Claim, Finding, find
from quants.kernels import KernelName

Verdict = Literal["faster", "alike", "slower"]
COLUMNS = (
    *("rows", "window", "engine", "M\nticks/s", "x inline", ""),
    *("here, us\na batch", "busy\ncores"),
)
NEVER = "no crossover on this host"


BESIDE_INLINE = Claim("", "an engine", "inline", "ticks/s", "at least")
SHARED = Claim(
    "shared sums at least twice the ticks of processes (python kernel, 1000 rows)",
    "shared", "processes", "ticks/s", "at least", 2.0,
)  # fmt: skip


class Side(NamedTuple):
    """One of those that run in turn; `again` is the same, for the A/A band."""

    kernel: KernelName
    window: str
    engine: EngineName
    batch: int
    again: bool = False


class Run(NamedTuple):
    """What a side did in a round."""

    ticks: int
    batches: int
    seconds: float
    cpu_seconds: float  # of this process
    busy_seconds: float  # of CPU, in workers


Found = dict[Side, list[Run]]


@dataclass(frozen=True, slots=True)
class Rung:
    """What was measured of one engine at one batch size: mostly medians of the rounds.

    Attributes:
        batch: rows.
        ratio: its ticks/s to those of inline, session, in the same round.
        band: how far two runs of inline differ, as a factor.
        here_us: CPU time of this process and all its threads, for a batch; the
            least of the rounds, for a busy machine only ever adds to it.
        busy_cores: CPU time of the workers, summing, in a second.
    """

    kernel: str
    window: str
    engine: str
    batch: int
    ticks_per_second: float
    ratio: float
    band: float
    here_us: float
    busy_cores: float

    @property
    def verdict(self) -> Verdict:
        """Against inline; alike is what the noise would do."""
        if self.ratio > self.band:
            return "faster"
        return "slower" if self.ratio * self.band < 1 else "alike"


class Reason(NamedTuple):
    """Why an engine did not run a kernel."""

    kernel: str
    engine: str
    reason: str


class Crossover(NamedTuple):
    """The batch size from which on an engine beats inline; None: it does not."""

    kernel: str
    engine: str
    batch: int | None


# -- decide ------------------------------------------------------------------


def rungs(found: Found) -> Iterator[Rung]:
    """The medians of every side, held against inline's."""
    for side, runs in found.items():
        if side.again:
            continue
        inline = side._replace(window="session", engine="inline")
        beside = held(BESIDE_INLINE, found, side, inline)
        yield Rung(
            *side[:4],
            ticks_per_second=beside.left,
            ratio=beside.ratio,
            band=beside.band,
            here_us=min(1e6 * run.cpu_seconds / run.batches for run in runs),
            busy_cores=median(run.busy_seconds / run.seconds for run in runs),
        )


def claims(found: Found) -> Iterator[Finding]:
    """The claim of the shared engine, if both its sides were measured."""
    shared = Side("python", "session", "shared", 1000)
    processes = shared._replace(engine="processes")
    if shared in found and processes in found:
        yield held(SHARED, found, shared, processes)


def held(claim: Claim, found: Found, left: Side, right: Side) -> Finding:
    """One side against another, of which there is a second run a round."""
    again = right._replace(again=True)
    return find(claim, rates(found[left]), rates(found[right]), rates(found[again]))


def rates(runs: list[Run]) -> list[float]:
    """Ticks a second of each run, from the first submit to the last sum."""
    return [run.ticks / run.seconds for run in runs]


def crossover(line: Sequence[Rung]) -> int | None:
    """The batch from which on all are faster than inline, small ones first."""
    found = None
    for rung in reversed(line):
        if rung.verdict != "faster":
            break
        found = rung.batch
    return found


# -- say ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ladder:
    """All that a run of the command found; its fields are those of the JSON.

    Attributes:
        host: what it was measured on.
        settings: how.
    """

    host: dict[str, str]
    settings: dict[str, Any]
    rungs: list[Rung]
    reasons: list[Reason]
    claims: list[Finding]

    def kernels(self) -> list[str]:
        """The kernels that were measured, in their order."""
        return list(dict.fromkeys(rung.kernel for rung in self.rungs))

    def line(self, kernel: str, engine: str) -> list[Rung]:
        """The session's rungs of an engine, small batches first."""
        wanted = ("session", kernel, engine)
        found = (r for r in self.rungs if (r.window, r.kernel, r.engine) == wanted)
        return sorted(found, key=lambda rung: rung.batch)

    def crossovers(self) -> Iterator[Crossover]:
        """Where each engine begins to beat inline."""
        for kernel in self.kernels():
            for engine in ENGINES[1:]:
                if line := self.line(kernel, engine):
                    yield Crossover(kernel, engine, crossover(line))

    def as_json(self) -> dict[str, Any]:
        """The same, for programs."""
        return {
            "schema": 1,
            "host": self.host,
            "settings": self.settings,
            "rows": [asdict(r) | {"verdict": r.verdict} for r in self.rungs],
            "reasons": [reason._asdict() for reason in self.reasons],
            "crossovers": [each._asdict() for each in self.crossovers()],
            "claims": [asdict(finding) for finding in self.claims],
        }


def table(ladder: Ladder, kernel: str) -> Table:
    """The rungs of a kernel, a block for each batch size."""
    title = f"{kernel} kernel"
    shown = Table(
        title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    for name in COLUMNS:
        left = name in ("window", "engine", "")
        shown.add_column(name, justify="left" if left else "right", no_wrap=True)
    rungs = [rung for rung in ladder.rungs if rung.kernel == kernel]
    for batch, block in groupby(rungs, lambda rung: rung.batch):
        for number, rung in enumerate(block):
            shown.add_row("" if number else f"{batch:,}", *cells(rung))
        shown.add_section()
    return shown


def cells(rung: Rung) -> Iterator[str]:
    """A rung's figures; inline, which the others are held against, has the band."""
    yardstick = (rung.engine, rung.window) == ("inline", "session")
    yield from (rung.window, rung.engine, f"{rung.ticks_per_second / 1e6:.2f}")
    yield f"{1 / rung.band:.2f}-{rung.band:.2f}" if yardstick else f"{rung.ratio:.2f}"
    yield "A/A band" if yardstick else rung.verdict
    yield f"{rung.here_us:,.1f}"
    yield "-" if rung.engine == "inline" else f"{rung.busy_cores:.2f}"


def conclusions(ladder: Ladder) -> Iterator[str]:
    """What follows from the rungs, one sentence each."""
    for kernel, engine, reason in ladder.reasons:
        yield f"{kernel}, {engine}: not measured; {reason}"
    for kernel, engine, batch in ladder.crossovers():
        where = f"beats inline from {batch:,} rows a batch on" if batch else NEVER
        yield f"{kernel}, {engine}: {where}"
    for found in ladder.claims:
        yield (
            f"{found.claim.text}: {found.left / 1e6:.2f} / {found.right / 1e6:.2f} M "
            f"{found.claim.unit}, ratio {found.ratio:.2f}, A/A band "
            f"{1 / found.band:.2f}-{found.band:.2f}, {found.pairs} pairs: "
            f"{found.verdict}"
        )
    if (rounds := ladder.settings["rounds"]) < MIN_PAIRS:
        yield f"{rounds} rounds are a look; {MIN_PAIRS} are a measurement"
