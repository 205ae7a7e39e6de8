"""What this machine has for the pump, and what to do where it has not.

Each check looks first and then decides: the verdicts are pure functions, tested
without the machine that would earn them. A fact names no path, host or person,
so that `--short` can be sent with a report of a fault; advice may.
"""

import json
import os
import platform
import re
import selectors
import shutil
import socket
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import PurePath
from typing import Literal, NamedTuple

import click
import psutil
import redis

from quants.errors import QuantsError
from quants.host import available_cores
from quants.redis_server import connect, redis_server
from quants.settings import Settings
from quants.turns import gil_enabled

PINS = {"jupyterlab": "4.6", "ipykernel": "7.4", "ipywidgets": "8.1"}
LOG_BYTES = 32 * 50_000  # a second, at 50,000 ticks/s
LEAST_BYTES = 1e9  # of disk: ten minutes of that
LEAST_MEMORY = 500e6  # the pump takes about 80 MB, a notebook kernel 200
LONG_SLEEP = 0.002  # s, for a sleep of 1 ms; Windows may take 15.6


class Finding(NamedTuple):
    """What was found about one thing."""

    name: str
    mark: Literal["ok", "look", "missing"]  # missing: the pump cannot run
    fact: str
    advice: str = ""  # what to do, unless ok


def examine() -> Iterator[Finding]:
    """Look at everything, in the order in which it may be in the way."""
    gil = gil_enabled()
    yield python_finding(gil, optimized(), not sys.dont_write_bytecode)
    yield cores_finding(available_cores(), os.cpu_count() or 1)
    memory = psutil.virtual_memory()
    yield memory_finding(memory.total, memory.available)
    yield clock_finding(time.get_clock_info("perf_counter").resolution, nap())
    yield loops_finding(version("uvloop"))
    yield port_finding(Settings.metrics_port, is_free(Settings.metrics_port))
    yield redis_finding(os.environ.get("QUANTS_REDIS_URL"))
    yield jupyter_finding({name: version(name) for name in PINS})
    yield disk_finding(*disk())


# -- decide -----------------------------------------------------------------


def python_finding(gil: bool, optimized: bool, bytecode: bool) -> Finding:
    """The interpreter: what makes its times differ from other people's."""
    fact = (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"GIL {'on' if gil else 'off'}, {platform.system()} {platform.machine()}"
    )
    advice = []
    if not optimized:
        fact += ", built without optimisation"
        advice.append("compare no times with other builds, only ratios")
    if not bytecode:
        fact += ", keeps no bytecode"
        advice.append("unset PYTHONDONTWRITEBYTECODE, or every start compiles anew")
    return Finding("Python", "look" if advice else "ok", fact, "; ".join(advice))


def cores_finding(ours: int, all_of_them: int) -> Finding:
    """The cores this process may use."""
    fact = f"{ours} of {all_of_them}"
    if ours > 1:
        return Finding("cores", "ok", fact)
    advice = "feed, pump and Redis share it: begin with a low --tick-rate"
    return Finding("cores", "look", fact, advice)


def memory_finding(total: float, available: float) -> Finding:
    """Bytes of memory."""
    fact = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB available"
    if available >= LEAST_MEMORY:
        return Finding("memory", "ok", fact)
    return Finding("memory", "look", fact, "close other programs, notebooks above all")


def clock_finding(resolution: float, slept: float) -> Finding:
    """The clock's step, and how long a sleep of 1 ms takes."""
    fact = f"a step is {resolution * 1e9:.0f} ns, 1 ms of sleep is {slept * 1e3:.2f} ms"
    if slept <= LONG_SLEEP:
        return Finding("clock", "ok", fact)
    advice = (
        "the feed keeps its rate with more ticks a wake-up; expect longer latencies"
    )
    return Finding("clock", "look", fact, advice)


def loops_finding(uvloop: str | None) -> Finding:
    """The event loops there are; asyncio's always."""
    own = f"asyncio ({selectors.DefaultSelector.__name__})"
    other = f"uvloop {uvloop}" if uvloop else "no uvloop, which is optional"
    return Finding("event loops", "ok", f"{own}, {other}")


def port_finding(port: int, free: bool) -> Finding:
    """The port that /metrics is served on."""
    if free:
        return Finding("port", "ok", f"{port} is free")
    return Finding("port", "look", f"{port} is taken", "--metrics-port 0 takes another")


def jupyter_finding(versions: Mapping[str, str | None]) -> Finding:
    """What the notebooks need, against the versions they were tested with."""
    wrong = [name for name in PINS if not at_least(versions[name], PINS[name])]
    fact = ", ".join(
        f"{name} {versions[name] or 'not there'}"
        + (f" ({PINS[name]} wanted)" if name in wrong else "")
        for name in PINS
    )
    if not wrong:
        return Finding("Jupyter", "ok", fact)
    advice = "for the notebooks: pip install -r requirements.txt, or make lab"
    return Finding("Jupyter", "look", fact, advice)


def at_least(version: str | None, least: str) -> bool:
    """Whether a version is that one or newer, by its first two numbers."""
    numbers = (
        [int(n) for n in re.findall(r"\d+", v)[:2]] for v in (version or "", least)
    )
    return next(numbers) >= next(numbers)


def disk_finding(writable: bool, free: float) -> Finding:
    """The folder that the tick log goes to unless told otherwise."""
    hours = free / LOG_BYTES / 3600
    fact = f"{free / 1e9:.1f} GB free, {hours:.1f} h at 50,000 ticks/s"
    if not writable:
        advice = "go to a folder you may write in, or name one by --log-file"
        return Finding("disk here", "missing", f"not writable, {fact}", advice)
    if free < LEAST_BYTES:
        advice = "make room, or name a file elsewhere by --log-file"
        return Finding("disk here", "look", f"writable, {fact}", advice)
    return Finding("disk here", "ok", f"writable, {fact}")


# -- look -------------------------------------------------------------------


def version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def optimized() -> bool:
    """Whether the interpreter was built with profile-guided optimisation."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS")  # None: Windows, always is
    return arguments is None or "--enable-optimizations" in arguments


def nap(times: int = 25) -> float:
    """How long a sleep of 1 ms takes, the median of some, in seconds."""
    took = []
    for _ in range(times):
        since = time.perf_counter()
        time.sleep(0.001)
        took.append(time.perf_counter() - since)
    return statistics.median(took)


def is_free(port: int) -> bool:
    """Whether we could listen on a port of this machine."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def disk() -> tuple[bool, int]:
    """Whether this folder can be written to, and the bytes free."""
    free = shutil.disk_usage(".").free
    try:
        tempfile.TemporaryFile(dir=".").close()
    except OSError:
        return False, free
    return True, free


def redis_finding(url: str | None) -> Finding:
    """The Redis a run would use; one of our own is started, asked and stopped."""
    try:
        with redis_server(url) as server:
            if "fakeredis" in server.how:
                advice = "enough for the lessons; for speed, install redis-server"
                return Finding("Redis", "look", "fakeredis stands in", advice)
            with connect(server.url) as client:
                number = client.info("server")["redis_version"]
    except (QuantsError, redis.RedisError) as error:
        fact = "QUANTS_REDIS_URL is no help" if url else "none starts"
        return Finding("Redis", "missing", fact, str(error))
    program = PurePath(server.how.partition(" of our own")[0]).name
    found = "QUANTS_REDIS_URL answers, Redis" if url else program
    return Finding("Redis", "ok", f"{found} {number}")


# -- say --------------------------------------------------------------------


def one_line(findings: list[Finding]) -> str:
    """The facts alone, with a mark where there is something."""
    marks = {"ok": "", "look": "(!) ", "missing": "(!!) "}
    facts = (f"{marks[f.mark]}{f.name}: {f.fact}" for f in findings)
    return f"quants {version('quants-in-motion') or 'not installed'}; " + "; ".join(
        facts
    )


def lines(findings: list[Finding]) -> Iterator[str]:
    """Mark, name and fact, and under it what to do."""
    for each in findings:
        yield f"{each.mark:<8} {each.name:<12} {each.fact}"
        if each.advice:
            yield f"{'':<21} -> {each.advice}"


@click.command()
@click.option("--short", is_flag=True, help="One line, to send when you ask for help.")
@click.option("--json", "as_json", is_flag=True, help="The same for a program.")
def doctor(short: bool, as_json: bool) -> None:
    """Look at this machine: does it have what the pump needs?

    "look" works, and is worth knowing; "missing" must be put right (exit code 1).
    """
    findings = list(examine())
    if as_json:
        click.echo(json.dumps([f._asdict() for f in findings], indent=2))
    elif short:
        click.echo(one_line(findings))
    else:
        click.echo("\n".join(lines(findings)))
    if any(f.mark == "missing" for f in findings):
        raise SystemExit(1)
