"""README keeps its word: its commands run, its lists are the package's own."""

import json
import pstats
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from quants.host import free_port
from tests.test_cli import DEADLINE, quants, started, until
from tests.test_packaging import make_targets
from tools import readme

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
]


def block(first: str) -> str:
    """The body of the text block that begins with a line."""
    found = re.search(r"```text\n" + re.escape(first) + r"(.*?)\n```", TEXT, re.S)
    assert found, first
    return found[1]


def test_the_list_of_modules_is_what_the_modules_say():
    assert block(readme.LIST) == readme.modules()


def test_the_help_is_what_the_command_prints():
    assert block(readme.HELP) == readme.help_text()


def test_the_summary_has_the_ticks_and_the_prices_of_seed_1(tmp_path: Path):
    """Counts and prices are exact everywhere; times are of one machine."""
    counted = re.compile(r"^  (?:vwap|log|risk|[A-Z]+) .*$", re.M)
    ended = subprocess.run(
        [sys.executable, "-m", "quants", "run", "--duration", "10", "--metrics-port",
         "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    told = counted.findall(ended.stdout)
    assert told == counted.findall(block(readme.RUN))
    assert len(told) == 3 + 8


def on_free_ports(command: str, ports: dict[str, int]) -> str:
    """A command of README with each of its ports moved to a free one."""
    for port, free in ports.items():
        command = command.replace(port, str(free))
    return command


def test_every_command_is_one_that_is_tried_here():
    known = r"make|curl|python -m (pip install -r requirements.txt|quants|cProfile)"
    assert COMMANDS
    assert [c for c in COMMANDS if not re.match(known, c)] == []
    called = make_targets("\n".join(COMMANDS))
    assert {"run", "test"} <= called


def runs() -> list[str]:
    """The commands that run the pump and end by themselves."""
    return [c for c in COMMANDS if c.startswith("python -m quants run")]


@pytest.mark.parametrize("command", [c for c in runs() if "--feed-url" not in c])
def test_a_run_of_the_readme_ends_well_and_answers_its_curls(
    command: str, tmp_path: Path
):
    port = free_port()
    arguments = [*shlex.split(command)[3:], "--metrics-port", str(port)]
    with started(*arguments, cwd=tmp_path) as child:
        until(tmp_path, r"1\.0 s ")
        for curl in (c for c in COMMANDS if c.startswith("curl")):
            answer = answered(on_free_ports(curl, {"8080": port}))
            if "text/plain" in curl:
                assert "# TYPE quants_ticks_processed_total counter" in answer
            else:
                assert next(iter(json.loads(answer))) == "ticks_processed"
        child.communicate(timeout=DEADLINE)
    assert child.returncode == 0


def answered(curl: str) -> str:
    """What curl prints; where there is no curl, the same by urllib."""
    if shutil.which("curl"):
        told = subprocess.run(shlex.split(curl), capture_output=True, check=True)
        return told.stdout.decode()
    *options, address = shlex.split(curl)[1:]
    headers = dict(options[1::2][0].split(": ") for _ in options[:1])
    request = urllib.request.Request(f"http://{address}", headers=headers)
    with closing(urllib.request.urlopen(request)) as reply:
        return str(reply.read().decode())


def test_the_counted_run_of_the_readme_leaves_its_statistics(tmp_path: Path):
    (command,) = (c for c in COMMANDS if "cProfile" in c)
    subprocess.run(
        [sys.executable, *shlex.split(command)[1:], "--metrics-port", "0"],
        cwd=tmp_path, capture_output=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    assert pstats.Stats(str(tmp_path / "profile.stats")).get_stats_profile()


def test_feed_and_pump_as_two_processes_find_each_other(tmp_path: Path):
    ports = {"9000": free_port(), "8080": free_port()}
    feed, run = (
        shlex.split(on_free_ports(c, ports))[3:] for c in COMMANDS if "9000" in c
    )
    with started(*feed, cwd=tmp_path):
        until(tmp_path, r"ws://")
        ended = subprocess.run(
            [sys.executable, "-m", "quants", *run, "--metrics-port", "0"],
            cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE,
            check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "0 missing" in ended.stdout


def test_trades_of_ones_own_go_in_by_replay_and_out_by_export(tmp_path: Path):
    ports = {"9100": free_port()}
    recorded = [on_free_ports(c, ports) for c in COMMANDS if "9100" in c]
    replay, run = (shlex.split(c)[3:] for c in recorded)
    replay[1] = str(ROOT / replay[1])
    later = [c for c in COMMANDS if re.match(r"python -m quants (verify|export)", c)]
    with started(*replay, cwd=tmp_path) as child:
        until(tmp_path, r"ws://")
        told = [quants(*run, "--metrics-port", "0", cwd=tmp_path)]
        child.communicate(timeout=DEADLINE)
    told += [quants(*shlex.split(c)[3:], cwd=tmp_path) for c in later]
    assert [ended.returncode for ended in told] == [0, 0, 0], told
    assert len((tmp_path / "ticks.csv").read_text("utf-8").splitlines()) == 1 + 4


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
