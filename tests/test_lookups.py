"""Three ways to look a limit up find the same ticks."""

from fractions import Fraction
from typing import Any

import pytest

from quants.limits import Limits, limit_key, read_limits
from quants.lookups import Cached, GetPerTick, PipelinePerBatch
from quants.redis_server import connect, redis_server
from quants.tick import Symbol, rows_of

SYMBOLS = [Symbol("AAPL", 2, 0), Symbol("BTC", 8, 8), Symbol("FREE", 2, 0)]
AAPL: dict[Any, Any] = {"price_low": "180.005", "price_high": "190"}
BTC: dict[Any, Any] = {"price_low": "1"}
TICKS = [(0, 18_000), (0, 18_001), (0, 19_000), (0, 19_001), (1, 10**8 - 1), (1, 10**8)]


@pytest.fixture
def lanes():
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(SYMBOLS[0]), mapping=AAPL)
        client.hset(limit_key(SYMBOLS[1]), mapping=BTC)
        limits = Limits(SYMBOLS)
        limits.update(read_limits(client, SYMBOLS))
        per_batch = PipelinePerBatch(client, SYMBOLS)
        yield [GetPerTick(client, SYMBOLS), per_batch, Cached(limits)]


def asked(client, lane, rows):
    """How often a check of some ticks makes Redis read from its socket."""
    before = client.info("stats")["total_reads_processed"]
    lane.check(rows)
    return client.info("stats")["total_reads_processed"] - before - 1  # this one


def test_redis_is_asked_once_a_tick_once_a_batch_or_not_at_all(lanes):
    rows = rows_of([(0, price, 1, symbol, 0) for symbol, price in TICKS])
    client = lanes[0].client
    assert [asked(client, lane, rows) for lane in lanes] == [len(TICKS), 1, 0]


def test_all_lanes_find_the_ticks_that_fractions_find(lanes):
    rows = rows_of([(0, price, 1, symbol, 0) for symbol, price in [*TICKS, (2, 1)]])
    cents, satoshis = Fraction(1, 100), Fraction(1, 10**8)
    expected = [
        i
        for i, (symbol, price) in enumerate(TICKS)
        if (symbol == 0 and not Fraction("180.005") <= price * cents <= 190)
        or (symbol == 1 and price * satoshis < 1)
    ]
    assert expected == [0, 3, 4]
    assert [lane.check(rows) for lane in lanes] == [expected] * 3


def test_no_lane_stumbles_over_nothing(lanes):
    assert [lane.check(rows_of([])) for lane in lanes] == [[], [], []]
