"""An alert is delivered once."""

from dataclasses import asdict

import pytest
import redis

from quants.alerts import STREAM, Alert, add_once
from quants.redis_server import connect, redis_server

SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND


def alert(seq, rule="price_band"):
    id = f"s1:{seq}:{rule}"
    return Alert(id, rule, "AAPL", seq, START + seq, "190.01", "190.00")


def ids(client):
    return [fields["id"] for _, fields in client.xrange(STREAM)]


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
    a_long_weekend = 4 * 24 * 3600
    assert client.ttl(f"quants:alert:{alerts[0].id}") > a_long_weekend


def test_a_redis_without_memory_takes_all_of_a_call_or_nothing():
    with redis_server() as server, connect(server.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.RedisError):
            add_once(client, [alert(1), alert(2)])
        client.config_set("maxmemory", 0)
        assert client.keys() == []
