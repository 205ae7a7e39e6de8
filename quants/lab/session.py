"""What a notebook has open: tasks, servers, a Redis; its last cell closes all.

Sessions are kept by name here and not in the notebook, so a cell that opens
one can run twice. A session's monitor beats 25 times a second: an idle loop
does not see the stop button until something wakes it.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import psutil

from quants.lab.swept import swept_folder
from quants.metrics import Registry
from quants.monitor import Monitor
from quants.redis_server import RedisServer, redis_server

T = TypeVar("T")
Tasks = set[asyncio.Task[Any]]

CLOSE_SECONDS = 5.0  # what is left after that is a leak
# The kernel makes tasks of its own while cells run; they are not ours to end.
KERNEL = ("ipykernel", "IPython", "jupyter_client", "tornado", "zmq", "anyio")

_open: dict[str, "Session"] = {}  # by name; emptied by close()


class Session:
    """Owns what cells start; `close()` ends it and counts what is left.

    Attributes:
        loop: the loop it was opened on; callbacks hop to it.
        folder: temporary, for logs.
        faults: what its tasks raised and nobody has seen yet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.monitor = Monitor(Registry())
        self.faults: list[BaseException] = []
        self._stack = AsyncExitStack()
        self._tasks: Tasks = set()
        self._redis: asyncio.Task[RedisServer] | None = None
        self._before = asyncio.all_tasks(), children()
        self.folder = self._stack.enter_context(swept_folder("quants-lab-"))
        self._stack.enter_context(self.monitor)
        self.start(self.monitor.run())

    def __repr__(self) -> str:
        return f"<Session {self.name}, {len(self._tasks)} tasks>"

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends with the session at the latest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            self.faults.append(fault)

    def raise_faults(self) -> None:
        """Raise what a task raised, once; the first is the cause of the rest."""
        faults, self.faults = self.faults, []
        if faults:
            raise faults[0]

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Open a resource that closes with the session."""
        return await self._stack.enter_async_context(context)

    async def redis(self) -> RedisServer:
        """The session's Redis, started by the first who asks."""
        if self._redis is None:
            self._redis = self.start(self._start_redis())
        return await self._redis

    async def _start_redis(self) -> RedisServer:
        found = redis_server(folder=self.folder)
        server = await asyncio.to_thread(found.__enter__)
        self._stack.push(found)
        return server

    async def aclose(self) -> tuple[Tasks, set[psutil.Process]]:
        """End everything, newest first; the tasks and processes still there.

        Raises:
            BaseException: what a task raised while nobody looked.
        """
        await end(*self._tasks)
        await self._stack.aclose()
        left = await self._left()
        self.raise_faults()
        return left

    async def _left(self) -> tuple[Tasks, set[psutil.Process]]:
        """What outlives the session, after some time to go away."""
        tasks, processes = self._before
        for _ in range(round(CLOSE_SECONDS / 0.05)):
            left = own_tasks() - tasks, children() - processes
            if not any(left):
                break
            await asyncio.sleep(0.05)
        return left


async def session(name: str = "lab") -> Session:
    """The open session of that name, or a new one."""
    found = _open.get(name)
    if found is None or found.loop is not asyncio.get_running_loop():
        found = _open[name] = Session(name)
    return found


async def close() -> str:
    """Close every session; how many tasks and processes they left behind."""
    tasks: Tasks = set()
    processes: set[psutil.Process] = set()
    while _open:
        _, each = _open.popitem()
        left = await each.aclose()
        tasks |= left[0]
        processes |= left[1]
    names = [repr(task) for task in tasks] + [repr(child) for child in processes]
    counts = f"{len(tasks)} leaked tasks, {len(processes)} leaked processes"
    return ": ".join([counts, *names])


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are done.

    Again and again: up to Python 3.11 `asyncio.wait_for` can swallow a
    cancellation, and libraries that use it then go on working.
    """
    for _ in range(round(CLOSE_SECONDS / 0.2)):
        waiting = [task for task in tasks if not task.done()]
        if not waiting:
            break
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=0.2)


def own_tasks() -> Tasks:
    """Tasks of this loop that neither are this one nor belong to the kernel."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in tasks if task and not is_of_kernel(task)}


def is_of_kernel(task: asyncio.Task[Any]) -> bool:
    """Whether the Jupyter kernel runs this task for itself."""
    code = getattr(task.get_coro(), "cr_code", None)
    parts = Path(code.co_filename).parts if code else ()
    return any(package in parts for package in KERNEL)


def children() -> set[psutil.Process]:
    """The processes below this one that still run, and are ours to end."""
    below = psutil.Process().children(recursive=True)
    return {child for child in below if child.is_running() and not is_tracker(child)}


def is_tracker(child: psutil.Process) -> bool:
    """Whether a child looks after shared memory, for as long as we live.

    The first process pool of a kernel starts it; nobody can end it.
    """
    try:
        return any("multiprocessing.resource_tracker" in a for a in child.cmdline())
    except psutil.Error:
        return False
