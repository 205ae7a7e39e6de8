"""Notebook 07: one faulty tick goes through a window, and floats remember it.

    fat_print.fat_print()            in floats
    fat_print.fat_print(yours=...)   and in an answer to the exercise

Nothing is measured: the same ticks give the same digits on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.exercise import Answer
from quants.lab.live import ORANGE
from quants.lab.window_costs import COLOURS
from quants.market import Market
from quants.windows import float_vwaps

PRINTED, HELD, LATER = 1000, 500, 3000  # when it comes; the window; the end
FAT = 99_999_999_900, 999_999_999  # cents, pieces: every digit a nine

Trade = tuple[int, int]  # price in cents, size


@dataclass(frozen=True)
class FatPrint:
    """How far a window's VWAP is off after each tick, in dollars, by its kind."""

    off: dict[str, tuple[float, ...]]

    def before(self, kind: str) -> float:
        """At most, until the faulty tick."""
        return max(self.off[kind][:PRINTED])

    def after(self, kind: str) -> tuple[float, ...]:
        """When it has left the window again."""
        return self.off[kind][PRINTED + HELD :]

    def __repr__(self) -> str:
        return "\n".join(
            f"{kind}: before the faulty tick off by ${self.before(kind):.2g} at most; "
            f"{LATER - PRINTED - HELD:,} ticks after it has left the window, by "
            f"${self.after(kind)[-1]:.2g}."
            for kind in self.off
        )

    def picture(self) -> Chart:
        """A line for each kind; the grey ticks have the faulty one in the window."""
        return fat_chart(self)


def fat_print(**answers: Answer) -> FatPrint:
    """One faulty tick goes through a window in floats, and through others.

    Args:
        answers: to the exercise, by the names of their lines.
    """
    ticks = with_fat_print()
    exact = exact_vwaps(ticks)
    floats = float_vwaps(((price / 100, float(size)) for price, size in ticks), HELD)
    vwaps = {"floats": [Fraction(vwap) for vwap in floats]}
    vwaps |= {name: asked(answer, ticks) for name, answer in answers.items()}
    return FatPrint(
        {
            kind: tuple(abs(float(a - b)) for a, b in zip(found, exact, strict=True))
            for kind, found in vwaps.items()
        }
    )


def with_fat_print() -> list[Trade]:
    """The market's ticks, and a faulty one among them."""
    rows = Market(symbols=1).take(LATER)
    ticks = list(zip(rows["price"].tolist(), rows["size"].tolist(), strict=True))
    ticks[PRINTED] = FAT
    return ticks


def exact_vwaps(ticks: Sequence[Trade]) -> list[Fraction]:
    """The VWAP of the window after each tick, in dollars: what has come, less."""
    value = [0, *accumulate(price * size for price, size in ticks)]
    volume = [0, *accumulate(size for _, size in ticks)]
    spans = ((max(0, n - HELD), n) for n in range(1, len(value)))
    return [
        Fraction(value[n] - value[m], 100 * (volume[n] - volume[m])) for m, n in spans
    ]


def asked(answer: Answer, ticks: Sequence[Trade]) -> list[Fraction]:
    """What an answer to the exercise says after each tick, in dollars."""
    window, found = answer(HELD), list[Fraction]()
    for price, size in ticks:
        window.add(price, size)
        found.append(window.vwap() / 100)
    return found


def fat_chart(printed: FatPrint) -> Chart:
    """Dollars off, tick by tick."""
    kinds = list(printed.off)
    chart = Chart(
        "One faulty tick, and a window that moves on",
        n=f"n = {LATER:,} ticks, {HELD} in the window",
        alt="Dollars that the VWAP of a window is off, over the ticks, for "
        f"{' and '.join(kinds)}. In floats it is off by next to nothing, until a "
        "faulty tick comes. When that has left the window the error stays.",
    )
    panel = chart.panel("ticks that came (ticks)", "VWAP is off by (dollars)")
    panel.axvspan(PRINTED, PRINTED + HELD, color="#EEEEEE")
    panel.text(PRINTED + HELD / 2, 1e4, "in the window", fontsize=8, ha="center")
    for kind in kinds:
        panel.plot(printed.off[kind], color=COLOURS.get(kind, ORANGE), linewidth=2)
    panel.set_yscale("symlog", linthresh=1e-15)
    panel.set_ylim(-2e-16, 1e6)
    named = {
        0: "0",
        1e-12: "1e-12",
        1e-8: "1e-8",
        1e-4: "0.0001",
        1: "1",
        1e4: "10,000",
    }
    panel.set_yticks(list(named), list(named.values()))
    panel.minorticks_off()
    panel.set_position((0.1, 0.22, 0.87, 0.58))
    chart.key(kinds, [COLOURS.get(kind, ORANGE) for kind in kinds])
    return chart


# ---- what is claimed


def forgets(printed: FatPrint, kind: str = "floats") -> bool | None:
    """Whether the error of a faulty tick goes when the tick has gone."""
    return max(printed.after(kind)) <= 10 * printed.before(kind)


CLAIMS = (
    Claim(
        "a-float-window-forgets",
        "a tick that has left the window leaves nothing behind in floats",
        "a tick has left the window, and its error stays for ever",
        forgets,
    ),
    Claim(
        "your-window-is-exact",
        "this window was right to the last digit, faulty tick or not",
        "this window was off",
        lambda printed: max(printed.off["yours"]) == 0,
    ),
)
