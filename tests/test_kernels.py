"""Widgets on real kernels: what a page sends, and what comes of it.

The messages are those of JupyterLab: to the main shell, and to a subshell,
where a kernel has them. `QUANTS_KERNELS` names interpreters that have another
ipykernel than this one, with all else that the lab needs.
"""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.kernels import Page, page

NONE = pytest.param(
    "", marks=pytest.mark.skip("QUANTS_KERNELS names no interpreter with another one")
)
OTHERS: list[Any] = [*os.environ.get("QUANTS_KERNELS", "").split()]
KERNELS = [sys.executable, *(OTHERS or [NONE])]

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETUP = """
import asyncio, threading, ipykernel
from IPython.display import display
from quants.lab.controls import Controls

here, main = asyncio.get_running_loop(), threading.current_thread()
seen = []

def note(what):
    at_home = asyncio.get_running_loop() is here
    seen.append((what, at_home and threading.current_thread() is main))

async def later():
    await asyncio.sleep(0)
    note("later")

def fails():
    raise ValueError("no such rate")

controls = Controls(here)
display(
    controls.slider("rate", range(0, 100), 1, note),
    controls.button("plain", "", lambda: note("plain")),
    controls.button("later", "", later),
    controls.button("fails", "", fails),
    controls.errors,
)
"""
WAITS = """
async with asyncio.timeout(10):
    while len(seen) < {}:
        await asyncio.sleep(0.02)
"""


def environment_of(python: str) -> str:
    """The folder that an interpreter's bin/ lies in; its virtual environment."""
    return Path(python).parent.parent.name or "another"


@pytest_asyncio.fixture(
    params=KERNELS, ids=environment_of, scope="module", loop_scope="module"
)
async def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Page]:
    """A page with controls, on each kernel."""
    async with page(request.param, tmp_path_factory.mktemp("kernel")) as found:
        assert await found.run(SETUP) == ""
        found.version = await found.run("print(ipykernel.__version__, end='')")
        print("ipykernel", found.version)
        found.has_subshells = await found.has("kernel subshells")
        yield found


@pytest_asyncio.fixture(params=["main shell", "subshell"], loop_scope="module")
async def shown(request: pytest.FixtureRequest, kernel: Page) -> Page:
    """The same, and its messages go to this shell."""
    kernel.subshell = None
    if request.param == "subshell":
        if not kernel.has_subshells:
            pytest.skip(f"ipykernel {kernel.version} has no subshells")
        kernel.subshell = await kernel.opened_subshell()
    await kernel.run("seen.clear()")
    return kernel


async def test_what_a_page_does_is_done_on_the_loop_and_thread_of_the_cell(
    shown: Page,
):
    value = 7 if shown.subshell else 9  # a slider tells of changes only
    done = shown.move("rate", value), shown.click("plain"), shown.click("later")
    for message in done:
        await shown.end_of(message)
    assert await shown.run(WAITS.format(3)) == ""
    said = await shown.run("print(seen)")
    assert said == f"[({value}, True), ('plain', True), ('later', True)]\n"


async def test_it_is_done_while_a_cell_awaits_or_at_its_end(shown: Page):
    cell = shown.client.execute("await asyncio.sleep(1)\nprint(seen)")
    await shown.until(lambda: bool(shown.told_of(cell)), "the cell does not begin")
    message = shown.click("plain")
    said = await shown.end_of(cell)
    assert said == ("[('plain', True)]\n" if shown.hands_over else "[]\n")
    await shown.end_of(message)
    assert await shown.run(WAITS.format(1) + "print(seen)") == "[('plain', True)]\n"


async def test_an_error_of_an_action_reaches_the_page(shown: Page):
    before = len(shown.told)
    await shown.end_of(shown.click("fails"))
    await shown.until(
        lambda: "ValueError: no such rate" in str(shown.told[before:]),
        "no error is told",
    )


async def test_any_thread_may_call_back(kernel: Page):
    """Not only those of the kernel: a timer's, or a library's."""
    cell = """
seen.clear()
button = controls.button("own", "", lambda: note("own"))
raised = []
threading.excepthook = lambda args: raised.append(repr(args.exc_value))
thread = threading.Thread(target=button.click)
thread.start()
await asyncio.to_thread(thread.join)
"""
    said = await kernel.run(cell + WAITS.format(1) + "print(seen, raised)")
    assert said == "[('own', True)] []\n"


async def test_a_click_stops_a_ring_of_the_bell(shown: Page):
    if not shown.hands_over:
        pytest.skip(f"ipykernel {shown.version} hands clicks over at the cell's end")
    cell = shown.client.execute(
        "from quants.lab import bell, close\n"
        "ring = await bell.ring(1000, seconds=60)\n"
        "print(ring.readings[-1].seconds < 30)"
    )
    await shown.until(
        lambda: "display_data" in [m["msg_type"] for m in shown.told_of(cell)],
        "nothing is displayed",
    )
    shown.click("Stop")
    assert "True\n" in await shown.end_of(cell)
    said = await shown.run("print(await close())")
    assert said == "0 leaked tasks, 0 leaked processes\n"
