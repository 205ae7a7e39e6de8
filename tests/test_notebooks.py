"""The notebooks keep their promises: compared, re-runnable, within the ceilings.

`make notebooks` runs them; these tests look after what nbval cannot see, and
show that it would see a change.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from quants.lab.board import EXERCISES
from tools import nb

ROOT = Path(__file__).parent.parent
NOTEBOOKS = nb.notebooks([])
IN_A_HURRY = """
from quants.lab import bell
Show = bell.Show
bell.Show = lambda pump, rate, seconds, *rest: Show(pump, rate, 0.4, *rest)
"""
QUIET = "ignore::DeprecationWarning"  # of the kernel's own machinery

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


@pytest.fixture(autouse=True)
def own_jupyter(tmp_path_factory, monkeypatch):
    """No test reads or writes the settings of whoever runs it."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(folder / name.lower()))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))


def book_of(*cells: Any) -> Any:
    book = nbformat.v4.new_notebook(cells=list(cells))
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return book


def code(source: str, *tags: str) -> Any:
    metadata = {"tags": list(tags)} if tags else {}
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def write(path: Path, book: Any) -> Path:
    path.write_text(nb.text_of(book), encoding="utf-8")
    return path


# what is committed ---------------------------------------------------------------


def test_there_is_a_notebook():
    assert [path.stem for path in NOTEBOOKS][:1] == ["00_the_bell_rings"]


@every_notebook
def test_it_is_tidy_and_was_run_as_it_stands(path: Path):
    assert nb.check(path) == []


@every_notebook
def test_it_keeps_the_ceilings(path: Path):
    assert nb.lint(path) == []


@every_notebook
def test_no_cell_is_skipped_and_at_most_two_in_five_are_not_compared(path: Path):
    cells = nb.code_cells(nb.read(path))
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert set(tags) <= {nb.MEASURED, "raises-exception"}
    assert sum(map(nb.is_measured, cells)) <= 0.4 * len(cells)


@every_notebook
def test_every_measured_cell_is_followed_by_a_compared_one(path: Path):
    cells = nb.code_cells(nb.read(path))
    assert not nb.is_measured(cells[-1])
    for cell, following in pairwise(cells):
        if nb.is_measured(cell):
            assert not nb.is_measured(following), cell.source


@every_notebook
def test_the_cells_that_are_compared_have_something_to_compare(path: Path):
    cells = [c for c in nb.code_cells(nb.read(path)) if not nb.is_measured(c)]
    assert sum(bool(cell.outputs) for cell in cells) >= 5
    assert "leaked tasks, 0 leaked processes" in cells[-1].outputs[0].text


@every_notebook
def test_every_output_is_there_in_order_and_without_an_error(path: Path):
    cells = nb.code_cells(nb.read(path))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [each for cell in cells for each in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]


@every_notebook
def test_every_figure_has_an_alt_text(path: Path):
    outputs = [o for cell in nb.code_cells(nb.read(path)) for o in cell.outputs]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert figures
    assert all(len(o.metadata["image/png"]["alt"]) > 40 for o in figures)


@every_notebook
def test_no_widget_is_left_in_the_file(path: Path):
    assert "widget-view" not in path.read_text(encoding="utf-8")


@every_notebook
def test_something_moves_in_its_first_cell_of_two_lines(path: Path):
    first = nb.code_cells(nb.read(path))[0]
    assert len(first.source.splitlines()) == 2 or not path.stem.startswith("00")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_in_a_notebook_is_made_from_the_solution(name: str):
    sources = [c.source for p in NOTEBOOKS for c in nb.code_cells(nb.read(p))]
    assert EXERCISES[name].stub() in sources


# in a kernel -----------------------------------------------------------------------


@asynccontextmanager
async def kernel(folder: Path) -> AsyncIterator[NotebookClient]:
    """A kernel that runs the cells it is given."""
    client = nb.client_for(book_of(), folder)
    async with client.async_setup_kernel():
        yield client


async def run(client: NotebookClient, cell: Any) -> str:
    """Run one cell; its printed text."""
    client.nb.cells.append(cell)
    done = await client.async_execute_cell(cell, len(client.nb.cells) - 1)
    return "".join(o.text for o in done.outputs if o.output_type == "stream")


@pytest.mark.notebooks
@pytest.mark.filterwarnings(QUIET)
@every_notebook
async def test_every_cell_runs_twice_and_the_whole_runs_twice_in_one_kernel(
    path: Path, tmp_path: Path
):
    cells = nb.code_cells(nb.read(path))
    async with kernel(tmp_path) as client:
        await run(client, code(IN_A_HURRY))
        for cell in cells:
            for _ in range(2):
                last = await run(client, code(cell.source))
        assert last == "0 leaked tasks, 0 leaked processes\n"
        for cell in cells:
            last = await run(client, code(cell.source))
        assert last == "0 leaked tasks, 0 leaked processes\n"
    assert os.listdir(tmp_path) == []  # no stub is kept as a solution


@pytest.mark.filterwarnings(QUIET)
async def test_the_repair_needs_no_redis_server(tmp_path: Path, monkeypatch):
    """Without a server on the PATH the stand-in serves the same cells."""
    empty = tmp_path / "path"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    async with kernel(tmp_path) as client:
        ring = 'from quants.lab import bell, close\na = await bell.ring(%d, pump="%s"'
        for pump in ("naive", "quants"):
            await run(client, code(ring % (1000, pump) + ", seconds=1)"))
            done = "print(a.readings[-1].processed > 0, 'stands in' in R.how)"
            redis = "from quants.lab.session import session\n"
            redis += "R = await (await session()).redis()\n"
            assert await run(client, code(redis + done)) == "True True\n"
        text = await run(client, code("print(await close())"))
        assert text == "0 leaked tasks, 0 leaked processes\n"


@pytest.mark.filterwarnings(QUIET)
async def test_stop_ends_a_ring_and_leaves_nothing(tmp_path: Path):
    async with kernel(tmp_path) as client:
        await run(client, code("from quants.lab import bell, close"))
        stopped = code("await bell.ring(seconds=600)", "raises-exception")
        ringing = asyncio.create_task(run(client, stopped))
        async with asyncio.timeout(30):
            while not stopped.outputs:
                await asyncio.sleep(0.05)
        manager: Any = client.km
        await manager.interrupt_kernel()
        await ringing
        assert stopped.outputs[-1].ename in ("CancelledError", "KeyboardInterrupt")
        text = await run(client, code("print(await close())"))
        assert text == "0 leaked tasks, 0 leaked processes\n"


# nbval sees what it should ---------------------------------------------------------


def nbval(path: Path, tree: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Compare a notebook as `make notebooks` does, with the `quants` of a tree."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q"]
    command += ["-p", "no:cacheprovider", "--nbval-cell-timeout=60", "-c", "/dev/null"]
    command += [f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval.cfg'}", path.name]
    return subprocess.run(
        command,
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def broken(folder: Path, module: str, line: str, wrong: str) -> Path:
    """A tree in whose `quants` one line of a module is wrong."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "quants", folder / "quants", ignore=ignored)
    file = folder / "quants" / module
    source = file.read_text(encoding="utf-8")
    assert source.count(line) == 1
    file.write_text(source.replace(line, wrong), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A small notebook of the lab's parts, run and tidy."""
    folder = tmp_path_factory.mktemp("small")
    cells = (
        code("from quants.lab import guess\nguess('first', 'log')"),
        code("import time\nprint(time.time())", nb.MEASURED),
        code("print('SUPPORTED: time goes on.')"),
    )
    path = write(folder / "00_small.ipynb", book_of(*cells))
    nb.refresh(path)
    return path


def test_a_good_notebook_passes(small: Path):
    assert nbval(small).returncode == 0


@pytest.mark.parametrize("change", ["an output changed", "an output blanked"])
def test_a_change_of_what_is_compared_fails(small: Path, tmp_path: Path, change: str):
    book = nb.read(small)
    verdict = book.cells[2]
    if change == "an output changed":
        verdict.outputs[0].text = "REFUTED: time stands still.\n"
    else:
        verdict.outputs = []
    done = nbval(write(tmp_path / small.name, book))
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout


def test_a_function_that_is_broken_fails(small: Path, tmp_path: Path):
    tree = broken(tmp_path, "lab/guess.py", "you say {self.value}", "{self.value}")
    done = nbval(small, tree)
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout


@pytest.fixture
def bell(tmp_path: Path) -> Path:
    """A copy of notebook 00, as it is committed."""
    return Path(shutil.copy(NOTEBOOKS[0], tmp_path))


@pytest.mark.notebooks
def test_changes_in_a_real_notebook_fail_each(bell: Path):
    book = nb.read(bell)
    compared = [c for c in nb.code_cells(book) if c.outputs and not nb.is_measured(c)]
    verdict, law = [c for c in compared if c.source.startswith("verdict(")][:2]
    verdict.outputs[0].text += "and more"
    law.outputs = []
    done = nbval(write(bell, book))
    assert done.returncode == 1
    assert f"2 failed, {len(nb.code_cells(book)) - 2} passed" in done.stdout


@pytest.mark.notebooks
def test_a_pump_that_miscounts_fails_a_real_notebook(bell: Path, tmp_path: Path):
    counts = "self._processed += self._in_hand"
    tree = broken(tmp_path, "channel.py", counts, "self._processed += 1")
    done = nbval(bell, tree)
    assert done.returncode == 1
    assert "REFUTED: " in done.stdout


def test_a_stripped_notebook_is_not_tidy(small: Path, tmp_path: Path):
    book = nb.read(small)
    for cell in book.cells:
        cell.outputs, cell.execution_count = [], None
    book.metadata.pop("quants")
    assert nb.check(write(tmp_path / small.name, book)) != []


# the tool ----------------------------------------------------------------------------


def test_a_refresh_without_a_change_writes_nothing(small: Path, tmp_path: Path):
    copy = tmp_path / small.name
    shutil.copy(small, copy)
    assert nb.refresh(copy) is False
    assert copy.read_bytes() == small.read_bytes()


def test_a_changed_cell_is_run_again_and_noticed_before(small: Path, tmp_path: Path):
    book = nb.read(small)
    book.cells[2].source = "print('SUPPORTED: still.')"
    copy = write(tmp_path / small.name, book)
    assert "changed since it was run" in nb.check(copy)[0]
    assert nb.refresh(copy) is True
    assert nb.check(copy) == []
    assert nb.read(copy).cells[2].outputs[0].text == "SUPPORTED: still.\n"


def test_lint_tells_each_ceiling_that_is_broken(tmp_path: Path):
    cells = [code("\n".join(["1"] * 13)) for _ in range(31)]
    cells.insert(0, nbformat.v4.new_markdown_cell("# no header"))
    found = nb.lint(write(tmp_path / "00_long.ipynb", book_of(*cells)))
    assert [text.split()[-1] for text in found] == [
        *("cells", "words", "code", "lines", "lines"),
    ]
