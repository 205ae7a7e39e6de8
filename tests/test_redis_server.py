"""Where a Redis comes from, and that ours never outlives us."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from quants.errors import EnvironmentFault, SettingsError
from quants.host import cpu_quotas, free_port, limit_in, running, usable_cores
from quants.redis_server import connect, redis_server, shown

NOWHERE = ""  # a PATH without any program
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends before a deadline; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_a_program_on_path_is_started_and_ends_with_the_block():
    with redis_server() as server:
        with connect(server.url) as client:
            facts = client.info()
        assert server.ours
        assert str(facts["tcp_port"]) in server.how
        assert facts["redis_mode"] == "standalone"
    assert gone(facts["process_id"])


def test_our_redis_listens_on_loopback_and_writes_nothing():
    with redis_server() as server, connect(server.url) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        folder = Path(client.config_get("dir")["dir"])
        client.set("key", "value")
        client.shutdown(save=False)
    assert not folder.exists()


def test_without_a_program_fakeredis_stands_in_and_says_so():
    with redis_server(path=NOWHERE) as server, connect(server.url) as client:
        client.hset("quants:limit:AAPL", "price_low", "1.5")
        assert client.hgetall("quants:limit:AAPL") == {"price_low": "1.5"}
        assert "fakeredis" in server.how
        assert "no redis-server or valkey-server on PATH" in server.how
        assert server.ours
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.url.split(":")[2][:-2])))


def test_a_named_server_is_used_as_it_is():
    with redis_server() as ours, redis_server(ours.url, path=NOWHERE) as named:
        assert named.url == ours.url
        assert not named.ours


def test_a_named_server_that_does_not_answer_stops_the_run():
    url = f"redis://reader:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(EnvironmentFault) as refusal, redis_server(url):
        pass
    assert shown(url) in str(refusal.value)
    assert "--redis-url" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_wrong_password_stops_the_run_and_is_not_shown():
    with redis_server() as server, connect(server.url) as client:
        client.config_set("requirepass", "right")
        wrong = server.url.replace("//", "//:wrong@")
        with pytest.raises(EnvironmentFault) as refusal, redis_server(wrong):
            pass
        assert "wrong@" not in str(refusal.value)
        assert server.url in str(refusal.value)


@pytest.mark.parametrize("url", ["http://u:secret@host", "host", "redis://h:port/0"])
def test_a_url_that_is_no_redis_url_is_a_wrong_option(url):
    with pytest.raises(SettingsError) as refusal, redis_server(url):
        pass
    assert "secret" not in str(refusal.value)


STARTS_AND_WAITS = """
import asyncio, sys, threading
from quants.redis_server import redis_server
starting = redis_server(path=sys.argv[1] if sys.argv[1:] else None)
ASK
print(server.url, flush=True)
sys.stdin.read()
"""
ASKERS = {
    "the main thread": "server = starting.__enter__()",
    "a thread that ends": """
found = []
asker = threading.Thread(target=lambda: found.append(starting.__enter__()))
asker.start()
asker.join()
server, = found
""",
    "asyncio.to_thread": "server = asyncio.run(asyncio.to_thread(starting.__enter__))",
}


@linux_only
@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("path", [[], [NOWHERE]], ids=["redis-server", "fakeredis"])
def test_our_redis_dies_with_a_parent_that_is_killed(path, asker):
    program = STARTS_AND_WAITS.replace("ASK", ASKERS[asker])
    command = [sys.executable, "-c", program, *path]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("redis://")
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    assert gone(child.pid, seconds=3)


@linux_only
def test_our_redis_outlives_the_thread_that_asked_for_it():
    servers = []
    starting = redis_server()
    asker = threading.Thread(target=lambda: servers.append(starting.__enter__()))
    asker.start()
    asker.join()
    with connect(servers[0].url) as client:
        assert client.ping()
    starting.__exit__(None, None, None)


def test_a_child_does_not_get_the_interrupt_of_our_group():
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with running(wait, stdin=subprocess.PIPE) as child:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_child_that_ignores_the_request_to_end_is_ended(monkeypatch):
    monkeypatch.setattr("quants.host.STOP_SECONDS", 0.05)
    stubborn = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(1, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with running([sys.executable, "-c", stubborn], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
    assert child.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_is_the_callers_error():
    with pytest.raises(FileNotFoundError), running(["/no/such/program"]):
        pass


@pytest.mark.parametrize(
    ("allowed", "limits", "cores"),
    [(8, [], 8), (8, [2.0], 2), (8, [1.5], 2), (8, [0.25], 1), (2, [4.0], 2)],
)
def test_usable_cores_are_the_tightest_limit_rounded_up(allowed, limits, cores):
    assert usable_cores(allowed, limits) == cores


def test_cpu_limit_counts_only_when_it_is_a_positive_number():
    assert list(limit_in({"CPU_LIMIT": "1.5"})) == [1.5]
    for text in ({}, {"CPU_LIMIT": ""}, {"CPU_LIMIT": "0"}, {"CPU_LIMIT": "two"}):
        assert list(limit_in(text)) == []


def test_quotas_of_all_groups_above_us_count_in_version_2(tmp_path):
    (tmp_path / "membership").write_text("0::/app/inner\n", encoding="utf-8")
    (tmp_path / "app" / "inner").mkdir(parents=True)
    (tmp_path / "cpu.max").write_text("max 100000\n", encoding="utf-8")
    (tmp_path / "app" / "cpu.max").write_text("150000 100000\n", encoding="utf-8")
    (tmp_path / "app" / "inner" / "cpu.max").write_text(
        "400000 100000\n", encoding="utf-8"
    )
    assert sorted(cpu_quotas(tmp_path, tmp_path / "membership")) == [1.5, 4.0]


def test_quotas_of_version_1_count_at_the_root_of_a_container(tmp_path):
    (tmp_path / "membership").write_text(
        "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n", encoding="utf-8"
    )
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text(
        "50000\n", encoding="utf-8"
    )
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_period_us").write_text(
        "100000\n", encoding="utf-8"
    )
    assert list(cpu_quotas(tmp_path, tmp_path / "membership")) == [0.5]


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert list(cpu_quotas(tmp_path, tmp_path / "absent")) == []
