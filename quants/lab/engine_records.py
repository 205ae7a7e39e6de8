"""What other interpreters have answered: made by `record`, and the pump's share.

recorded.json holds the answers of `workloads` by interpreter, and what `quants
bench engines --json` found. To make it again, in the repository:

    export QUANTS_PYTHONS="..."
    python -c "from quants.lab.engine_records import main; main()" > recorded.json
"""

import asyncio
import json
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from quants.host import available_cores
from quants.lab.charts import Chart
from quants.lab.claims import Claim
from quants.lab.engines_compared import RECORDED_ROUNDS
from quants.lab.interpreters import RECORDED, Guest, Guests, ask, found
from quants.lab.live import BLUE, GREEN, INK, SKY, VERMILION
from quants.lab.session import close
from quants.turns import beside

BENCHES = Path("benchmarks/recorded")
COLOURS = {"threads": VERMILION, "interpreters": GREEN, "processes": SKY,
           "shared": BLUE}  # fmt: skip


Seconds = dict[str, dict[str, float]]  # by workload and engine


class Rung(NamedTuple):
    """An engine of the pump with one size of batch; see `quants.ladder`."""

    engine: str
    batch: int
    ratio: float  # ticks/s by those of inline
    verdict: str


class Bench(NamedTuple):
    """What the pump's engines did on one interpreter, with the python kernel."""

    guest: Guest
    rungs: tuple[Rung, ...]

    def line(self, engine: str) -> list[Rung]:
        """One engine, small batches first."""
        return [rung for rung in self.rungs if rung.engine == engine]


def benches() -> list[Bench]:
    """The pump's engines as they are recorded."""
    rows = json.loads(RECORDED.read_text(encoding="utf-8"))["pump"]
    return [
        Bench(Guest(*row["guest"]), tuple(Rung(*rung) for rung in row["rungs"]))
        for row in rows
    ]


def where() -> str:
    """The machine of the recorded answers, and the interpreters."""
    rows = json.loads(RECORDED.read_text(encoding="utf-8"))
    names = "; ".join(str(Guest(*row["guest"])) for row in rows["guests"])
    return f"Recorded on {rows['host']}: {names.replace(' (recorded)', '')}."


def picture(found: Sequence[Bench]) -> Chart:
    """A panel for each interpreter: batches across, engines against inline."""
    chart = Chart(
        "The pump's own engines, recorded",
        n="n = 9 rounds, medians; recorded, and drawn by",
        alt="A panel for each interpreter, with logarithmic axes: ticks in a batch "
        "across, ticks a second against inline upwards, one line for each engine. "
        "All lines rise with the batch. Shared memory ends above one everywhere, "
        "threads only where there is no GIL, sub-interpreters where there are any.",
        panels=len(found),
        width=860,
    )
    for number, bench in enumerate(found):
        y = "times as fast (1 = inline)" if number == 0 else ""
        heading = f"{bench.guest.label} (GIL {'on' if bench.guest.gil else 'off'})"
        panel = chart.panel("batch (ticks)", y, heading, log="xy")
        panel.axhline(1, color=INK, linewidth=1)
        for engine, colour in COLOURS.items():
            if line := bench.line(engine):
                batches, ratios = [r.batch for r in line], [r.ratio for r in line]
                panel.plot(batches, ratios, "o-", color=colour, markersize=4)
        panel.set_ylim(0.004, 4)
        panel.set_xticks([10, 100, 1000, 4096], ["10", "100", "1k", "4k"])
        panel.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        panel.minorticks_off()
    chart.key(list(COLOURS), list(COLOURS.values()))
    return chart


def threads_need_no_gil(found: Sequence[Bench]) -> bool | None:
    """Whether the pump's threads beat inline exactly where there is no GIL."""
    faster = {
        any(rung.verdict == "faster" for rung in bench.line("threads"))
        == (not bench.guest.gil)
        for bench in found
    }
    return None if not faster else faster == {True}


CLAIMS = (
    Claim(
        "the-pumps-threads-pay-without-a-gil",
        "recorded: the pump's threads beat inline where there is no GIL, and "
        "nowhere else",
        "recorded: a GIL, or its absence, does not decide whether threads pay",
        threads_need_no_gil,
    ),
)


# ---- made once

PASSES = 20  # through all interpreters: a busy moment of the machine spoils one


async def record(
    rounds: int = RECORDED_ROUNDS // PASSES, passes: int = PASSES
) -> dict[str, Any]:
    """Ask every interpreter of this machine everything, and add the benches."""
    guests = await found()
    rows = [answers(guests, guest) for guest in guests.all]
    for _ in range(passes):
        for row, guest in zip(rows, guests.all, strict=True):
            said = ask(guest, guests.folder, "race", str(rounds))["seconds"]
            row["seconds"] = least(row.get("seconds", said), said)
    system = f"{platform.system()} {platform.machine()}"
    return {
        "host": f"{system} with {available_cores()} cores, {date.today():%B %Y}",
        "guests": rows,
        "pump": pump(),
    }


def answers(guests: Guests, guest: Guest) -> dict[str, Any]:
    """Who counts in one interpreter, and what loads."""
    counts = {
        way: beside(ask(guest, guests.folder, "count", way)["tracks"])
        for way in ("threads", "interpreters")
    }
    numpy = ask(guest, guests.folder, "loads", "numpy")["said"]
    return {"guest": guest[:3], **counts, "numpy": numpy}


def least(one: Seconds, other: Seconds) -> Seconds:
    """The shorter times of two races."""
    return {
        workload: {
            engine: float(f"{min(took, other[workload][engine]):.4g}")
            for engine, took in by.items()
        }
        for workload, by in one.items()
    }


def pump() -> list[dict[str, Any]]:
    """What all files say."""
    return [bench(file) for file in sorted(BENCHES.glob("*.json"))]


def bench(file: Path) -> dict[str, Any]:
    """What a file of `quants bench engines --json` says of the python kernel."""
    said = json.loads(file.read_text(encoding="utf-8"))
    facts = said["host"]["interpreter"]
    build = "t" if "free-threaded" in facts else ""
    version = re.match(r"(\w+) ([\d.]+)", facts)
    assert version, facts
    rungs = [
        (row["engine"], row["batch"], round(row["ratio"], 3), row["verdict"])
        for row in said["rows"]
        if (row["kernel"], row["window"]) == ("python", "session")
        and row["engine"] != "inline"
    ]
    gil = said["host"]["GIL at the end"] == "on"
    return {"guest": (version[1], version[2] + build, gil), "rungs": rungs}


async def printed() -> None:
    """Write it all to the standard output."""
    print(json.dumps(await record(), indent=1))
    await close()


def main() -> None:
    """Record, on a loop of its own."""
    asyncio.run(printed())
