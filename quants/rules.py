"""The rules: which ticks break a limit, and which of those become alerts.

Decided on the loop, a batch at once, without a clock: the same ticks give the
same alerts at any speed and in any framing.

Ticks that never came are a risk too: a gap in the feed raises an alert.
"""

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from quants.alerts import Alert, Cooldown
from quants.limits import NOTIONAL, RULES, Limits, breaches
from quants.metrics import Registry
from quants.tick import Batch, Symbol, to_text

GAP = "gap"  # the rule that none of the stream's numbers may be missing


class Rules:
    """Raises alerts for ticks beyond their symbol's limits.

    Args:
        symbols: the feed's symbol table.
        stream: the feed's id, the first part of an alert's.
        cooldown_ns: event time between two alerts of one rule and symbol.

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
    ) -> None:
        self.symbols, self.stream = symbols, stream
        self.limits = Limits(symbols)
        self.raised: Counter[str] = Counter()
        self.latest: deque[Alert] = deque(maxlen=5)
        self._cooldowns = {rule: Cooldown(len(symbols), cooldown_ns) for rule in RULES}
        self._cooldowns[GAP] = Cooldown(1, cooldown_ns)
        self._last_time_ns = np.zeros(1, np.int64)  # of the ticks checked so far
        registry.counter(
            "quants_alerts_total", "Alerts raised",
            lambda: {(rule,): self.raised[rule] for rule in self._cooldowns},
            ("rule",),
        )  # fmt: skip
        registry.counter(
            "quants_alerts_suppressed_total", "Breaches within an alert's cooldown",
            lambda: {(rule,): n for rule, n in self.suppressed.items()},
            ("rule",),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Rules {sum(self.raised.values())} alerts raised>"

    @property
    def suppressed(self) -> dict[str, int]:
        """Breaches that became no alert, by rule."""
        return {rule: c.suppressed for rule, c in self._cooldowns.items()}

    def check(self, batch: Batch) -> list[Alert]:
        """The alerts of a batch, by sequence number."""
        alerts = self._missing(batch) if batch.is_gap else self._breaches(batch)
        self.raised.update(alert.rule for alert in alerts)
        self.latest.extend(alerts)
        return alerts

    def _missing(self, hole: Batch) -> list[Alert]:
        """One alert for a hole; its event time is that of the tick before it."""
        time_ns, first = self._last_time_ns, hole.first_seq
        if not self._cooldowns[GAP].passing(np.zeros(1, np.uint32), time_ns):
            return []
        id = f"{self.stream}:{first}:{GAP}"
        return [Alert(id, GAP, "*", first, int(time_ns[0]), str(hole.span), "0")]

    def _breaches(self, batch: Batch) -> list[Alert]:
        rows, alerts = batch.rows, list[Alert]()
        self._last_time_ns = rows["time_ns"][-1:]
        for rule, found in breaches(rows, self.limits).items():
            if len(found):
                symbol, time_ns = rows["symbol"][found], rows["time_ns"][found]
                passing = self._cooldowns[rule].passing(symbol, time_ns)
                alerts += [
                    self._alert(rule, batch.first_seq + i, rows[i])
                    for i in found[passing].tolist()
                ]
        return sorted(alerts, key=lambda alert: (alert.seq, alert.rule))

    def _alert(self, rule: str, seq: int, row: np.void) -> Alert:
        time_ns, price, size, symbol, _ = row.item()
        traded, limits = self.symbols[symbol], self.limits
        decimals = traded.price_decimals
        if rule == NOTIONAL:
            decimals += traded.size_decimals
            value, limit = price * size, limits.notional[symbol]
        else:
            low, high = int(limits.low[symbol]), int(limits.high[symbol])
            value, limit = price, low if price < low else high
        texts = to_text(value, decimals), to_text(limit, decimals)
        id = f"{self.stream}:{seq}:{rule}"
        return Alert(id, rule, traded.name, seq, time_ns, *texts)
