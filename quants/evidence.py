"""Evidence: what decides a claim about speed, and how sure that is.

A *ratio* of two sides means little without the noise beside it. So the sides
are measured in turn, and one of them twice in every round: half of the rounds
find these two, the same code, further apart than the A/A band. A difference
inside the band is none that was measured.

That workers run Python *at once*, no stopwatch tells on a machine that others
use too. Three signs do, the surest first: what one counts while another runs,
the CPU time they get in all, and how often all are runnable (`turns.py`).
"""

import multiprocessing
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import exp, log
from statistics import median
from typing import Literal, NamedTuple

from quants.host import available_cores
from quants.turns import Observation, gil_enabled, watch

Verdict = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]

# ---- ratios

MIN_PAIRS = 9  # below it nobody can say "no worse"
MAX_BAND = 1.25  # beyond it nobody can say that two sides are alike


@dataclass(frozen=True, slots=True)
class Claim:
    """What the ratio of two sides is said to be.

    Args:
        must: the ratio is `at least` or `at most` the limit, or `no worse`
            than 1, where less is better.
    """

    text: str
    left: str
    right: str
    unit: str
    must: Literal["at least", "at most", "no worse"]
    limit: float = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim and what was measured; `facts` are lines to print beside it."""

    claim: Claim
    left: float
    right: float
    ratio: float
    band: float
    pairs: int
    verdict: Verdict
    facts: list[str] = field(default_factory=list)


def in_turn(
    sides: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure every side once a round; each round begins with another."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


def find(
    claim: Claim,
    left: list[float],
    right: list[float],
    again: list[float],
    facts: list[str] | None = None,
) -> Finding:
    """Judge a claim by the rounds; `again` is the right side's second run."""
    ratio = median(a / b for a, b in zip(left, right, strict=True))
    apart = median(abs(log(b / a)) for a, b in zip(right, again, strict=True))
    band, pairs = exp(apart), len(left)
    verdict = judge(claim, ratio, band, pairs)
    sides = median(left), median(right)
    return Finding(claim, *sides, ratio, band, pairs, verdict, facts or [])


def judge(claim: Claim, ratio: float, band: float, pairs: int) -> Verdict:
    """What a ratio with its noise says: a limit within the band is undecided."""
    if claim.must == "no worse":
        better, unlike = ratio * band <= 1, ratio > band
        if pairs < MIN_PAIRS or (band > MAX_BAND and not (better or unlike)):
            return "INCONCLUSIVE"
        return "REFUTED" if unlike else "SUPPORTED"
    # How far on the right side of the limit, as a factor.
    margin = ratio / claim.limit if claim.must == "at least" else claim.limit / ratio
    if margin >= band:
        return "SUPPORTED"
    return "REFUTED" if margin * band < 1 else "INCONCLUSIVE"


# ---- at once, or in turns

MORE_THAN_ONE = 1.2  # cores; workers that take turns get 1.0 in all, at most
RUNNABLE = 0.7  # share of looks; in turns at most 0.58, at once at least 0.80


class AtOnce(NamedTuple):
    """What is said of workers: so many processes, so many threads in each."""

    processes: int
    threads: int
    at_once: bool
    supported: str
    refuted: str


CLAIMS = {
    "threads-take-turns": AtOnce(
        1, 2, False,
        "threads of one process take turns at running Python",
        "threads of one process run Python at once, as far as there are cores",
    ),
    "processes-run-at-once": AtOnce(
        2, 1, True,
        "processes run Python at once, as far as there are cores",
        "processes take turns at running Python",
    ),
}  # fmt: skip


class Sign(NamedTuple):
    """One piece of evidence; `at_once` is None if it decides nothing."""

    name: str
    fact: str
    at_once: bool | None


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A verdict, a sentence without numbers, and all that was seen."""

    verdict: Verdict
    sentence: str
    signs: tuple[Sign, ...]

    def __str__(self) -> str:
        lines = [f"  {name}: {fact}" for name, fact, _ in self.signs]
        return "\n".join([f"{self.verdict}: {self.sentence}", *lines])


def signs(seen: Observation) -> Iterator[Sign]:
    """What each piece of evidence says, the surest first."""
    fact = f"B counted {seen.beside:,} while A ran {seen.seconds:.2f} s"
    # A count of nothing, of a B that never ran, is no evidence.
    at_once = seen.beside > 0 if seen.beside or seen.after else None
    yield Sign("switch-interval probe", f"{fact}, {seen.after:,} after it", at_once)
    fact = " + ".join(f"{share:.2f}" for share in seen.shares) or "nothing"
    # Little says nothing: a busy machine has no more to give.
    more = True if sum(seen.shares) > MORE_THAN_ONE else None
    yield Sign("thread_time", f"{fact} of a core while all worked", more)
    if seen.runnable is not None:
        fact = f"all of them in {seen.runnable:.0%} of the looks"
        yield Sign("co-runnable", fact, seen.runnable >= RUNNABLE)


def decide(claim: AtOnce, seen: Observation) -> Conclusion:
    """What was seen says this about a claim, by the first sign that decides."""
    found = tuple(signs(seen))
    for name, _, at_once in found:
        if at_once is not None:
            right = at_once == claim.at_once
            text = claim.supported if right else claim.refuted
            verdict: Verdict = "SUPPORTED" if right else "REFUTED"
            return Conclusion(verdict, f"{text} ({name})", found)
    unclear = "only one worker ever ran; try again on a quieter machine"
    return Conclusion("INCONCLUSIVE", unclear, found)


def conclude(name: str, portable: bool | None = None) -> Conclusion:
    """Decide a claim of CLAIMS by what is seen now; takes about a second.

    Args:
        portable: do without what only Linux tells; None: if the variable
            QUANTS_EVIDENCE is "portable".

    Raises:
        EnvironmentFault: a worker ended, or gave no answer in time.
    """
    if portable is None:
        portable = os.environ.get("QUANTS_EVIDENCE") == "portable"
    claim = CLAIMS[name]
    return decide(claim, watch(claim.processes, claim.threads, not portable))


# ---- the host


def host_facts() -> dict[str, str]:
    """The machine, and how fit it is to measure on now."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "system": platform.platform(),
        "cores": f"{available_cores()} of {os.cpu_count()}",
        "load": f"{load:.1f}, a busy loop gets {share_of_a_core():.0%} of a core",
        "interpreter": ", ".join(build_facts()),
    }


def build_facts() -> Iterator[str]:
    """The interpreter: what makes its times differ from those of others."""
    yield f"{platform.python_implementation()} {platform.python_version()}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        yield "free-threaded build"
    yield f"GIL {'on' if gil_enabled() else 'off'}"
    jit = getattr(sys, "_jit", None)
    yield f"JIT {'on' if jit and jit.is_enabled() else 'off'}"
    chosen = multiprocessing.get_start_method(allow_none=True)
    yield f"starts processes by {chosen or multiprocessing.get_all_start_methods()[0]}"
    arguments = sysconfig.get_config_var("CONFIG_ARGS")  # None: Windows, always is
    if arguments and "--enable-optimizations" not in arguments:
        yield "configured without --enable-optimizations"


def share_of_a_core(seconds: float = 0.5) -> float:
    """CPU time that a loop gets of the time that passes; 1 on an idle core."""
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - start)
