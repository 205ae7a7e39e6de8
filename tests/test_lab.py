"""What the notebooks stand on: sessions, pictures, controls, verdicts, exercises."""

import asyncio
import io
import multiprocessing
import re
import threading
from dataclasses import replace

import ipywidgets
import psutil
import pytest
from PIL import Image

from quants.errors import QuantsError
from quants.kernels import add_int64
from quants.lab import bell, board, claims, exercise, session
from quants.lab.bell import Ringing, held_us
from quants.lab.card import within_reach
from quants.lab.charts import Chart
from quants.lab.conservation import CONSERVED, conserved, counted
from quants.lab.controls import Controls
from quants.lab.exercise import Case, Exercise
from quants.lab.guess import guess
from quants.lab.live import Live, Picture, Undescribed, frame_is_due
from quants.lab.panels import (
    BellPicture,
    Reading,
    budget_us,
    done_per_second,
    gives_way,
    one_two_five,
)  # fmt: skip
from quants.lab.pumps import PUMPS
from quants.lab.source import TooLong, show, show_diff
from quants.naive import NaivePump
from quants.readings import Snapshot
from tests.exercising import made, try_all

pytestmark = pytest.mark.usefixtures("shown")

STAGE_US = {"receive": 5.0, "vwap": 2.0, "log": 40.0, "risk": 90.0}
QUICK_US = dict.fromkeys(STAGE_US, 0.5)


@pytest.fixture(autouse=True)
async def closed():
    """Every session that a test opens is closed."""
    yield
    await session.close()


def reading(seconds, processed, queued=0, asked=50_000, stage_us=STAGE_US):
    received = processed + queued
    return Reading(seconds, asked, received, processed, queued, 0.5, stage_us)


def ringing(*readings, rate=50_000, stage_us=STAGE_US):
    last = readings[-1]
    counts = counted(last.received, last.processed, queued=last.queued)
    now = Snapshot(last.seconds, last.received, last.received, 0, 0, {"naive": counts})
    return Ringing("naive", rate, readings, stage_us, now)


COLLAPSED = ringing(reading(0, 0), reading(2, 5_000, queued=95_000))
KEPT_UP = ringing(
    reading(0, 0, stage_us=QUICK_US), reading(2, 100_000, stage_us=QUICK_US),
    stage_us=QUICK_US,
)  # fmt: skip


# sessions ----------------------------------------------------------------------


async def test_a_session_opened_twice_is_one():
    assert await session.session("a") is await session.session("a")


async def test_a_session_beats_so_that_stop_is_seen():
    lab = await session.session()
    async with asyncio.timeout(10):
        while lab.monitor.lag.count < 3:
            await asyncio.sleep(0.01)


async def test_closing_ends_what_was_started_and_counts_nothing_left():
    lab = await session.session()
    forever = lab.start(asyncio.Event().wait())
    await lab.redis()
    assert psutil.Process().children()
    assert await session.close() == "0 leaked tasks, 0 leaked processes"
    assert forever.cancelled()


async def test_a_task_that_nobody_owns_is_counted_as_leaked(monkeypatch):
    monkeypatch.setattr(session, "CLOSE_SECONDS", 0.2)
    await session.session()
    stray = asyncio.create_task(asyncio.Event().wait(), name="stray")
    report = await session.close()
    assert report.startswith("1 leaked tasks, 0 leaked processes: <Task")
    assert "stray" in report
    stray.cancel()


async def test_what_a_background_task_raised_is_raised_when_closing():
    async def fails():
        raise OSError("disk gone")

    lab = await session.session()
    lab.start(fails())
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="disk gone"):
        await session.close()


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same():
    async def stubborn():
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await session.end(task)
    assert task.cancelled()


def test_a_chart_names_its_panels_units_and_sample():
    chart = Chart("A title", n="n = 3 beats", alt="Two panels.", panels=2)
    for heading in ("before", "after"):
        panel = chart.panel("time (s)", "lag (ms)", heading, log="y")
        (line,) = panel.plot([1, 2, 3], [1, 2, 3])
    chart.key(["before", "after"], ["#000000", "#777777"])
    assert chart.undescribed() == []
    assert Image.open(io.BytesIO(chart.png())).size == (760, 300)
    live = chart.live(line)
    live.draw()
    first = live.widget.value
    chart.sample("n = 4 beats")
    line.set_ydata([3, 2, 1])
    live.draw()
    assert live.widget.value != first
    unnamed = Chart("A title", n="n = 3", alt="One panel.")
    unnamed.panel("time", "lag (ms)")
    assert unnamed.undescribed() == ["a unit on the x axis"]


async def test_a_process_draws_the_very_picture_that_the_loop_would():
    """Also when an axis changes; and it is gone when the run is over."""
    drawn: dict[str, list[bytes]] = {}
    for render in ("loop", "process"):
        chart = Chart("A title", n="n = 3 beats", alt="One panel.")
        panel = chart.panel("time (s)", "lag (ms)")
        (line,) = panel.plot([1, 2, 3], [1, 2, 3])
        text = panel.text(1, 2, "before")
        (bar,) = panel.bar([2], [1])
        live = Live(chart, [line, text, bar], render, clock=iter(range(99)).__next__)
        frames = drawn.setdefault(render, [])

        def update(live=live, line=line, text=text, bar=bar, panel=panel, f=frames):
            f.append(live.widget.value)
            line.set_data([1, 2, 3], [3, len(f), 1])
            text.set_text(f"look {len(f)}")
            bar.set_height(len(f))
            if len(f) == 2:
                panel.set_ylim(0, 9)
                live.limits_changed()
            return len(f) < 5

        await live.run(update)
    assert drawn["process"] == drawn["loop"]
    assert len(set(drawn["loop"])) == 5
    assert multiprocessing.active_children() == []


# the bell ------------------------------------------------------------------------


async def test_a_ring_of_the_naive_pump_conserves_ticks_in_its_collapse():
    ring = await bell.ring(50_000, seconds=0.5)
    counts = ring.snapshot.consumers["naive"]
    assert counts.queued > 0
    assert counts.received == counts.processed + counts.queued
    assert ring.gave_way in ("log", "risk")
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


async def test_a_ring_of_the_quants_pump_works_off_what_it_is_sent():
    ring = await bell.ring(5000, pump="quants", seconds=0.5, law=conserved)
    assert set(ring.snapshot.consumers) == {"vwap", "log", "risk"}
    assert all(us > 0 for us in ring.stage_us.values())
    lawful, looks = ring.kept
    assert lawful == looks > 0


async def test_two_rings_after_each_other_need_no_closing_between_them():
    for _ in range(2):
        assert (await bell.ring(1000, seconds=0.2)).rate == 1000


async def test_turning_the_rate_reaches_the_feed_and_buys_time():
    lab = await session.session()
    async with PUMPS["naive"](lab, 1000) as pump:
        show = bell.Show(pump, 1000, 5.0, None)
        show.turn(2000)
        assert pump.feed.tick_rate == 2000
        assert show.deadline > show.started + bell.TOUCHED_SECONDS - 1


async def test_a_queue_that_would_eat_the_memory_ends_the_ring(monkeypatch):
    monkeypatch.setattr(bell, "MOST_QUEUED", 1000)
    ring = await bell.ring(50_000, seconds=600)
    assert ring.readings[-1].queued > 1000


async def test_a_pump_that_fails_says_so_in_its_own_cell(monkeypatch):
    monkeypatch.setattr(NaivePump, "vwap", lambda self, tick: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await bell.ring(1000, seconds=60)
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


def test_held_time_is_per_tick_and_between_two_looks():
    before, now = {"log": (1_000, 1)}, {"log": (9_000, 5), "risk": (0, 0)}
    assert held_us(before, now) == {"log": 2.0, "risk": 0.0}


# the panels ------------------------------------------------------------------------


def test_at_50_000_ticks_a_second_a_tick_has_20_microseconds():
    assert budget_us(50_000) == 20


def test_the_stage_that_holds_a_tick_longest_gives_way_beyond_the_budget():
    assert gives_way(STAGE_US, 50_000) == "risk"  # 137 of 20 us
    assert gives_way(STAGE_US, 5_000) is None  # 137 of 200


def test_the_rate_done_is_taken_over_the_half_second_before():
    readings = [reading(s / 4, 1000 * s) for s in range(5)]  # 4000 ticks/s
    assert done_per_second(readings) == [4000] * 5


@pytest.mark.parametrize(
    ("number", "next_one"), [(0.4, 1), (3, 5), (20, 20), (51, 100)]
)
def test_axes_end_at_round_numbers(number: float, next_one: float):
    assert one_two_five(number) == next_one


def test_the_still_picture_names_the_stage_that_gave_way():
    picture = BellPicture("naive", 2.0)
    picture.update(COLLAPSED.readings)
    assert picture.verdict.get_text().startswith("risk gives way")
    assert picture.figure.get_size_inches()[0] * 100 == picture.width
    assert list(picture.queue.get_ydata())[-1] == 95_000  # type: ignore[arg-type]


# pictures ------------------------------------------------------------------------


class Described(Picture):
    """A picture with everything it needs, unless a test takes it away."""

    def __init__(self):
        super().__init__(300, 200)
        self.title, self.n, self.alt = "Squares", "n = 3", "Three dots that rise."
        self.axes = self.figure.add_subplot()
        self.axes.set_xlabel("number (1)")
        self.axes.set_ylabel("square (1)")
        (self.dots,) = self.axes.plot([1, 2, 3], [1, 4, 9], "o")


@pytest.mark.parametrize(
    ("break_it", "missing"),
    [
        (lambda p: setattr(p, "title", ""), "a title"),
        (lambda p: setattr(p, "n", ""), "lacks n"),
        (lambda p: setattr(p, "alt", ""), "an alt text"),
        (lambda p: p.axes.set_xlabel("number"), "a unit on the x axis"),
        (lambda p: p.axes.set_ylabel(""), "a unit on the y axis"),
    ],
)
def test_a_picture_that_does_not_say_what_it_shows_is_refused(break_it, missing):
    picture = Described()
    picture.png()  # complete
    break_it(picture)
    with pytest.raises(Undescribed, match=missing):
        picture.png()
    with pytest.raises(Undescribed):
        Live(picture, [])


def test_a_picture_brings_its_alt_text_to_the_page():
    data, metadata = Described().bundle()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Three dots that rise."
    assert Image.open(io.BytesIO(data["image/png"])).size == (300, 200)


def test_a_frame_shows_what_moved():
    picture = Described()
    live = Live(picture, [picture.dots])
    live.draw()
    first = live.widget.value
    live.draw()
    assert live.widget.value == first  # nothing moved
    picture.dots.set_ydata([9, 4, 1])
    live.draw()
    assert live.widget.value != first


def test_frames_take_a_tenth_of_the_loop_and_one_a_second_at_least():
    assert frame_is_due(0.125, draw_seconds=0.0125)
    assert not frame_is_due(0.125, draw_seconds=0.02)
    assert frame_is_due(1.0, draw_seconds=5.0)


# controls --------------------------------------------------------------------------


async def act(callback, *event):
    """Call a widget's callback as some kernels do: on another thread."""
    thread = threading.Thread(target=callback, args=event)
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)  # the hop
    await asyncio.sleep(0)  # and the task of a coroutine


async def test_a_callback_on_any_thread_acts_on_the_loop():
    seen = []
    here = asyncio.get_running_loop(), threading.current_thread()
    controls = Controls(here[0])

    def turn(_):
        seen.append((asyncio.get_running_loop(), threading.current_thread()))

    await act(controls.hop(turn), None)
    assert seen == [here]


async def test_a_slider_passes_on_the_values_it_is_moved_to():
    values: list[int] = []
    controls = Controls(asyncio.get_running_loop())
    slider = controls.slider("ticks/s", range(1000, 50_000, 1000), 1000, values.append)
    slider.value = 2000
    slider.value = 50_000
    await asyncio.sleep(0)
    assert values == [2000, 50_000]


async def test_a_coroutine_function_on_a_button_is_awaited():
    clicked = asyncio.Event()

    async def click():
        clicked.set()

    controls = Controls(asyncio.get_running_loop())
    button = controls.button("Stop", "", click)
    await act(button.click)
    async with asyncio.timeout(10):
        await clicked.wait()


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_an_error_in_an_action_is_written_where_a_reader_sees_it(
    kind, monkeypatch
):
    def fails():
        raise ValueError("no such rate")

    async def fails_later():
        fails()

    shown = []
    monkeypatch.setattr(
        ipywidgets.Output, "append_stderr", lambda _, t: shown.append(t)
    )
    controls = Controls(asyncio.get_running_loop())
    button = controls.button("x", "", fails if kind == "plain" else fails_later)
    await act(button.click)
    async with asyncio.timeout(10):
        while not shown:
            await asyncio.sleep(0)
    assert "ValueError: no such rate" in shown[0]


# guesses, verdicts, source -----------------------------------------------------------


def test_a_guess_is_answered_in_one_sentence():
    assert guess("first", "log").answer("risk") == (
        "first: you said log, this run says risk."
    )
    assert guess("first", "risk").answer("risk") == "first: risk, as you said."
    assert guess("first").answer("risk") == "first: risk."


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("naive-falls-behind", COLLAPSED, "SUPPORTED"),
        ("naive-falls-behind", KEPT_UP, "REFUTED"),
        ("quants-keeps-up", KEPT_UP, "SUPPORTED"),
        ("quants-keeps-up", COLLAPSED, "REFUTED"),
        # A disturbed run: less than half done, and yet nothing waits.
        (
            "quants-keeps-up",
            ringing(reading(0, 0), reading(2, 30_000)),
            "INCONCLUSIVE",
        ),
        ("the-slowest-stage-waits", COLLAPSED, "SUPPORTED"),
        (
            "the-slowest-stage-waits",
            replace(COLLAPSED, stage_us={**STAGE_US, "vwap": 500.0}),
            "REFUTED",
        ),
        ("the-slowest-stage-waits", KEPT_UP, "INCONCLUSIVE"),
        ("ticks-are-conserved", COLLAPSED, "SUPPORTED"),
        (
            "ticks-are-conserved",
            replace(
                COLLAPSED,
                snapshot=replace(
                    COLLAPSED.snapshot, consumers={"naive": counted(100, 99)}
                ),
            ),
            "REFUTED",
        ),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Ringing, word: str):
    assert board.judge(id, evidence).word == word


def test_a_verdict_is_one_word_and_one_sentence_without_a_number():
    for claim in board.CLAIMS.values():
        for word in ("SUPPORTED", "REFUTED", "INCONCLUSIVE"):
            text = str(claims.Verdict(claim, word))
            assert text.startswith(f"{word}: ")
            assert text.count(".") == 1
            measured = re.sub(r"kill -9|p99|float64", "", text)  # which are names
            assert not any(character.isdigit() for character in measured)


def test_show_prints_a_function_as_shipped():
    text = show(NaivePump.work).data
    assert "        await self.log(tick)\n" in text
    assert text.startswith("```python\nasync def work")


def test_what_does_not_fit_on_a_page_is_refused():
    with pytest.raises(TooLong, match="lines of up to"):
        show(BellPicture.__init__)


def test_a_diff_shows_both_sides_and_refuses_two_lessons():
    def before(x):
        return x + 1

    def after(x):
        return x + 2

    text = show_diff(before, after).data
    assert "\n-    return x + 1\n" in text
    assert "\n+    return x + 2\n" in text
    with pytest.raises(TooLong, match="two lessons"):
        show_diff(NaivePump.run, add_int64)


def test_a_rate_out_of_reach_becomes_the_next_round_one():
    assert within_reach(50_000, cost_us=3) == 50_000  # half a core does 167,000
    assert within_reach(50_000, cost_us=15) == 25_000  # 33,000
    assert within_reach(50_000, cost_us=1e9) == 1000  # nothing is too slow for that


# the exercise ------------------------------------------------------------------------


def without_queued(snapshot):
    return all(
        c.received == c.processed + c.dropped + c.conflated
        for c in snapshot.consumers.values()
    )


def with_depth(snapshot):
    return all(
        c.received == c.processed + c.dropped + c.conflated + c.depth
        for c in snapshot.consumers.values()
    )


def without_dropped(snapshot):
    return all(
        c.received == c.processed + c.queued for c in snapshot.consumers.values()
    )


def at_most(snapshot):
    return all(
        c.received >= c.processed + c.dropped + c.conflated + c.queued
        for c in snapshot.consumers.values()
    )


def at_least(snapshot):
    return all(
        c.received <= c.processed + c.dropped + c.conflated + c.queued
        for c in snapshot.consumers.values()
    )


def in_sum(snapshot):
    counts = snapshot.consumers.values()
    return sum(c.received for c in counts) == sum(
        c.processed + c.dropped + c.conflated + c.queued for c in counts
    )


def the_first(snapshot):
    c = next(iter(snapshot.consumers.values()))
    return c.received == c.processed + c.dropped + c.conflated + c.queued


MISCONCEPTIONS = {
    without_queued: "count `queued`",
    with_depth: "`depth` is in batches",
    without_dropped: "add both",
    at_most: "no tolerance",
    at_least: "made up",
    in_sum: "by itself",
    the_first: "Ask all",
}


@pytest.fixture
def task(tmp_path, monkeypatch):
    """The exercise, not yet tried, beside an empty mine/."""
    monkeypatch.chdir(tmp_path)
    return replace(CONSERVED, wrong=0)


def test_the_solution_passes_and_is_kept(task, tmp_path):
    assert task.check(conserved) == (
        "conserved: right, in all 7 cases. Kept in mine/conserved.py."
    )
    assert "def conserved" in (tmp_path / "mine" / "conserved.py").read_text("utf-8")


def test_the_stub_says_not_yet_and_is_never_wrong(task):
    stub = made(task.stub(), "conserved")
    for _ in range(3):
        assert task.check(stub).startswith("conserved: not yet.")
    assert task.wrong == 0


@pytest.mark.parametrize("answer", MISCONCEPTIONS, ids=lambda f: f.__name__)
def test_a_misconception_gets_the_hint_that_fits_it(task, answer):
    assert MISCONCEPTIONS[answer] in task.check(answer)


def test_solution_stub_and_misconceptions_are_told_apart():
    alone = {f: part for f, part in MISCONCEPTIONS.items() if f is not with_depth}
    try_all(CONSERVED, alone)  # queued and depth are one case


def test_after_the_hint_comes_another_one_and_then_the_solution(task):
    first, second, third = (task.check(in_sum) for _ in range(3))
    assert task.second_hint not in first
    assert task.second_hint in second
    assert "def conserved" in third


def test_an_answer_that_raises_is_told_what_it_raised(task):
    assert "It raised AttributeError" in task.check(lambda s: s.vwap)


def test_an_unsolved_exercise_is_played_by_the_reference(task):
    assert task.solved(lambda snapshot: None) == (conserved, "the reference")
    assert task.solved(the_first)[1] == "the reference"


def test_a_kept_answer_is_used_in_a_later_session(task, tmp_path):
    (tmp_path / "mine").mkdir()
    source = "def conserved(snapshot):\n    return all(c.received == c.processed + "
    source += "c.dropped + c.conflated + c.queued for c in snapshot.consumers.values())"
    (tmp_path / "mine" / "conserved.py").write_text(source, encoding="utf-8")
    answer, whose = task.solved(lambda snapshot: None)
    assert whose == "yours, kept"
    assert task.failure(answer) is None


def test_a_stub_has_the_arguments_and_the_docstring_of_its_solution(task):
    lines = task.stub().splitlines()
    assert lines[0] == "def conserved(snapshot):"
    assert lines[-1] == "    # yours"
    assert "Whether every consumer accounts" in task.stub()
    assert not exercise.is_stub(lambda snapshot: None)  # it has an answer


class Counter:
    """Counts."""

    def __init__(self, start: int = 0) -> None:
        self._count = start

    async def add(self, n: int) -> int:
        """Add and tell."""
        self._count += n
        return self._count

    def _hidden(self) -> None:
        """Nobody's business."""


async def ask_twice(answer):
    counter = answer(3)
    await counter.add(1)
    return await counter.add(1)


COUNTER = Exercise(
    Counter,
    (Case((), 5, "count on", lambda answer: asyncio.run(ask_twice(answer))),),
    "think of what there was before",
)


def test_a_class_with_coroutines_can_be_an_exercise_too():
    assert COUNTER.stub() == (
        'class Counter:\n    """Counts."""\n\n'
        "    def __init__(self, start=0):\n        ...  # yours\n\n"
        '    async def add(self, n):\n        """Add and tell."""\n        # yours'
    )
    assert exercise.is_stub(made(COUNTER.stub(), "Counter"))
    assert COUNTER.failure(Counter) is None
    forgetful = made(
        "class Counter:\n    def __init__(self, start): pass\n"
        "    async def add(self, n): return n\n",
        "Counter",
    )
    assert COUNTER.failure(forgetful) == "count on"


def test_an_answer_that_never_ends_is_told_so(monkeypatch, task):
    monkeypatch.setattr(exercise, "DEADLINE", 0.05)
    waits = threading.Event()
    assert "did not end within 0.05 s" in task.check(lambda _: waits.wait())
    waits.set()


def test_every_refusal_of_the_lab_is_a_quants_error():
    assert issubclass(Undescribed, QuantsError)
    assert issubclass(TooLong, QuantsError)
