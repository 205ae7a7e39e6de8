"""Fair comparisons: sides in turn, medians, and how far equal runs differ.

A ratio means little without the noise beside it. So one side runs twice in
every round. Half of the rounds find these two, the same code, further apart
than the A/A band; a difference inside the band is none that was measured.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from math import exp, log
from statistics import median
from typing import Literal

from quants.host import available_cores

Verdict = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]
MIN_PAIRS = 9  # below it nobody can say "no worse"
MAX_BAND = 1.25  # beyond it nobody can say that two sides are alike
PACKAGES = ("numpy", "aiohttp", "picows", "msgspec", "redis", "uvloop")


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
    """Measure every side once a round; each round begins with another one."""
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


def host_facts() -> dict[str, str]:
    """The machine, and how fit it is to measure on now."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "system": platform.platform(),
        "cores": str(available_cores()),
        "load": f"{load:.1f}, a busy loop gets {share_of_a_core():.0%} of a core",
        "interpreter": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def share_of_a_core(seconds: float = 0.5) -> float:
    """CPU time that a loop gets of the time that passes; 1 on an idle core."""
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - start)
