"""The rules: which ticks break a limit, and which of those become alerts.

    price_band    a price below `price_low` or above `price_high`
    notional      price × size of one tick above `notional`
    vwap_band     a price more than `vwap_percent` from the last seconds' VWAP
    exposure      the last seconds' sum of price × size above `exposure`
    message_rate  more than `ticks_per_second` ticks of a symbol in a second
    stale         a symbol without a tick for `stale_seconds`
    gap           ticks that never came; until it is over, VWAPs are incomplete

Decided on the loop, a batch at once, by event time: the same ticks give the
same alerts at any speed and in any framing. A rule without limits costs nothing.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from quants.alerts import Alert
from quants.counting_rules import Exposure, MessageRate, VwapBand
from quants.gate import Gate, Indices, Mask
from quants.limits import NOTIONAL, PRICE_BAND, Limits
from quants.metrics import Registry
from quants.seconds import SECOND_NS, Piece, Seconds
from quants.silence import Silence
from quants.tick import Batch, Symbol, to_text
from quants.tick_rules import CountingRule, Notional, PriceBand, TickRule

STALE, GAP = "stale", "gap"
ONLY = np.zeros(1, np.intp)  # the one symbol of the gap rule, and its one breach

# The rules that count: the field of their limit, and how they are made.
COUNTING: dict[str, tuple[str, Callable[[Limits, int], CountingRule]]] = {
    "vwap_band": ("vwap_percent", VwapBand),
    "exposure": ("exposure", lambda limits, _: Exposure(limits)),
    "message_rate": ("ticks_per_second", lambda limits, _: MessageRate(limits)),
}


class Rules:
    """Raises alerts for ticks beyond their symbol's limits.

    Args:
        symbols: the feed's symbol table.
        stream: the feed's id, the first part of an alert's.
        cooldown_ns: event time between two alerts of one rule and symbol.
        hysteresis_percent: a price is back inside its band at this distance
            from the bound.

    Attributes:
        limits: compared with; nothing is limited until they are updated.
        raised: alerts by rule.
        latest: the last few alerts, for those who look.
    """

    def __init__(
        self,
        symbols: Sequence[Symbol],
        stream: str,
        registry: Registry,
        cooldown_ns: int = 1_000_000_000,
        hysteresis_percent: float = 0.05,
    ) -> None:
        self.symbols, self.stream, self.cooldown_ns = symbols, stream, cooldown_ns
        self.limits = limits = Limits(symbols)
        self.raised: Counter[str] = Counter()
        self.latest: deque[Alert] = deque(maxlen=5)
        self._parts = round(100 / hysteresis_percent) if hysteresis_percent else 0
        self._gates = {rule: self._gate() for rule in (PRICE_BAND, NOTIONAL)}
        self._gates[GAP] = Gate(1, cooldown_ns)
        self._fixed: dict[str, TickRule] = {
            PRICE_BAND: PriceBand(limits, limits.low, limits.high, self._parts),
            NOTIONAL: Notional(limits),
        }
        self._counting: dict[str, CountingRule] = {}  # those that have a limit
        self._silence: Silence | None = None  # unless it has a limit
        self._fitted = limits.changes  # up to which the rules know them
        self._seconds = Seconds()
        self._second = self._seconds.now  # which the rules know
        self._last_time_ns = np.zeros(1, np.int64)  # of the ticks checked so far
        registry.counter(
            "quants_alerts_total", "Alerts raised",
            lambda: {(rule,): self.raised[rule] for rule in self._gates},
            ("rule",),
        )  # fmt: skip
        registry.counter(
            "quants_alerts_suppressed_total", "Breaches that were no news",
            lambda: {(rule,): n for rule, n in self.suppressed.items()},
            ("rule",),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Rules {sum(self.raised.values())} alerts raised>"

    def _gate(self) -> Gate:
        return Gate(len(self.symbols), self.cooldown_ns)

    @property
    def suppressed(self) -> dict[str, int]:
        """Breaches that became no alert, by rule; of rules that had a limit."""
        return {rule: gate.suppressed for rule, gate in self._gates.items()}

    def check(self, batch: Batch) -> list[Alert]:
        """The alerts of a batch, in the order of its ticks."""
        self._fit()
        return self._raised(
            self._missing(batch) if batch.is_gap else self._ticks(batch)
        )

    def silent(self, seconds: float) -> list[Alert]:
        """The alerts of a feed that has sent nothing for so long, by the clock.

        A symbol's silence is an alert once, however often this is asked.
        """
        self._fit()
        if self._silence is None:
            return []
        now_ns = self._silence.newest_ns() + round(seconds * SECOND_NS)
        return self._raised(self._stale(now_ns))

    def _raised(self, alerts: list[Alert]) -> list[Alert]:
        if alerts:  # seldom; a Counter takes 1 µs to count nothing
            self.raised.update(alert.rule for alert in alerts)
            self.latest.extend(alerts)
        return alerts

    def _missing(self, hole: Batch) -> list[Alert]:
        """One alert for a hole; its event time is that of the tick before it."""
        time_ns, first = self._last_time_ns, hole.first_seq
        if not self._gates[GAP].passing(ONLY, time_ns, ONLY, nobody):
            return []
        id = f"{self.stream}:{first}:{GAP}"
        return [Alert(id, GAP, "*", first, int(time_ns[0]), str(hole.span), "0")]

    def _ticks(self, batch: Batch) -> list[Alert]:
        self._last_time_ns = batch.rows["time_ns"][-1:]
        self._gates[GAP].reopen()
        symbol = batch.rows["symbol"].astype(np.intp)  # (n,)
        ticks = Piece(batch.rows, symbol, batch.first_seq)
        if not self._counting and self._silence is None:
            return self._broken(ticks)
        alerts = list[Alert]()
        for second, piece in self._seconds.split(ticks):
            if second != self._second:
                alerts += self._turn(second)
            alerts += self._broken(piece)
            if self._silence is not None:
                self._silence.heard(piece, second * SECOND_NS)
        return alerts

    def _turn(self, second: int) -> list[Alert]:
        """A second of event time begins."""
        self._second = second
        for rule in self._counting.values():
            rule.turn(second)
        return self._stale(second * SECOND_NS)

    def _broken(self, piece: Piece) -> list[Alert]:
        """The alerts of ticks that break a rule, by sequence number."""
        symbol, time_ns, alerts = piece.symbol, piece.rows["time_ns"], list[Alert]()
        for name, rule in (*self._fixed.items(), *self._counting.items()):
            broken, gate = rule.broken(piece), self._gates[name]
            if len(broken) or gate.any_shut:
                back = partial(rule.back, piece)
                passing = gate.passing(symbol, time_ns, broken, back)
                alerts += [self._alert(name, rule, piece, i) for i in passing]
        alerts.sort(key=lambda alert: (alert.seq, alert.rule))
        return alerts

    def _alert(self, name: str, rule: TickRule, piece: Piece, i: int) -> Alert:
        seq, traded = piece.first_seq + i, self.symbols[piece.symbol[i]]
        time_ns, texts = int(piece.rows["time_ns"][i]), rule.texts(piece, i)
        return Alert(
            f"{self.stream}:{seq}:{name}", name, traded.name, seq, time_ns, *texts
        )

    def _stale(self, now_ns: int) -> list[Alert]:
        """The alerts of symbols that fall silent by an event time."""
        silent = self._silence.too_long(now_ns) if self._silence is not None else []
        limits = self.limits.bounds["stale_seconds"]
        return [
            Alert(
                f"{self.stream}:{seq}:{STALE}", STALE, self.symbols[i].name, seq,
                now_ns, to_text(silent_ns, 9), to_text(limits[i] or 0, 9),
            )
            for i, seq, silent_ns in silent
        ]  # fmt: skip

    def _fit(self) -> None:
        """Begin what a limit was set for, end what has none any more."""
        limits = self.limits
        if limits.changes == self._fitted:
            return
        self._fitted = limits.changes
        for name, (field, make) in COUNTING.items():
            if not self._limited(name, field):
                self._counting.pop(name, None)
            elif name in self._counting:
                self._counting[name].fit()
            else:
                self._counting[name] = make(limits, self._parts)
        if not self._limited(STALE, "stale_seconds"):
            self._silence = None
        elif self._silence is not None:
            self._silence.fit()
        else:
            self._silence = Silence(limits, self._gates[STALE])

    def _limited(self, name: str, field: str) -> bool:
        """Whether a rule is in force; then it has a gate, and else none is shut."""
        limited = self.limits.limited(field)
        if limited and name not in self._gates:
            self._gates[name] = self._gate()
        elif not limited and name in self._gates:
            self._gates[name].reopen()
        return limited


def nobody(at: Indices) -> Mask:
    """Of these, none has come back."""
    return np.zeros(len(at), bool)
