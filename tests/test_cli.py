"""The command line, run as its users run it: a process, its exit, its words."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from quants.cli import main, run
from quants.recovery import scan
from quants.settings import Settings

QUANTS = [sys.executable, "-m", "quants"]
DEADLINE = 60.0  # seconds; a run that hangs fails instead


def quants(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUANTS, *arguments],
        cwd=cwd,
        env=os.environ | more,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in the background, ended by its own pid whatever happens."""
    with (
        open(cwd / "err", "w", encoding="utf-8") as errors,
        subprocess.Popen(
            [*QUANTS, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        try:
            yield child
        finally:
            child.kill()


def until(cwd: Path, words: str) -> str:
    """Wait until a run has said something on stderr; all it said."""
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends:
        said = (cwd / "err").read_text(encoding="utf-8")
        if re.search(words, said):
            return said
        time.sleep(0.02)
    raise AssertionError(f"{words!r} not in {said!r}")


# -- what the options are -------------------------------------------------


def test_every_setting_is_an_option_and_every_option_a_setting():
    options = {parameter.name: parameter for parameter in run.params}
    assert set(options) == {field.name for field in fields(Settings)}
    for field in fields(Settings):
        assert options[field.name].default == field.default
        assert options[field.name].opts == [f"--{field.name.replace('_', '-')}"]


def test_the_options_of_the_brief_have_their_names_and_defaults():
    defaults = {p.opts[0]: p.default for p in run.params}
    promised = {
        "--tick-rate": 1000, "--cores": 1, "--freeze-gc": False, "--pool-size": 1000,
        "--log-file": Path("ticks.log"), "--metrics-port": 8080, "--debug": False,
    }  # fmt: skip
    assert {name: defaults[name] for name in promised} == promised


def test_help_names_every_option_with_its_default():
    text = CliRunner().invoke(main, ["run", "--help"]).output
    for parameter in run.params:
        assert parameter.opts[0] in text
    assert "[default: 1000]" in text
    assert "Exit codes" in text


# -- what it says no to -----------------------------------------------------

REFUSED = [
    (["--tick-rate", "0"], 2, "tick-rate=0: at least 1 tick per second"),
    (["--tick-rate", "fast"], 2, "'fast' is not a valid integer"),
    (["--cores", "0"], 2, "cores=0: at least 1 process is needed; this machine has"),
    (["--pool-size", "0"], 2, "pool-size=0: a pool of at least 1 tick"),
    (["--duration", "0"], 2, "duration=0.0: a run takes some time"),
    (["--duration", "nan"], 2, "duration=nan: a run takes some time"),
    (["--symbols", "0"], 2, "symbols=0: at least 1 symbol"),
    (["--symbols", "99999"], 2, "symbols=99999: "),
    (["--seed", "-1"], 2, "seed=-1: a seed is 0 or more"),
    (["--metrics-port", "70000"], 2, "metrics-port=70000: a port is 0 to 65535"),
    (["--wire", "pigeon"], 2, "'pigeon' is not one of"),
    (["--host", "0.0.0.0"], 2, "host=0.0.0.0: others can reach it: set QUANTS_TOKEN"),
    (["--feed-url", "http://x/"], 2, "feed-url=http://x/: a feed is ws://"),
    (["--feed-url", "ws://h:1/", "--seed", "5"], 2, "seed=5: the feed at ws://h:1/"),
    (["--feed-url", "ws://127.0.0.1:1/"], 1, "feed ws://127.0.0.1:1/: "),
    (["--redis-url", "redis://127.0.0.1:1/"], 1, "redis://127.0.0.1:1/: "),
    (["--redis-url", "nonsense"], 2, "redis-url="),
    (["--log-file", "no/such/folder.log"], 1, "no/such/folder.log: No such file"),
    (["--log-file", "."], 1, "directory"),
    (["--log-file", "poem.txt"], 2, "poem.txt: not a tick log"),
    (["--report", "no/such/folder.json"], 1, "no/such/folder.json: No such file"),
    (["--report", "."], 1, "report .: Is a directory; name a file that can"),
    (["--profile", "no/such/folder.txt"], 1, "profile no/such/folder.txt: No such"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_what_cannot_work_gets_one_sentence_and_leaves_nothing(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
):
    poem = tmp_path / "poem.txt"
    poem.write_text("O for a Muse of fire", encoding="utf-8")
    ended = quants("run", "--metrics-port", "0", *arguments, cwd=tmp_path)
    assert ended.returncode == code
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["poem.txt"]
    assert poem.read_text(encoding="utf-8") == "O for a Muse of fire"


def test_a_busy_port_is_named_with_the_way_out(tmp_path: Path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        ended = quants("run", "--metrics-port", port, cwd=tmp_path)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "--metrics-port 0 takes a free port" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_of_a_refusal(tmp_path: Path):
    ended = quants("run", "--debug", "--cores", "0", cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith(f"this machine has {os.cpu_count()}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit on Windows")
def test_a_full_disk_ends_the_run_and_keeps_every_whole_frame(tmp_path: Path):
    """A file of 512 KiB is all the log may have; 200 k ticks/s want 6 MB/s."""
    limited = ["bash", "-c", 'ulimit -f 512 && exec "$@"', "-", *QUANTS]
    ended = subprocess.run(
        [*limited, "run", "--metrics-port", "0", "--tick-rate", "200000"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "ticks.log: File too large; it is kept up to tick" in ended.stderr
    assert "Traceback" not in ended.stderr
    kept = int(re.findall(r"up to tick (\d+)", ended.stderr)[0])
    assert scan(tmp_path / "ticks.log").ticks == kept > 10_000


# -- how it ends --------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_the_log_is_complete(number, tmp_path: Path):
    run = ("run", "--metrics-port", "0", "--tick-rate", "50000", "--report", "r.json")
    with started(*run, cwd=tmp_path) as child:
        until(tmp_path, r"\d s ")
        child.send_signal(number)
        said, _ = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0
    assert "GC pauses" in said
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    sent = report["counts"]["sent"]
    assert sent == report["counts"]["received"] == report["log"]["written_seq"]
    assert scan(tmp_path / "ticks.log").ticks == sent


def test_the_second_signal_stops_now(tmp_path: Path):
    with started("run", "--metrics-port", "0", cwd=tmp_path) as child:
        until(tmp_path, r"\d s ")
        os.kill(child.pid, signal.SIGSTOP)  # both wait until it may run again
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        os.kill(child.pid, signal.SIGCONT)
        child.communicate(timeout=DEADLINE)
    assert child.returncode == 1
    assert "stopped at once" in (tmp_path / "err").read_text(encoding="utf-8")


def test_a_run_of_fixed_length_sends_exactly_its_ticks(tmp_path: Path):
    ended = quants(
        "run", "--duration", "0.75", "--tick-rate", "1001", "--metrics-port", "0",
        "--report", "r.json", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["counts"]["sent"] == round(0.75 * 1001)
    assert report["host"]["loop"] == "asyncio"


def test_a_second_run_appends_to_the_log(tmp_path: Path):
    for _ in range(2):
        ended = quants("run", "--duration", "0.2", "--metrics-port", "0", cwd=tmp_path)
        assert ended.returncode == 0
    assert [s.ticks for s in scan(tmp_path / "ticks.log").streams.values()] == [
        200,
        200,
    ]


def test_more_cores_than_there_are_is_a_warning(tmp_path: Path):
    ended = quants(
        "run", "--cores", "64", "--duration", "0.2", "--metrics-port", "0", cwd=tmp_path
    )
    assert ended.returncode == 0
    assert ended.stderr.count("cores=64: this machine has") == 1


def test_debug_records_name_their_module_and_go_to_stderr(tmp_path: Path):
    ended = quants(
        "run", "--debug", "--duration", "0.2", "--metrics-port", "0", cwd=tmp_path
    )
    assert ended.returncode == 0
    assert re.search(r"quants\.feed_server .*subscriber", ended.stderr)
    assert re.search(r"quants\.ticklog ", ended.stderr)
    assert "quants." not in ended.stdout


def test_a_feed_in_its_own_process_is_followed_to_its_end(tmp_path: Path):
    feed = ("feed", "--tick-rate", "5000", "--duration", "2", "--policy", "wait")
    with started(*feed, cwd=tmp_path) as child:
        url = re.findall(r"ws://\S+", until(tmp_path, r"ws://\S+ "))[0]
        ended = quants(
            "run", "--feed-url", url, "--metrics-port", "0", "--report", "r.json",
            cwd=tmp_path,
        )  # fmt: skip
        child.communicate(timeout=DEADLINE)
    assert (ended.returncode, child.returncode) == (0, 0)
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["counts"]["sent"] is None
    assert report["log"]["last_seq"] == 10_000
    assert report["counts"]["received"] == 10_001 - report["log"]["first_seq"]


def test_duration_limits_a_foreign_feed(tmp_path: Path):
    with started("feed", "--tick-rate", "5000", cwd=tmp_path):
        url = re.findall(r"ws://\S+", until(tmp_path, r"ws://\S+ "))[0]
        ended = quants(
            "run", "--feed-url", url, "--duration", "0.3", "--metrics-port", "0",
            cwd=tmp_path,
        )  # fmt: skip
    assert ended.returncode == 0
    assert "0 missing" in ended.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows build")
def test_uvloop_runs_the_same_pump(tmp_path: Path):
    ended = quants(
        "run", "--loop", "uvloop", "--duration", "0.3", "--metrics-port", "0",
        "--report", "r.json", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["host"]["loop"] == "uvloop"
    assert report["counts"]["sent"] == 300
