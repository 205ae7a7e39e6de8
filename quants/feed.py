"""The feed's protocol without a socket: messages in, batches out.

A feed greets each subscriber with a JSON welcome, then sends either binary
frames (see `frame`) or, for those who ask for it, JSON (see `messages`).
`Receiver` is what a subscriber remembers. It turns whatever arrives into
batches in unbroken order: duplicates are dropped and counted, a jump in the
numbers becomes a gap batch, and nothing else can come out of it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from quants.errors import EnvironmentFault, FrameError
from quants.frame import UNREADABLE, Kind, decode, encode, ticks_frame
from quants.messages import MAX_SPAN, Request, Welcome, unpack
from quants.tick import Batch, Symbol, gap

Wire = Literal["binary", "json"]
SUBPROTOCOLS: dict[Wire, str] = {
    "binary": "quants.v1.binary",
    "json": "quants.v1.json",
}
HOLES = 100  # the last ones, to tell what is late from what came twice
BEAT = b"quants"  # in a pong that nobody asked for: a subscriber's heartbeat


class Receiver:
    """What a subscriber knows of its stream; survives a reconnect.

    Attributes:
        expected: the sequence number that comes next (None before a welcome).
        received, duplicates, gaps, gap_ticks: counters, in ticks but `gaps`.
        late: of the duplicates, those that had been told missing: out of order.
        refused: messages that broke the protocol.
        ended: the feed said that it is over.
    """

    def __init__(self, wire: Wire = "binary") -> None:
        self.wire = wire
        self.stream = ""
        self.symbols: tuple[Symbol, ...] = ()
        self.heartbeat_seconds = 1.0
        self.expected: int | None = None
        self.ended = False
        self.received = self.duplicates = self.gaps = self.gap_ticks = 0
        self.late = self.refused = 0
        self._holes: deque[tuple[int, int]] = deque(maxlen=HOLES)
        self._live_from = 0  # asked to go on; live frames may come first

    @property
    def last_seq(self) -> int:
        """The last sequence number accounted for; 0 before the first."""
        return (self.expected or 1) - 1

    def greet(self, message: bytes) -> bytes | None:
        """Take the welcome; return the request to send, if there is one.

        Raises:
            EnvironmentFault: another stream answers than before the cut.
        """
        try:
            welcome = msgspec.json.decode(message, type=Welcome)
        except UNREADABLE as error:
            raise FrameError("welcome", "a JSON welcome", error) from error
        if self.stream and welcome.stream != self.stream:
            raise EnvironmentFault(
                f"the feed came back as stream {welcome.stream}, this run follows "
                f"{self.stream}: start a new run"
            )
        self.stream, self.symbols = welcome.stream, tuple(welcome.symbols)
        self.heartbeat_seconds = welcome.heartbeat_seconds
        if self.expected is None:
            self.expected = welcome.next_seq
        if self.expected == welcome.next_seq:
            return None
        self._live_from = welcome.next_seq
        return msgspec.json.encode(Request(self.expected))

    def receive(self, messages: Sequence[bytes]) -> Iterator[Batch]:
        """The batches that these messages amount to, in order.

        Raises:
            FrameError: a message that the wire does not promise.
        """
        if self.wire == "json":
            frames = unpack(messages, self.symbols)
        else:
            frames = (decode(message, len(self.symbols)) for message in messages)
        for kind, batch in frames:
            if kind is Kind.SEGMENT:
                raise FrameError("kind", "1 to 5 on a wire", kind.name)
            yield from self._in_order(kind, batch)

    def _in_order(self, kind: Kind, batch: Batch) -> Iterator[Batch]:
        """Decide what a frame adds: a hole first, then what is new of it."""
        assert self.expected is not None
        missing = batch.first_seq - self.expected
        if missing > 0 and 0 < self._live_from <= batch.first_seq:
            return  # live frames from before the resumed ones: they come again
        self._live_from = 0
        if kind is Kind.RESET:
            raise EnvironmentFault(f"stream {self.stream} was reset: start a new run")
        if missing > 0:
            yield self._hole(gap(self.expected, missing, batch.sent_ns))
        if missing < 0 and batch.span:
            batch = self._without_known(kind, batch, min(-missing, batch.span))
        self.expected = max(self.expected, batch.next_seq)
        self.ended = self.ended or kind is Kind.END
        if kind is Kind.TICKS and batch.span:
            self.received += batch.span
            yield batch
        elif kind is Kind.GAP and batch.span:
            yield self._hole(batch)

    def _hole(self, hole: Batch) -> Batch:
        first, missing = hole.first_seq, hole.span
        if missing > MAX_SPAN:
            raise FrameError("gap", f"at most {MAX_SPAN} ticks", missing)
        self.gaps += 1
        self.gap_ticks += missing
        self._holes.append((first, first + missing))
        frame = hole.frame or encode(Kind.GAP, first, missing, hole.sent_ns)
        return gap(first, missing, hole.sent_ns, frame)

    def _without_known(self, kind: Kind, batch: Batch, known: int) -> Batch:
        first, left = batch.first_seq + known, batch.span - known
        if kind is Kind.GAP:
            return gap(first, left, batch.sent_ns)
        self.duplicates += known
        self.late += sum(
            max(0, min(end, first) - max(start, batch.first_seq))
            for start, end in self._holes
        )
        rows = batch.rows[known:]
        frame = ticks_frame(rows, first, batch.sent_ns) if left else b""
        return Batch(rows, first, left, batch.sent_ns, frame)
