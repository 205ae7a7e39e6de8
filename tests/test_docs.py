"""The documents keep their word: links lead somewhere, verdicts are the notebooks'."""

import re
from pathlib import Path

import pytest

from quants.lab.board import CLAIMS
from quants.lab.claims import Claim
from tools import book, claims

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(((?!http)[^)#]*)(?:#([^)]+))?\)")


def anchors(page: Path) -> set[str]:
    """What can be linked to within a page: ids, and headings as GitHub names them."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {*re.findall(r'id="([^"]+)"', text), *(h.replace(" ", "-") for h in plain)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path):
    lost = []
    for file, anchor in LINK.findall(page.read_text("utf-8")):
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{file}#{anchor}")
    assert lost == []


def test_the_claim_board_is_what_the_notebooks_say():
    assert claims.PAGE.read_text("utf-8") == claims.page(), "python -m tools.claims"


def test_every_claim_is_decided_and_every_saying_has_its_claims():
    page = claims.page()
    assert [id for id in CLAIMS if f'id="{id}"' not in page] == []
    assert {id for ids in claims.SAYINGS.values() for id in ids} <= CLAIMS.keys()


def test_an_output_without_a_verdict_is_refused():
    sun = Claim("the-sun-rises", "it is there", "it is not", lambda there: there)
    book = Path("00_dawn.ipynb")
    assert claims.word_on(sun, "it dawns\nREFUTED: it is not.\n", book) == "REFUTED"
    with pytest.raises(ValueError, match=r"00_dawn.*no verdict on 'the-sun-rises'"):
        claims.word_on(sun, "REFUTED: perhaps.\n", book)


def test_what_is_wrong_with_a_page_of_the_book_is_found(tmp_path: Path):
    (tmp_path / "a.html").write_text(
        '<a href="nowhere.html">the theme may</a><article><h1>A</h1><h3>skips</h3>'
        '<img src="p.png"><img src="q.png" alt="a curve"><a href="b.html#here">b</a>'
        '<a href="b.html#there">b</a><a href="c.html">c</a><a href="https://x.y">x</a>'
        "</article>",
        encoding="utf-8",
    )
    b = '<article><h1 id="here">B</h1></article>'
    (tmp_path / "b.html").write_text(b, encoding="utf-8")
    assert list(book.faults(tmp_path)) == [
        "a.html: a heading skips a level: h3",
        "a.html: a picture without words: p.png",
        "a.html: links to b.html#there, and no such place is in it",
        "a.html: links to c.html, which is not there",
    ]
