"""The feed's server, read by a client that shares no code with it.

`websockets` is the client; headers, checksums and rows are read by struct and
zlib here. Pacing is tested on a clock that only moves when somebody sleeps.
"""

import asyncio
import json
import random
import struct
import threading
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from quants import listener
from quants.errors import EnvironmentFault, SettingsError
from quants.feed import Wire
from quants.feed_client import subscribe
from quants.feed_server import CHANNEL_BYTES, FeedServer
from quants.history import RING_FRAMES
from quants.market import Market
from quants.pace import AS_FAST_AS_TAKEN, MAX_WAKE_UP_ROWS, due, intended
from quants.tick import TICK, Batch, Rows, Symbol

WIRES: list[Wire] = ["binary", "json"]
KINDS = {1: "tick", 2: "gap", 3: "heartbeat", 4: "reset", 5: "end"}


class Numbered:
    """A source whose rows can be told from their sequence number alone."""

    symbols = (Symbol("AAPL"), Symbol("BTCUSDT", 2, 8))

    def __init__(self, length: float = float("inf")) -> None:
        self.taken, self.length = 0, length

    def take(self, n: int) -> Rows:
        n = int(min(n, self.length - self.taken))
        self.taken += n
        return numbered(self.taken - n + 1, n)


def numbered(first_seq: int, count: int) -> Rows:
    rows = np.zeros(count, TICK)
    seq = np.arange(first_seq, first_seq + count)
    rows["time_ns"], rows["price"] = seq * 1000, 100 + seq
    rows["size"], rows["symbol"] = seq % 97 + 1, seq % 2
    return rows


# -- a client of its own ------------------------------------------------------


@asynccontextmanager
async def subscribed(
    server: FeedServer, wire: Wire = "binary", **options: Any
) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """A connection, past its welcome."""
    protocol = [Subprotocol(f"quants.v1.{wire}")]
    options = {"max_queue": 4, "compression": None, "proxy": None} | options
    async with connect(server.url, subprotocols=protocol, **options) as ws:
        assert ws.subprotocol == protocol[0]
        yield ws, json.loads(await ws.recv())


def told(message: str | bytes) -> dict[str, Any]:
    """A message of either wire, checked: kind, first number, rows."""
    if isinstance(message, bytes):
        return told_by_bytes(message)
    fields = json.loads(message)
    kind = fields["type"]
    first = fields.get("seq") or fields.get("first_seq") or fields.get("next_seq")
    said = {"kind": kind, "first": first, "span": fields.get("missing", 0)}
    if kind == "tick":
        said |= {"span": 1, "rows": [row_of(fields)]}
    return said


def told_by_bytes(frame: bytes) -> dict[str, Any]:
    magic, version, kind, count, crc, span, first, sent_ns = struct.unpack_from(
        "<4sBBHIIQQ", frame
    )
    assert (magic, version) == (b"QTIK", 1)
    assert zlib.crc32(frame[:8] + bytes(4) + frame[12:]) == crc
    assert len(frame) == 32 + 32 * count
    rows = list(struct.iter_unpack("<qqqII", frame[32:]))
    said = {"kind": KINDS[kind], "first": first, "span": span, "sent_ns": sent_ns}
    return said | ({"rows": rows} if rows else {})


def row_of(fields: dict[str, Any]) -> tuple[int, ...]:
    names = [symbol.name for symbol in Numbered.symbols]
    symbol = Numbered.symbols[names.index(fields["symbol"])]
    price, size = Decimal(fields["price"]), Decimal(fields["size"])
    assert -price.as_tuple().exponent == symbol.price_decimals  # type: ignore[operator]
    return (
        fields["time_ns"],
        int(price.scaleb(symbol.price_decimals)),
        int(size.scaleb(symbol.size_decimals)),
        names.index(fields["symbol"]),
        0,
    )


async def read(
    ws: ClientConnection, next_seq: int = 1, until: str = "end"
) -> dict[str, int]:
    """Read to the end; check that every number comes once and in order."""
    counts = {"tick": 0, "gap": 0, "heartbeat": 0}
    async for message in ws:
        said = told(message)
        if said["kind"] == "tick":
            expected = numbered(said["first"], said["span"])
            assert [tuple(row) for row in expected.tolist()] == said["rows"]
        assert said["first"] == next_seq, said
        next_seq += said["span"]
        if said["kind"] == until:
            break
        counts[said["kind"]] += said["span"] or 1
    return counts | {"next_seq": next_seq}


class JumpingClock:
    """Time passes only while somebody sleeps; sleeping takes a little more."""

    def __init__(self, late: Callable[[], float] = lambda: 0.0) -> None:
        self.now, self.late = 1000.0, late
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + self.late()
        self.on_sleep()
        await asyncio.sleep(0)


def paced(clock: JumpingClock, tick_rate: float, **options: Any) -> FeedServer:
    return FeedServer(Numbered(), tick_rate, clock=clock, sleep=clock.sleep, **options)


async def all_others_wait() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a state that another task brings about."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


# -- what is due ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "tick_rate", "sent", "expected"),
    [
        (0, 1000, 0, 1),  # the first tick leaves at once
        (0, 1000, 1, 0),
        (0.0009, 1000, 1, 0),
        (0.001, 1000, 1, 1),
        (1, 1000, 0, 1001),
        (1, 1000, 1001, 0),
        (1, 1000, 5000, 0),  # never a negative number
        (-0.5, 1000, 0, 0),  # before its time
        (10**6, 10**6, 0, MAX_WAKE_UP_ROWS),
        (0, AS_FAST_AS_TAKEN, 10**9, MAX_WAKE_UP_ROWS),
    ],
)
def test_the_ticks_due_worked_by_hand(elapsed, tick_rate, sent, expected):
    assert due(elapsed, tick_rate, sent) == expected


@given(
    st.integers(1, 100_000),
    st.lists(st.integers(1, 500), min_size=1, max_size=200),
)
def test_over_a_long_schedule_no_tick_is_early_and_none_is_lost(rate, steps):
    """Elapsed in 1/1024 s: exact in binary, so the oracle is integer division."""
    sent = elapsed = 0
    for step in [0, *steps]:
        elapsed += step
        while now := due(elapsed / 1024, rate, sent):
            assert now <= MAX_WAKE_UP_ROWS
            sent += now
        assert sent == elapsed * rate // 1024 + 1


def test_the_intended_time_of_a_tick_is_its_place_in_the_schedule():
    assert intended(elapsed=3.0, tick_rate=1000, sent=250) == 0.25
    assert intended(elapsed=3.0, tick_rate=AS_FAST_AS_TAKEN, sent=250) == 3.0


async def test_a_publisher_that_wakes_late_sends_what_it_owes():
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    clock = JumpingClock(late=lambda: draw.random() * 0.05)
    server = paced(clock, 5000)
    start = clock.now

    def check() -> None:
        assert server.sent <= (clock.now - start) * 5000 + 1

    clock.on_sleep = check
    await server.publish(100_000)
    assert server.sent == 100_000
    # One wake-up after the time of the last tick, and its lateness, at most.
    assert (100_000 - 1) / 5000 <= clock.now - start < 20 + 2 * (0.05 + 0.1)


async def test_a_slow_feed_does_not_wake_up_for_nothing_but_notices_a_stop():
    clock = JumpingClock()
    server = paced(clock, 0.01)
    clock.on_sleep = lambda: server.stop() if len(clock.slept) == 7 else None
    await server.publish()
    assert server.sent == 1
    assert len(clock.slept) == 7
    assert max(clock.slept) <= 0.1


@pytest.mark.parametrize("rates", [(1000, 10, 100), (7, 7, 7), (1, 100_000, 3)])
async def test_at_a_new_rate_no_tick_is_early_and_none_is_forgotten(rates):
    """The oracle: tick k leaves when the rate, summed over time, reaches k."""
    clock = JumpingClock()
    server = paced(clock, rates[0])
    summed, last = 0.0, clock.now
    changes = iter([*rates[1:], *rates] * 3)

    def check() -> None:
        nonlocal summed, last
        summed += (clock.now - last) * server.tick_rate
        last = clock.now
        assert server.sent <= summed + 1 + 1e-6
        if len(clock.slept) % 5 == 0:
            rate = next(changes, None)
            if rate is None:
                server.stop()
            else:
                server.tick_rate = rate

    clock.on_sleep = check
    await server.publish()
    # The last wake-up's share had not been sent yet when it was stopped.
    assert summed - 0.1 * max(rates) - 1 <= server.sent <= summed + 1


async def test_the_intended_times_are_those_of_the_schedule_however_late(
    monkeypatch,
):
    """A stall must not hide itself: time is taken from the schedule."""
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    clock = JumpingClock(late=lambda: 0.5)
    async with paced(clock, 1000) as server, subscribed(server) as (ws, _):
        await server.publish(2000)
        times = []
        async for message in ws:
            said = told(message)
            if said["kind"] == "end":
                break
            times.append((said["first"], said["sent_ns"]))
    assert len(times) > 2
    for first, sent_ns in times:
        assert abs(sent_ns - (10**18 + (first - 1) * 10**6)) <= 1000, first


# -- what is on the wire --------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_exactly_limit_ticks_are_published_then_the_end(wire):
    async with (
        FeedServer(Numbered(), 1_000_000) as server,
        subscribed(server, wire) as (ws, welcome),
    ):
        reading = asyncio.create_task(read(ws))
        await server.publish(12_345)
        counts = await reading
    assert welcome["next_seq"] == 1
    assert counts == {"tick": 12_345, "gap": 0, "heartbeat": 0, "next_seq": 12_346}
    assert server.sent == 12_345


async def test_a_source_that_ends_ends_the_feed():
    async with (
        FeedServer(Numbered(777), AS_FAST_AS_TAKEN) as server,
        subscribed(server) as (ws, _),
    ):
        await server.publish()
        assert (await read(ws))["tick"] == 777


async def test_the_welcome_says_what_the_numbers_mean():
    async with (
        FeedServer(Numbered(), heartbeat_seconds=0.25) as server,
        subscribed(server) as (_, welcome),
    ):
        pass
    assert welcome == {
        "type": "welcome",
        "stream": server.stream,
        "next_seq": 1,
        "symbols": [
            {"name": "AAPL", "price_decimals": 2, "size_decimals": 0},
            {"name": "BTCUSDT", "price_decimals": 2, "size_decimals": 8},
        ],
        "heartbeat_seconds": 0.25,
    }


async def test_who_names_no_subprotocol_gets_binary_frames():
    async with FeedServer(Numbered()) as server, connect(server.url, proxy=None) as ws:
        assert json.loads(await ws.recv())["type"] == "welcome"
        await server.publish(1)
        assert told_by_bytes(bytes(await ws.recv(decode=False)))["first"] == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_two_subscribers_get_the_very_same_bytes(wire):
    async with (
        FeedServer(Numbered(), 200_000) as server,
        subscribed(server, wire) as (first, _),
        subscribed(server, wire) as (second, _),
    ):
        publishing = asyncio.create_task(server.publish(5000))
        one, other = await asyncio.gather(all_messages(first), all_messages(second))
        await publishing
    assert one == other
    assert sum(told(message).get("span", 0) for message in one) == 5000


async def all_messages(ws: ClientConnection) -> list[str | bytes]:
    return [message async for message in ws]


async def test_both_wires_carry_the_same_ticks():
    async with (
        FeedServer(Numbered(), 100_000) as server,
        subscribed(server, "binary") as (binary, _),
        subscribed(server, "json") as (text, _),
    ):
        publishing = asyncio.create_task(server.publish(5000))
        one, other = await asyncio.gather(read(binary), read(text))
        await publishing
    assert one == other


async def test_a_late_subscriber_starts_at_what_its_welcome_says():
    async with FeedServer(Numbered(), 50_000) as server:
        publishing = asyncio.create_task(server.publish(20_000))
        readings = []
        for wire in WIRES * 3:
            sent = server.sent
            await until(lambda: server.sent > sent)  # noqa: B023 - used at once
            readings.append(asyncio.create_task(read_from_welcome(server, wire)))
        for counts in await asyncio.gather(*readings):
            assert counts["gap"] == 0
            assert counts["next_seq"] == 20_001
        await publishing


async def read_from_welcome(server: FeedServer, wire: Wire) -> dict[str, int]:
    async with subscribed(server, wire) as (ws, welcome):
        return await read(ws, welcome["next_seq"])


async def test_a_plain_get_answers_200_and_starts_nothing():
    async with FeedServer(Numbered()) as server:
        url = server.url.replace("ws:", "http:")
        answer = await asyncio.to_thread(urllib.request.urlopen, url)
        with answer:
            assert answer.status == 200
            assert server.url in answer.read().decode()
        assert not server.subscribed.is_set()
        assert server.sent == 0


async def test_a_busy_port_is_an_environment_fault_that_names_a_way_out():
    async with FeedServer(Numbered()) as first:
        busy = FeedServer(Numbered(), port=first.port)
        sentence = rf"feed address 127\.0\.0\.1:{first.port}: .*; port 0 takes a free"
        with pytest.raises(EnvironmentFault, match=sentence):
            await busy.__aenter__()


async def test_heartbeats_come_when_nothing_else_does():
    async with FeedServer(Numbered(), heartbeat_seconds=0.01) as server:
        for wire in WIRES:
            async with subscribed(server, wire) as (ws, _):
                for _ in range(3):
                    said = told(await ws.recv())
                    assert (said["kind"], said["first"]) == ("heartbeat", 1)


async def test_its_repr_tells_its_state():
    server = FeedServer(Numbered(), 1000)
    assert repr(server) == (
        "<FeedServer ws://127.0.0.1:0/ 1000 ticks/s, 0 sent to 0 subscribers>"
    )


# -- resuming ------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_resume_inside_the_ring_is_served_from_it(wire):
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN) as server:
        await publish_without_end(server, 10_000)
        sent = server.sent
        async with subscribed(server, wire) as (ws, welcome):
            assert welcome["next_seq"] == sent + 1
            await ws.send(json.dumps({"from_seq": sent - 5000}))
            said = told(await ws.recv())
            assert sent - 5000 - 4096 < said["first"] <= sent - 5000
            assert said["kind"] == "tick"
            counts = asyncio.create_task(count(ws, said["first"] + said["span"]))
            await server.publish(sent + 500)
            assert (await counts)["next_seq"] == sent + 501


@pytest.mark.parametrize("wire", WIRES)
async def test_beyond_the_ring_a_gap_says_what_is_gone(wire):
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN, ring_ticks=5000) as server:
        await publish_without_end(server, 100_000)
        sent = server.sent
        async with subscribed(server, wire) as (ws, _):
            await ws.send(json.dumps({"from_seq": 7}))
            said = told(await ws.recv())
            assert (said["kind"], said["first"]) == ("gap", 7)
            # Whole frames: what is kept is at least the ring, at most one more.
            assert 5000 <= sent + 1 - (7 + said["span"]) < 5000 + 4096
            counts = asyncio.create_task(count(ws, 7 + said["span"]))
            await server.publish(sent + 1)
            assert (await counts)["next_seq"] == sent + 2


async def test_a_slow_feed_of_one_tick_frames_keeps_a_bounded_ring():
    clock = JumpingClock()
    server = paced(clock, 1000)
    await server.publish(40_000)
    assert len(server.history._ring) == RING_FRAMES < 40_000
    hole = next(server.history.latest(1))
    assert (hole.is_gap, hole.span) == (True, 40_000 - RING_FRAMES)
    resumed = list(server.history.latest(40_000 - RING_FRAMES + 1))
    assert sum(batch.span for batch in resumed) == RING_FRAMES


async def test_who_comes_back_after_the_end_still_gets_what_was_missed():
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN) as server:
        await server.publish(1000)
        async with subscribed(server) as (ws, welcome):
            assert welcome["next_seq"] == 1001
            assert told(await ws.recv())["kind"] == "end"
            await ws.send(json.dumps({"from_seq": 1}))
            assert (await read(ws))["next_seq"] == 1001


@pytest.mark.parametrize(
    "request_text",
    [
        "from the start",
        "{}",
        '{"from_seq": "1"}',
        '{"from_seq": 0}',
        '{"from_seq": -5}',
        '{"from_seq": 1e99}',
        "[]",
        b"\xff\xff",
        "[" * 4000,
        "x" * 5000,  # more than it reads
    ],
)
async def test_a_request_it_cannot_read_closes_that_connection_only(request_text):
    async with (
        FeedServer(Numbered(), 1000) as server,
        subscribed(server) as (ws, _),
        subscribed(server) as (other, _),
    ):
        await ws.send(request_text)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(all_of(ws), 10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (1008, 1009)
        await until(lambda: len(server._subscribers) == 1)
        assert server.let_go == {"refused": 1}
        await server.publish(5)
        assert (await read(other))["tick"] == 5


async def all_of(ws: ClientConnection) -> None:
    while True:
        await ws.recv()


async def publish_without_end(server: FeedServer, ticks: int) -> None:
    """Publish at least so many, and stop as if more were to come."""
    publishing = asyncio.create_task(server.publish())
    await until(lambda: server.sent >= ticks)
    publishing.cancel()
    await asyncio.wait([publishing])


# -- slow consumers: a client that does not read ---------------------------------

FLOOD = 1_500_000  # ticks, 48 MB: more than every buffer on the way


async def until_stalled(server: FeedServer) -> None:
    """Until a subscriber's channel is full and the publisher waits for it."""
    channel = server._subscribers[0].channel
    await until(lambda: channel.full)
    await all_others_wait()


@pytest.mark.parametrize("wire", WIRES)
async def test_wait_slows_the_feed_to_its_slowest_client_and_loses_nothing(wire):
    flood = FLOOD if wire == "binary" else FLOOD // 10
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN) as server:
        async with subscribed(server, wire) as (slow, _), subscribed(server) as (ws, _):
            reading = asyncio.create_task(read(ws))
            publishing = asyncio.create_task(server.publish(flood))
            await until_stalled(server)
            assert server.sent < flood
            assert not publishing.done()
            sent = server.sent
            await all_others_wait()
            assert server.sent == sent
            assert (await count(slow))["tick"] == flood
            await publishing
            assert (await reading)["tick"] == flood
        assert not server.let_go


async def count(ws: ClientConnection, next_seq: int = 1) -> dict[str, int]:
    """As `read`, without looking at every row."""
    counts = {"tick": 0, "gap": 0, "heartbeat": 0}
    async for message in ws:
        if isinstance(message, bytes):
            kind, span, first = struct.unpack_from("<5xB6xIQ", message)
            said = {"kind": KINDS[kind], "span": span, "first": first}
        else:
            said = told(message)
        assert said["first"] == next_seq
        next_seq += said["span"]
        if said["kind"] == "end":
            break
        counts[said["kind"]] += said["span"] or 1
    return counts | {"next_seq": next_seq}


@pytest.mark.parametrize("wire", WIRES)
async def test_disconnect_lets_go_of_a_stalled_client_only(wire):
    options: dict[str, Any] = {"policy": "disconnect", "heartbeat_seconds": 30.0}
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN, **options) as server:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            slow, _ = await enter(subscribed(server, wire))
            await publish_to_stalled(server, lambda: server.let_go["slow"] == 1)
            assert not server._subscribers
            healthy = [(await enter(subscribed(server)))[0] for _ in range(3)]
            first = server.sent + 1
            reading = [asyncio.create_task(read(ws, first)) for ws in healthy]
            server.tick_rate = 500_000
            await server.publish(server.sent + 50_000)
            for counts in await asyncio.gather(*reading):
                assert counts["tick"] == 50_000
            with pytest.raises(websockets.ConnectionClosedError):
                await all_of(slow)
        assert server.let_go["slow"] == 1


async def publish_to_stalled(server: FeedServer, enough: Callable[[], bool]) -> None:
    publishing = asyncio.create_task(server.publish())
    await until(enough)
    publishing.cancel()
    await asyncio.wait([publishing])


@pytest.mark.parametrize("wire", WIRES)
async def test_drop_oldest_tells_its_client_what_it_dropped(wire):
    async with FeedServer(Numbered(), AS_FAST_AS_TAKEN, policy="drop_oldest") as server:
        async with subscribed(server, wire) as (ws, _):
            channel = server._subscribers[0].channel
            dropped = lambda: channel.statistics().dropped > 0  # noqa: E731
            await publish_to_stalled(server, dropped)
            reading = asyncio.create_task(count(ws))
            await server.publish(server.sent)  # the end of the feed
            counts = await reading
        assert counts["gap"] == channel.statistics().dropped
        assert counts["tick"] + counts["gap"] == server.sent


async def test_what_is_held_for_a_stalled_client_is_bounded_in_bytes():
    async with (
        FeedServer(
            Numbered(), AS_FAST_AS_TAKEN, policy="drop_oldest", ring_ticks=1
        ) as server,
        subscribed(server) as (one, _),
        subscribed(server, "json") as (other, _),
    ):
        channels = [each.channel for each in server._subscribers]
        most = [0, 0]

        def flooded() -> bool:
            for i, channel in enumerate(channels):
                most[i] = max(most[i], channel._bytes)
            return all(c.statistics().dropped > 500_000 for c in channels)

        await publish_to_stalled(server, flooded)
        assert len(server.history._ring) == 1
        for ws in one, other:
            ws.transport.abort()  # or it would wait for the rest
    for held in most:
        assert CHANNEL_BYTES <= held <= CHANNEL_BYTES + (1 << 20)


@pytest.mark.parametrize("policy", ["wait", "disconnect", "drop_oldest"])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_client_that_vanishes_leaves_the_publisher_running(wire, policy):
    """Also while the publisher waits for room in that client's channel."""
    async with (
        FeedServer(Numbered(), AS_FAST_AS_TAKEN, policy=policy) as server,
        subscribed(server, wire) as (ws, _),
    ):
        publishing = asyncio.create_task(server.publish())
        channel = server._subscribers[0].channel
        await until(lambda: channel.statistics().received > 300_000 or channel.full)
        ws.transport.abort()
        await until(lambda: not server._subscribers)
        sent = server.sent
        await until(lambda: server.sent > sent)
        server.stop()
        await asyncio.wait_for(publishing, 10)


async def test_who_is_behind_at_the_end_still_gets_the_rest():
    """The server does not leave before its subscribers had what they missed."""
    async with AsyncExitStack() as stack:
        server = FeedServer(Numbered(), AS_FAST_AS_TAKEN, policy="drop_oldest")
        await stack.enter_async_context(server)
        ws, _ = await stack.enter_async_context(subscribed(server))
        await server.publish(250_000)  # 8 MB
        closing = asyncio.create_task(server.__aexit__())
        await all_others_wait()
        assert (await count(ws))["tick"] == 250_000
        await closing


# -- signs of life -------------------------------------------------------------

SOON = 0.05  # a heartbeat, in seconds
MANY = 30 * SOON  # nothing may happen for so long: more than anyone's patience


async def test_who_never_answers_is_let_go_after_forty_pings():
    """A half-open socket: the bytes go out, and nothing comes back."""
    async with FeedServer(Numbered(), heartbeat_seconds=SOON) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OUFCQ0RFRg==\r\n\r\n"
        )
        heard = b""
        with suppress(ConnectionResetError):
            while some := await reader.read(1000):
                heard += some
        assert heard.count(b"\x89\x00") == 40
        await until(lambda: server.let_go == {"silent": 1})
        writer.close()


async def test_who_answers_is_kept_however_little_it_says():
    async with (
        FeedServer(Numbered(), heartbeat_seconds=SOON) as server,
        subscribed(server, ping_interval=None) as (ws, _),
    ):
        with suppress(TimeoutError):
            async with asyncio.timeout(MANY):
                await count(ws)
        assert not server.let_go
        assert len(server._subscribers) == 1
        await (await ws.ping(b"and are you there?"))


async def test_who_does_not_read_is_slow_and_not_gone():
    """Its socket is full: it cannot see the pings, and the policy is `wait`."""
    async with (
        FeedServer(Numbered(), AS_FAST_AS_TAKEN, heartbeat_seconds=SOON) as server,
        subscribed(server) as (ws, _),
    ):
        publishing = asyncio.create_task(server.publish(FLOOD))
        await until_stalled(server)
        await asyncio.sleep(MANY)
        assert not server.let_go
        assert (await count(ws))["tick"] == FLOOD
        await publishing


async def test_a_client_of_ours_beats_also_when_it_does_not_read():
    async with (
        FeedServer(Numbered(), AS_FAST_AS_TAKEN, heartbeat_seconds=SOON) as server,
        subscribe(server.url) as subscription,
    ):
        publishing = asyncio.create_task(server.publish(FLOOD))
        await until_stalled(server)
        subscriber = server._subscribers[0]
        await until(lambda: subscriber._beats)
        await asyncio.sleep(MANY)
        assert server._subscribers == [subscriber]
        assert sum([len(batch) async for batch in subscription]) == FLOOD
        await publishing
        assert subscription.reconnects == 0


async def test_a_client_of_ours_that_falls_silent_is_found_with_a_full_socket():
    async with (
        FeedServer(Numbered(), AS_FAST_AS_TAKEN, heartbeat_seconds=SOON) as server,
        subscribe(server.url) as subscription,
    ):
        publishing = asyncio.create_task(server.publish())
        await until_stalled(server)
        await until(lambda: server._subscribers[0]._beats)
        assert subscription._beating is not None
        subscription._beating.cancel()
        await until(lambda: server.let_go == {"silent": 1})
        publishing.cancel()


class Slow:
    """An archive that gives nothing before it is told to."""

    next_seq = 1_000_000

    def __init__(self) -> None:
        self.asked, self.ready = threading.Event(), threading.Event()

    def read(self, first: int, last: int) -> Iterator[Batch]:
        self.asked.set()
        assert self.ready.wait(30)
        yield from ()


async def test_signs_of_life_count_also_while_a_log_is_read():
    slow = Slow()
    async with FeedServer(Numbered(), heartbeat_seconds=SOON, ring_ticks=1) as server:
        await publish_without_end(server, 3)
        server.history.archive = slow
        async with subscribed(server) as (ws, _):
            await ws.send(json.dumps({"from_seq": 1}))
            await until(slow.asked.is_set)
            await asyncio.sleep(MANY)
            assert not server.let_go
            slow.ready.set()
            while told(await ws.recv())["kind"] != "gap":
                pass


# -- who may read --------------------------------------------------------------


async def test_beyond_loopback_a_token_is_needed(monkeypatch):
    with pytest.raises(SettingsError, match="set QUANTS_TOKEN"):
        FeedServer(Numbered(), host="0.0.0.0")
    async with FeedServer(Numbered(), host="0.0.0.0", token="secret") as server:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await connect(server.url, proxy=None)
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await connect(server.url + "?token=wrong", proxy=None)
        async with connect(server.url + "?token=secret", proxy=None) as ws:
            assert json.loads(await ws.recv())["stream"] == server.stream
        shown = {"Authorization": "Bearer secret"}
        async with connect(server.url, additional_headers=shown, proxy=None) as ws:
            assert json.loads(await ws.recv())["stream"] == server.stream


async def test_a_page_of_another_site_may_not_subscribe():
    async with FeedServer(Numbered()) as server:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await connect(server.url, origin=Origin("https://evil.example"), proxy=None)
        own = Origin(f"http://127.0.0.1:{server.port}")
        async with connect(server.url, origin=own, proxy=None) as ws:
            assert json.loads(await ws.recv())["stream"] == server.stream


async def test_compression_is_never_agreed_to():
    async with (
        FeedServer(Numbered()) as server,
        connect(server.url, compression="deflate", proxy=None) as ws,
    ):
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers


# -- rubbish -------------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [bytes(100), b"GET", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"QTIK"],
)
async def test_rubbish_on_the_port_disturbs_nobody(rubbish):
    async with FeedServer(Numbered(), 100_000) as server, subscribed(server) as (ws, _):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(rubbish)
        writer.close()
        await server.publish(1000)
        assert (await read(ws))["tick"] == 1000


async def test_the_market_is_published_as_it_was_made():
    async with (
        FeedServer(Market(seed=7), 500_000) as server,
        subscribed(server) as (ws, _),
    ):
        await server.publish(20_000)
        rows = [
            row
            async for message in ws
            for row in told_by_bytes(bytes(message)).get("rows", [])  # type: ignore[arg-type]
        ]
    assert rows == [tuple(row) for row in Market(seed=7).take(20_000).tolist()]


@pytest.mark.parametrize("half", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nUpgr"])
async def test_half_a_handshake_is_cut_and_no_subscriber(
    half: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listener, "SWEEP_SECONDS", 0.02)
    async with FeedServer(Numbered(), heartbeat_seconds=0.02) as server:
        async with subscribe(server.url) as subscription:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(half)
            async with asyncio.timeout(20):
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
            await server.publish(100)
            assert sum([batch.span async for batch in subscription]) == 100
        assert subscription.reconnects == 0  # some sweeps later
