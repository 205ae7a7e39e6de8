"""A pace decides when ticks leave; a replay keeps the gaps of its recording."""

import numpy as np
import pytest

from quants.feed_server import FeedServer
from quants.pace import AS_FAST_AS_TAKEN, MAX_WAKE_UP_ROWS, Replay, SteadyPace
from quants.tick import Rows, Symbol, rows_of

SECOND = 10**9
START = 1_767_364_200 * SECOND


class Recorded:
    """A recording in memory, its times given in seconds after a start."""

    symbols = (Symbol("AAPL"),)

    def __init__(self, *seconds: float, holes: dict[int, int] | None = None) -> None:
        self.holes = holes or {}
        times = [START + round(s * SECOND) for s in seconds]
        self.rows = rows_of([(t, n, 1, 0, 0) for n, t in enumerate(times)])
        self.ticks, self.at = len(times), 0
        self.first_time_ns, self.last_time_ns = times[0], max(times)

    def take(self, n: int) -> Rows:
        self.at += n
        return self.rows[self.at - n : self.at]

    def rewind(self) -> None:
        self.at = 0


def played(replay: Replay, moments: list[float]) -> list[list[int]]:
    """Which ticks leave at each moment, a nanosecond late, of a clock."""
    sent, left = 0, []
    replay.begin(100.0, 0)
    for moment in moments:
        rows = replay.take(replay.due(100.0 + moment + 1e-9, sent))
        left.append(rows["price"].tolist())
        sent += len(rows)
    return left


@pytest.mark.parametrize("speed", [1.0, 2.0, 100.0])
def test_a_replay_keeps_the_original_gaps_divided_by_its_speed(speed: float):
    replay = Replay(Recorded(0, 0.5, 0.5, 2), speed)
    moments = [0.0, 0.4 / speed, 0.5 / speed, 1.9 / speed, 2.0 / speed]
    assert played(replay, moments) == [[0], [], [1, 2], [], [3]]


def test_at_full_speed_everything_is_due():
    replay = Replay(Recorded(0, 3600, 7200), AS_FAST_AS_TAKEN)
    assert played(replay, [0.0]) == [[0, 1, 2]]


def test_what_is_intended_is_the_recorded_time_not_that_of_sending():
    replay = Replay(Recorded(0, 3), speed=2.0)
    played(replay, [0.0])
    assert replay.intended(109.0, 1) == 1.5
    assert replay.wait(101.0, 1) == pytest.approx(0.5)


def test_a_time_that_steps_back_is_due_with_the_one_before_it():
    replay = Replay(Recorded(0, 2, 1, 3))
    assert played(replay, [0, 1.5, 2.0, 3.0]) == [[0], [], [1, 2], [3]]


def test_the_end_is_a_row_that_is_due_and_does_not_come():
    replay = Replay(Recorded(0))
    played(replay, [0.0])
    assert replay.due(101.0, 1) == 1
    assert len(replay.take(1)) == 0


def test_each_loop_goes_on_in_event_time_by_the_mean_gap():
    """Three ticks, one every second: the loop begins a second later."""
    replay = Replay(Recorded(0, 1, 2), AS_FAST_AS_TAKEN, loop_times=3)
    replay.begin(0.0, 0)
    rows = np.concatenate([replay.take(replay.due(0.0, 0)) for _ in range(3)])
    assert ((rows["time_ns"] - START) // SECOND).tolist() == list(range(9))
    assert rows["price"].tolist() == [0, 1, 2] * 3
    assert len(replay.take(1)) == 0


def test_a_loop_at_speed_is_paced_like_the_first_reading():
    replay = Replay(Recorded(0, 1, 2), 1.0, loop_times=2)
    assert played(replay, [0, 2.5, 3.0, 5.0]) == [[0], [1, 2], [0], [1, 2]]


def told(replay: Replay) -> list[int]:
    """The prices of a replay, and what is missing, as a negative number."""
    found = list[int]()
    while True:
        if missing := replay.missing():
            found.append(-missing)
        rows = replay.take(2)
        if not len(rows):
            return found
        found += rows["price"].tolist()


def test_what_a_recording_lacks_is_told_where_it_lacks_it():
    recording = Recorded(0, 1, 2, 3, 4, holes={0: 7, 3: 5, 5: 9})
    assert told(Replay(recording, 1.0)) == [-7, 0, 1, 2, -5, 3, 4, -9]


def test_a_second_reading_lacks_the_same_again():
    recording = Recorded(0, 1, 2, holes={0: 7, 1: 5, 3: 9})
    once = [0, -5, 1, 2]
    assert told(Replay(recording, 1.0, loop_times=2)) == [-7, *once, -16, *once, -9]


async def test_the_server_publishes_a_recording_to_its_end():
    replay = Replay(Recorded(*range(100_000)), AS_FAST_AS_TAKEN)
    async with FeedServer(replay, pace=replay) as server:
        await server.publish()
        assert server.sent == 100_000
        assert "replay at speed inf, 100000 sent" in repr(server)


def test_a_steady_pace_owes_what_the_clock_says():
    pace = SteadyPace(1000)
    pace.begin(5.0, 0)
    assert pace.due(5.0, 0) == 1
    assert pace.due(5.0105, 1) == 10
    assert pace.due(1e6, 0) == MAX_WAKE_UP_ROWS
    assert pace.wait(5.01, 11) == pytest.approx(0.001)
    assert pace.intended(9.9, 11) == pytest.approx(0.011)
