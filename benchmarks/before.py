"""The whole pump of another commit and of this tree, in turn: did it get slower?

    python -m benchmarks.before HEAD~20 [--quick] [--logs /dev/shm]

The other commit is checked out beside this one, in a temporary folder; both
run with this interpreter's packages. What is measured is `saturation.py`'s
binary side: ticks/s from the feed into VWAP, log and risk, every run verified.

At 400 MB a second a shared disk takes three times as long in one run as in the
next. Logs in memory leave that out: what remains is what the trees differ in.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.__main__ import table
from benchmarks.checks import check
from benchmarks.runs import ROOT, Bench, bench, run
from benchmarks.saturation import planned
from benchmarks.size import FULL, QUICK, Size
from benchmarks.source import in_memory
from quants.evidence import Claim, Finding, find, in_turn


def claim(revision: str) -> Claim:
    """What is said of the two trees."""
    text = f"this tree: at least 0.9 times the ticks/s of {revision}"
    return Claim(text, "this tree", revision, "ticks/s", "at least", 0.9)


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with the tree of another commit, for as long as the block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with TemporaryDirectory(prefix="before-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "add", "-q", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)


def compared(
    now: Path, before: Path, revision: str, size: Size, logs: Path | None = None
) -> Finding:
    """The claim on two trees; both write their logs to the same folder."""
    with bench(size.loop_ticks, logs) as shared:
        sides = {"now": now, "before": before, "again": before}
        rates = in_turn(
            {name: partial(rate, shared, size, tree) for name, tree in sides.items()},
            size.rounds,
        )
    return find(claim(revision), rates["now"], rates["before"], rates["again"])


def rate(shared: Bench, size: Size, tree: Path) -> float:
    """Ticks/s of one run of the pump in a tree."""
    plan = planned(shared, size, "ours", "binary")
    sent, received = run(plan, tree)
    check(plan, in_memory(shared.rows), sent, received)
    return received.rate


@click.command()
@click.argument("revision")
@click.option("--quick", is_flag=True, help="A look, not a verdict.")
@click.option(
    "--logs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder on the disk for the logs; default: here.",
)
def main(revision: str, quick: bool, logs: Path | None) -> None:
    """Compare the pump of REVISION with this tree's."""
    with checked_out(revision) as tree:
        finding = compared(ROOT, tree, revision, QUICK if quick else FULL, logs)
    click.echo(table(finding))
    raise SystemExit(finding.verdict == "REFUTED")


if __name__ == "__main__":
    main()
