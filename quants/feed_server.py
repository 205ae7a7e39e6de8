"""The feed's server: paced by the clock, one write per wake-up to each client.

The publisher asks `due` how many ticks the clock owes, takes them from its
source and puts the same frame into the channel of every subscriber. Each
subscriber has a task of its own that writes to its socket, so a slow one fills
its own channel and nothing else. What happens then is the server's policy:

    wait         the publisher waits: the feed runs at the slowest one's pace
    disconnect   the slow one is let go, and may come back and resume
    drop_oldest  its oldest frames go; a gap frame says which
"""

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal, Self

import msgspec
from aiohttp import web

from quants.access import allowed, token_for
from quants.channel import Channel
from quants.channel import Policy as ChannelPolicy
from quants.feed import SUBPROTOCOLS, Wire
from quants.frame import MAX_ROWS, Kind, encode, ticks_frame
from quants.history import History
from quants.listener import Listener
from quants.messages import Welcome
from quants.pace import MAX_WAKE_UP_ROWS, Gapped, Pace, Source, SteadyPace
from quants.subscriber import Subscriber
from quants.tick import Batch, gap

log = logging.getLogger(__name__)

Policy = Literal["wait", "disconnect", "drop_oldest"]
CHANNEL_BYTES = 8 << 20  # how far a subscriber may be behind
WAKE_UP_SECONDS = 0.001  # asyncio rounds shorter sleeps up to about this
NOTICE_SECONDS = 0.1  # how late a stop or a new rate may be noticed
DRAIN_SECONDS = 5.0  # what subscribers have to take the rest and the end


class FeedServer:
    """A WebSocket server that publishes a source to any number of clients.

    Args:
        source: the ticks; asked for more only when the clock owes them.
        tick_rate: ticks/s; infinity is as fast as the clients take them.
        pace: when ticks leave, if it is not by a steady rate.
        policy: what happens to a subscriber that cannot keep up.
        token: what a subscriber must show where the host is not loopback.
        ring_ticks: how far back a subscriber may resume, in at most 32,768
            frames; further if the `history` has an archive.

    Attributes:
        let_go: subscribers it gave up, by reason: slow, silent, refused.
        log: a channel for the feed's own tick log, if it keeps one.
    """

    def __init__(
        self,
        source: Source,
        tick_rate: float = 1000,
        *,
        pace: Pace | None = None,
        policy: Policy = "wait",
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        heartbeat_seconds: float = 1.0,
        ring_ticks: int = 1 << 18,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.source, self.policy = source, policy
        self._gapped = source if isinstance(source, Gapped) else None
        self.host, self.port = host, port
        self.token = token_for(host, token)
        self.heartbeat_seconds, self.history = heartbeat_seconds, History(ring_ticks)
        self.stream = uuid.uuid4().hex[:12]
        self.let_go: Counter[str] = Counter()
        self.gap_ticks = 0  # that the source lacked
        self.log: Channel | None = None
        self.subscribed = asyncio.Event()  # set by the first subscriber
        self._changed = asyncio.Event()  # set when one comes or goes
        self._clock, self._sleep = clock, sleep
        self.pace = pace or SteadyPace(tick_rate, clock())
        self.stopping = False  # set once, by stop()
        self._ended = False  # set once, when subscribers were told
        self._subscribers: list[Subscriber] = []

    def __repr__(self) -> str:
        return (
            f"<FeedServer {self.url} {self.pace}, "
            f"{self.sent} sent to {len(self._subscribers)} subscribers>"
        )

    @property
    def tick_rate(self) -> float:
        """Ticks per second, of a steady pace; it can be turned."""
        assert isinstance(self.pace, SteadyPace)
        return self.pace.tick_rate

    @tick_rate.setter
    def tick_rate(self, tick_rate: float) -> None:
        assert isinstance(self.pace, SteadyPace)
        self.pace.turn(tick_rate, self._clock(), self.sent)

    @property
    def sent(self) -> int:
        """Ticks published so far, those that the source lacked included."""
        return self.history.next_seq - 1

    @property
    def url(self) -> str:
        """Where to subscribe."""
        return f"ws://{self.host}:{self.port}/"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/", self._serve)
        self._listener = Listener(
            app,
            self.host,
            self.port,
            what=("feed address", "port 0 takes a free one"),
            drain_seconds=DRAIN_SECONDS,
        )
        await self._listener.__aenter__()
        self.port = self._listener.port
        return self

    async def __aexit__(self, *error: object) -> None:
        for subscriber in self._subscribers:
            subscriber.channel.close()
        await self._listener.__aexit__(*error)

    async def publish(self, limit: int | None = None) -> None:
        """Send what is due, when it is due, until `limit` ticks are out.

        Then, or when the source ends, subscribers get an `end` frame.
        """
        pace, self._anchor_ns = self.pace, time.time_ns()
        pace.begin(self._clock(), self.sent)
        while not self.stopping and (limit is None or self.sent < limit):
            now = self._clock()
            wanted = pace.due(now, self.sent)
            if limit is not None:
                wanted = min(wanted, limit - self.sent)
            if not wanted:
                pause = max(pace.wait(now, self.sent), WAKE_UP_SECONDS)
                await self._sleep(min(pause, NOTICE_SECONDS))
                continue
            if not await self._publish(wanted, now):
                break
            behind = wanted == MAX_WAKE_UP_ROWS
            await self._sleep(0 if behind else WAKE_UP_SECONDS)
        self._end()

    async def until(self, subscribers: Callable[[int], bool]) -> None:
        """Wait until the number of subscribers is as wanted, or for `stop`."""
        while not (self.stopping or subscribers(len(self._subscribers))):
            self._changed.clear()
            await self._changed.wait()

    def stop(self) -> None:
        """End the feed at its next wake-up."""
        self.stopping = True
        self._changed.set()

    async def _publish(self, wanted: int, now: float) -> bool:
        """Send `wanted` ticks in frames; whether the source still had them."""
        while wanted and not self.stopping:
            seconds = self.pace.intended(now, self.sent)
            sent_ns = self._anchor_ns + int(seconds * 1e9)
            await self._skip(sent_ns)
            rows = self.source.take(min(wanted, MAX_ROWS))
            if not len(rows):
                return False
            seq = self.history.next_seq
            frame = ticks_frame(rows, seq, sent_ns)
            batch = Batch(rows, seq, len(rows), sent_ns, frame)
            await self._broadcast(Kind.TICKS, batch)
            wanted -= len(rows)
        return True

    async def _skip(self, sent_ns: int) -> None:
        """Tell of the ticks that the source itself lacks here."""
        if self._gapped and (missing := self._gapped.missing()):
            seq = self.history.next_seq
            frame = encode(Kind.GAP, seq, missing, sent_ns)
            self.gap_ticks += missing
            await self._broadcast(Kind.GAP, gap(seq, missing, sent_ns, frame))

    async def _broadcast(self, kind: Kind, batch: Batch) -> None:
        self.history.append(batch)
        as_sent: dict[Wire, Batch] = {"binary": batch}  # encoded once per wire
        for subscriber in [each for each in self._subscribers if each.live]:
            if subscriber.wire not in as_sent:
                as_sent[subscriber.wire] = subscriber.encoded(kind, batch)
            if self.policy == "disconnect" and subscriber.channel.full:
                log.debug("%r cannot keep up: let go", subscriber)
                self._subscribers.remove(subscriber)
                subscriber.abort("slow")
            else:
                await subscriber.channel.send(as_sent[subscriber.wire])
        if self.log is not None:
            await self.log.send(batch)

    def _end(self) -> None:
        self._ended = True
        for subscriber in self._subscribers:
            subscriber.end()
        if self.log is not None:
            self.log.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not allowed(request.headers, request.query, self.token):
            raise web.HTTPForbidden(text="this feed asks for its token\n")
        ws = web.WebSocketResponse(
            protocols=tuple(SUBPROTOCOLS.values()),
            compress=False,
            max_msg_size=4096,
            autoping=False,  # a subscriber's pongs are its signs of life
        )
        if not ws.can_prepare(request):
            return web.Response(text=f"subscribe with a WebSocket: {self.url}\n")
        try:
            await ws.prepare(request)
        except ValueError as error:  # a key that is none
            raise web.HTTPBadRequest from error
        assert request.transport is not None
        self._listener.kept.add(request.transport)  # the subscriber looks after it
        # Welcomed and enlisted without a wait between: no tick falls in it.
        welcome, subscriber = self._welcome(), self._subscriber(ws, request)
        log.debug("subscriber from %s: %s", request.remote, subscriber)
        self._subscribers.append(subscriber)
        self.subscribed.set()
        self._changed.set()
        try:
            await subscriber.run(welcome)
        finally:
            log.debug("subscriber gone: %s", subscriber)
            self._listener.kept.discard(subscriber.transport)
            self.let_go.update(filter(None, [subscriber.fault]))
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
            self._changed.set()
        return ws

    def _welcome(self) -> str:
        symbols = list(self.source.symbols)
        next_seq = self.history.next_seq
        welcome = Welcome(self.stream, next_seq, symbols, self.heartbeat_seconds)
        return msgspec.json.encode(welcome).decode()

    def _subscriber(
        self, ws: web.WebSocketResponse, request: web.Request
    ) -> Subscriber:
        assert request.transport is not None
        name = f"to {request.remote}"
        when_full: ChannelPolicy = (
            "drop_oldest" if self.policy == "drop_oldest" else "block"
        )
        subscriber = Subscriber(
            ws,
            request.transport,
            Channel(name, 1 << 16, when_full, CHANNEL_BYTES),
            self.source.symbols,
            self.history,
            self.heartbeat_seconds,
        )
        if self._ended:
            subscriber.end()
        return subscriber
