"""Every notebook in a real JupyterLab, run whole, its sliders moved.

What moves and what can be turned differs: a notebook that has a live picture
here is one whose picture must move, and a slider that is shown must act.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.lab_page import (
    CELLS,
    NOTEBOOKS,
    assert_no_error_is_logged,
    chromium,
    errors_of,
    jupyter_lab,
    open_notebook,
    photograph,
    pixels,
    shown,
    until,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]

RUN_ALL = """() => {
    window.ran = false
    window.jupyterapp.commands.execute('notebook:run-all-cells')
        .then(() => { window.ran = true })
}"""
HANDLE = ".widget-slider .noUi-handle"
MINUTES = 5  # for a notebook, on a busy machine


@dataclass
class Seen:
    """What a reader saw while a notebook ran."""

    pictures: set[str] = field(default_factory=set)
    turned: list[tuple[str, str]] = field(default_factory=list)  # before, after


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as url, chromium() as page:
        yield page, url


def watched(page: Page, name: str) -> Seen:
    """Run all cells, looking on; turn each slider once while it is there."""
    seen, deadline = Seen(), time.monotonic() + 60 * MINUTES
    page.evaluate(RUN_ALL)
    while not page.evaluate("window.ran"):
        assert time.monotonic() < deadline, "the notebook does not end"
        if (picture := pixels(page)) is not None:
            seen.pictures.add(picture)
        if not seen.turned and page.query_selector(HANDLE):
            seen.turned.append(turn(page))
            photograph(page, f"{name}-turned")
        time.sleep(0.1)
    return seen


def turn(page: Page) -> tuple[str, str]:
    """Move the first slider by a step, with the keyboard; what it read, and reads."""
    page.locator(HANDLE).first.focus()  # which brings it into view
    readout = page.locator(".widget-readout").first
    before = until(readout.text_content, 10, "the slider shows no value")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    turned = until(
        lambda: (now := readout.text_content()) != before and now, 10, "it is stuck"
    )
    return before, turned


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_it_runs_without_an_error_and_what_is_live_moves(
    lab: tuple[Page, str], notebook: Path
) -> None:
    page, url = lab
    open_notebook(page, url, notebook)
    seen = watched(page, notebook.stem[:2])
    print(f"\n{notebook.stem}: {len(seen.pictures)} live frames, {seen.turned}")
    assert errors_of(page) == []
    assert all(cell["count"] for cell in page.evaluate(CELLS))
    assert "0 leaked tasks, 0 leaked processes" in shown(page, -1)
    assert_no_error_is_logged(page)
    assert len(seen.pictures) != 1, "a live picture stands still"
    photograph(page, notebook.stem[:2])
