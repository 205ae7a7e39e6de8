"""The picture of a running pump in a terminal: 100 columns, or fewer.

It is drawn from two looks at the pump, for what is a rate needs two. Every
width is fixed, so nothing moves when a number grows; no meaning is in a colour.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import ceil

from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from quants.histogram import seconds_text
from quants.page import Shown

WIDE = 100  # columns; a wider terminal stays empty at the right
SYMBOLS, FEW = 8, 5  # whose VWAP is in a wide picture, and in a narrower one
PLAIN = str.maketrans("─│╭╮╰╯█·▲", "-|++++#.!")  # for terminals that know ASCII only

Columns = Sequence[tuple[str, int]]  # their headings and widths

# A narrow terminal gets the first columns of each table: of 60 there is room
# for 56, of 100 for 96, the spaces between columns included.
BAR = 28
HEAD = (
    *(("ticks/s", 10), ("asked", 9), ("received", 15), ("missing", 9), ("dropped", 9)),
    *(("alerts lost", 11), ("duplicates", 10), ("a tick may take", 16)),
)
QUEUES = (
    *(("consumer", 8), ("processed", 14), ("dropped", 9), ("queued", 9)),
    *(("depth", 6), ("most", 5), ("queue", BAR), ("us a tick", 10)),
)
DURATIONS = (("", 14), ("p50", 9), ("p99", 9), ("longest", 11))
ALERTS = (("alerts", 14), ("raised", 9), ("delivered", 9), ("suppressed", 11))
FOOT = (
    *(("VWAP in", 12), ("memory", 11), ("log written", 15), ("log durable", 15)),
    *(("workers", 12), ("busy", 12), ("replaced", 13)),
)

FAINT, LOUD = Style(dim=True), Style(bold=True)


@dataclass(frozen=True, slots=True)
class Picture:
    """Two looks at the pump, drawn for the terminal they are printed on.

    Cost: 1 ms, for which the loop waits; with rich's own tables it is 9.
    """

    before: Shown
    now: Shown

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Segment]:
        for line in framed(self.before, self.now, min(options.max_width, WIDE)):
            for text, style, _ in line:
                plain = text.translate(PLAIN) if options.ascii_only else text
                yield Segment(plain, style)
            yield Segment.line()


Line = list[Segment]


def framed(before: Shown, now: Shown, width: int) -> Iterator[Line]:
    """The whole picture: 22 lines, or 23 narrower ones."""
    lost = any(losses(now))
    style = LOUD if lost else FAINT
    told = "▲ Something is lost" if lost else "Nothing is lost so far"
    title = f" Quants-in-Motion, {now['seconds']:,.1f} s ".center(width - 2, "─")
    yield [Segment(f"╭{title}╮", style)]
    for line in lines(before, now, width - 4):
        room = width - 4 - sum(segment.cell_length for segment in line)
        yield [Segment("│ ", style), *line, Segment(" " * room + " │", style)]
    yield [Segment(f"╰{f' {told} '.center(width - 2, '─')}╯", style)]


def lines(before: Shown, now: Shown, room: int) -> Iterator[Line]:
    """What is in the frame; side by side, with space between, if it is wide."""
    wide = room == WIDE - 4
    empty: list[Line] = [[]] if wide else []
    yield from head(before, now, room) + empty
    yield from queues(before, now, room) + empty
    left = prices(now, SYMBOLS if wide else FEW, room)
    right = durations(now, room) + empty + alerts(now, room)
    yield from beside(left, right) if wide else left + right
    yield from empty + foot(before, now, room)


def beside(left: list[Line], right: list[Line]) -> Iterator[Line]:
    """Two blocks of lines next to each other."""
    width = sum(segment.cell_length for segment in left[0])
    for one, other in zip_longest(left, right):
        yield [*(one or [Segment(" " * width)]), Segment("    "), *(other or [])]


def grid(columns: Columns, rows: Iterable[Sequence[str]], room: int) -> list[Line]:
    """Lines of as many columns as there is room for, their headings first."""
    fitting = [
        place
        for place in range(len(columns))
        if sum(width + 1 for _, width in columns[: place + 1]) <= room + 1
    ]
    headings = [heading for heading, _ in columns]

    def line(cells: Sequence[str]) -> str:
        return " ".join(cell(cells[at], *columns[at], at == 0) for at in fitting)

    return [[Segment(line(headings), FAINT)], *([Segment(line(r))] for r in rows)]


def cell(text: str, heading: str, width: int, first: bool) -> str:
    """A text in a column: names and bars to the left, figures to the right."""
    left = first or heading == "queue"
    return set_cell_size(text if left else text.rjust(width), width)


def rate(before: Shown, now: Shown) -> float:
    """Ticks per second received between two looks."""
    seconds = now["seconds"] - before["seconds"]
    return float((now["received"] - before["received"]) / seconds) if seconds else 0.0


def losses(now: Shown) -> tuple[int, int, int]:
    """Ticks that never came, ticks that were dropped, and alerts lost."""
    dropped = sum(c["dropped"] for c in now["consumers"].values())
    return now["gap_ticks"], dropped, now["alerts"]["lost"]


def loud(count: int) -> str:
    """A count that ought to be zero."""
    return f"▲ {count:,}" if count else "0"


def head(before: Shown, now: Shown, room: int) -> list[Line]:
    """How fast, how many, and what was lost."""
    asked, found = now["tick_rate"], rate(before, now)
    missing, dropped, alerts = map(loud, losses(now))
    cells = (
        *(f"{found:,.0f}", f"{asked:,}" if asked else "-", f"{now['received']:,}"),
        *(missing, dropped, alerts, loud(now["duplicates"])),
        seconds_text(1 / (asked or found)) if asked or found else "-",
    )
    return grid(HEAD, [cells], room)


def queues(before: Shown, now: Shown, room: int) -> list[Line]:
    """Each consumer: what it did, what waits for it, what a tick costs it."""
    rows = []
    for name, c in now["consumers"].items():
        most, depth = c["high_watermark"], f"{c['depth']}/{c['capacity']}"
        counts = f"{c['processed']:,}", loud(c["dropped"]), f"{c['queued']:,}"
        cost = cost_of(before["consumers"][name], c)
        rows.append((name, *counts, depth, f"{most}", bar(c), cost))
    return grid(QUEUES, rows, room)


def bar(consumer: Shown) -> str:
    """How full a queue is; the line marks how full it was at most."""
    depth, most, of = (consumer[k] for k in ("depth", "high_watermark", "capacity"))
    cells = ["█"] * ceil(BAR * depth / of) + ["·"] * (BAR - ceil(BAR * depth / of))
    if most > depth:
        cells[ceil(BAR * most / of) - 1] = "│"
    return "".join(cells)


def cost_of(before: Shown, now: Shown) -> str:
    """Microseconds that a consumer had a tick in hand, its waits included."""
    ticks = now["processed"] - before["processed"]
    held = now["held_seconds"] - before["held_seconds"]
    return f"{1e6 * held / ticks:.2f}" if ticks > 0 else "-"


def prices(now: Shown, most: int, room: int) -> list[Line]:
    """The exact VWAP of the first symbols."""
    found, symbols = now["vwap"]["rows"][:most], now["vwap"]["symbols"]
    heading = f"{len(found)} of {symbols:,}" if symbols > len(found) else "symbol"
    whole = not any(losses(now)[:2])
    title = "VWAP" if whole else "▲ VWAP of what came"
    columns = ((heading, 10), (title, 22), ("ticks", 12))
    rows = [(shown_name(n), vwap or "no volume", f"{t:,}") for n, vwap, t in found]
    return grid(columns, rows, room)


def shown_name(name: str) -> str:
    """A name that a feed chose, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)


def durations(now: Shown, room: int) -> list[Line]:
    """How long a tick takes, how late the loop is, how long the GC stops it."""
    names = {"send to VWAP": "latency", "loop lag": "lag", "GC pause": "gc"}
    rows = [
        (name, *(seconds_text(now[of][point]) for point in ("p50", "p99", "maximum")))
        for name, of in names.items()
    ]
    return grid(DURATIONS, rows, room)


def alerts(now: Shown, room: int) -> list[Line]:
    """What each rule raised, and what became of it."""
    rows = [
        (rule, *(f"{counts[what]:,}" for what, _ in ALERTS[1:]))
        for rule, counts in now["alerts"]["rules"].items()
    ]
    return grid(ALERTS, rows, room)


def foot(before: Shown, now: Shown, room: int) -> list[Line]:
    """The engine, the memory, and the log."""
    engine, log = now["engine"], now["log"]
    cells = (
        *(engine["name"], f"{now['rss_bytes'] / 1e6:.1f} MB"),
        *(f"{log['written']:,}", f"{log['durable']:,}"),
        *(f"{engine['workers']}", busy(before, now), loud(engine["replaced"])),
    )
    return grid(FOOT, [cells], room)


def busy(before: Shown, now: Shown) -> str:
    """How much of one core the workers took; nobody looks on the loop."""
    seconds = now["seconds"] - before["seconds"]
    if now["engine"]["name"] == "inline" or not seconds:
        return "-"
    took = now["engine"]["busy_seconds"] - before["engine"]["busy_seconds"]
    return f"{took / seconds:.0%}"
