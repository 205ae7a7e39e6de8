"""The doctor: right verdicts, and nothing about anybody in the short one."""

import getpass
import json
import os
import platform
import socket
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from quants import doctor
from quants.doctor import Finding
from tests.test_cli import quants

ROOT = Path(__file__).parent.parent
GB = 1e9


@pytest.mark.parametrize(
    ("finding", "mark", "words"),
    [
        (doctor.python_finding(True, True, True), "ok", "GIL on"),
        (doctor.python_finding(False, True, True), "ok", "GIL off"),
        (doctor.python_finding(True, False, True), "look", "without optimisation"),
        (doctor.python_finding(True, True, False), "look", "no bytecode"),
        (doctor.cores_finding(2, 8), "ok", "2 of 8"),
        (doctor.cores_finding(1, 8), "look", "low --tick-rate"),
        (doctor.memory_finding(8 * GB, 2 * GB), "ok", "2.0 of 8.0 GB"),
        (doctor.memory_finding(8 * GB, 0.2 * GB), "look", "close other programs"),
        (doctor.clock_finding(1e-9, 0.00106), "ok", "1 ms of sleep is 1.06 ms"),
        (doctor.clock_finding(1e-7, 0.0156), "look", "a step is 100 ns"),
        (doctor.loops_finding("0.22.1"), "ok", "uvloop 0.22.1"),
        (doctor.loops_finding(None), "ok", "no uvloop"),
        (doctor.port_finding(8080, True), "ok", "8080 is free"),
        (doctor.port_finding(8080, False), "look", "--metrics-port 0"),
        (doctor.disk_finding(True, 20 * GB), "ok", "3.5 h at 50,000 ticks/s"),
        (doctor.disk_finding(True, 0.1 * GB), "look", "make room"),
        (doctor.disk_finding(False, 20 * GB), "missing", "--log-file"),
    ],
)
def test_each_verdict_says_what_to_do_unless_all_is_well(
    finding: Finding, mark: str, words: str
):
    assert finding.mark == mark
    assert words in f"{finding.fact} {finding.advice}"
    assert bool(finding.advice) == (mark != "ok")


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("7.4.0", True),
        ("7.10", True),
        ("10.0a1", True),
        ("7.3.9", False),
        (None, False),
    ],
)
def test_versions_are_compared_as_numbers(version: str | None, enough: bool):
    assert doctor.at_least(version, "7.4") is enough


def test_an_old_kernel_is_named_with_the_version_wanted():
    found = {"jupyterlab": "4.6.1", "ipykernel": "6.31.0", "ipywidgets": None}
    finding = doctor.jupyter_finding(found)
    assert finding.mark == "look"
    assert "ipykernel 6.31.0 (7.4 wanted), ipywidgets not there" in finding.fact
    assert "jupyterlab 4.6.1," in finding.fact


def test_the_versions_wanted_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["optional-dependencies"]["lab"]
    pins = {r.name: str(r.specifier) for r in map(Requirement, wanted)}
    assert {name: pins[name] for name in doctor.PINS} == {
        name: f">={least}" for name, least in doctor.PINS.items()
    }


def test_a_port_with_a_listener_is_taken_and_free_afterwards():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        assert not doctor.is_free(port)
    assert doctor.is_free(port)


def test_a_line_says_mark_name_and_fact_and_the_next_what_to_do():
    findings = [
        Finding("cores", "ok", "2 of 8"),
        Finding("port", "look", "taken", "go"),
    ]
    assert list(doctor.lines(findings)) == [
        "ok       cores        2 of 8",
        "look     port         taken",
        "                      -> go",
    ]


def test_a_machine_that_runs_these_tests_has_what_the_pump_needs(tmp_path: Path):
    ended = quants("doctor", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert [finding["name"] for finding in json.loads(ended.stdout)] == [
        "Python", "cores", "memory", "clock", "event loops", "port", "Redis",
        "Jupyter", "disk here",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_short_line_names_no_path_no_person_no_machine(tmp_path: Path):
    url = "redis://somebody:secret@127.0.0.1:1/7"
    for more in ({}, {"QUANTS_REDIS_URL": url}):
        said = quants("doctor", "--short", cwd=tmp_path, **more).stdout
        assert len(said.splitlines()) == 1
        assert platform.python_version() in said
        private = [str(tmp_path), str(Path.home()), sys.prefix, os.sep + "usr"]
        private += [getpass.getuser(), socket.gethostname(), "somebody", "secret"]
        assert [word for word in private if word in said] == []


def test_a_redis_that_was_named_and_is_silent_is_missing(tmp_path: Path):
    ended = quants("doctor", cwd=tmp_path, QUANTS_REDIS_URL="redis://127.0.0.1:1/")
    assert ended.returncode == 1
    assert "missing  Redis" in ended.stdout
    assert "or leave both out to get one" in ended.stdout
    assert ended.stderr == ""


def test_without_a_server_on_path_the_stand_in_is_found(tmp_path: Path):
    ended = quants("doctor", cwd=tmp_path, PATH=str(tmp_path))
    assert ended.returncode == 0
    assert "look     Redis        fakeredis stands in" in ended.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_nobody_may_write_to_is_missing():
    """Not even root may, in /proc."""
    ended = quants("doctor", cwd=Path("/proc"), PYTHONPATH=str(ROOT))
    assert ended.returncode == 1
    assert "missing  disk here    not writable" in ended.stdout
