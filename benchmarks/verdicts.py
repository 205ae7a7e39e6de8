"""How often the verdicts on threads and processes are right: make verdicts.

Every claim is decided again and again, on the machine as it is, beside four
processes that never rest, and pinned to one core; with what Linux tells and
without. Only the standard library is needed, so that any interpreter will do.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from quants.evidence import CLAIMS, Conclusion, Verdict, conclude, host_facts
from quants.host import running
from quants.turns import gil_enabled

HOGS = 4
# It ends by itself, if we cannot end it.
HOG = "import time; end = time.time() + 300\nwhile time.time() < end: pass"

Case = tuple[str, bool]  # a claim, and whether it is decided without Linux


@contextmanager
def hogs() -> Iterator[None]:
    """Processes that want all of every core."""
    with ExitStack() as stack:
        for _ in range(HOGS):
            stack.enter_context(running([sys.executable, "-c", HOG]))
        yield


@contextmanager
def one_core() -> Iterator[None]:
    """All on one core; our children too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


CONDITIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "as it is": nullcontext,
    f"{HOGS} hogs": hogs,
}
if hasattr(os, "sched_setaffinity"):  # Linux
    CONDITIONS["one core"] = one_core


def expected(name: str) -> Verdict:
    """The right verdict, by what the interpreter says of itself."""
    if name == "threads-take-turns" and not gil_enabled():
        return "REFUTED"
    return "SUPPORTED"


def decided(condition: str, rounds: int) -> dict[Case, list[Conclusion]]:
    """Every case once a round, under one condition."""
    cases = [(name, portable) for portable in (False, True) for name in CLAIMS]
    found: dict[Case, list[Conclusion]] = {case: [] for case in cases}
    with CONDITIONS[condition]():
        for _ in range(rounds):
            for name, portable in cases:
                found[name, portable].append(conclude(name, portable))
    return found


def tally(name: str, conclusions: list[Conclusion]) -> dict[str, str]:
    """Right, open and wrong: of the verdict, and of each sign by itself."""
    said = CLAIMS[name].at_once
    truth = said if expected(name) == "SUPPORTED" else not said
    marks = {truth: "right", (not truth): "wrong", None: "open"}
    counts = {"verdict": Counter(mark(name, each.verdict) for each in conclusions)}
    for conclusion in conclusions:
        for sign in conclusion.signs:
            counts.setdefault(sign.name, Counter())[marks[sign.at_once]] += 1
    return {
        column: "/".join(str(count[word]) for word in ("right", "open", "wrong"))
        for column, count in counts.items()
    }


def mark(name: str, verdict: Verdict) -> str:
    """What a verdict is worth."""
    if verdict == "INCONCLUSIVE":
        return "open"
    return "right" if verdict == expected(name) else "wrong"


COLUMNS = {
    "verdict": "verdict",
    "switch-interval probe": "probe",
    "thread_time": "thread_time",
    "co-runnable": "co-runnable",
}


def main() -> None:
    """Decide, and print right/open/wrong; exit code 1 unless all is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    for fact, value in host_facts().items():
        print(f"{fact:12} {value}")
    print(f"\n{rounds} rounds, right/open/wrong; the verdict, and each sign by itself")
    print(" " * 45, *(f"{heading:>11}" for heading in COLUMNS.values()))
    right = True
    for condition in CONDITIONS:
        for (name, portable), conclusions in decided(condition, rounds).items():
            row = tally(name, conclusions)
            cells = (f"{row.get(column, '-'):>11}" for column in COLUMNS)
            how = "portable" if portable else "all"
            print(f"{condition:11} {how:9} {name:23}", *cells, flush=True)
            right &= row["verdict"] == f"{rounds}/0/0"
    sys.exit(not right)


if __name__ == "__main__":
    main()
