"""The breaker opens, probes and closes; its clock is a number."""

from hypothesis import given
from hypothesis import strategies as st

from quants.breaker import Breaker, State


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def opened(clock, **options):
    breaker = Breaker(clock=clock, **options)
    while breaker.state is not State.OPEN:
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it_and_others_do_not():
    breaker = Breaker(threshold=2)
    for told in (breaker.failed, breaker.succeeded, breaker.failed):
        told()
        assert breaker.state is State.CLOSED
    breaker.failed()
    assert breaker.state is State.OPEN


def test_while_it_is_open_nobody_asks():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    clock.now += 0.4375
    assert [breaker.admits() for _ in range(3)] == [False, False, False]
    assert breaker.refused == 3


def test_after_a_while_one_call_asks_and_no_other_with_it():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    clock.now += 0.5
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    assert breaker.state is State.HALF_OPEN


def test_an_answered_probe_closes_it():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1
    breaker.admits()
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_after_an_outage_it_takes_as_many_failures_again():
    breaker = opened(Clock(), threshold=2)
    breaker.succeeded()
    breaker.failed()
    assert breaker.state is State.CLOSED


def test_a_failed_probe_opens_it_for_as_long_again_but_begins_no_outage():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    clock.now += 0.5
    breaker.admits()
    clock.now += 0.25
    breaker.failed()
    clock.now += 0.4375
    assert not breaker.admits()
    clock.now += 0.0625
    assert breaker.admits()
    assert breaker.opened == 1


def test_a_probe_that_nobody_tells_of_is_followed_by_another():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    clock.now += 0.5
    assert breaker.admits()
    clock.now += 0.5
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_a_late_failure_does_not_put_the_probe_off():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    clock.now += 0.4375
    breaker.failed()  # of a call that was under way when it opened
    clock.now += 0.0625
    assert breaker.admits()


def test_outages_add_up_and_the_one_of_now_counts():
    clock = Clock()
    breaker = opened(clock)
    assert breaker.open_since == 100.0
    clock.now += 2.0
    breaker.succeeded()
    clock.now += 8.0
    assert (breaker.away_seconds, breaker.open_since) == (2.0, None)
    breaker.failed()
    breaker.failed()
    clock.now += 0.5
    assert (breaker.away_seconds, breaker.opened) == (2.5, 2)


@given(away=st.integers(1, 400), threshold=st.integers(1, 5), probe=st.integers(1, 9))
def test_an_outage_costs_the_threshold_and_then_a_call_per_probe_time(
    away, threshold, probe
):
    """A caller that never rests, in ticks of the clock; each call takes none."""
    clock = Clock()
    breaker = Breaker(threshold, probe, clock)
    asked = 0
    for _ in range(away):
        while breaker.admits():
            asked += 1
            breaker.failed()
        clock.now += 1
    assert asked == threshold + (away - 1) // probe
    assert breaker.opened == 1


def test_its_repr_tells_its_state():
    clock = Clock()
    breaker = opened(clock, probe_seconds=0.5)
    breaker.admits()
    assert repr(breaker) == "<Breaker open, opened 1, 1 refused>"
    clock.now += 0.5
    breaker.admits()
    assert repr(breaker) == "<Breaker half open, opened 1, 1 refused>"
