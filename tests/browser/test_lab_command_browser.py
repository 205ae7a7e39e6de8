"""What `quants lab` opens, in a real Chromium: notebook 00, and nothing in its way."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.browser.lab_page import (
    CELLS,
    NOTEBOOKS,
    READY,
    assert_no_error_is_logged,
    chromium,
    photograph,
)
from tests.test_lab_commands import DEADLINE, said_until, started

pytestmark = [pytest.mark.browser, pytest.mark.long]

IN_FRONT = """() => Array.from(window.jupyterapp.shell.widgets('main'))
    .map(widget => widget.context?.path ?? widget.title.label)"""
IN_THE_WAY = ".Toastify__toast, .jp-Dialog"
A_WHILE = 5_000  # ms; a question about news comes 1 s after the notebook


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the notebooks, beside settings that let us see into the page."""
    folder = tmp_path / "clone" / "notebooks"
    folder.mkdir(parents=True)
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, folder)
    (tmp_path / "jupyter_config").mkdir()
    config = tmp_path / "jupyter_config" / "jupyter_lab_config.json"
    seen = {"LabApp": {"expose_app_in_browser": True}}
    config.write_text(json.dumps(seen), encoding="utf-8")
    return folder.parent


def test_it_opens_the_copy_of_notebook_00_alone_and_asks_nothing(clone: Path):
    with started(clone, "--no-browser") as child, chromium() as page:
        *_, url, _ = said_until(child, "Ctrl-C ends it")
        page.goto(url)
        page.evaluate(READY)
        page.wait_for_timeout(A_WHILE)
        photograph(page, "quants_lab")
        assert page.query_selector_all(IN_THE_WAY) == []
        assert page.evaluate(IN_FRONT) == [f"my-notebooks/{NOTEBOOKS[0].name}"]
        assert len(page.evaluate(CELLS)) > 5
        assert_no_error_is_logged(page)
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=DEADLINE)
    assert (child.returncode, rest) == (0, "JupyterLab and its notebooks have ended\n")
