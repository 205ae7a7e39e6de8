"""A subscription over real sockets that break in every way a network can.

Between the two ends stands a proxy on loopback that cuts after so many bytes,
or swallows what it is given. What comes out must be what the source made.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from quants.errors import EnvironmentFault, FrameError
from quants.feed import Wire
from quants.feed_client import Subscription, pause_seconds, subscribe
from quants.feed_server import FeedServer
from quants.frame import Kind, encode, ticks_frame
from quants.inbox import INBOX_BYTES
from quants.market import Market
from quants.pace import AS_FAST_AS_TAKEN
from quants.tick import Batch, rows_of
from tests.proxy import Proxy

WIRES: list[Wire] = ["binary", "json"]


class Pauses:
    """A sleep that takes no time and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a state that another task brings about."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


async def collect(subscription: Subscription) -> list[Batch]:
    async with asyncio.timeout(30):
        return [batch async for batch in subscription]


def market_rows(seed: int, batches: list[Batch]) -> bool:
    """Whether the batches are the market's first rows, each once, in order."""
    ticks = np.concatenate([batch.rows for batch in batches])
    return ticks.tobytes() == Market(seed).take(len(ticks)).tobytes()


def contiguous(batches: list[Batch], first_seq: int = 1) -> bool:
    ends = [first_seq, *(batch.next_seq for batch in batches)]
    return [batch.first_seq for batch in batches] == ends[:-1]


# -- the ordinary life ---------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_subscription_yields_the_rows_that_the_source_made(wire):
    async with (
        FeedServer(Market(seed=3), 300_000) as server,
        subscribe(server.url, wire) as subscription,
    ):
        reading = asyncio.create_task(collect(subscription))
        await server.publish(30_000)
        batches = await reading
    assert contiguous(batches)
    assert market_rows(3, batches)
    assert subscription.receiver.received == 30_000
    assert subscription.reconnects == 0


async def test_stream_and_symbols_are_known_before_the_first_batch():
    async with FeedServer(Market()) as server, subscribe(server.url) as subscription:
        assert subscription.stream == server.stream
        assert subscription.symbols == tuple(Market().symbols)
        expected = f"<Subscription {server.url} {server.stream}, next 1>"
        assert repr(subscription) == expected


async def test_the_rows_view_the_very_message_that_arrived():
    async with FeedServer(Market(), 100_000) as server, subscribe(server.url) as feed:
        await server.publish(100)
        batches = await collect(feed)
    for batch in batches:
        assert np.shares_memory(batch.rows, np.frombuffer(batch.frame, np.uint8))
        assert not batch.rows.flags.writeable


async def test_nobody_there_is_an_environment_fault_that_names_the_address():
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    with pytest.raises(EnvironmentFault, match=rf"feed ws://127\.0\.0\.1:{port}/: .*"):
        await subscribe(f"ws://127.0.0.1:{port}/").__aenter__()


@pytest.mark.parametrize(
    "answer", [b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n"]
)
async def test_somebody_else_there_is_an_environment_fault_too(answer):
    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f":{port}/"):
            await subscribe(f"ws://127.0.0.1:{port}/").__aenter__()


@pytest.mark.parametrize("url", ["nowhere", "http://127.0.0.1/", "ws://127.0.0.1:x/"])
async def test_an_address_that_is_none_is_an_environment_fault(url):
    with pytest.raises(EnvironmentFault, match="feed "):
        await subscribe(url).__aenter__()


async def test_a_token_is_shown_to_a_feed_that_asks_for_one():
    async with FeedServer(Market(), host="0.0.0.0", token="secret") as server:
        url = f"ws://127.0.0.1:{server.port}/"
        with pytest.raises(EnvironmentFault, match="403"):
            await subscribe(url).__aenter__()
        async with subscribe(url, token="secret") as subscription:
            assert subscription.stream == server.stream


async def test_stop_ends_the_iteration_while_it_waits():
    async with FeedServer(Market()) as server, subscribe(server.url) as subscription:
        reading = asyncio.create_task(collect(subscription))
        await until(lambda: bool(server._subscribers))
        subscription.stop()
        assert await asyncio.wait_for(reading, 10) == []
        await until(lambda: not server._subscribers)


async def test_stop_ends_the_iteration_after_the_batches_that_have_arrived():
    async with (
        FeedServer(Market(), AS_FAST_AS_TAKEN) as server,
        subscribe(server.url) as subscription,
    ):
        publishing = asyncio.create_task(server.publish())
        inbox = subscription._inbox
        assert inbox is not None
        batches: list[Batch] = []
        async for batch in subscription:
            batches.append(batch)
            if len(batches) == 1:
                await until(lambda: len(inbox.messages) > 2)
                arrived = len(inbox.messages)
                subscription.stop()
        server.stop()
        await publishing
    assert len(batches) > arrived
    assert market_rows(1, batches)


async def test_stop_ends_a_pause_between_two_tries():
    pausing = asyncio.Event()

    async def sleep_for_ever(seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    async with FeedServer(Market()) as server:
        subscription = subscribe(server.url, sleep=sleep_for_ever)
        await subscription.__aenter__()
    reading = asyncio.create_task(collect(subscription))  # of a feed that has gone
    await asyncio.wait_for(pausing.wait(), 10)
    subscription.stop()
    assert await asyncio.wait_for(reading, 10) == []


# -- faults --------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "case",
    [*range(8), *(pytest.param(i, marks=pytest.mark.long) for i in range(8, 100))],
)
async def test_cuts_anywhere_lose_nothing_and_repeat_nothing(wire, case):
    """Cut in the handshake, the welcome, a header, a row, after the end."""
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    ticks = 20_000
    # A connection's bytes: about 250 of handshake, 600 of welcome, then ticks.
    cuts = [draw.randrange(250, 1200)]
    cuts += [draw.randrange(1, 400_000) for _ in range(draw.randint(1, 6))]
    async with (
        FeedServer(Market(seed=case), 100_000) as server,
        Proxy(server) as proxy,
        Subscription(proxy.url, wire, sleep=Pauses()) as subscription,
    ):
        reading = asyncio.create_task(collect(subscription))
        proxy.cuts = cuts
        proxy.cut_now()  # the connection that was there without a limit
        await server.publish(ticks)
        batches = await reading
    receiver = subscription.receiver
    assert contiguous(batches)
    assert market_rows(case, batches)
    assert receiver.received == ticks
    assert receiver.gap_ticks == 0
    assert 0 < subscription.reconnects < proxy.connections


async def test_a_cut_before_the_welcome_is_one_more_reason_to_try_again():
    async with (
        FeedServer(Market(), 100_000) as server,
        Proxy(server) as proxy,
        Subscription(proxy.url, sleep=Pauses()) as subscription,
    ):
        reading = asyncio.create_task(collect(subscription))
        proxy.cut_now()
        handshake = 129 + len("quants.v1.binary")  # and a little: no welcome
        proxy.cuts = [*range(handshake - 60, handshake + 200, 10)]
        await server.publish(1000)
        batches = await reading
    assert market_rows(1, batches)
    assert proxy.cuts == []


async def test_a_silent_peer_is_found_within_two_heartbeats():
    async with (
        FeedServer(Market(), 1000, heartbeat_seconds=0.05) as server,
        Proxy(server) as proxy,
        Subscription(proxy.url, sleep=Pauses()) as subscription,
    ):
        reading = asyncio.create_task(collect(subscription))
        proxy.swallowing = True
        await until(lambda: proxy.connections > 1)
        proxy.swallowing = False
        await server.publish(500)
        batches = await reading
    assert contiguous(batches)
    assert market_rows(1, batches)


async def test_the_first_try_is_at_once_and_later_ones_pause_longer_and_longer():
    pauses = Pauses()
    async with (
        FeedServer(Market(), 1000) as server,
        Proxy(server) as proxy,
        Subscription(proxy.url, sleep=pauses, chance=lambda: 0.5) as subscription,
    ):
        reading = asyncio.create_task(collect(subscription))
        publishing = asyncio.create_task(server.publish())
        proxy.cuts = [1] * 9
        proxy.cut_now()
        await until(lambda: not proxy.cuts)
        received = subscription.receiver.received
        await until(lambda: subscription.receiver.received > received)
        proxy.cut_now()
        await until(lambda: proxy.connections == 12)
        server.stop()
        await publishing
        assert market_rows(1, await reading)
    longer = [0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 2.5, 2.5]
    assert pauses.asked == [0, *longer, 0]


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_a_share_of_what_doubles_up_to_five_seconds(failures, chance):
    longest = 0.0 if failures == 0 else min(5.0, 0.1 * 2 ** min(failures, 50))
    assert pause_seconds(failures, chance) == pytest.approx(longest * chance)


def test_a_hundred_clients_do_not_come_back_together():
    """In virtual time: at most 10 % in any 5 % of the window."""
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    tries = sorted(pause_seconds(6, draw.random()) for _ in range(1000))
    window = pause_seconds(6, 1.0)
    most = max(
        sum(start <= each < start + 0.05 * window for each in tries) for start in tries
    )
    assert most <= 100


async def test_another_stream_after_a_cut_ends_the_run():
    async with (
        FeedServer(Market(), 1000) as first,
        Proxy(first) as proxy,
        Subscription(proxy.url, sleep=Pauses()) as subscription,
        FeedServer(Market(), 1000) as second,
    ):
        reading = asyncio.create_task(collect(subscription))
        proxy.server = second
        proxy.cut_now()
        with pytest.raises(EnvironmentFault, match="start a new run"):
            await reading


async def test_a_slow_consumer_pauses_the_socket_not_the_memory():
    """What arrived and was not taken is bounded, and nothing of it is lost."""
    ticks = 1_500_000  # 48 MB
    async with (
        FeedServer(Market(), AS_FAST_AS_TAKEN) as server,
        subscribe(server.url) as subscription,
    ):
        publishing = asyncio.create_task(server.publish(ticks))
        inbox = subscription._inbox
        assert inbox is not None
        await until(lambda: inbox._paused)
        await until(lambda: server._subscribers[0].channel.full)
        held = sum(map(len, inbox.messages))
        assert INBOX_BYTES < held < INBOX_BYTES + (4 << 20)
        assert server.sent < ticks
        received = 0
        async for batch in subscription:
            assert batch.first_seq == received + 1
            received += len(batch)
        await publishing
    assert received == ticks


# -- peers that break the protocol -----------------------------------------------


@asynccontextmanager
async def peer(*messages: bytes | str | list[bytes]) -> AsyncIterator[str]:
    """A server that says these messages to everybody, then nothing."""

    async def say(ws: ServerConnection) -> None:
        for message in messages:
            await ws.send(message)
        await ws.wait_closed()

    async with serve(
        say,
        "127.0.0.1",
        0,
        subprotocols=["quants.v1.binary", "quants.v1.json"],  # type: ignore[list-item]
        compression=None,
    ) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


WELCOME = json.dumps(
    {
        "type": "welcome",
        "stream": "s",
        "next_seq": 1,
        "symbols": [{"name": "AAPL", "price_decimals": 2, "size_decimals": 0}],
        "heartbeat_seconds": 5.0,
    }
)
GOOD = ticks_frame(rows_of([(1, 2, 3, 0, 0)]), 1, 0)


@pytest.mark.parametrize("frame", [GOOD[:-1], b"X" + GOOD[1:], GOOD[:-1] + b"X", b""])
async def test_a_frame_that_is_broken_every_time_ends_the_subscription(frame):
    async with peer(WELCOME, GOOD, frame) as url:
        batches = []
        with pytest.raises(FrameError, match=r"expected .*, received"):  # noqa: PT012
            async with subscribe(url) as subscription, asyncio.timeout(10):
                async for batch in subscription:
                    batches.append(batch)  # noqa: PERF401
        assert [batch.frame for batch in batches] == [GOOD]
        assert subscription.receiver.refused == 3
        assert subscription._inbox is None  # the connection is closed


@pytest.mark.parametrize("wire", WIRES)
async def test_a_frame_that_is_broken_on_its_way_is_asked_for_again(wire):
    """Refused and counted, the connection closed; nothing of it is lost."""
    broken = 10, 60  # one more in a row, and it would give up
    async with (
        FeedServer(Market(), 100_000) as server,
        Proxy(server) as proxy,
        Subscription(proxy.url, wire, sleep=Pauses()) as subscription,
    ):
        numbers = count()
        proxy.edit = lambda frame: [rotten(frame) if next(numbers) in broken else frame]
        reading = asyncio.create_task(collect(subscription))
        proxy.cut_now()
        await server.publish(20_000)
        batches = await reading
    assert contiguous(batches)
    assert market_rows(1, batches)
    assert subscription.receiver.received == 20_000
    assert subscription.receiver.gap_ticks == 0
    assert 1 <= subscription.receiver.refused <= 2


def rotten(frame: bytes) -> bytes:
    """A WebSocket frame whose last byte has turned into another."""
    return frame[:-1] + bytes([frame[-1] ^ 1])


async def test_a_message_in_fragments_is_refused():
    """Nobody's feed needs it, and it would hide how much is to come."""
    async with peer(WELCOME, GOOD, [GOOD[:40], GOOD[40:]]) as url:
        with pytest.raises(FrameError, match="one WebSocket frame"):
            async with subscribe(url) as subscription, asyncio.timeout(10):
                await collect(subscription)


async def test_a_peer_that_does_not_greet_is_left():
    async with peer("hello") as url:
        subscription = subscribe(url)
        with pytest.raises(FrameError, match="frame welcome"):
            await subscription.__aenter__()
        assert subscription._inbox is None


async def test_a_message_larger_than_any_frame_never_becomes_a_batch():
    """Refused, or the connection is closed before all of it came."""
    end = encode(Kind.END, 2, 0, 0)
    async with (
        peer(WELCOME, GOOD, bytes(1 << 20), end) as url,
        Subscription(url, sleep=Pauses()) as subscription,
        asyncio.timeout(20),
    ):
        with suppress(FrameError):
            batches = aiter(subscription)
            while subscription.reconnects < 3:
                assert (await anext(batches)).frame == GOOD
        assert subscription.receiver.received == 1
        assert not subscription.receiver.ended
