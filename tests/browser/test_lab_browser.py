"""Notebook 00 in a real JupyterLab, in a real Chromium, as a reader has it.

The app object is driven, not the menus: readiness is asked for, errors are
read from the cells' model, and whether a picture moves is decided by its
decoded pixels. An error in a widget's callback shows in no cell: only the
status bar's counter of log messages tells.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright

from quants.host import free_port

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "notebooks" / "00_the_bell_rings.ipynb"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
]

# A hash of what is seen, not of the URL, which differs for equal pictures.
PIXELS = """async (image) => {
    const bitmap = await createImageBitmap(image)
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height)
    const context = canvas.getContext('2d')
    context.drawImage(bitmap, 0, 0)
    const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data
    const hash = await crypto.subtle.digest('SHA-256', pixels)
    return Array.from(new Uint8Array(hash)).join()
}"""
READY = """async () => {
    while (!window.jupyterapp?.shell?.currentWidget?.sessionContext)
        await new Promise(wake => setTimeout(wake, 50))
    const panel = window.jupyterapp.shell.currentWidget
    await panel.context.ready
    await panel.sessionContext.ready
    const kernel = panel.sessionContext.session.kernel
    await kernel.info
    await kernel.requestKernelInfo()
}"""
RUN_CELL = """(index) => {
    const app = window.jupyterapp, notebook = app.shell.currentWidget.content
    notebook.activeCellIndex = index
    notebook.deselectAll()
    window.ran = false
    app.commands.execute('notebook:run-cell').then(() => { window.ran = true })
}"""
CELLS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)
    .filter(cell => cell.type === 'code')
    .map(cell => ({count: cell.executionCount, outputs: cell.outputs.toJSON()}))"""


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A JupyterLab of its own on a copy of the notebook; the notebook's URL."""
    (folder / "work").mkdir()
    shutil.copy(NOTEBOOK, folder / "work")
    settings = folder / "lab_settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = settings / "notification.jupyterlab-settings"
    quiet.write_text('{"fetchNews": "false"}', encoding="utf-8")
    environment = os.environ | {
        f"JUPYTER{name}_DIR": str(folder / name.strip("_").lower())
        for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_SETTINGS", "LAB_WORKSPACES")
    }
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    command += ["--LabApp.expose_app_in_browser=True", f"--notebook-dir={folder}/work"]
    log = folder / "lab.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=file, stderr=file
        )
    try:
        until(lambda: "is running at" in log.read_text("utf-8"), 60, "no JupyterLab")
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}&reset"
    finally:
        below = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(20)
        _, alive = psutil.wait_procs(below, 10)
        assert not alive, "JupyterLab left processes behind"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert CHROMIUM, "no Chromium on PATH: apt-get install chromium"
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.evaluate(READY)
        yield page
        browser.close()


def until(fact: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    """Wait until a fact is true; it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := fact():
            return found
        time.sleep(0.02)
    pytest.fail(f"{otherwise}, within {seconds:g} s")


def pixels(page: Page) -> str | None:
    """A hash of the live picture, if there is one that has arrived."""
    image = page.query_selector("img.live-picture")
    try:
        return image.evaluate(PIXELS) if image else None
    except Exception:  # the picture is being replaced
        return None


def ended(page: Page, seconds: float) -> None:
    """Wait until the cell that runs has ended."""
    until(lambda: page.evaluate("window.ran"), seconds, "the cell did not end")


def shown(page: Page, cell: int) -> str:
    """The text of a code cell's outputs."""
    outputs = page.evaluate(CELLS)[cell]["outputs"]
    return "\n".join(str(o.get("text") or o.get("data") or o) for o in outputs)


def assert_no_error_is_logged(page: Page) -> None:
    """No callback and no kernel message has failed unseen."""
    assert page.query_selector_all('[title*="messages logged"]') == []


def photograph(page: Page, name: str) -> None:
    """Keep a screenshot where QUANTS_SCREENSHOTS says, for eyes."""
    if folder := os.environ.get("QUANTS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


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
    cells = page.evaluate(CELLS)
    errors = [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    assert errors == []
    assert all(cell["count"] for cell in cells)
    assert "0 leaked tasks, 0 leaked processes" in shown(page, -1)
    assert_no_error_is_logged(page)
    photograph(page, "end")
