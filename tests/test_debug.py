"""Debug records: counted where they repeat, complete where they do not."""

import logging
import threading

import pytest

from quants.debug import Repeats, debug_records

log = logging.getLogger("quants.test_debug")


def record(message: str, name: str = "quants.x") -> logging.LogRecord:
    return logging.makeLogRecord({"name": name, "msg": message})


def test_of_one_kind_one_record_a_second_passes_and_names_the_others():
    now = 0.0
    repeats = Repeats(clock=lambda: now)
    passed = []
    for now in (0.0, 0.1, 0.9, 1.0, 1.5):
        again = record("%d ticks")
        if repeats.filter(again):
            passed.append((now, again.msg))
    assert passed == [(0.0, "%d ticks"), (1.0, "%d ticks (and 2 before)")]
    assert list(repeats.counted.values()) == [1]


def test_other_messages_and_other_loggers_are_other_kinds():
    repeats = Repeats(clock=lambda: 0.0)
    kinds = [record("open"), record("closed"), record("open", "quants.y")]
    assert all(repeats.filter(each) for each in kinds)


def test_no_record_is_lost_without_a_count(capsys: pytest.CaptureFixture[str]):
    with debug_records(wanted=True):
        for _ in range(10):
            log.debug("again")
    said = capsys.readouterr().err
    assert said.count("again") == 2
    assert "9 more: again" in said


def test_a_thread_writes_and_the_levels_are_put_back(
    capsys: pytest.CaptureFixture[str],
):
    threads = threading.active_count()
    with debug_records(wanted=True):
        assert threading.active_count() == threads + 1
        assert log.isEnabledFor(logging.DEBUG)
    assert threading.active_count() == threads
    assert not log.isEnabledFor(logging.DEBUG)
    log.debug("nobody listens")
    assert capsys.readouterr().err == ""
