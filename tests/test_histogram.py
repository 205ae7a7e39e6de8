"""quants/histogram.py against numpy, and against plain counting."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quants.histogram import Histogram, seconds_text, text_histogram

durations = st.lists(st.integers(-10, 2 * 10**12), max_size=50)


def histogram_of(durations_ns):
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.record(duration_ns)
    return histogram


def state(histogram):
    return (
        histogram.cumulative(),
        histogram.rows(),
        histogram.count,
        histogram.negative,
        histogram.sum_seconds,
        str(histogram.maximum),
        [str(histogram.quantile(q)) for q in (0, 0.3, 0.5, 0.99, 1)],
    )


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_quantile_is_at_most_a_sixteenth_above_numpys(seed, q):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(12, 3, 5000).astype(np.int64) + 1000
    expected = np.quantile(values, q, method="inverted_cdf") / 1e9
    measured = histogram_of(values.tolist()).quantile(q)
    assert expected <= measured <= expected * (1 + 1 / 16), f"seed {seed}"


@given(durations)
def test_cumulative_counts_are_exact_at_every_bound(durations_ns):
    counted = [value for value in durations_ns if value >= 0]
    bounds_ns = [1000 * 2**power for power in range(31)] + [math.inf]
    assert histogram_of(durations_ns).cumulative() == [
        (bound / 1e9, sum(value <= bound for value in counted)) for bound in bounds_ns
    ]


@pytest.mark.parametrize("power", range(31))
def test_a_bound_belongs_to_its_own_bucket(power):
    histogram = histogram_of([1000 * 2**power, 1000 * 2**power + 1])
    assert dict(histogram.cumulative())[1000 * 2**power / 1e9] == 1


@given(st.integers(1, 10**12))
def test_the_median_of_one_duration_is_that_duration(duration_ns):
    assert histogram_of([duration_ns]).quantile(0.5) == duration_ns / 1e9


@given(st.integers(1, 1000 * 2**30))
def test_a_bucket_is_a_sixteenth_wide_or_a_sixteenth_of_a_microsecond(duration_ns):
    histogram = histogram_of([duration_ns, 2 * 10**12])
    excess = histogram.quantile(0.5) * 1e9 - duration_ns
    assert -1e-3 <= excess <= max(duration_ns / 16, 62.5)


@given(durations, durations)
def test_merging_counts_what_one_histogram_would_have_counted(left, right):
    merged = histogram_of(left)
    merged.merge(histogram_of(right))
    assert state(merged) == state(histogram_of(left + right))


@given(st.integers(-10, 2 * 10**12), st.integers(1, 4096))
def test_a_weight_counts_as_often_as_it_says(duration_ns, weight):
    weighted = Histogram()
    weighted.record(duration_ns, weight)
    assert state(weighted) == state(histogram_of([duration_ns] * weight))


def test_negative_durations_are_counted_apart():
    histogram = Histogram()
    histogram.record(-5, 3)
    histogram.record(0)
    assert (histogram.negative, histogram.count, histogram.sum_seconds) == (3, 1, 0)


def test_an_empty_histogram_has_no_quantile_and_no_maximum():
    assert math.isnan(Histogram().quantile(0.99))
    assert math.isnan(Histogram().maximum)
    assert text_histogram("GC pauses", Histogram()) == "GC pauses: none"


def test_durations_beyond_the_last_bound_keep_their_exact_maximum():
    histogram = histogram_of([5 * 10**12])
    assert histogram.quantile(0.5) == histogram.maximum == 5000
    assert histogram.cumulative()[-2:] == [(1073.741824, 0), (math.inf, 1)]


def test_the_text_shows_one_bar_per_power_of_two():
    shuffled = [900] * 10 + [3_000] * 40 + [9_000] * 5
    random.Random(1).shuffle(shuffled)
    assert text_histogram("GC pauses", histogram_of(shuffled), width=8) == (
        "GC pauses: 55, p50 3 us, p99 9 us, longest 9 us\n"
        "  <=    1 us        10 ##\n"
        "  <=    2 us         0\n"
        "  <=    4 us        40 ########\n"
        "  <=    8 us         0\n"
        "  <=   16 us         5 #"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-7, "200 ns"), (1e-6, "1 us"), (1.5e-3, "1.5 ms"), (61, "61 s")],
)
def test_a_duration_is_written_in_the_unit_that_suits_it(seconds, text):
    assert seconds_text(seconds) == text


def test_the_repr_tells_the_state():
    histogram = histogram_of([1000, 1_000_000])
    assert repr(histogram) == "<Histogram 2 durations, p50 1 us, p99 1 ms>"
    assert repr(Histogram()) == "<Histogram 0 durations, p50 -, p99 ->"
