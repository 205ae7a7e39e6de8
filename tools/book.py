"""The book: notebooks, documents and docstrings as pages. `make book`

    python -m tools.book [FOLDER]

Nothing is run: the outputs are the ones that are committed, and nothing is
fetched. A warning is an error; so is a link that leads nowhere, a picture
without words, and a heading that skips a level.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "book"
API = SOURCE / "api.md"  # written here, not committed


def api() -> str:
    """A page of all public docstrings, module by module."""
    parts = ["# The package, by its docstrings\n"]
    for path in sorted((ROOT / "quants").glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        parts += [f"## quants.{path.stem}\n", doc.splitlines()[0] + "\n"]
        parts += ["```{eval-rst}", f".. automodule:: quants.{path.stem}"]
        parts += ["   :members:", "   :noindex:", "```\n"]
    return "\n".join(parts)


class Page(HTMLParser):
    """What a built page holds: links, anchors, and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.ids = list[str](), set[str]()
        self.faults = list[str]()
        self._level = 0  # of the last heading
        self._inside = 0  # of the article: how deep
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what matters of an element; called by the parser."""
        of = {name: value or "" for name, value in attrs}
        self.ids |= {of["id"]} if "id" in of else set()
        self._inside += tag == "article"
        if not self._inside:
            return
        if tag == "a":
            self.links += [of["href"]] if "href" in of else []
        elif tag == "img" and not of.get("alt"):
            self.faults.append(f"a picture without words: {of.get('src')}")
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            level = int(tag[1])
            if level > self._level + 1:
                self.faults.append(f"a heading skips a level: {tag}")
            self._level = level

    def handle_endtag(self, tag: str) -> None:
        """Leave an element; called by the parser."""
        self._inside -= tag == "article"


def faults(html: Path) -> Iterator[str]:
    """Sentences about what is wrong with the pages of a folder."""
    pages = {path: Page(path) for path in sorted(html.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(html)
        yield from (f"{name}: {fault}" for fault in page.faults)
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue  # of others; offline nobody can say
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            known = pages.get(target)
            if not target.exists():
                yield f"{name}: links to {link}, which is not there"
            elif to.fragment and known and unquote(to.fragment) not in known.ids:
                yield f"{name}: links to {link}, and no such place is in it"


def main() -> int:
    """Build, look at every page, tell."""
    output = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "book"
    API.write_text(api(), encoding="utf-8")
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [str(builder), "build", str(ROOT)]
    command += ["--config", str(SOURCE / "_config.yml")]
    command += ["--toc", str(SOURCE / "_toc.yml"), "--path-output", str(output)]
    built = subprocess.run([*command, "--all", "-q", "-W", "--keep-going"], cwd=ROOT)
    html = output / "_build" / "html"
    found = list(faults(html)) if html.exists() else ["no page was built"]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(list(html.rglob('*.html')))} pages in {html}")
    return built.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main())
