"""How often the notebooks' verdicts are as committed: on a quiet machine, beside
four processes that never rest, and pinned to one core.

    python -m tools.rounds [--rounds 10] [NOTEBOOK ...]

A notebook is run whole, as a reader would; of every verdict it is counted how
often it said what is committed. Takes about a minute a notebook and round.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.verdicts import CONDITIONS
from quants.evidence import host_facts
from tools.nb import Notebook, client_for, code_cells, notebooks, read

Said = dict[str, str]  # by the cell that says it


def said(book: Notebook) -> Iterator[tuple[str, str]]:
    """Every cell of a run notebook that ends in a verdict, and what it said."""
    for cell in code_cells(book):
        if "verdict(" in cell.source:
            texts = [output.get("text", "") for output in cell.outputs]
            yield cell.source, "".join(texts).strip()


def run(path: Path) -> Said:
    """What the verdicts of a notebook say now; an error spoils only its cell."""
    book = read(path)
    for cell in code_cells(book):
        cell.outputs = []
    client = client_for(book, path.parent)
    client.allow_errors = True
    client.timeout = 600  # a busy machine takes its time
    client.execute()
    return dict(said(book))


def main() -> None:
    """Run, count, print; exit code 1 unless every verdict is as committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=CONDITIONS, action="append")
    options = parser.parse_args()
    for fact, value in host_facts().items():
        print(f"{fact:12} {value}")
    right = True
    for condition in options.only or CONDITIONS:
        for path in notebooks(options.names):
            right &= tell(condition, path, options.rounds)
    sys.exit(not right)


def tell(condition: str, path: Path, rounds: int) -> bool:
    """Run a notebook again and again; print how often each verdict was right."""
    committed, agreed = dict(said(read(path))), Counter[str]()
    others = dict[str, str]()
    for _ in range(rounds):
        with CONDITIONS[condition]():  # anew: no hog lives long
            found = run(path)
        for cell, words in found.items():
            agreed[cell] += words == committed[cell]
            if words != committed[cell]:
                others[cell] = words
    for cell in committed:
        where = f"{condition:9} {path.stem[:2]} {cell.splitlines()[-1][:50]:50}"
        print(f"{where} {agreed[cell]:>2} of {rounds}", flush=True)
        if cell in others:
            print(f"          {others[cell]!r}\n  not     {committed[cell]!r}")
    return agreed.total() == rounds * len(committed)


if __name__ == "__main__":
    main()
