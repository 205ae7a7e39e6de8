"""Silence: the symbols that had ticks and have had none for too long.

Event time decides, where a second of it begins: a stream in which others trade
says by itself who does not. A feed that sends nothing at all says nothing; for
that somebody has to look at a clock and tell how long it has been.
"""

from typing import NamedTuple

import numpy as np

from quants.gate import Gate, Mask
from quants.limits import INT64, Limits, clamped
from quants.seconds import Piece


class Silent(NamedTuple):
    """A symbol that is silent: since which tick, and for how long."""

    symbol: int
    seq: int
    silent_ns: int


class Silence:
    """When each symbol had its last tick.

    A silence is one breach, however long it lasts; the next tick ends it.
    """

    def __init__(self, limits: Limits, gate: Gate) -> None:
        self.limits, self._gate = limits.bounds["stale_seconds"], gate
        self._last_ns = np.zeros(len(self.limits), np.int64)  # of the last tick
        self._last_seq = np.zeros(len(self.limits), np.int64)  # 0: there was none
        self.fit()

    def fit(self) -> None:
        """The limits as an array."""
        no_limit = int(INT64.max)
        longest = [no_limit if ns is None else clamped(ns) for ns in self.limits]
        self._longest_ns = np.array(longest)  # (symbols,)

    def heard(self, piece: Piece, begin_ns: int) -> None:
        """Note ticks; one that comes late counts from the second it comes in.

        Cost: 6 ns a tick.
        """
        last = np.full(len(self.limits), -1)
        np.maximum.at(last, piece.symbol, np.arange(len(piece.symbol)))
        spoke = last >= 0  # (symbols,)
        at = last[spoke]
        self._last_seq[spoke] = piece.first_seq + at
        self._last_ns[spoke] = np.maximum(piece.rows["time_ns"][at], begin_ns)
        self._gate.reopen(spoke)

    def newest_ns(self) -> int:
        """Event time of the latest tick of all; 0 before the first."""
        return int(self._last_ns.max())

    def too_long(self, now_ns: int) -> list[Silent]:
        """Who falls silent for too long by an event time, in symbol order."""
        spoke = self._last_seq > 0  # (symbols,)
        # Where the clock stepped back, silence is counted from there.
        self._last_ns[spoke] = np.minimum(self._last_ns[spoke], now_ns)
        silent_ns = now_ns - self._last_ns
        due = spoke & (silent_ns >= self._longest_ns) & self._may(now_ns)
        self._gate.close(due, now_ns)
        seqs, silent = self._last_seq.tolist(), silent_ns.tolist()
        return [Silent(i, seqs[i], silent[i]) for i in due.nonzero()[0].tolist()]

    def _may(self, now_ns: int) -> Mask:
        """Whose gate lets an alert pass."""
        return ~self._gate.shut & self._gate.cool(slice(None), now_ns)
