"""Redis servers that tests kill, stop and start again."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from quants.host import running
from quants.redis_server import connect


@contextmanager
def durable(
    port: int, folder: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[bytes], redis.Redis]]:
    """A Redis that survives kill -9 with all that it acknowledged, and a client."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(folder), "--save", "", "--appendonly", "yes"]
    command += ["--appendfsync", "always", *more]
    with running(command, stdout=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 20
        with connect(f"redis://127.0.0.1:{port}/0") as client:
            while not answers(client):
                assert time.monotonic() < deadline, "redis-server did not start"
            yield child, client


def answers(client: redis.Redis) -> bool:
    """Whether a Redis is there and ready."""
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        time.sleep(0.01)
        return False


@contextmanager
def stopped(client: redis.Redis) -> Iterator[None]:
    """A Redis that hangs while the block runs: connected, and silent."""
    pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
