"""Notebook 06: judges, what is sent, the ladder by hand and in life, its exercise."""

import multiprocessing
from math import ceil, fsum
from typing import Any

import pytest

from quants.lab import crossing, fence, session
from quants.lab.batch_task import CHOOSE_BATCH, Costs, choose_batch
from quants.lab.board import judge
from quants.lab.crossing import BATCHES, Methods, Parcel, Parcels, Sent, across, sent
from quants.lab.fence import Climbed, Tried, tried
from quants.lab.source import show
from quants.ladder import NEVER, Rung
from quants.lane import answer
from quants.tick import ROW
from tests.exercising import made, try_all

TOTAL = "def total(numbers):\n    return sum(numbers)\n"


SHOWN: list[Any] = []  # by the experiment, in place of a page


@pytest.fixture(autouse=True)
async def closed(monkeypatch: pytest.MonkeyPatch):
    """Nothing is displayed; every session is closed, and nothing is left."""

    class Handle:
        def display(self, shown):
            SHOWN.append(shown)

        update = display

    SHOWN.clear()
    monkeypatch.setattr(fence, "DisplayHandle", Handle)
    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


# judges ----------------------------------------------------------------------------


def came(cause: str, method: str = "spawn", answer: str | None = None) -> Sent:
    return Sent(method, answer, "" if answer else "BrokenProcessPool", cause, 0.1)


UNKNOWN = "AttributeError: Can't get attribute 'total' on <module '__main__'>"
LOST, FOUND = came(UNKNOWN), came("", answer="6")


def rung(engine: str, batch: int, ratio: float, here_us: float) -> Rung:
    return Rung("python", "session", engine, batch, 1e6 * ratio, ratio, 1.1, here_us, 1)


def climbed(
    alone: float = 0.01, large: float = 400.0, middle: tuple[float, float] = (60, 200)
) -> Climbed:
    """A ladder whose figures are typical, but for these."""
    shared, processes = middle
    return Climbed(
        (
            rung("inline", 1, 1.0, 3.0),
            rung("inline", 1000, 1.0, 180.0),
            rung("inline", 4096, 1.0, 800.0),
            rung("processes", 1, alone, 190.0),
            rung("processes", 1000, 0.4, processes),
            rung("processes", 4096, 0.7, large),
            rung("shared", 1, 0.05, 40.0),
            rung("shared", 1000, 1.3, shared),
            rung("shared", 4096, 1.7, 120.0),
        ),
        5,
    )


def parcels(one: int, most: int) -> Parcels:
    return Parcels((Parcel(1, one, 20.0), Parcel(4096, most, 90.0)))


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        ("a-function-from-a-cell-stays-behind", LOST, "SUPPORTED"),
        ("a-function-from-a-cell-stays-behind", FOUND, "REFUTED"),
        (
            "a-function-from-a-cell-stays-behind",
            came("MemoryError: no"),
            "INCONCLUSIVE",
        ),
        ("a-function-from-a-module-arrives", FOUND, "SUPPORTED"),
        ("a-function-from-a-module-arrives", LOST, "REFUTED"),
        (
            "only-a-copy-knows-a-cell",
            Methods((came("", "fork", "6"), LOST)),
            "SUPPORTED",
        ),
        ("only-a-copy-knows-a-cell", Methods((LOST,)), "SUPPORTED"),  # Windows
        (
            "only-a-copy-knows-a-cell",
            Methods((came("", "fork", "6"), FOUND)),
            "REFUTED",
        ),
        ("a-small-parcel-is-mostly-wrapping", parcels(304, 131_357), "SUPPORTED"),
        ("a-small-parcel-is-mostly-wrapping", parcels(40, 131_357), "REFUTED"),
        ("a-small-parcel-is-mostly-wrapping", parcels(304, 300_000), "REFUTED"),
        ("one-tick-a-task-is-slower", climbed(), "SUPPORTED"),
        ("one-tick-a-task-is-slower", climbed(alone=3.0), "REFUTED"),
        ("one-tick-a-task-is-slower", climbed(alone=0.9), "INCONCLUSIVE"),
        ("large-batches-spare-the-loop", climbed(), "SUPPORTED"),
        ("large-batches-spare-the-loop", climbed(large=1100.0), "REFUTED"),
        ("large-batches-spare-the-loop", climbed(large=800.0), "INCONCLUSIVE"),
        ("shared-memory-spares-more", climbed(), "SUPPORTED"),
        ("shared-memory-spares-more", climbed(middle=(400, 200)), "REFUTED"),
        ("shared-memory-spares-more", climbed(middle=(200, 200)), "INCONCLUSIVE"),
        ("the-chosen-batch-pays", Tried("shared", 300, (2.9, 0.4)), "SUPPORTED"),
        ("the-chosen-batch-pays", Tried("shared", 300, (0.4, 2.9)), "REFUTED"),
        ("the-chosen-batch-pays", Tried("shared", 30, (2.9, 2.9)), "INCONCLUSIVE"),
        ("the-chosen-batch-pays", Tried("shared", None, None), "INCONCLUSIVE"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


# what is sent ----------------------------------------------------------------------


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_cells_function_is_known_to_a_fork_alone(method: str):
    found = sent("total", TOTAL, [1, 2, 3], method)
    if method == "fork":
        assert found.answer == "6"
    else:
        assert found.fault == "BrokenProcessPool"
        assert found.cause.startswith("AttributeError: Can't get attribute 'total'")
        assert "What the worker said" in repr(found)


async def test_a_modules_function_arrives():
    assert repr(await across(fsum, [1, 2, 3])) == "spawn: the answer is 6.0."


def test_a_function_of_a_module_is_imported_and_not_copied():
    assert crossing.source_of(fsum) == "from math import fsum"


def test_a_cells_function_is_sent_with_its_source():
    function = made(TOTAL, "total")
    function.__module__ = "__main__"
    assert crossing.source_of(function) == TOTAL


async def test_a_tick_alone_is_mostly_wrapping():
    found = await crossing.parcels()
    assert [each.ticks for each in found.all] == [*BATCHES]
    assert found.all[0].bytes > 5 * ROW.itemsize
    assert f"alone it takes {found.all[0].bytes:,} bytes" in repr(found)
    assert found.picture().undescribed() == []


# the ladder ------------------------------------------------------------------------


def test_an_engine_wins_from_the_batch_on_from_which_all_are_faster():
    assert climbed().wins("shared") == "1,000 ticks"
    assert climbed().wins("processes") == NEVER
    assert repr(climbed()).endswith(f"processes {NEVER}; shared 1,000 ticks.")
    assert climbed().picture().undescribed() == []


def test_costs_are_a_line_through_the_smallest_batch_and_the_largest():
    costs = climbed().costs("processes")
    assert costs.fixed_us + 4095 * costs.pack_us == pytest.approx(400)
    assert costs.sum_us == pytest.approx(800 / 4096)


async def test_a_short_ladder_has_every_rung():
    found = await fence.climb([1, 4096], rounds=1)
    assert {(rung.engine, rung.batch) for rung in found.rungs} == {
        (engine, batch)
        for engine in ("inline", "processes", "shared")
        for batch in (1, 4096)
    }
    assert judge("one-tick-a-task-is-slower", found).word == "SUPPORTED"


async def test_the_ladder_leaves_its_picture_where_its_bar_was(monkeypatch):
    async def climb(batches, rounds, advance):
        advance(1.0)
        return climbed()

    monkeypatch.setattr(fence, "climb", climb)
    assert await fence.ladder() == climbed()
    bar, picture = SHOWN
    assert bar.value == 1.0
    assert picture.title.startswith("Where a VWAP is summed")


async def test_a_chosen_batch_is_tried_below_and_above(monkeypatch):
    asked = []

    async def climb(batches, rounds):
        asked.append(batches)
        low, high = batches
        costs = [("inline", low, 10), ("shared", low, 30)]
        costs += [("inline", high, 90), ("shared", high, 30)]
        return Climbed(tuple(rung(e, b, 1.0, us) for e, b, us in costs), rounds)

    monkeypatch.setattr(fence, "climb", climb)
    found = await tried(lambda costs: 300, climbed())
    assert asked == [[75, 1200]]
    assert found.ratios == (3.0, 30 / 90)
    assert "from 300 ticks on" in repr(found)


async def test_no_batch_is_not_tried():
    found = await tried(lambda costs: None, climbed())
    assert "no batch is worth" in repr(found)


def test_what_the_notebook_shows_fits():
    show(answer)


# the exercise ----------------------------------------------------------------------


def rounds_down(costs: Costs) -> int | None:
    return int(costs.fixed_us / (costs.sum_us - costs.pack_us))


def is_no_less(costs: Costs) -> int | None:
    return ceil(costs.fixed_us / (costs.sum_us - costs.pack_us))


def forgets_packing(costs: Costs) -> int | None:
    return int(costs.fixed_us // costs.sum_us) + 1


def divides_by_nothing(costs: Costs) -> int | None:
    return int(costs.fixed_us // (costs.sum_us - costs.pack_us)) + 1


def is_negative(costs: Costs) -> int | None:
    if costs.sum_us == costs.pack_us:
        return None
    return int(costs.fixed_us // (costs.sum_us - costs.pack_us)) + 1


def has_no_end(costs: Costs) -> int | None:
    if costs.sum_us <= costs.pack_us:
        return None
    return int(costs.fixed_us // (costs.sum_us - costs.pack_us)) + 1


def ends_too_soon(costs: Costs) -> int | None:
    batch = has_no_end(costs)
    return batch if batch and batch < costs.most else None


def test_each_misconception_meets_its_own_hint():
    try_all(
        CHOOSE_BATCH,
        {
            rounds_down: "the next whole number above",
            is_no_less: "not less yet",
            forgets_packing: "Subtract pack_us first",
            divides_by_nothing: "divided by 0",
            is_negative: "less than 0 ticks",
            has_no_end: "no batch holds more than",
            ends_too_soon: "itself is allowed",
        },
    )


def test_the_reference_finds_what_trying_all_batches_finds():
    for costs in (
        Costs(190.0, 0.0625, 0.1875, 4096), Costs(36.0, 0.03125, 0.1875, 4096),
        Costs(0.5, 0.0, 0.75, 10), Costs(7.0, 0.5, 1.0, 15), Costs(7.0, 0.5, 1.0, 14),
    ):  # fmt: skip
        tried = (
            n
            for n in range(1, costs.most + 1)
            if costs.fixed_us + n * costs.pack_us < n * costs.sum_us
        )
        assert choose_batch(costs) == next(tried, None)
