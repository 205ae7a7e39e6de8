"""Notebook 03: what a message costs, slow consumers, and the fan-out to write."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quants.channel import Statistics
from quants.frame import ticks_frame
from quants.lab import desk, fan_out_task, fanned, floods, message_cost
from quants.lab.board import judge
from quants.lab.fan_out_task import FAN_OUT, Line, fan_out
from quants.lab.fanned import Fanned, Fate
from quants.lab.firehose import STEP_SECONDS, Look, RampPicture, owed, ramp, rates
from quants.lab.live import Live
from quants.lab.message_cost import Sweep, anatomy, websocket_header
from quants.lab.slow_consumers import Flood, conserved, listen, listen_on
from quants.lab.slow_consumers import Look as FloodLook
from quants.lab.source import show, show_diff
from quants.market import Market
from quants.naive import NaivePump
from quants.tick import Batch
from tests.exercising import try_all

pytestmark = pytest.mark.usefixtures("shown", "closed")


# what a message costs ------------------------------------------------------------


def swept(message_us: float, tick_us: float) -> Sweep:
    """A sweep on a machine with these very costs."""
    sizes = message_cost.BATCHES
    return Sweep({n: n * 1e6 / (message_us + n * tick_us) for n in sizes})


def test_the_two_costs_are_found_from_the_ends():
    assert swept(40, 0.2).costs_us == pytest.approx((40, 0.2))
    assert "A message costs 40 µs, a tick in it 0.20 µs." in repr(swept(40, 0.2))


@pytest.mark.parametrize(
    ("sweep", "word"),
    [
        (swept(40, 0.2), "SUPPORTED"),
        (swept(0.1, 10), "REFUTED"),
        (swept(5, 1), "INCONCLUSIVE"),
    ],
)
def test_whether_you_pay_per_message_is_decided_by_the_gain(sweep: Sweep, word: str):
    assert judge("you-pay-per-message", sweep).word == word


@pytest.mark.parametrize(
    ("sweep", "word"),
    [
        (swept(40, 0.2), "REFUTED"),
        (swept(1000, 0.001), "SUPPORTED"),
        (swept(1000, 0.4), "INCONCLUSIVE"),
    ],
)
def test_whether_tenfold_is_tenfold_is_decided_by_the_last_tenfold(
    sweep: Sweep, word: str
):
    assert judge("ten-times-larger-is-ten-times-faster", sweep).word == word


async def test_a_sweep_measures_every_size_and_draws_it(monkeypatch):
    monkeypatch.setattr(message_cost, "WINDOW_SECONDS", 0.02)
    sweep = await message_cost.sweep(rounds=1)
    assert list(sweep.ticks_per_second) == list(message_cost.BATCHES)
    assert all(rate > 0 for rate in sweep.ticks_per_second.values())
    assert sweep.picture().png()
    assert len(sweep.gains.split(", ")) == 3


def test_the_anatomy_counts_the_bytes_of_the_wire():
    sizes = {(kind, ticks): size for kind, ticks, size in anatomy().rows}
    frame = ticks_frame(Market().take(1000), 1, 0)
    assert sizes["binary frame", 1000] == 4 + len(frame)
    assert sizes["binary frame", 1] == 2 + 32 + 32
    assert sizes["JSON text", 1] > 100


@pytest.mark.parametrize(
    ("size", "header"), [(125, 2), (126, 4), (65_535, 4), (65_536, 10)]
)
def test_a_websocket_header_grows_with_its_message(size: int, header: int):
    assert websocket_header(size) == header


# the ramp ------------------------------------------------------------------------


async def test_a_ramp_asks_for_more_and_leaves_a_still_picture(shown):
    seen = await ramp(seconds=2.5 * STEP_SECONDS)
    assert seen.looks[-1].asked > seen.looks[0].asked
    assert seen.looks[-1].ticks == seen.looks[-1].messages > 0
    assert len(shown) == 2
    assert shown[-1].png()
    assert "ticks/s in messages of 1" in repr(seen)


async def test_the_slider_of_a_ramp_fills_the_messages(monkeypatch):
    sliders = []

    def slider(self, name, values, value, act):
        sliders.append((value, act))

    monkeypatch.setattr(desk.Desk, "slider", slider)
    going = asyncio.create_task(ramp(seconds=1.0))
    async with asyncio.timeout(20):
        while not sliders:
            await asyncio.sleep(0.01)
    value, act = sliders[0]
    act(7)
    looks = (await going).looks
    assert value == 0
    assert looks[-1].batch == 128
    assert 0 < looks[-1].messages < looks[-1].ticks


def test_what_is_owed_is_what_was_asked_and_has_not_come():
    looks = [Look(0, 100, 1, 0, 0), Look(1, 200, 1, 90, 90), Look(2, 200, 1, 290, 290)]
    assert owed(looks) == [0, 10, 10]
    assert rates(looks)[-1] == (145, 145)
    picture = RampPicture(2.0)
    picture.update(looks)
    assert np.array_equal(picture.owed.get_ydata(), [0, 10, 10])


# slow consumers ------------------------------------------------------------------


def flooded(way="block", most=64, age=1.5, lost=0, seconds=2.0) -> Flood:
    """A flood that ended so."""
    counts = Statistics(1000, 600, 200, 0, 200 - lost, 10, 64, most)
    look = FloodLook(seconds, counts, 5.0, age)
    return Flood(way, 1_000_000, 250_000, (look,))


PILE = flooded("unbounded", most=2000, age=1.6)
FRESH = flooded("conflate", age=0.1)


@pytest.mark.parametrize(
    ("claim", "evidence", "word"),
    [
        ("a-queue-without-a-bound-eats-memory", (PILE, FRESH), "SUPPORTED"),
        ("a-queue-without-a-bound-eats-memory", (flooded(), FRESH), "REFUTED"),
        ("a-bound-holds", (flooded(), FRESH), "SUPPORTED"),
        ("a-bound-holds", (flooded(most=65), FRESH), "REFUTED"),
        ("a-bound-holds", (flooded(most=9), flooded(most=3)), "INCONCLUSIVE"),
        ("waiting-only-moves-the-queue", (PILE, flooded()), "SUPPORTED"),
        ("waiting-only-moves-the-queue", (PILE, FRESH), "REFUTED"),
        ("waiting-only-moves-the-queue", (FRESH, FRESH), "INCONCLUSIVE"),
        ("to-stay-fresh-you-must-lose", (flooded(), FRESH, FRESH), "SUPPORTED"),
        ("to-stay-fresh-you-must-lose", (flooded(), FRESH, flooded()), "REFUTED"),
        ("to-stay-fresh-you-must-lose", (FRESH, FRESH), "INCONCLUSIVE"),
        ("every-policy-conserves", (PILE, FRESH), "SUPPORTED"),
        ("every-policy-conserves", (PILE, flooded(lost=1)), "REFUTED"),
    ],
)
def test_what_is_claimed_of_floods_is_decided_by_counts(claim, evidence, word):
    assert judge(claim, *evidence).word == word


async def test_a_flood_without_a_bound_queues_and_every_look_is_lawful(shown):
    pile = await floods.flood(seconds=0.8)
    assert pile.counts.queued > pile.counts.processed > 0
    assert pile.counts.high_watermark > pile.counts.capacity
    assert all(map(conserved, pile.looks))
    assert len(shown) == 2
    assert pile.way in repr(pile)


async def test_bounded_floods_lose_as_their_policy_says_and_are_drawn(monkeypatch):
    block, drop, conflate = await floods.policies(seconds=0.8)
    for each in (block, drop, conflate):
        assert each.counts.high_watermark <= each.counts.capacity
        assert all(map(conserved, each.looks))
    assert (block.counts.dropped, block.counts.conflated) == (0, 0)
    assert drop.counts.conflated == conflate.counts.dropped == 0
    assert floods.pictured(block, drop).png()
    assert floods.fates(block, drop, conflate).png()
    assert block.law.startswith("block")


async def test_a_flood_that_fills_the_memory_ends_early(monkeypatch):
    monkeypatch.setattr("quants.lab.slow_consumers.MOST_BYTES", 1 << 20)
    assert len((await floods.flood(seconds=60)).looks) < 200


def test_a_live_flood_is_described():
    picture = floods.FloodPicture(["block"], 2.0)
    assert Live(picture, picture.lines["block"]).picture.alt
    assert picture.update(flooded(age=7.0)) is True
    assert picture.update(flooded(age=7.0)) is False


def test_what_the_notebook_shows_fits():
    show(NaivePump.listen)
    changed = show_diff(listen_on, listen).data.splitlines()
    assert [line for line in changed if line.startswith("+ ")] == [
        "+        await channel.send(batch)"
    ]


# the fan-out ---------------------------------------------------------------------


async def no_bound(batches, lines):
    async for batch in batches:
        for line in lines:
            line.put(batch)
    for line in lines:
        line.close()


async def first_line_only(batches, lines):
    async for batch in batches:
        lines[0].put(batch)


async def never_closes(batches, lines):
    async for batch in batches:
        for line in lines:
            line.put(batch)


async def forgets_after_waiting(batches, lines):
    async for batch in batches:
        for line in lines:
            if line.full:
                await line.room()
            else:
                line.put(batch)
    for line in lines:
        line.close()


async def drops_the_newest(batches, lines):
    async for batch in batches:
        for line in lines:
            if line.full and line.policy == "block":
                await line.room()
            if line.full:
                line.dropped += len(batch)
            else:
                line.put(batch)
    for line in lines:
        line.close()


async def counts_batches(batches, lines):
    async for batch in batches:
        for line in lines:
            if line.full and line.policy == "block":
                await line.room()
            elif line.full:
                line.queue.popleft()
                line.dropped += 1
            line.put(batch)
    for line in lines:
        line.close()


async def conflates_by_dropping(batches, lines):
    async for batch in batches:
        for line in lines:
            if line.full and line.policy == "block":
                await line.room()
            elif line.full:
                line.dropped += len(line.queue.popleft())
            line.put(batch)
    for line in lines:
        line.close()


async def forgets_the_batch(batches, lines):
    async for batch in batches:
        for line in lines:
            newest = batch
            if line.full and line.policy == "block":
                await line.room()
            elif line.full and line.policy == "drop_oldest":
                line.dropped += len(line.queue.popleft())
            elif line.full:
                before = line.queued
                newest = line.merge(batch)
                line.conflated += before - len(newest)
            line.put(newest)
    for line in lines:
        line.close()


async def leaks_the_merge(batches, lines):
    async for batch in batches:
        for line in lines:
            if line.full and line.policy == "block":
                await line.room()
            elif line.full and line.policy == "drop_oldest":
                line.dropped += len(line.queue.popleft())
            elif line.full:
                before = line.queued + len(batch)
                batch = line.merge(batch)
                line.conflated += before - line.queued - len(batch)
            line.put(batch)
    for line in lines:
        line.close()


def test_the_exercise_knows_its_misconceptions():
    try_all(
        FAN_OUT,
        {
            first_line_only: "each batch goes into each line",
            never_closes: "consumers still wait for more",
            no_bound: "Two batches fit, more were put",
            forgets_after_waiting: "A consumer that came late",
            drops_the_newest: "the newest two batches should wait",
            counts_batches: "line.dropped is in ticks",
            conflates_by_dropping: "the newest tick of each symbol should wait",
            forgets_the_batch: "seven were conflated",
            leaks_the_merge: "What a merge makes is",
        },
    )


async def test_a_flood_through_the_solution_conserves():
    found = await fanned.fanned(fan_out, seconds=0.5)
    assert found.received > 0
    assert judge("your-fan-out-conserves", found).word == "SUPPORTED"
    assert f"of {found.received:,} ticks accounted for" in repr(found)


async def test_a_fan_out_without_a_bound_is_refuted():
    found = await fanned.fanned(no_bound, seconds=0.5)
    assert judge("your-fan-out-conserves", found).word == "REFUTED"


async def test_what_a_fan_out_raises_is_told():
    async def fails(batches, lines):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fanned.fanned(fails, seconds=0.5)


def test_a_lost_tick_and_a_broken_bound_refute_a_fan_out():
    good = Fanned(100, (Fate("block", 100, 64, 64),))
    for fate in (Fate("block", 99, 64, 64), Fate("block", 100, 65, 64)):
        bad = replace(good, fates=(*good.fates, fate))
        assert judge("your-fan-out-conserves", bad).word == "REFUTED"


def test_a_merge_keeps_the_last_tick_of_each_symbol_in_order():
    line, market = Line("conflate"), Market()
    batches = [Batch(market.take(50), 50 * i + 1, 50, 0) for i in range(4)]
    for batch in batches[:-1]:
        line.put(batch)
    merged = line.merge(batches[-1])
    last: dict[int, Any] = {}
    for row in np.concatenate([batch.rows for batch in batches]):
        last.pop(int(row["symbol"]), None)
        last[int(row["symbol"])] = row
    assert merged.rows.tolist() == [row.item() for row in last.values()]
    assert line.queued == 0


def test_every_case_has_a_hint_of_its_own():
    hints = [case.hint for case in FAN_OUT.cases]
    assert len({*hints}) == len(hints)
    assert fan_out_task.prices(fan_out, 2, "conflate") == [[1, 9, 10]]
