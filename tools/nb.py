"""The notebooks' one tool: run them, keep their outputs tidy, weigh them.

    python -m tools.nb refresh   run what changed since it was run last
    python -m tools.nb check     is every notebook tidy, and run as it stands?
    python -m tools.nb lint      does it keep the ceilings?
    python -m tools.nb time      seconds and peak memory of each

Outputs are committed, so a refresh changes as little as it can: ids and counts
are derived from the order of cells, timings and widget states are dropped, and
where nothing but measured outputs differs the old ones stay.
"""

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
MEASURED = "nbval-ignore-output"  # the tag of a cell whose outputs may differ

CELLS, WORDS = (16, 30), (500, 1200)  # least and most
CODE_LINES, CELL_LINES = 90, 12
KILOBYTES = 150
HEADER = r"# \d\d .+\n\n(\*\*.+\*\* .+(\n|$)){3}$"  # a backslash breaks a line

Notebook = Any  # nbformat is not typed


def notebooks(names: list[str]) -> list[Path]:
    """The notebooks named, or all."""
    return [Path(n) for n in names] or sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> Notebook:
    """A notebook as nbformat knows it."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def is_measured(cell: Notebook) -> bool:
    """Whether a cell's outputs may differ between runs."""
    return MEASURED in cell.metadata.get("tags", [])


def code_cells(book: Notebook) -> list[Notebook]:
    """The cells that run."""
    return [cell for cell in book.cells if cell.cell_type == "code"]


def fingerprint(book: Notebook) -> str:
    """A hash of all that is run."""
    sources = json.dumps([cell.source for cell in code_cells(book)])
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


# ---- tidy


def tidy(book: Notebook) -> Notebook:
    """Remove what differs between runs and says nothing; changes the notebook."""
    for number, cell in enumerate(book.cells):
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        cell["id"] = f"cell-{number:02}"
    for count, cell in enumerate(code_cells(book), 1):
        cell.execution_count = count if cell.outputs or cell.execution_count else None
        cell.outputs = [tidy_output(each, count) for each in joined(cell.outputs)]
    book.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        **({"quants": ran} if (ran := book.metadata.get("quants")) else {}),
    }
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def tidy_output(output: Notebook, count: int) -> Notebook:
    """An output without counts of its own and without transient fields."""
    if "execution_count" in output:
        output.execution_count = count
    output.pop("transient", None)
    return output


def joined(outputs: list[Notebook]) -> list[Notebook]:
    """Neighbouring pieces of one stream as one: how they were cut is chance."""
    whole: list[Notebook] = []
    for each in outputs:
        last: Notebook = whole[-1] if whole else {}
        if each.output_type == "stream" and last.get("name") == each.name:
            last.text += each.text
        else:
            whole.append(each)
    return whole


def text_of(book: Notebook) -> str:
    """A notebook as it is written to its file."""
    return str(nbformat.writes(book, version=4)) + "\n"  # type: ignore[no-untyped-call]


# ---- run


class OurKernel(AsyncKernelManager):
    """A kernel of this very interpreter, whatever else is installed."""

    interpreter = sys.executable

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command that starts it."""
        command: list[str] = super().format_kernel_cmd(extra_arguments)
        launcher = command.index("-f")
        return [self.interpreter, "-m", "ipykernel_launcher", *command[launcher:]]


def client_for(book: Notebook, folder: Path) -> NotebookClient:
    """What runs a notebook's cells, in a folder."""
    return NotebookClient(
        book,
        kernel_name="python3",
        kernel_manager_class=OurKernel,
        timeout=120,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )


def execute(book: Notebook, folder: Path = NOTEBOOKS) -> Notebook:
    """Run every cell; changes the notebook."""
    client_for(book, folder).execute()
    return book


def keep_measured(fresh: Notebook, old: Notebook) -> None:
    """Put old outputs back into measured cells, if the same cells were run."""
    if old.metadata.get("quants", {}).get("ran") != fingerprint(fresh):
        return
    for new, before in zip(code_cells(fresh), code_cells(old), strict=True):
        if is_measured(new) and before.outputs:
            new.outputs = before.outputs


def refresh(path: Path, everything: bool = False) -> bool:
    """Run a notebook and write what changed; whether anything did.

    Args:
        everything: also take new outputs of measured cells.
    """
    before = path.read_text(encoding="utf-8")
    old, book = read(path), read(path)
    execute(book)
    if not everything:
        keep_measured(book, old)
    book.metadata["quants"] = {"ran": fingerprint(book)}
    after = text_of(tidy(book))
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def check(path: Path) -> list[str]:
    """What is not as `refresh` would leave it, without running anything."""
    book, text = read(path), path.read_text(encoding="utf-8")
    found = []
    if book.metadata.get("quants", {}).get("ran") != fingerprint(book):
        found.append("its cells changed since it was run: python -m tools.nb refresh")
    if text_of(tidy(book)) != text:
        found.append("it is not tidy: python -m tools.nb refresh")
    return found


# ---- weigh


def words(book: Notebook) -> int:
    """The words of its prose."""
    prose = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    return sum(len(re.findall(r"\w+", text)) for text in prose)


def lint(path: Path) -> list[str]:
    """Which ceilings a notebook breaks."""
    book = read(path)
    lines = [len(cell.source.splitlines()) for cell in code_cells(book)]
    size = path.stat().st_size / 1000
    facts = (
        (CELLS[0] <= len(book.cells) <= CELLS[1], f"{len(book.cells)} cells"),
        (WORDS[0] <= words(book) <= WORDS[1], f"{words(book)} words"),
        (sum(lines) <= CODE_LINES, f"{sum(lines)} lines of code"),
        (max(lines) <= CELL_LINES, f"a cell of {max(lines)} lines"),
        (size <= KILOBYTES, f"{size:.0f} kB"),
        (bool(re.match(HEADER, book.cells[0].source)), "no title and three lines"),
    )
    return [text for kept, text in facts if not kept]


def weigh(path: Path) -> tuple[float, float]:
    """Seconds that a run takes, and the peak memory of its kernel in MB."""
    us, peak, begun = psutil.Process(), 0, time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(execute, read(path))
        while not running.done():
            peak = max(peak, memory_below(us))
            time.sleep(0.05)
        running.result()
    return time.monotonic() - begun, peak / 1e6


def memory_below(process: psutil.Process) -> int:
    """Resident bytes of all processes that a process started."""
    total = 0
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:
            pass  # it ended while we looked
    return total


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="tools.nb", description=__doc__)
    parser.add_argument("what", choices=["refresh", "check", "lint", "time"])
    parser.add_argument("notebook", nargs="*")
    parser.add_argument("--all", action="store_true", help="measured outputs as well")
    given = parser.parse_args(arguments)
    problems = 0
    for path in notebooks(given.notebook):
        for line in REPORTS[given.what](path, given.all):
            print(f"{path.name}: {line}")
            problems += given.what in ("check", "lint")
    return int(problems > 0)


def report_refresh(path: Path, everything: bool) -> Iterator[str]:
    """Refresh, and say whether that changed the file."""
    yield "refreshed" if refresh(path, everything) else "unchanged"


def report_time(path: Path, _: bool) -> Iterator[str]:
    """Weigh, and say the figures."""
    seconds, megabytes = weigh(path)
    yield f"{seconds:.1f} s, {megabytes:.0f} MB at its peak"


REPORTS: dict[str, Callable[[Path, bool], Iterator[str]]] = {
    "refresh": report_refresh,
    "check": lambda path, _: iter(check(path)),
    "lint": lambda path, _: iter(lint(path)),
    "time": report_time,
}

if __name__ == "__main__":
    raise SystemExit(main())
