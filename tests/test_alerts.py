"""An alert is raised once per cooldown and delivered once."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from quants.alerts import STREAM, Alert, Cooldown, add_once
from quants.redis_server import connect, redis_server

SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND


def alert(seq, rule="price_band"):
    id = f"s1:{seq}:{rule}"
    return Alert(id, rule, "AAPL", seq, START + seq, "190.01", "190.00")


def ids(client):
    return [fields["id"] for _, fields in client.xrange(STREAM)]


# ---- cooldown


def let_pass(cooldown, breaches):
    symbol, time_ns = (np.array(part, np.int64) for part in zip(*breaches, strict=True))
    return cooldown.passing(symbol.astype(np.uint32), time_ns)


def test_of_10_000_breaches_in_a_second_one_passes_and_9_999_are_counted():
    cooldown = Cooldown(symbols=1, cooldown_ns=SECOND)
    breaches = [(0, START + i * SECOND // 10_000) for i in range(10_000)]
    assert let_pass(cooldown, breaches) == [0]
    assert cooldown.suppressed == 9_999
    assert let_pass(cooldown, [(0, START + SECOND - 1), (0, START + SECOND)]) == [1]


def test_symbols_cool_down_on_their_own():
    cooldown = Cooldown(symbols=2, cooldown_ns=SECOND)
    breaches = [(0, START), (1, START), (0, START + 1), (1, START + SECOND)]
    assert let_pass(cooldown, breaches) == [0, 1, 3]


def slow_cooldown(breaches, cooldown_ns):
    last: dict[int, int] = {}
    passing = []
    for i, (symbol, time_ns) in enumerate(breaches):
        if symbol not in last or abs(time_ns - last[symbol]) >= cooldown_ns:
            last[symbol] = time_ns
            passing.append(i)
    return passing


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(-25, 25)), min_size=1)


@given(steps=steps, cuts=st.lists(st.integers(0, 99)))
@example(steps=[(0, 0), (0, 11), (0, -10)], cuts=[1])
def test_any_framing_lets_the_same_breaches_pass_even_if_clocks_step_back(steps, cuts):
    times = START + np.cumsum([step for _, step in steps])
    breaches = [(s, int(t)) for (s, _), t in zip(steps, times, strict=True)]
    cooldown = Cooldown(symbols=3, cooldown_ns=10)
    edges = [0, *sorted(min(cut, len(breaches)) for cut in cuts), len(breaches)]
    passing = [
        first + i
        for first, end in pairwise(edges)
        if first < end
        for i in let_pass(cooldown, breaches[first:end])
    ]
    assert passing == slow_cooldown(breaches, 10)
    assert cooldown.suppressed == len(breaches) - len(passing)


# ---- delivery


@pytest.fixture(params=[None, ""], ids=["redis-server", "fakeredis"])
def client(request):
    with redis_server(path=request.param) as server, connect(server.url) as client:
        yield client


def test_an_alert_is_there_once_however_often_it_is_delivered(client):
    alerts = [alert(seq) for seq in range(1, 6)]
    for delivery in (alerts[:3], alerts, alerts[1:2]):
        add_once(client, delivery)
    assert ids(client) == [a.id for a in alerts]
    (_, fields), *_ = client.xrange(STREAM)
    assert fields == {name: str(value) for name, value in asdict(alerts[0]).items()}
    assert 0 < client.ttl(f"quants:alert:{alerts[0].id}") <= 3600


def test_a_redis_without_memory_takes_all_of_a_call_or_nothing():
    with redis_server() as server, connect(server.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.RedisError):
            add_once(client, [alert(1), alert(2)])
        client.config_set("maxmemory", 0)
        assert client.keys() == []
