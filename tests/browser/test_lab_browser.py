"""Notebook 00 in a real JupyterLab, in a real Chromium, as a reader has it."""

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.lab_page import (
    CELLS,
    NOTEBOOKS,
    RUN_CELL,
    assert_no_error_is_logged,
    chromium,
    ended,
    errors_of,
    jupyter_lab,
    open_notebook,
    photograph,
    pixels,
    shown,
    until,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as url, chromium() as page:
        open_notebook(page, url, NOTEBOOKS[0])
        yield page


def test_a_curve_moves_soon_after_the_first_cell_is_run(page: Page):
    since = time.monotonic()
    page.evaluate(RUN_CELL, 1)
    first = until(lambda: pixels(page), 30, "no live picture")
    until(lambda: pixels(page) not in (None, first), 30, "the picture stands still")
    seconds = time.monotonic() - since
    print(f"\nfirst curve moved {seconds:.2f} s after its cell was run")
    assert seconds < 15  # 3 on a quiet machine
    photograph(page, "live")
    ended(page, 60)
    photograph(page, "still")
    assert "naive at 1,000 ticks/s" in shown(page, 0)
    assert page.query_selector("img.live-picture") is None
    assert_no_error_is_logged(page)


def test_the_keyboard_turns_the_rate_and_stop_ends_the_ring(page: Page):
    page.evaluate(RUN_CELL, 1)
    until(lambda: pixels(page), 30, "no live picture")
    page.focus(".widget-slider .noUi-handle")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    readout = page.locator(".widget-readout")
    until(lambda: readout.inner_text() == "5,000", 10, "the slider stands still")
    time.sleep(1)  # so that the picture shows it
    photograph(page, "turned")
    since = time.monotonic()
    page.click("button.jupyter-button:text-is('Stop')")
    ended(page, 10)  # the slider gave it 15 seconds more
    print(f"\nstopped {time.monotonic() - since:.2f} s after the click")
    assert "naive at 5,000 ticks/s" in shown(page, 0)
    assert_no_error_is_logged(page)


def test_the_kernels_stop_button_ends_a_ring(page: Page):
    page.evaluate(RUN_CELL, 1)
    until(lambda: pixels(page), 30, "no live picture")
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.evaluate(f"() => {kernel}.interrupt()")
    ended(page, 10)
    assert "Error" in shown(page, 0)
    assert page.query_selector("img.live-picture") is None


def test_all_cells_run_without_an_error(page: Page):
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    assert errors_of(page) == []
    assert all(cell["count"] for cell in page.evaluate(CELLS))
    assert "0 leaked tasks, 0 leaked processes" in shown(page, -1)
    assert_no_error_is_logged(page)
    photograph(page, "end")
