"""`quants limits` and `quants alerts`, on a real Redis and as processes."""

import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from quants.alert_commands import time_text
from quants.alerts import STREAM, Alert, add_once
from quants.cli import main
from quants.errors import SettingsError
from quants.limit_commands import decimal_text, limit_table, limits_of
from quants.limits import Limits, limit_key, read_limits
from quants.redis_server import connect, redis_server
from quants.tick import Symbol
from tests.test_cli import DEADLINE, quants, started, until

AAPL = Symbol("AAPL", 2, 0)
posix = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to one process")


@pytest.fixture(scope="module", params=[None, ""], ids=["redis-server", "fakeredis"])
def server(request):
    with redis_server(path=request.param) as server:
        yield server


@pytest.fixture
def client(server):
    with connect(server.url) as client:
        client.flushall()
        yield client


def called(server, *words: str) -> Result:
    return CliRunner(env={"QUANTS_REDIS_URL": server.url}).invoke(main, words)


def in_force(client):
    limits = Limits([AAPL])
    limits.update(read_limits(client, [AAPL]))
    return limits


# ---- limits set


def test_a_limit_that_was_set_is_in_force_and_says_since_when(server, client):
    before = time.time_ns()
    said = called(server, "limits", "set", "AAPL", "exposure", "1e6")
    assert said.output == (
        "AAPL: exposure is 1000000; version 1, the first that anybody set for it\n"
    )
    limits = in_force(client)
    assert limits.bounds["exposure"] == [100_000_000]
    assert limits.versions == ["1"]
    assert before <= limits.set_ns[0] <= time.time_ns()


@pytest.mark.parametrize("word", ["none", "unset"])
def test_a_limit_that_was_removed_is_none_any_more(word, server, client):
    called(server, "limits", "set", "AAPL", "price_low", "-180.5")
    called(server, "limits", "set", "AAPL", "notional", "5")
    assert in_force(client).low[0] == -18_050
    said = called(server, "limits", "set", "AAPL", "price_low", word)
    assert said.output == "AAPL: price_low is no limit any more; version 3\n"
    assert in_force(client).low[0] == Limits([AAPL]).low[0]
    assert in_force(client).notional == [500]


def test_a_reader_sees_a_change_with_its_version_or_none_of_it(server, client):
    if "fakeredis" in server.how:
        pytest.skip("the stand-in has no MONITOR to look with")
    with client.monitor() as monitor:
        called(server, "limits", "set", "AAPL", "notional", "7")
        asked = []
        while "EXEC" not in asked:
            asked.append(monitor.next_command()["command"].split()[0])
    assert asked[asked.index("MULTI") :] == ["MULTI", "HSET", "HSET", "HINCRBY", "EXEC"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("notional", "-1", "'-1' is negative"),
        ("notional", "much", "a decimal number such as 189.50 or 1e6, or none"),
        ("price_low", "nan", "at most 40 digits"),
        ("price_low", "inf", "at most 40 digits"),
        ("price_low", "1e99", "at most 40 digits"),
        ("price_low", "1e-99", "at most 40 digits"),
        ("price_low", "1/3", "a decimal number"),
    ],
)
def test_what_is_no_limit_is_refused_before_redis_is_asked(field, value, reason):
    with pytest.raises(SettingsError) as refused:
        decimal_text(field, value)
    assert str(refused.value).startswith(f"{field}={value}: {reason}")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [("1e6", "1000000"), ("2.50", "2.50"), ("1.5e-3", "0.0015"), ("+7", "7")],
)
def test_an_exponent_becomes_a_plain_decimal(value, text):
    assert decimal_text("notional", value) == text


# ---- limits show


def test_in_a_pipe_limits_are_a_line_for_each_symbol(server, client):
    for words in (("MSFT", "price_low", "1.50"), ("AAPL", "stale_seconds", "5")):
        called(server, "limits", "set", *words)
    lines = "AAPL stale_seconds=5 version=1", "MSFT price_low=1.50 version=1"
    assert called(server, "limits", "show").output.splitlines() == [*lines]
    some = called(server, "limits", "show", "MSFT", "JPM")
    assert some.output.splitlines() == [lines[1], "JPM no limits"]


def test_symbols_are_shown_by_name(server, client):
    for name in "THEQUICKBROWNFX":
        client.hset(limit_key(Symbol(name)), "notional", "1")
    lines = called(server, "limits", "show").output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(set("THEQUICKBROWNFX"))


def test_on_a_terminal_limits_are_a_table(server, client):
    client.hset(limit_key(AAPL), mapping={"notional": "[red]", "version": "\x1b7"})
    console = Console(file=StringIO(), width=60)
    console.print(limit_table(limits_of(client, ["AAPL"])))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "notional" in drawn
    assert "exposure" not in drawn
    assert "[red] (refused)" in drawn
    assert "\x1b" not in drawn


# ---- alerts tail


def alert(seq):
    return Alert(
        f"s1:{seq}:gap", "gap", "*", seq, 1_767_364_200 * 10**9 + seq, "7", "0"
    )


def test_the_tail_is_the_last_alerts_in_order(server, client):
    add_once(client, [alert(seq) for seq in range(1, 31)])
    lines = called(server, "alerts", "tail", "-n", "2").output.splitlines()
    assert lines == [
        "2026-01-02T14:30:00.000000029Z  *        gap          7, limit 0  (s1:29:gap)",
        "2026-01-02T14:30:00.000000030Z  *        gap          7, limit 0  (s1:30:gap)",
    ]
    assert len(called(server, "alerts", "tail").output.splitlines()) == 10


def test_entries_of_others_do_no_harm(server, client):
    client.xadd(STREAM, {"rule": "\x1b[2J", "time_ns": "9" * 40})
    (line,) = called(server, "alerts", "tail").output.splitlines()
    assert line.split() == ["?", "?", "?[2J", "?,", "limit", "?", "(?)"]
    assert time_text("-1") == "1969-12-31T23:59:59.999999999Z"


@posix
def test_who_follows_sees_what_comes_and_ends_quietly(server, client):
    words = ["alerts", "tail", "--follow", "--redis-url", server.url]
    add_once(client, [alert(1)])
    command = [sys.executable, "-m", "quants", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        try:
            assert child.stdout
            assert "(s1:1:gap)" in child.stdout.readline()
            add_once(client, [alert(2), alert(3)])
            assert "(s1:2:gap)" in child.stdout.readline()
            assert "(s1:3:gap)" in child.stdout.readline()
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=DEADLINE) == ("", "")
            assert child.returncode == 0
        finally:
            child.kill()


# ---- no Redis


@pytest.mark.parametrize(
    "words", [("limits", "show"), ("limits", "set", "A", "notional", "1"),
              ("alerts", "tail")],
)  # fmt: skip
def test_without_a_redis_one_sentence_says_where_its_url_stands(words):
    said = CliRunner(env={"QUANTS_REDIS_URL": None}).invoke(main, words)
    assert said.exit_code == 2
    assert said.output == (
        "quants: redis-url=unset: name it, or set QUANTS_REDIS_URL; a run prints "
        "its own at its start\n"
    )


def test_a_redis_that_is_gone_and_a_url_of_none_are_one_sentence_each():
    away = ("limits", "show", "--redis-url", "redis://:secret@127.0.0.1:1/0")
    said = CliRunner().invoke(main, away)
    assert said.exit_code == 1
    assert said.output.startswith("quants: Redis at redis://127.0.0.1:1/0: ")
    assert said.output.count("\n") == 1
    said = CliRunner().invoke(main, [*away[:3], "http://127.0.0.1/"])
    assert said.exit_code == 2
    assert said.output.startswith("quants: redis-url=http://127.0.0.1/: ")


def test_the_url_that_a_run_prints_is_where_its_limits_are(tmp_path: Path):
    with started("run", "--metrics-port", "0", cwd=tmp_path) as child:
        url = until(tmp_path, r"(redis://\S+)").partition("redis://")[2].split()[0]
        shown = quants("limits", "show", "AAPL", "--redis-url", f"redis://{url}",
                       cwd=tmp_path)  # fmt: skip
        child.terminate()
        child.communicate(timeout=DEADLINE)
    assert shown.stdout.startswith("AAPL price_low=")
