"""A real kernel, and what a page in a browser is to it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from tools.nb import OurKernel

ROOT = Path(__file__).parent.parent


class Page:
    """Sends what widgets send, and keeps what the kernel tells.

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
        release = [int(part) for part in self.version.split(".")[:2]]
        return self.subshell is not None or release >= [7, 4]

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
        features: list[str] = info["content"].get("supported_features", [])
        return feature in features

    async def opened_subshell(self) -> str:
        """The id of a new subshell."""
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        reply = await self.client.get_control_msg(timeout=30)
        return str(reply["content"]["subshell_id"])


def answers(message: dict[str, Any], request: str) -> bool:
    parent: dict[str, Any] = message["parent_header"]
    return parent.get("msg_id") == request


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
