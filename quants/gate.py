"""The gate between breaches and alerts: a breach that lasts is one alert.

An alert shuts its symbol's gate. The gate opens again when a tick has come back
inside the limit, and lets the next breach pass once `cooldown_ns` have gone by
since the alert as well. So neither a price that stays beyond its limit nor one
that trembles around it raises an alert a tick.

Event time decides: the same ticks give the same alerts at any speed and in any
framing. A clock that steps back further than the cooldown ends it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

NEVER_NS = -(2**62)  # 146 years before 1970: all has cooled down since


class Gate:
    """Which breaches of one rule become alerts, symbol by symbol.

    Attributes:
        shut: since its last alert no tick of the symbol came back inside.
        suppressed: breaches that became no alert.
    """

    def __init__(self, symbols: int, cooldown_ns: int) -> None:
        self.cooldown_ns = cooldown_ns
        self.shut = np.zeros(symbols, bool)
        self.suppressed = 0
        self._alerted_ns = np.full(symbols, NEVER_NS)  # event time of the last alert
        self.any_shut = False  # asked for each batch: NumPy takes 1 µs to tell

    def __repr__(self) -> str:
        return f"<Gate {self.shut.sum()} shut, {self.suppressed} suppressed>"

    def passing(
        self,
        symbol: Indices,
        time_ns: Times,
        broken: Indices,
        back: Callable[[Indices], Mask],
    ) -> list[int]:
        """Which ticks that break the rule become alerts, by position.

        Args:
            symbol: of each tick, shape (n,).
            time_ns: event time of each tick, shape (n,).
            broken: the ticks that break the rule, in any order.
            back: says which of some ticks lie inside by the rule's margin; it
                is asked only where a gate is shut, or shuts.
        """
        if not len(broken) and not self.any_shut:
            return []
        concerned = self.shut.copy()  # (symbols,)
        concerned[symbol[broken]] = True
        at = concerned[symbol].nonzero()[0]  # (m,) their ticks
        is_broken = np.zeros(len(symbol), bool)
        is_broken[broken] = True
        inside = back(at) & ~is_broken[at]
        passing = self._passing(symbol[at], time_ns[at], is_broken[at], inside)
        self.suppressed += len(broken) - len(passing)
        self.any_shut = bool(self.shut.any())
        return [int(at[i]) for i in passing]

    def _passing(
        self, symbol: Indices, time_ns: Times, broken: Mask, inside: Mask
    ) -> list[int]:
        # In a storm no gate is both open and cool: nothing more is done for it.
        open_once = ~self.shut  # (symbols,) some time during these ticks
        open_once[symbol[inside]] = True
        may_pass = broken & open_once[symbol] & self.cool(symbol, time_ns)  # (m,)
        walked = np.zeros_like(self.shut)  # (symbols,)
        walked[symbol[may_pass]] = True
        self.shut[symbol[inside & ~walked[symbol]]] = False
        passing = list[int]()
        for one in walked.nonzero()[0].tolist():
            mine = (symbol == one).nonzero()[0]
            alerts = self._walk(one, time_ns[mine], broken[mine], inside[mine])
            passing += mine[list(alerts)].tolist()
        return sorted(passing)

    def _walk(
        self, one: int, time_ns: Times, broken: Mask, inside: Mask
    ) -> Iterator[int]:
        """The alerts among the ticks of one symbol, in order."""
        i, end = 0, len(time_ns)
        while i < end:
            if self.shut[one]:
                i += first(inside[i:])
                self.shut[one] = i == end
            else:
                i += first(broken[i:] & self.cool(one, time_ns[i:]))
                if i < end:
                    self.close(one, time_ns[i])
                    yield i

    def cool(self, symbol: Indices | int | slice, time_ns: Times | int) -> Mask:
        """Whether the cooldown of each symbol is over at a time."""
        since = np.abs(time_ns - self._alerted_ns[symbol])
        return np.asarray(since >= self.cooldown_ns)

    def close(self, symbol: Mask | int, time_ns: np.int64 | int) -> None:
        """Shut the gate of symbols, by an alert at this event time."""
        self.shut[symbol], self._alerted_ns[symbol] = True, time_ns
        self.any_shut = True

    def reopen(self, symbol: Mask | int | slice = slice(None)) -> None:
        """Take symbols for back inside; all of them, unless told which."""
        if self.any_shut:
            self.shut[symbol] = False
            self.any_shut = bool(self.shut.any())


def first(mask: Mask) -> int:
    """Where the first True stands; the length if there is none."""
    return int(mask.argmax()) if mask.any() else len(mask)
