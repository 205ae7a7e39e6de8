"""The claim board: what the notebooks said of every claim, as committed.

    python -m tools.claims [--check]

Writes docs/claims.md. No verdict is typed: each is found in the output of the
cell that asked for it, and a claim that no notebook decides is an error.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quants.lab.board import CLAIMS
from quants.lab.claims import WORDS, Claim, Verdict, Word
from tools.nb import Notebook, code_cells, notebooks, read

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "claims.md"
ASKED = re.compile(r'verdict\(\s*"([^"]+)"')

# What is often said of pumps like this one, and the claims that decide it.
SAYINGS: dict[str, tuple[str, ...]] = {
    "The pump streams thousands of ticks a second": (
        "naive-falls-behind", "quants-keeps-up", "you-pay-per-message",
    ),
    "Asynchronous I/O gets around the GIL": (
        "waiting-lets-others-run", "blocking-stops-the-loop",
    ),
    "File I/O stays on the loop, without further threads": (
        "file-io-needs-no-threads", "a-group-shares-one-wait",
    ),
    "A VWAP is bound by the GIL": (
        "vwap-threads-share-one-core", "threads-take-turns",
    ),
    "Processes mend that": (
        "processes-run-at-once", "one-tick-a-task-is-slower",
        "large-batches-spare-the-loop",
    ),
    "NumPy gives the GIL back": (
        "numpy-gives-the-gil-back", "many-rows-give-the-gil-back",
    ),
    "A pool of threads is safe, for it mostly waits": (
        "a-full-pool-stalls-who-shares-it", "a-deadline-leaves-room",
        "an-answer-waits-for-its-turn",
    ),
    "A weakref pool makes fewer allocations for a tick": (
        "a-weakref-pool-allocates-less", "a-weakref-pool-saves-time",
    ),
    "Pooling takes work from the garbage collector": (
        "a-weakref-pool-spares-the-collector",
    ),
    "Freezing ends the pauses": (
        "what-is-frozen-is-not-walked", "a-frozen-cycle-that-dies-stays",
    ),
    "Without a GIL threads are the answer": (
        "threads-run-at-once-without-a-gil", "no-engine-wins-everywhere",
    ),
    "To measure all the time is too dear": (
        "a-batch-shares-its-record", "who-does-not-look-does-not-pay",
    ),
}  # fmt: skip

HEAD = """# The claim board

Every sentence about performance in this series is a claim, and a cell decides
it on the reader's own machine. `python -m tools.claims` writes this page from
the outputs that are committed: {host}.
Run a notebook, and its verdicts are yours.

SUPPORTED and REFUTED are what the evidence says. REFUTED is no failure: many a
claim is here because it is often heard. INCONCLUSIVE means that a run could
not tell.
"""


@dataclass(frozen=True)
class Decided:
    """What a notebook said of a claim."""

    notebook: Path
    claim: Claim
    word: Word


def decided(path: Path) -> Iterator[Decided]:
    """The claims of a notebook, in the order in which it asks.

    Raises:
        ValueError: it asks for a claim, and what it shows is no verdict on it.
    """
    seen = set[str]()
    for cell in code_cells(read(path)):
        said = text_of(cell)
        for id in ASKED.findall(cell.source):
            if id not in seen:
                seen.add(id)
                yield Decided(path, CLAIMS[id], word_on(CLAIMS[id], said, path))


def text_of(cell: Notebook) -> str:
    """What a cell has printed."""
    return "".join(output.get("text", "") for output in cell.outputs)


def word_on(claim: Claim, said: str, path: Path) -> Word:
    """The word that a cell's text says of a claim."""
    for word in WORDS.values():
        if str(Verdict(claim, word)) in said.splitlines():
            return word
    raise ValueError(f"{path.name}: its output has no verdict on {claim.id!r}")


def host(path: Path) -> str:
    """The interpreter and the cores of the run that is committed."""
    cells = code_cells(read(path))
    card = next(cell for cell in cells if cell.source.startswith("await host_card"))
    facts = dict(
        line.split(": ", 1)
        for output in card.outputs
        for line in output.get("data", {}).get("text/plain", "").splitlines()
        if ": " in line
    )
    return f"{facts['interpreter']}, {facts['cores for us']} cores, {facts['system']}"


def page() -> str:
    """The whole page.

    Raises:
        ValueError: a claim of the board is decided nowhere.
    """
    books = notebooks([])
    found = {path: list(decided(path)) for path in books}
    words = {each.claim.id: each for all in found.values() for each in all}
    if undecided := sorted(CLAIMS.keys() - words.keys()):
        raise ValueError(f"no notebook decides {', '.join(undecided)}")
    lines = [HEAD.format(host=host(books[0])), *sayings(words)]
    for path, all in found.items():
        lines += [f"\n## {title(path)}\n", "| claim | verdict |", "|---|---|"]
        lines += [
            f'| <a id="{each.claim.id}"></a>{each.claim.supported} | {each.word} |'
            for each in all
        ]
    return "\n".join(lines) + "\n"


def sayings(words: dict[str, Decided]) -> Iterator[str]:
    """What is often said, and what the claims say of it."""
    yield "## What is often said\n"
    yield "| said | found | in |"
    yield "|---|---|---|"
    for saying, ids in SAYINGS.items():
        found = [words[id] for id in ids]
        told = "<br>".join(sentence(each) for each in found)
        books = sorted({each.notebook for each in found})
        links = ", ".join(f"[{b.stem[:2]}](../notebooks/{b.name})" for b in books)
        yield f"| {saying} | {told} | {links} |"


def sentence(each: Decided) -> str:
    """A verdict without its word."""
    return str(Verdict(each.claim, each.word)).split(": ", 1)[1].removesuffix(".")


def title(path: Path) -> str:
    """A notebook's title, as a link to it."""
    first = str(read(path).cells[0].source).splitlines()[0].removeprefix("# ")
    return f"[{first}](../notebooks/{path.name})"


def main() -> int:
    """Write the page; with --check, only say whether it is as it should be."""
    fresh = page()
    if sys.argv[1:] == ["--check"]:
        return int(PAGE.read_text("utf-8") != fresh)
    PAGE.write_text(fresh, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
