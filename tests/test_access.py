"""quants/access.py: who may read a server, and what nobody can send it."""

from pathlib import Path

import pytest

from quants.access import allowed, is_loopback, token_for
from quants.errors import SettingsError
from tests.test_house import imported, sources


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.example.org", False),
        ("", False),
        (None, False),
    ],
)
def test_only_loopback_addresses_stay_on_this_machine(host, expected):
    assert is_loopback(host) is expected


def test_a_host_others_can_reach_needs_a_token():
    with pytest.raises(SettingsError, match=r"^host=0\.0\.0\.0: .*set QUANTS_TOKEN$"):
        token_for("0.0.0.0", None)
    assert token_for("0.0.0.0", "secret") == "secret"


def test_on_loopback_nobody_is_asked_for_a_token():
    assert token_for("127.0.0.1", "secret") is None


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({"Authorization": "Bearer secret"}, {}, True),
        ({}, {"token": "secret"}, True),
        ({"Authorization": "Bearer wrong"}, {"token": "secret"}, False),
        ({"Authorization": "Bearer sécret"}, {}, False),
        ({"Authorization": "Bearer \udcff"}, {}, False),  # a byte that is no UTF-8
        ({"Authorization": "Basic secret"}, {}, False),
        ({}, {"token": ""}, False),
        ({}, {}, False),
    ],
)
def test_the_token_comes_in_a_header_or_in_the_query(headers, query, expected):
    assert allowed(headers, query, "secret") is expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, True),  # no browser, or a page of this server
        ("http://pump.example:8080", True),
        ("https://pump.example:8080", True),  # a proxy ended the TLS
        ("http://localhost:8888", True),  # a notebook on this machine
        ("http://[::1]:8888", True),
        ("http://pump.example", False),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://pump.example:8080.evil.example", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_page_of_another_site_reads_nothing(origin, expected):
    headers = {"Host": "pump.example:8080"} | (
        {"Origin": origin} if origin is not None else {}
    )
    assert allowed(headers, {}, None) is expected


def test_a_token_does_not_help_a_page_of_another_site():
    headers = {
        "Host": "pump.example:8080",
        "Origin": "http://evil.example",
        "Authorization": "Bearer secret",
    }
    assert not allowed(headers, {}, "secret")


UNPICKLE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNPICKLE_INSIDE = {"multiprocessing"}  # between a process and its children
WIRES = {"aiohttp", "picows", "redis", "socket", "urllib", "websockets"}


def unpickled(package: Path) -> set[str]:
    """The modules in which bytes from a wire could become a pickle's objects."""
    suspects = set()
    for name, tree in sources(package).items():
        found = {full.partition(".")[0] for full in imported(tree, "quants")}
        # A lesson may pickle for itself; no other module without a wire needs to.
        inside = UNPICKLE_INSIDE | (UNPICKLE if name.startswith("lab.") else set())
        if found & (UNPICKLE - inside) or (found & inside and found & WIRES):
            suspects.add(name)
    return suspects


def test_no_module_that_has_a_wire_can_unpickle(tmp_path: Path):
    assert unpickled(Path(__file__).parent.parent / "quants") == set()
    for name, line in {
        "one": "import pickle",
        "two": "import aiohttp, multiprocessing.connection",
        "three": "from multiprocessing.connection import Connection",
    }.items():
        (tmp_path / f"{name}.py").write_text(line, encoding="utf-8")
    assert unpickled(tmp_path) == {"one", "two"}
