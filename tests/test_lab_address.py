"""Where the reader's browser finds a server in a kernel."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from quants.errors import SettingsError
from quants.host import free_port
from quants.lab import address as addressing
from quants.lab.address import DOUBT, Address, address, metrics_url, served_below
from quants.metrics import Registry
from quants.server import MetricsServer

ROOT = Path(__file__).parent.parent
BINDER = {"JUPYTERHUB_SERVICE_PREFIX": "/user/quants-4k2x/"}
TOLD = {"QUANTS_PROXY_URL": "https://lab.example/me/proxy/{port}/"}


# what a kernel can know ----------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "prefix", "proxied", "url"),
    [
        ({}, None, False, None),  # nbconvert, an editor: the browser is right here
        ({}, None, True, None),
        ({}, "/", False, None),  # a Jupyter server, and nothing to lead through it
        ({}, "/", True, "/proxy/81/"),
        ({}, "/user/me/", True, "/user/me/proxy/81/"),
        ({}, "/lab", True, "/lab/proxy/81/"),
        (BINDER, None, True, "/user/quants-4k2x/proxy/81/"),
        (BINDER, "/user/quants-4k2x/", True, "/user/quants-4k2x/proxy/81/"),
        (TOLD, None, False, "https://lab.example/me/proxy/81/"),
        (BINDER | TOLD, "/", True, "https://lab.example/me/proxy/81/"),
        ({"QUANTS_PROXY_URL": "/p{port}"}, None, False, "/p81/"),
        ({"QUANTS_PROXY_URL": ""} | BINDER, None, True, "/user/quants-4k2x/proxy/81/"),
    ],
)
def test_the_way_is_the_one_that_was_told_then_the_hubs_then_the_servers(
    environment: dict[str, str], prefix: str | None, proxied: bool, url: str | None
):
    found = address(81, environment, prefix, proxied)
    assert found == (Address(url) if url else None)


def test_on_a_hub_without_the_proxy_a_sentence_says_what_to_do():
    found = address(81, BINDER, None, proxied=False)
    assert found == Address("/user/quants-4k2x/proxy/81/", DOUBT)
    assert str(found) == f"/user/quants-4k2x/proxy/81/ ({DOUBT})"
    assert "install it" in DOUBT


def test_a_told_way_without_a_place_for_the_port_is_refused():
    with pytest.raises(SettingsError, match=r"QUANTS_PROXY_URL=.*\{port\}"):
        address(81, {"QUANTS_PROXY_URL": "/proxy/8080/"}, None, True)


def test_a_page_shows_a_link_that_opens_beside_it():
    html = Address('/a"b/proxy/81/metrics')._repr_html_()
    assert html == (
        '<a href="/a&quot;b/proxy/81/metrics" target="_blank">'
        "/a&quot;b/proxy/81/metrics</a>"
    )


def test_the_prefix_is_of_the_server_that_started_us_and_of_no_other(tmp_path: Path):
    for pid, prefix in ((11, "/other/"), (12, "/ours/")):
        told = json.dumps({"base_url": prefix, "pid": pid, "token": "secret"})
        (tmp_path / f"jpserver-{pid}.json").write_text(told, encoding="utf-8")
    (tmp_path / "jpserver-13.json").write_text('{"base_u', encoding="utf-8")
    assert served_below(tmp_path, ["", "12"]) == "/ours/"
    assert served_below(tmp_path, ["13", "11"]) == "/other/"
    assert served_below(tmp_path, ["14"]) is None
    assert served_below(tmp_path / "none", ["12"]) is None


def spec_of(found: bool) -> Callable[[str], ModuleSpec | None]:
    return lambda name: ModuleSpec(name, None) if found else None


def test_the_environment_of_this_process_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = MetricsServer(Registry(), port=81)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    for name in ("QUANTS_PROXY_URL", "JUPYTERHUB_SERVICE_PREFIX", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(addressing, "find_spec", spec_of(found=True))
    assert metrics_url(server) == Address("http://127.0.0.1:81/")
    for starter, prefix in ((os.getppid(), "/parent/"), (4, "/told/")):
        file = tmp_path / f"jpserver-{starter}.json"
        file.write_text(json.dumps({"base_url": prefix}), encoding="utf-8")
    assert metrics_url(server) == Address("/parent/proxy/81/")
    monkeypatch.setenv("JPY_PARENT_PID", "4")  # also where a shell stands between
    assert metrics_url(server, "metrics") == Address("/told/proxy/81/metrics")
    monkeypatch.setattr(addressing, "find_spec", spec_of(found=False))
    assert metrics_url(server, "metrics") == Address("http://127.0.0.1:81/metrics")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    assert metrics_url(server, "metrics").url == "/user/me/proxy/81/metrics"
    assert metrics_url(server).doubt == DOUBT


# the real ones -------------------------------------------------------------------


SERVE = """
from quants.lab import session
from quants.lab.address import metrics_url
from quants.metrics import Registry
from quants.server import MetricsServer
lab = await session.session()
registry = Registry()
registry.counter("quants_asked_total", "Made up.", lambda: 41)
server = MetricsServer(registry, port=0, look=lambda: {"look": 1})
server = await lab.enter(server)
print(metrics_url(server), metrics_url(server, "metrics"), server.port)
"""


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jupyter-server-proxy, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("proxy")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(folder), "jupyter-server-proxy", "simpervisor"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip(f"pip got no jupyter-server-proxy: {done.stderr.splitlines()[-1:]}")
    return folder


@contextmanager
def jupyter_server(
    folder: Path, prefix: str, environment: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """A Jupyter server below a prefix; where it is, and its token."""
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.base_url={prefix}", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.jpserver_extensions={'jupyter_server_proxy': True}"]
    log = folder / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + 60
        while "is running at" not in (text := log.read_text("utf-8")):
            assert time.monotonic() < end, text
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", token
    finally:
        below = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(20)
        assert not psutil.wait_procs(below, 10)[1], "it left processes behind"


def asked(url: str, token: str | None = None, body: Any = None) -> Any:
    """What a URL answers, as JSON."""
    headers = {"Authorization": f"token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def first_event(url: str, token: str) -> bytes:
    """The first line that a stream of events tells, while it goes on."""
    headers = {"Authorization": f"token {token}", "Accept": "text/event-stream"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        line: bytes = answer.readline()
    return line


def printed(runtime: Path, kernel: str, cell: str) -> str:
    """What a cell prints in a kernel that a Jupyter server has started."""
    client = BlockingKernelClient(
        connection_file=str(runtime / f"kernel-{kernel}.json")
    )
    client.load_connection_file()
    client.start_channels()
    texts: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        content = message["content"]
        texts.append(content.get("text", "") + content.get("evalue", ""))

    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(cell, timeout=60, output_hook=keep)
    finally:
        client.stop_channels()
    return "".join(texts)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("prefix", "hub"), [("/", False), ("/user/me/", False), ("/user/me/", True)]
)
def test_through_a_real_proxy_the_url_leads_to_the_kernels_server(
    extra: Path, tmp_path: Path, prefix: str, hub: bool
):
    runtime = tmp_path / "runtime"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(extra), str(ROOT)]),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    if hub:
        environment["JUPYTERHUB_SERVICE_PREFIX"] = prefix
    with jupyter_server(tmp_path, prefix, environment) as (site, token):
        if hub:  # then its word is enough
            next(runtime.glob("jpserver-*.json")).unlink()
        made = asked(f"{site}{prefix}api/kernels", token, {"name": "python3"})
        page, metrics, port = printed(runtime, made["id"], SERVE).split()
        assert page == f"{prefix}proxy/{port}/"
        assert asked(site + metrics, token)["quants_asked_total"] == 41
        assert first_event(f"{site}{page}events", token) == b'data: {"look":1}\n'
        with pytest.raises(json.JSONDecodeError):  # the page to log in
            asked(site + metrics)
