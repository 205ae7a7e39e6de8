"""Limits followed: Redis tells which have changed, and those are read again.

A connection of its own asks for client tracking (RESP3, broadcast by prefix):
from then on Redis pushes the names of all keys that change below the prefix.
One thread reads it. When nothing comes it asks whether Redis is still there, so
that an answer in time means: what was read last still holds.

A Redis that knows no tracking is left alone; its limits have to be polled.

Source: redis.io/docs/latest/develop/reference/client-side-caching
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import redis

from quants.limits import Answer, limit_key, read_limits
from quants.redis_server import connect
from quants.tick import Symbol

PREFIX = "quants:limit:"
IDLE_SECONDS = 0.1  # without a push, until it asks
ANSWER_SECONDS = 0.25  # for an answer; then Redis is lost
RETRY_SECONDS = 0.5
PUSHES_AT_ONCE = 1000  # heard before the limits they name are read

Connection = Any  # redis.Connection, which is typed in parts

log = logging.getLogger(__name__)


class Untracked(Exception):
    """This Redis, or this user of it, may not track."""


class Tracker:
    """Follows the limits of symbols, on a thread, within its block.

    Args:
        heard: called on the loop with the limits of all symbols, in their order,
            when they have changed and when they still hold.
        lost: called on the loop when Redis does not answer any more, and again
            after each attempt in vain.

    Attributes:
        tracked: whether changes are heard, at the end: were heard; if not, limits
            have to be polled.
        refused: why they never will be; "" if they may.
    """

    def __init__(
        self,
        url: str,
        symbols: Sequence[Symbol],
        heard: Callable[[Sequence[Answer]], None],
        lost: Callable[[], None],
    ) -> None:
        self.url, self.symbols = url, symbols
        self.tracked, self.refused = False, ""
        self._heard, self._lost = heard, lost
        self._place = {limit_key(symbol): i for i, symbol in enumerate(symbols)}
        self._answers: list[Answer] = [()] * len(symbols)  # the thread's alone
        self._socket: socket.socket | None = None  # that the thread listens to

    def __repr__(self) -> str:
        state = "tracked" if self.tracked else self.refused or "lost"
        return f"<Tracker of {len(self.symbols)} limits, {state}>"

    async def __aenter__(self) -> Self:
        self.tracked, self.refused = False, ""
        self._loop, self._over = asyncio.get_running_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._socket is not None:
            with suppress(OSError):  # it is closed by now
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes who reads from it
        await asyncio.to_thread(self._thread.join)

    # -- on the loop --------------------------------------------------------

    def _on_loop(self, function: Callable[..., None], *what: object) -> None:
        """Have the loop call `function`, unless our block has ended by then."""

        def call() -> None:
            if not self._over.is_set():
                function(*what)

        self._loop.call_soon_threadsafe(call)

    def _hear(self, answers: Sequence[Answer]) -> None:
        self.tracked = True
        self._heard(answers)

    def _lose(self, reason: str) -> None:
        self.tracked = False
        log.debug("limits not tracked: %s", reason)
        self._lost()

    def _refuse(self, reason: str) -> None:
        self.refused = reason

    # -- on the thread ------------------------------------------------------

    def _run(self) -> None:
        """Follow until our block ends; what is lost is looked for again."""
        while not self._over.is_set():
            try:
                self._follow()
            except Untracked as refusal:
                self._on_loop(self._refuse, str(refusal))
                return
            except (redis.RedisError, OSError) as fault:
                self._on_loop(self._lose, str(fault))
                self._over.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        """Read all limits, then again those that are said to have changed."""
        with (
            pushes(self.url) as connection,
            connect(self.url, ANSWER_SECONDS) as client,
        ):
            self._socket = connection._sock  # no public name leads to it
            changed = set(range(len(self.symbols)))  # while nobody listened
            while not self._over.is_set():
                self._read(client, sorted(changed))
                self._on_loop(self._hear, list(self._answers))
                changed = self._changed(connection)

    def _read(self, client: redis.Redis, places: Sequence[int]) -> None:
        if places:
            found = read_limits(client, [self.symbols[i] for i in places])
            for place, answer in zip(places, found, strict=True):
                self._answers[place] = answer

    def _changed(self, connection: Connection) -> set[int]:
        """Which symbols have other limits now; waits a moment for news."""
        if not connection.can_read(timeout=IDLE_SECONDS):
            connection.send_command("PING")
        changed = self._named(connection.read_response(push_request=True))
        for _ in range(PUSHES_AT_ONCE):
            if not connection.can_read(timeout=0):
                break
            changed |= self._named(connection.read_response(push_request=True))
        return changed

    def _named(self, reply: object) -> set[int]:
        """The symbols whose keys a push names; an answer to PING names none."""
        if not isinstance(reply, list):
            return set()
        _, keys = reply
        if keys is None:  # the whole database was emptied
            return set(self._place.values())
        return {self._place[key] for key in keys if key in self._place}


@contextmanager
def pushes(url: str) -> Iterator[Connection]:
    """A connection on which Redis pushes the names of limits that change.

    Raises:
        Untracked: this Redis does not do that.
    """
    with connect(url, ANSWER_SECONDS, protocol=3) as client:
        pool = client.connection_pool
        try:
            connection: Connection = pool.get_connection()
            # No public name leads to the pushes.
            connection._parser.set_invalidation_push_handler(lambda push: push)
            tracking = ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", PREFIX]
            connection.send_command(*tracking)
            connection.read_response()
        except redis.ResponseError as refusal:
            raise Untracked(str(refusal)) from refusal
        yield connection
