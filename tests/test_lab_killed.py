"""What is left of a kernel that is killed in the middle of a cell: nothing."""

import asyncio
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from quants.lab.swept import swept_folder
from tests.kernels import page

RING = """
from quants.lab import bell
await bell.ring(5000, pump="quants", seconds=60)
"""
LADDER = """
from quants.lab import fence, session
await (await session.session()).redis()
await fence.ladder()
"""
DEADLINE = 10.0  # seconds; it takes a fifth of one


def listened(process: psutil.Process) -> set[int]:
    """The ports on which a process listens."""
    connections = process.net_connections("tcp")
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def shared(process: psutil.Process) -> set[str]:
    """The named memory that a process shares, and that has still its name."""
    paths = {each.path for each in process.memory_maps()}
    return {path for path in paths if path.startswith("/dev/shm/")}


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a redis-server outlives its parent"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("cell", "children"), [(RING, 2), (LADDER, 5)], ids=["servers", "processes"]
)
async def test_a_kernel_that_is_killed_leaves_nothing(
    cell: str, children: int, tmp_path: Path, monkeypatch, record_property
):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    before = {*psutil.Process().children()}
    async with page(sys.executable, tmp_path) as notebook:
        (kernel,) = {*psutil.Process().children()} - before
        notebook.client.execute(cell)
        await notebook.until(
            lambda: len(kernel.children(recursive=True)) >= children,
            "its children do not start",
        )
        family = [kernel, *kernel.children(recursive=True)]
        ports = set[int]().union(*map(listened, family))
        memory = set[str]().union(*map(shared, family))
        assert ports
        assert any(folder.iterdir())
        kernel.kill()
        since = time.monotonic()
        while found := left(family, ports, memory, folder):
            assert time.monotonic() < since + DEADLINE, found
            await asyncio.sleep(0.05)
    record_property("most s until nothing is left", time.monotonic() - since)


def left(
    family: list[psutil.Process], ports: set[int], memory: set[str], folder: Path
) -> list[object]:
    """What is still there."""
    return [
        *filter(lives, family),
        *filter(is_open, ports),
        *(path for path in memory if Path(path).exists()),
        *folder.rglob("*"),
    ]


def is_open(port: int) -> bool:
    """Whether anybody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_swept_folder_is_gone_after_its_block_and_so_is_its_sweeper():
    before = {*psutil.Process().children()}
    with swept_folder("quants-test-") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"x")
        (sweeper,) = {*psutil.Process().children()} - before
    assert not folder.exists()
    assert not sweeper.is_running()
