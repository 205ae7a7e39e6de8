"""quants/evidence.py: what decides, tested without the machine it is about."""

import platform
import subprocess
import sys
from math import isclose
from pathlib import Path

import pytest

from quants.evidence import (
    CLAIMS,
    AtOnce,
    Claim,
    conclude,
    decide,
    find,
    host_facts,
    in_turn,
    judge,
    share_of_a_core,
)
from quants.turns import Observation

ROOT = Path(__file__).parent.parent
THREADS, PROCESSES = CLAIMS["threads-take-turns"], CLAIMS["processes-run-at-once"]
NOTHING = (0.25, 0, 0)  # nobody but A ever ran: the probe has nothing to say
AT_LEAST_2 = Claim("twice", "a", "b", "s", "at least", 2.0)
AT_MOST_2 = Claim("half", "a", "b", "s", "at most", 2.0)
NO_WORSE = Claim("equal", "a", "b", "s", "no worse")


# ---- ratios


def test_each_round_begins_with_another_side():
    order: list[str] = []

    def side(name):
        def measured():
            order.append(name)
            return float(len(order))

        return measured

    found = in_turn({name: side(name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found["b"] == [2, 4, 9]


def test_the_ratio_is_the_median_of_pairs_and_the_band_that_of_equals():
    found = find(NO_WORSE, [2.0, 9.0, 4.0], [1.0, 3.0, 2.0], [2.0, 3.0, 1.6])
    assert found.ratio == 2.0
    assert isclose(found.band, 1.25)  # of 2, 1 and 1.25
    assert (found.left, found.right, found.pairs) == (4.0, 2.0, 3)


@pytest.mark.parametrize(
    ("claim", "ratio", "band", "pairs", "verdict"),
    [
        (AT_LEAST_2, 2.3, 1.1, 3, "SUPPORTED"),
        (AT_LEAST_2, 2.1, 1.1, 3, "INCONCLUSIVE"),
        (AT_LEAST_2, 1.9, 1.1, 3, "INCONCLUSIVE"),
        (AT_LEAST_2, 1.7, 1.1, 3, "REFUTED"),
        (AT_MOST_2, 1.7, 1.1, 3, "SUPPORTED"),
        (AT_MOST_2, 1.9, 1.1, 3, "INCONCLUSIVE"),
        (AT_MOST_2, 2.3, 1.1, 3, "REFUTED"),
        (NO_WORSE, 0.5, 1.1, 9, "SUPPORTED"),
        (NO_WORSE, 1.05, 1.1, 9, "SUPPORTED"),
        (NO_WORSE, 1.15, 1.1, 9, "REFUTED"),
        (NO_WORSE, 1.05, 1.1, 8, "INCONCLUSIVE"),
        (NO_WORSE, 0.9, 1.4, 9, "INCONCLUSIVE"),
        (NO_WORSE, 0.5, 1.4, 9, "SUPPORTED"),
        (NO_WORSE, 1.5, 1.4, 9, "REFUTED"),
    ],
)
def test_a_limit_within_the_noise_is_not_decided(claim, ratio, band, pairs, verdict):
    assert judge(claim, ratio, band, pairs) == verdict


# ---- at once, or in turns


@pytest.mark.parametrize(
    ("claim", "seen", "verdict", "sign"),
    [
        (THREADS, ((0.25, 0, 900), (0.5, 0.5), 0.1), "SUPPORTED", "probe"),
        (THREADS, ((0.25, 1, 900), (0.5, 0.5), 0.1), "REFUTED", "probe"),
        (THREADS, ((0.25, 900, 0), (0.1, 0.1), None), "REFUTED", "probe"),
        (PROCESSES, ((0.25, 900, 0), (0.1, 0.1), None), "SUPPORTED", "probe"),
        (PROCESSES, ((0.25, 0, 900), (0.5, 0.5), None), "REFUTED", "probe"),
        (THREADS, (NOTHING, (0.9, 0.9), 0.1), "REFUTED", "thread_time"),
        (PROCESSES, (NOTHING, (0.6, 0.61), None), "SUPPORTED", "thread_time"),
        (THREADS, (NOTHING, (0.5, 0.5), 0.58), "SUPPORTED", "co-runnable"),
        (THREADS, (NOTHING, (0.5, 0.5), 0.8), "REFUTED", "co-runnable"),
        (PROCESSES, (NOTHING, (0.6, 0.6), 0.8), "SUPPORTED", "co-runnable"),
        (PROCESSES, (NOTHING, (), 0.58), "REFUTED", "co-runnable"),
    ],
)
def test_the_first_sign_that_decides_gives_the_verdict(claim, seen, verdict, sign):
    found = decide(claim, observation(*seen))
    assert found.verdict == verdict
    assert sign in found.sentence.rpartition("(")[2]


def observation(
    probe: tuple[float, int, int], shares: tuple[float, ...], runnable: float | None
) -> Observation:
    return Observation(*probe, shares, runnable)


@pytest.mark.parametrize("claim", CLAIMS.values())
@pytest.mark.parametrize("shares", [(), (0.1, 0.1), (0.5, 0.5), (0.6, 0.6)])
def test_a_core_or_less_in_all_is_no_evidence(claim: AtOnce, shares):
    """A busy machine gives no more to workers that do run at once."""
    found = decide(claim, observation(NOTHING, shares, None))
    assert found.verdict == "INCONCLUSIVE"
    assert "only one worker ever ran" in found.sentence


def test_the_sentence_has_no_number_and_the_signs_have_them():
    found = decide(THREADS, observation((0.253, 0, 9876), (0.5, 0.49), 0.12))
    assert str(found).splitlines() == [
        "SUPPORTED: threads of one process take turns at running Python "
        "(switch-interval probe)",
        "  switch-interval probe: B counted 0 while A ran 0.25 s, 9,876 after it",
        "  thread_time: 0.50 + 0.49 of a core while all worked",
        "  co-runnable: all of them in 12% of the looks",
    ]


@pytest.mark.parametrize("variable", ["", "portable"])
def test_what_only_linux_tells_can_be_left_out(variable, monkeypatch):
    monkeypatch.setenv("QUANTS_EVIDENCE", variable)
    found = conclude("threads-take-turns")
    told = sys.platform == "linux" and not variable
    assert (found.signs[-1].name == "co-runnable") == told


# ---- the host


def test_the_facts_tell_interpreter_and_fitness():
    facts = host_facts()
    assert platform.python_version() in facts["interpreter"]
    assert facts["load"].endswith("% of a core")


FRESH = """
import multiprocessing
from quants.evidence import build_facts
told = list(build_facts())
assert multiprocessing.get_start_method(allow_none=True) is None, "asking chose one"
assert f"starts processes by {multiprocessing.get_start_method()}" in told, told
multiprocessing.set_start_method("spawn", force=True)
assert "starts processes by spawn" in list(build_facts())
"""


def test_the_start_method_is_told_and_not_chosen():
    subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, check=True, timeout=60)


def test_a_loop_gets_a_share_of_a_core():
    assert 0 < share_of_a_core(0.05) <= 1.1
