"""Write into README.md what the package says of itself.

    python tools/readme.py

Three blocks are not typed by hand: the first line of every module, the help
of `quants run`, and the summary of a run of ten seconds.
"""

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner

from quants.cli import main as quants

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
LIST, HELP = "$ ls quants\n", "$ python -m quants run --help\n"
RUN = "10,000 ticks in 10.0 s"


def modules() -> str:
    """Each module of the package with the first line of its docstring."""
    lines = []
    for path in sorted((ROOT / "quants").glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        lines.append(f"{path.name:<18}{doc.splitlines()[0]}")
    return "\n".join(lines)


def help_text() -> str:
    """What `quants run --help` prints on 80 columns."""
    said = CliRunner().invoke(
        quants, ["run", "--help"], prog_name="python -m quants", env={"COLUMNS": "80"}
    )
    return said.output.strip()


def summary() -> str:
    """The closing text of a run, as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "quants", "run", "--duration", "10"]
        ended = subprocess.run(
            [*command, "--metrics-port", "0"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return ended.stdout.strip()


def with_block(text: str, first: str, body: str) -> str:
    """README with the body of the text block that begins so replaced.

    Raises:
        ValueError: there is no such block.
    """
    block = re.compile(r"```text\n" + re.escape(first) + r".*?\n```", re.S)
    if not block.search(text):
        raise ValueError(f"README.md has no text block that begins with {first!r}")
    return block.sub(lambda _: f"```text\n{first}{body}\n```", text)


def main() -> None:
    """Rewrite README.md in place."""
    text = README.read_text("utf-8")
    text = with_block(text, LIST, modules())
    text = with_block(text, HELP, help_text())
    text = with_block(text, RUN, summary().removeprefix(RUN))
    README.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
