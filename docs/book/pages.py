"""What the book's pages need and Sphinx does not do by itself.

Anchors: Sphinx knows headings as targets, and no `<a id="…">`, of which the
claim board has one for each claim. Words for pictures: a figure carries its alt
text beside its bytes, where Jupyter looks for it and Sphinx does not.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from docutils import nodes

ANCHOR = re.compile(r'<a id="([^"]+)">')


def note_anchors(app: Any, doctree: Any) -> None:
    """Add the anchors of a page to the targets that MyST knows of it."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for raw in doctree.findall(nodes.raw):
        for id in ANCHOR.findall(raw.astext()):
            slugs[id] = (raw.line or 0, id, id)


def describe_pictures(app: Any, doctree: Any) -> None:
    """Give the pictures of a notebook their words; they are named by their hash."""
    source = Path(app.env.doc2path(app.env.docname))
    if source.suffix == ".ipynb":
        words = dict(pictures(json.loads(source.read_text("utf-8"))))
        for image in doctree.findall(nodes.image):
            image["alt"] = words.get(Path(image["uri"]).stem, "")


def pictures(notebook: Any) -> Iterator[tuple[str, str]]:
    """The hash of each picture's bytes, and its words."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                described = output["metadata"].get("image/png", {})
                data = b64decode("".join(picture))
                yield sha256(data).hexdigest(), described.get("alt", "")


def setup(app: Any) -> dict[str, bool]:
    """Be called by Sphinx."""
    app.connect("doctree-read", note_anchors, priority=900)
    app.connect("doctree-read", describe_pictures, priority=900)
    return {"parallel_read_safe": True}
