"""A JupyterLab of the tests' own, and what a reader's browser sees of it.

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

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
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
    .map(cell => ({
        count: cell.executionCount,
        outputs: cell.outputs.toJSON(),
        tags: cell.getMetadata('tags') ?? [],
    }))"""


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A JupyterLab of its own on copies of the notebooks; a URL, `{}` for a name."""
    (folder / "work").mkdir()
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, folder / "work")
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
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
    finally:
        below = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(20)
        _, alive = psutil.wait_procs(below, 10)
        assert not alive, "JupyterLab left processes behind"


@contextmanager
def chromium() -> Iterator[Page]:
    """A page as wide as a laptop's, in a browser of its own."""
    assert CHROMIUM, "no Chromium on PATH: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def open_notebook(page: Page, url: str, notebook: Path) -> None:
    """Go to a notebook and wait for its kernel."""
    page.goto(url.format(notebook.name))
    page.evaluate(READY)


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


def errors_of(page: Page) -> list[Any]:
    """What cells raised that was not meant to be."""
    return [
        output
        for cell in page.evaluate(CELLS)
        if "raises-exception" not in cell["tags"]
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def assert_no_error_is_logged(page: Page) -> None:
    """No callback and no kernel message has failed unseen."""
    assert page.query_selector_all('[title*="messages logged"]') == []


def photograph(page: Page, name: str) -> None:
    """Keep a screenshot where QUANTS_SCREENSHOTS says, for eyes."""
    if folder := os.environ.get("QUANTS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
