"""A Redis for this run: the one that was named, our own, or a stand-in.

1. `--redis-url`: that server; if it does not answer the run does not start.
2. `redis-server` or `valkey-server` on PATH: ours, on a free loopback port, its
   data in a temporary folder, dying with us.
3. Neither: fakeredis behind a TCP port, in a child process.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NamedTuple
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quants.errors import EnvironmentFault, SettingsError
from quants.host import free_port, running

PROGRAMS = ("redis-server", "valkey-server")
START_SECONDS = 10.0
PORTS_TO_TRY = 5  # a free port may be taken before the server binds it


class RedisServer(NamedTuple):
    """Where a Redis listens, how it was found, and whether we started it."""

    url: str
    how: str  # one sentence, without a password
    ours: bool
    pid: int | None = None  # of ours


def connect(url: str, timeout: float = 1.0, protocol: int | None = None) -> redis.Redis:
    """A client that fails within `timeout` seconds; its caller decides to retry."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # one odd value must not spoil a whole reply
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        protocol=protocol,
    )


@contextmanager
def redis_server(
    url: str | None = None, path: str | None = None, folder: Path | None = None
) -> Iterator[RedisServer]:
    """Find or start a Redis; what was started is stopped at the end.

    Blocks for some hundredths of a second; any thread may call, and end.

    Args:
        url: a server to use; then no other is tried.
        path: where programs are looked for; None is PATH.
        folder: where our own makes its temporary one; None is the system's place.

    Raises:
        SettingsError: the url is not one of Redis.
        EnvironmentFault: the named server refuses, or ours does not start.
    """
    programs = filter(None, (shutil.which(name, path=path) for name in PROGRAMS))
    if url:
        yield _named(url)
        return
    program = next(programs, None)
    with _own_server(program, folder) if program else _stand_in() as server:
        yield server


def shown(url: str) -> str:
    """A URL without its user, password and query, fit for a screen."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _named(url: str) -> RedisServer:
    try:
        with connect(url) as client:
            client.ping()
    except ValueError as fault:
        raise SettingsError("redis-url", shown(url), str(fault)) from fault
    except (redis.RedisError, OSError) as fault:
        raise EnvironmentFault(
            f"Redis at {shown(url)}: {str(fault).rstrip('.')}; start it, correct "
            "--redis-url (QUANTS_REDIS_URL), or leave both out to get one"
        ) from fault
    return RedisServer(url, f"Redis at {shown(url)}, as named", ours=False)


@contextmanager
def _own_server(program: str, folder: Path | None) -> Iterator[RedisServer]:
    with TemporaryDirectory(
        prefix="quants-redis-", dir=folder, ignore_cleanup_errors=True
    ) as data:
        for _ in range(PORTS_TO_TRY):
            port = free_port()
            command = [program, "--port", str(port), "--bind", "127.0.0.1"]
            command += ["--dir", data, "--save", "", "--appendonly", "no"]
            with running(command, stdout=subprocess.DEVNULL) as child:
                if _answers(url := f"redis://127.0.0.1:{port}/0", child):
                    how = f"{program} of our own on port {port}, {url}"
                    yield RedisServer(url, how, ours=True, pid=child.pid)
                    return
    raise EnvironmentFault(
        f"{program} did not start on any of {PORTS_TO_TRY} free ports of 127.0.0.1; "
        "--redis-url names one that runs"
    )


def _answers(url: str, child: subprocess.Popen[bytes]) -> bool:
    """Wait until our child itself, and no stranger on its port, answers."""
    deadline = time.monotonic() + START_SECONDS
    with connect(url) as client:
        while child.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.info("server")["process_id"] == child.pid)
            except (redis.RedisError, OSError):
                time.sleep(0.01)
    return False


@contextmanager
def _stand_in() -> Iterator[RedisServer]:
    serve = "from quants.redis_server import serve_stand_in; serve_stand_in()"
    pipe = subprocess.PIPE
    with running([sys.executable, "-c", serve], stdin=pipe, stdout=pipe) as child:
        port = child.stdout.readline().decode().strip() if child.stdout else ""
        if not port:
            raise EnvironmentFault(
                "the fakeredis stand-in did not start: install redis-server, or "
                "name one that runs by --redis-url"
            )
        url = f"redis://127.0.0.1:{port}/0"
        missing = f"no {' or '.join(PROGRAMS)} on PATH"
        how = f"{missing}: fakeredis stands in on port {port}, {url}"
        yield RedisServer(url, how, ours=True, pid=child.pid)


def serve_stand_in() -> None:
    """Serve fakeredis on a port, which is printed, until stdin ends with our parent."""
    from fakeredis import TcpFakeServer  # 0.2 s, only where it is needed

    server = TcpFakeServer(("127.0.0.1", 0), server_version=(7, 0))
    server.daemon_threads = True
    # Replies are small packets: held back, 8 of them take 44 ms, not 0.6.
    server.RequestHandlerClass.disable_nagle_algorithm = True  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
