"""Widgets on real kernels: what a page sends, and what comes of it.

The messages are those of JupyterLab: to the main shell, and to a subshell,
where a kernel has them. `QUANTS_KERNELS` names interpreters that have another
ipykernel than this one, with all else that the lab needs.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from tools.nb import OurKernel

ROOT = Path(__file__).parent.parent
NONE = pytest.param(
    "", marks=pytest.mark.skip("QUANTS_KERNELS names no interpreter with another one")
)
KERNELS = [sys.executable, *(os.environ.get("QUANTS_KERNELS", "").split() or [NONE])]

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


class Page:
    """What a page in a browser is to a kernel.

    Attributes:
        told: all that the kernel has published, in order.
        subshell: where widgets' messages go; None is the main shell.
        version: of ipykernel.
    """

    def __init__(self, client: AsyncKernelClient) -> None:
        self.client = client
        self.told: list[dict[str, Any]] = []
        self.subshell: str | None = None
        self.version, self.has_subshells = "", False

    @property
    def hands_over(self) -> bool:
        """Whether this kernel calls back while a cell awaits."""
        return self.subshell is not None or self.version >= "7.4"

    async def listen(self) -> None:
        while True:
            self.told.append(await self.client.get_iopub_msg())

    async def run(self, cell: str) -> str:
        """Run a cell; what it printed, and its error."""
        return await self.end_of(self.client.execute(cell))

    async def end_of(self, message: str) -> str:
        """Wait until the kernel has told all of a message; the text."""
        await self.until(lambda: self.idles(message) > 0, f"no end of {message}")
        said = [each["content"] for each in self.told_of(message)]
        return "".join(each.get("text", each.get("evalue", "")) for each in said)

    def idles(self, message: str) -> int:
        """How often the kernel said that it is through with a message."""
        states = [each["content"] for each in self.told_of(message)]
        return sum(each.get("execution_state") == "idle" for each in states)

    def told_of(self, message: str) -> list[dict[str, Any]]:
        """What the kernel has published while it handled a message."""
        return [each for each in self.told if answers(each, message)]

    async def until(self, fact: Callable[[], bool], otherwise: str) -> None:
        for _ in range(1000):
            if fact():
                return
            await asyncio.sleep(0.02)
        pytest.fail(otherwise)

    def model(self, name: str) -> str:
        """The comm of the widget with this description."""
        opened = [m["content"] for m in self.told if m["msg_type"] == "comm_open"]
        states = [(each["comm_id"], each["data"].get("state", {})) for each in opened]
        named = [id for id, state in states if state.get("description") == name]
        return str(named[-1])

    def click(self, name: str) -> str:
        """Click a button; the message's id."""
        return self.act(name, {"method": "custom", "content": {"event": "click"}})

    def move(self, name: str, value: int) -> str:
        """Move a slider; the message's id."""
        return self.act(name, {"method": "update", "state": {"value": value}})

    def act(self, name: str, data: dict[str, Any]) -> str:
        """Send what a widget's view sends; the message's id."""
        content = {"comm_id": self.model(name), "data": data}
        message = self.client.session.msg("comm_msg", content)
        if self.subshell:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    async def has(self, feature: str) -> bool:
        """Whether the kernel says that it has a feature."""
        asked = self.client.kernel_info()
        while not answers(info := await self.client.get_shell_msg(timeout=30), asked):
            pass  # replies to cells
        return feature in info["content"].get("supported_features", [])

    async def opened_subshell(self) -> str:
        """The id of a new subshell."""
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        reply = await self.client.get_control_msg(timeout=30)
        return str(reply["content"]["subshell_id"])


def answers(message: dict[str, Any], request: str) -> bool:
    return message["parent_header"].get("msg_id") == request


@asynccontextmanager
async def page(python: str, folder: Path) -> AsyncIterator[Page]:
    """A page that talks to a kernel of this interpreter, and its controls."""

    class Kernel(OurKernel):
        interpreter = python

    manager = Kernel(kernel_name="python3")
    paths = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    await manager.start_kernel(cwd=str(folder), env=os.environ | paths)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        found = Page(client)
        listening = asyncio.create_task(found.listen())
        yield found
        listening.cancel()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


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
