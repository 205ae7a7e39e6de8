"""A live set that grows: pauses of the garbage collector, and what fewer cost.

Every run is a process of its own. It starts with many containers alive, then
keeps as many again while cycles die beside them, each with 10 kB. Python's own
thresholds, a live set frozen as by --freeze-gc, and --gc-threshold differ in
how often and how long the collector stops the process, and in how many dead
wait for it.
"""

import gc
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median

import msgspec
import psutil

from benchmarks.runs import ROOT, answer, say
from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.host import running
from quants.metrics import Registry
from quants.monitor import Monitor, freeze_gc

THRESHOLD = 50_000
KEPT_PER_CYCLE = 10
PAYLOAD = 10_000  # bytes

FROZEN = Claim(
    "a frozen live set: the longest pause is at most half of the default's",
    "frozen", "default", "ms", "at most", 0.5,
)  # fmt: skip
TUNED = Claim(
    f"--gc-threshold {THRESHOLD}: fewer pauses, whose p99 is at least 10 times longer",
    "tuned", "default", "ms", "at least", 10.0,
)  # fmt: skip
PRICE = Claim(
    f"--gc-threshold {THRESHOLD}: at least 10 times as many dead objects wait",
    "tuned", "default", "objects", "at least", 10.0,
)  # fmt: skip


class Pauses(msgspec.Struct):
    """What a run of some policy had.

    Attributes:
        p99, longest, total: seconds.
        waiting: the most objects that one collection freed.
        grown: bytes that memory grew, at most.
    """

    collections: int
    p99: float
    longest: float
    total: float
    waiting: int
    grown: int


class Dead:
    """Something that holds itself, until the collector comes."""

    def __init__(self) -> None:
        self.payload, self.other = bytearray(PAYLOAD), self


class Price:
    """What waits for a collection: objects, and memory when it starts."""

    def __init__(self) -> None:
        self._memory = psutil.Process().memory_info
        self.most, self.before = 0, self._memory().rss
        self.peak = self.before

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.peak = max(self.peak, self._memory().rss)
        else:
            self.most = max(self.most, info["collected"])


def grow(held: list[list[int]], containers: int) -> None:
    """Keep containers, and let a cycle die beside every tenth."""
    for i in range(containers):
        held.append([i])
        if i % KEPT_PER_CYCLE == 0:
            Dead()


def play(policy: str, containers: int) -> Pauses:
    """Build a live set, apply the policy, and watch the collector from then on."""
    held: list[list[int]] = [[i] for i in range(containers)]
    gc.collect()
    if policy == "frozen":
        freeze_gc()
    price, threshold = Price(), THRESHOLD if policy == "tuned" else None
    with Monitor(Registry(), gc_threshold=threshold) as monitor:
        gc.callbacks.insert(0, price)  # what it does is no pause
        grow(held, containers)
        if not monitor.collections:  # a test is too small for one
            gc.collect()
        gc.callbacks.remove(price)
    pause = monitor.pause
    return Pauses(
        pause.count, pause.quantile(0.99), pause.maximum, pause.sum_seconds,
        max(1, price.most), price.peak - price.before,
    )  # fmt: skip


def run(policy: str, containers: int) -> Pauses:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.collector", policy, str(containers)]
    with running(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        return msgspec.json.decode(answer(child), type=Pauses)


def measure(size: Size) -> list[Finding]:
    """Three policies and the first again, in turn."""
    containers = max(5_000, size.loop_ticks // 10)
    policies = {"default": "default", "frozen": "frozen", "tuned": "tuned"}
    runs: dict[str, list[Pauses]] = {}

    def side(name: str, policy: str) -> float:
        runs.setdefault(name, []).append(run(policy, containers))
        return 0.0

    sides = {**policies, "again": "default"}
    in_turn({n: partial(side, n, policy) for n, policy in sides.items()}, size.rounds)
    facts = [line(name, runs[name]) for name in policies]

    def finding(claim: Claim, read: Callable[[Pauses], float], *facts: str) -> Finding:
        values = {name: [read(each) for each in found] for name, found in runs.items()}
        left, right, again = values[claim.left], values["default"], values["again"]
        return find(claim, left, right, again, [*facts])

    return [
        finding(FROZEN, lambda pauses: pauses.longest * 1e3, *facts),
        finding(TUNED, lambda pauses: pauses.p99 * 1e3),
        finding(PRICE, lambda pauses: pauses.waiting),
    ]


def line(name: str, runs: list[Pauses]) -> str:
    """A policy in figures: the medians of its runs."""

    def typical(read: Callable[[Pauses], float]) -> float:
        return median(map(read, runs))

    return (
        f"{name}: {typical(lambda p: p.collections):,.0f} collections, "
        f"p99 {typical(lambda p: p.p99) * 1e3:.3g} ms, "
        f"longest {typical(lambda p: p.longest) * 1e3:.3g} ms, "
        f"{typical(lambda p: p.total) * 1e3:,.3g} ms in all; "
        f"{typical(lambda p: p.waiting):,.0f} dead objects at most, "
        f"memory +{typical(lambda p: p.grown) / 1e6:,.1f} MB"
    )


if __name__ == "__main__":
    say(msgspec.json.encode(play(sys.argv[1], int(sys.argv[2]))).decode())
