"""Notebook 12: judges, guests found and asked, records, two loops, the exercise."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quants.host import available_cores
from quants.lab import (
    counters,
    engine_records,
    engines_compared,
    interpreters,
    pick_task,
    screen,
    session,
    two_loops,
    workloads,
)
from quants.lab.board import judge
from quants.lab.counters import Count, Counts, Loading
from quants.lab.engine_records import Bench, Rung
from quants.lab.engines_compared import Race, Raced
from quants.lab.interpreters import Guest, Guests, NoAnswer, ask, introduced
from quants.lab.pick_task import PICK_ENGINE, Pick, Picks, Profile, pick_engine, picks
from quants.lab.source import show, show_diff
from quants.lab.two_loops import Loop, Loops
from quants.turns import gil_enabled
from tests.exercising import try_all

ROOT = Path(__file__).parent.parent
SHOWN: list[Any] = []  # by an experiment, in place of a page


@pytest.fixture(autouse=True)
async def closed(monkeypatch: pytest.MonkeyPatch):
    """Nothing is displayed; every session is closed, and nothing is left."""

    class Handle:
        def display(self, shown):
            SHOWN.append(shown)

        update = display

    SHOWN.clear()
    monkeypatch.setattr(screen, "DisplayHandle", Handle)
    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"


def guest(version: str, gil: bool = True, path: str | None = None) -> Guest:
    return Guest("CPython", version, gil, path)


# judges ----------------------------------------------------------------------------


def counts(*rows: tuple[str, bool, int, int]) -> Counts:
    return Counts(tuple(Count(guest(v, gil), 0.3, b, a) for v, gil, b, a in rows))


IN_TURNS, AT_ONCE, NEVER_RAN = (0, 9000), (9000, 10), (0, 0)
OLD, NEW, FREE = ("3.11.7", True), ("3.12.1", True), ("3.13.5t", False)


def raced(
    gil: bool = True, sum: float = 1.0, hash: float = 1.9, crumbs: float = 0.1
) -> Raced:
    """An interpreter whose threads are so many times as fast as inline."""
    ratios = {"sum": sum, "hash": hash, "wait": 2.0, "crumbs": crumbs}
    others = {"sum": 1.8, "hash": 1.7, "wait": 1.9, "crumbs": 0.02}
    return Raced(
        guest("3.11.7") if gil else guest("3.13.5t", False),
        {
            name: {"inline": 1.0, "threads": 1 / ratios[name]}
            | dict.fromkeys(("interpreters", "processes"), 1 / others[name])
            for name in ratios
        },
    )


def slowed() -> Raced:
    """An interpreter on which workers never pay."""
    engines = {"inline": 1.0, "threads": 9.0, "interpreters": 9.0, "processes": 9.0}
    return Raced(guest("3.14.1"), dict.fromkeys(engines_compared.WORKLOADS, engines))


def bench(gil: bool, verdict: str) -> Bench:
    rungs = (Rung("threads", 10, 0.1, "slower"), Rung("threads", 4096, 1.5, verdict))
    return Bench(guest("3.14.1", gil), rungs)


def naps(*early: float) -> Loops:
    """Loops whose naps of a millisecond took so long."""
    return Loops(tuple(Loop("a loop", 30.0, ((1.0, got),)) for got in early))


def pick(share: float) -> Picks:
    return Picks((Pick(raced(), "sum", "threads", share),))


@pytest.mark.parametrize(
    ("id", "evidence", "word"),
    [
        (
            "threads-run-at-once-without-a-gil",
            counts((*NEW, *IN_TURNS), (*FREE, *AT_ONCE)),
            "SUPPORTED",
        ),
        ("threads-run-at-once-without-a-gil", counts((*NEW, *AT_ONCE)), "REFUTED"),
        ("threads-run-at-once-without-a-gil", counts((*FREE, *IN_TURNS)), "REFUTED"),
        (
            "threads-run-at-once-without-a-gil",
            counts((*NEW, *NEVER_RAN)),
            "INCONCLUSIVE",
        ),
        (
            "interpreters-have-a-gil-each",
            counts((*OLD, *IN_TURNS), (*NEW, *AT_ONCE), (*FREE, *AT_ONCE)),
            "SUPPORTED",
        ),
        ("interpreters-have-a-gil-each", counts((*OLD, *AT_ONCE)), "REFUTED"),
        ("interpreters-have-a-gil-each", counts((*NEW, *IN_TURNS)), "REFUTED"),
        ("interpreters-have-a-gil-each", counts(), "INCONCLUSIVE"),
        ("numpy-stays-outside", Loading({guest("3.14.1"): "refuses"}), "SUPPORTED"),
        ("numpy-stays-outside", Loading({guest("3.14.1"): "loads"}), "REFUTED"),
        ("numpy-stays-outside", Loading({}), "INCONCLUSIVE"),
        ("no-engine-wins-everywhere", Race((raced(),)), "SUPPORTED"),
        ("no-engine-wins-everywhere", Race((raced(crumbs=1.5),)), "SUPPORTED"),
        (
            "no-engine-wins-everywhere",
            Race((raced(sum=1.9, crumbs=1.5),)),
            "REFUTED",
        ),
        ("no-engine-wins-everywhere", Race((slowed(),)), "REFUTED"),
        (
            "the-pumps-threads-pay-without-a-gil",
            [bench(True, "alike"), bench(False, "faster")],
            "SUPPORTED",
        ),
        ("the-pumps-threads-pay-without-a-gil", [bench(True, "faster")], "REFUTED"),
        ("the-pumps-threads-pay-without-a-gil", [bench(False, "alike")], "REFUTED"),
        ("the-pumps-threads-pay-without-a-gil", [], "INCONCLUSIVE"),
        ("uvloop-rounds-a-nap", naps(1.1, 0.01), "SUPPORTED"),
        ("uvloop-rounds-a-nap", naps(1.1, 1.1), "REFUTED"),
        ("uvloop-rounds-a-nap", naps(0.01, 0.01), "INCONCLUSIVE"),
        ("uvloop-rounds-a-nap", naps(1.1), "INCONCLUSIVE"),
        ("the-picked-engine-is-near-the-best", pick(0.9), "SUPPORTED"),
        ("the-picked-engine-is-near-the-best", pick(0.5), "REFUTED"),
        ("the-picked-engine-is-near-the-best", Picks(()), "INCONCLUSIVE"),
    ],
)
def test_a_verdict_is_computed_from_the_evidence(id: str, evidence: Any, word: str):
    assert judge(id, evidence).word == word


# guests ----------------------------------------------------------------------------


@pytest.fixture
def pretend(tmp_path: Path):
    """A folder in which this interpreter answers what it is told to."""

    def told(answer: str) -> Path:
        source = f"import json, os\ndef main():\n    {answer}\n"
        (tmp_path / "workloads.py").write_text(source, encoding="utf-8")
        return tmp_path

    return told


async def test_the_kernels_own_interpreter_is_always_found(monkeypatch):
    monkeypatch.setenv("QUANTS_PYTHONS", "")
    monkeypatch.setenv("PATH", "")
    found = await interpreters.found()
    version = sys.version.split()[0]
    assert found.all[0].version.rstrip("t") == version
    assert found.all[0].gil == gil_enabled()
    assert found.skipped == ()


def test_interpreters_are_named_by_a_variable_or_found_on_the_path(
    monkeypatch, tmp_path: Path
):
    name = tmp_path / ("python3.13t.exe" if os.name == "nt" else "python3.13t")
    name.write_text("#!/bin/sh\n", encoding="utf-8")
    name.chmod(0o755)
    monkeypatch.setenv("QUANTS_PYTHONS", "one/python two/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    own, *named, on_path = interpreters.candidates()
    assert own == sys.executable
    assert named == ["one/python", "two/python"]
    assert Path(on_path) == name


def test_one_of_each_sort_is_kept_and_the_others_say_why_not(tmp_path: Path, pretend):
    folder = pretend("print(json.dumps(dict(kind='CPython', version='3.12.1', gil=1)))")
    nobody = str(tmp_path / "python9")
    found = introduced([sys.executable, sys.executable, nobody], folder)
    assert [each.version for each in found.all] == ["3.12.1"]
    assert found.skipped == ("python9 (it does not start)",)
    assert str(tmp_path) not in repr(found)


def test_one_without_a_gil_is_there_twice(pretend):
    answer = "dict(kind='CPython', version='3.13.5t', gil=False)"
    found = introduced([sys.executable], pretend(f"print(json.dumps({answer}))"))
    assert list(map(str, found.all)) == ["3.13.5t, GIL off", "3.13.5t, GIL on"]
    assert [each.name for each in found.all] == ["3.13.5t", "3.13.5t +GIL"]


def test_a_guest_gets_no_settings_of_ours(monkeypatch, pretend):
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    folder = pretend("print(json.dumps({'said': dict(os.environ)}))")
    free = guest("3.13.5t", False, sys.executable)
    off, on = (ask(each, folder)["said"] for each in (free, free._replace(gil=True)))
    ours = {k: v for k, v in off.items() if k.startswith("PYTHON")}
    assert ours == {"PYTHONPATH": str(folder)}
    assert {k: v for k, v in on.items() if k.startswith("PYTHON")} == {
        "PYTHONPATH": str(folder), "PYTHON_GIL": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("raise SystemExit(1)", "it does not start"),
        ("print('pyenv: command not found')", "it does not start"),
        ("print(json.dumps({'fault': 'no sub-interpreters'}))", "no sub-interpreters"),
    ],
)
def test_a_guest_that_does_not_answer_says_why(pretend, answer: str, reason: str):
    own = guest("3.11.7", True, sys.executable)
    with pytest.raises(NoAnswer, match=reason):
        ask(own, pretend(answer), "facts", seconds=0.5)


def test_what_guests_are_sent_imports_the_standard_library_alone():
    tree = ast.parse(Path(workloads.__file__).read_text(encoding="utf-8"))
    names = {
        (node.module or "").split(".")[0]
        if isinstance(node, ast.ImportFrom)
        else node.names[0].name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert names <= sys.stdlib_module_names


def test_a_workload_that_fails_is_told_and_not_raised(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "count", "nobody"])
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    workloads.main()
    assert json.loads(capsys.readouterr().out) == {"fault": "KeyError: 'nobody'"}


# who counts, what loads -----------------------------------------------------------


async def own_guests() -> Guests:
    return await interpreters.found(lambda: iter([sys.executable]))


@pytest.mark.parametrize("way", ["threads", "interpreters"])
async def test_what_b_counts_here_is_what_this_interpreter_promises(way: str):
    guests = await own_guests()
    found = await counters.count(guests, way)
    here = [row for row in found.rows if row.guest.path]
    assert [row.guest for row in here] == list(guests.all)
    for row in here:
        free = not row.guest.gil if way == "threads" else row.guest.own_gils
        assert (row.beside > 0) == free
        assert row.beside + row.after > 0
    id = {"threads": "threads-run-at-once-without-a-gil"}
    assert judge(id.get(way, "interpreters-have-a-gil-each"), found).word == "SUPPORTED"


async def test_what_is_found_here_takes_the_place_of_what_is_recorded():
    guests = await own_guests()
    found = await counters.count(guests, "threads")
    sorts = [row.guest.sort for row in found.rows]
    assert sorts == sorted(set(sorts))
    recorded = {each.sort for each in interpreters.recorded()}
    assert set(sorts) == recorded | {each.sort for each in guests.all}
    assert repr(found).count("(recorded)") == len(sorts) - len(guests.all)


async def test_one_that_does_not_answer_leaves_its_place_to_the_recorded_one(pretend):
    before = next(iter(interpreters.recorded()))
    mute = Guests((before._replace(path=sys.executable),), (), pretend("pass"))
    found = await counters.count(mute, "threads")
    assert before in [row.guest for row in found.rows]
    assert "it does not start" in repr(found)


async def test_numpy_is_asked_only_where_each_has_a_gil():
    guests = await own_guests()
    found = await counters.numpy(guests)
    assert all(each.own_gils for each in found.said)
    own = [word for each, word in found.said.items() if each.path]
    assert own == ["refuses"] * sum(each.own_gils for each in guests.all)
    assert judge("numpy-stays-outside", found).word == "SUPPORTED"


# the race --------------------------------------------------------------------------


async def test_a_race_has_a_dot_for_each_engine_of_each_interpreter():
    guests = await own_guests()
    race = await engines_compared.race(guests, rounds=1)
    here = [row for row in race.rows if row.guest.path]
    assert [row.guest for row in here] == list(guests.all)
    for row in here:
        assert set(row.seconds) == set(engines_compared.WORKLOADS)
        assert {"inline", "threads", "processes"} <= set(row.seconds["sum"])
        assert (row.speed_up("crumbs", "processes") or 9) < 1
    assert judge("no-engine-wins-everywhere", race).word == "SUPPORTED"
    widgets, picture = SHOWN
    assert "four panels" in widgets.children[1].value.lower()
    assert picture.undescribed() == []


async def test_an_interpreter_for_which_no_time_is_left_is_skipped(monkeypatch):
    monkeypatch.setattr(engines_compared, "RACE_SECONDS", -1.0)
    guests = await own_guests()
    race = await engines_compared.race(guests)
    assert "no time was left" in repr(race)
    assert not [row for row in race.rows if row.guest.path]
    assert [row.guest for row in race.rows] == [*interpreters.recorded()]


def test_kinds_of_engines_are_ranked_by_their_median():
    race = Race((raced(), raced(), raced(gil=False, sum=2.2)))
    assert race.ranking("sum") == (
        "threads without one, sub-interpreters, processes, threads with a GIL"
    )
    assert "threads without one 2.2x" in repr(race)


def test_a_recorded_dot_is_hollow():
    own = raced()
    live = own._replace(guest=own.guest._replace(version="3.12.1", path="here"))
    chart, dots = engines_compared.small_multiples([own.guest, live.guest])
    engines_compared.put(dots, [own, live])
    heights = {dot: str(line.get_ydata()) for dot, line in dots.items()}
    assert heights["sum", "threads", True] == "(0,)"
    assert heights["sum", "threads", False] == "(1,)"
    assert dots["sum", "threads", True].get_fillstyle() == "none"
    assert chart.undescribed() == []


def test_the_fastest_of_all_rounds_counts():
    asked = []

    def slow_at_first(function, pieces):
        asked.append(len(pieces))
        time.sleep(0.05 if len(asked) == 2 else 0)
        return pieces

    work = (abs, 1, 8)
    found = workloads.fastest({"inline": slow_at_first}, work, 3)
    assert asked == [workloads.WORKERS, 8, 8, 8]
    assert found["inline"] < 0.05


@pytest.mark.skipif(os.name == "nt", reason="Windows kills no process by a signal")
def test_a_worker_process_ends_when_its_parent_is_killed(tmp_path: Path):
    """Else a guest that is ended in the middle would leave its pool behind."""
    code = (
        "import multiprocessing, time, workloads\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "spawn = multiprocessing.get_context('spawn')\n"
        "pool = ProcessPoolExecutor(1, spawn, workloads.end_with_parent)\n"
        "import os\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "time.sleep(60)"
    )
    path = str(Path(workloads.__file__).parent)
    (tmp_path / "workloads.py").write_bytes(Path(path, "workloads.py").read_bytes())
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    with child:
        assert child.stdout
        worker = int(child.stdout.readline())
        child.kill()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.kill(worker, 9)
    pytest.fail("the worker outlived its parent")


# records ---------------------------------------------------------------------------


def test_the_records_are_small_and_name_no_place():
    text = interpreters.RECORDED.read_text(encoding="utf-8")
    assert len(text) < 25_000
    assert "/" not in text


def test_the_records_show_both_kinds_of_build_and_of_sub_interpreter():
    guests = list(interpreters.recorded())
    assert {each.gil for each in guests} == {True, False}
    assert {each.own_gils for each in guests} == {True, False}
    assert all("(recorded)" in str(each) for each in guests)
    assert all(each.version in engine_records.where() for each in guests)


def test_the_pumps_records_are_those_of_the_benchmarks():
    files = sorted((ROOT / "benchmarks" / "recorded").glob("*.json"))
    benches = engine_records.benches()
    assert len(benches) == len(files)
    for bench, file in zip(benches, files, strict=True):
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        wanted = [
            (row["engine"], row["batch"], row["verdict"])
            for row in rows
            if row["kernel"] == "python" and row["engine"] != "inline"
        ]
        assert [(r.engine, r.batch, r.verdict) for r in bench.rungs] == wanted
        facts = json.loads(file.read_text(encoding="utf-8"))["host"]["interpreter"]
        assert bench.guest.version.rstrip("t") in facts
        assert ("GIL on" in facts) == bench.guest.gil


def test_the_verdicts_on_records_stand():
    benches = engine_records.benches()
    assert judge("the-pumps-threads-pay-without-a-gil", benches).word == "SUPPORTED"
    found = picks(pick_engine)
    assert judge("the-picked-engine-is-near-the-best", found).word == "SUPPORTED"
    assert engine_records.picture(benches).undescribed() == []


async def test_what_is_recorded_can_be_recorded_again(monkeypatch, pretend):
    """By one who counts in no time, and is slower at each race."""
    lines = (
        "import pathlib, sys",
        "note = [1.0, 0.5, 7]",
        "race = {name: {'inline': 2.0, 'threads': 0.1} for name in ('sum', 'wait')}",
        "first = pathlib.Path('first')",
        "again = first.exists() and sys.argv[1] == 'race'",
        "race['sum']['threads'] = 9.0 if again else 0.12345",
        "race['sum']['inline'] = 1.0 if again else 2.0",
        "sys.argv[1] == 'race' and first.touch()",
        "said = {'tracks': [[note], [note]], 'said': 'refuses', 'seconds': race}",
        "print(json.dumps(said))",
    )
    own = guest("3.14.1", True, sys.executable)
    guests = Guests((own,), (), pretend("\n    ".join(lines)))

    async def found():
        return guests

    monkeypatch.setattr(engine_records, "found", found)
    monkeypatch.chdir(ROOT)
    fresh = json.loads(json.dumps(await engine_records.record(passes=2)))
    kept = json.loads(interpreters.RECORDED.read_text(encoding="utf-8"))
    assert fresh["pump"] == kept["pump"]
    assert f"with {available_cores()} cores" in fresh["host"]
    (row,) = fresh["guests"]
    assert row.keys() == kept["guests"][0].keys()
    assert row["guest"] == ["CPython", "3.14.1", True]
    assert row["seconds"]["sum"] == {"inline": 1.0, "threads": 0.1235}


# two loops -------------------------------------------------------------------------


async def test_each_loop_echoes_and_naps():
    loops = await two_loops.two_loops(echoes=20, naps=1)
    assert loops.all[0].name == "asyncio"
    for loop in loops.all:
        assert loop.echo_us > 0
        assert [asked for asked, _ in loop.naps] == list(two_loops.ASKED_MS)
    assert loops.picture().undescribed() == []


async def test_uvloop_ends_naps_early_and_asyncio_does_not():
    pytest.importorskip("uvloop", reason="there is none for Windows")
    loops = await two_loops.two_loops(echoes=1, naps=1)
    assert [loop.early > 0 for loop in loops.all] == [False, True]


# the exercise ----------------------------------------------------------------------


def test_what_the_notebook_shows_fits():
    show(Profile)
    show_diff(workloads.in_thread, workloads.in_interpreter)


def always_threads(profile: Profile) -> str:
    return "threads"


def never_asks_for_a_gil(profile: Profile) -> str:
    return pick_engine(profile._replace(gil=True))


def thinks_c_code_holds_it(profile: Profile) -> str:
    return pick_engine(profile._replace(lets_go=False))


def forgets_sub_interpreters(profile: Profile) -> str:
    return pick_engine(profile._replace(own_gils=False))


def loads_anything(profile: Profile) -> str:
    return pick_engine(profile._replace(loads=True))


def waits_in_processes(profile: Profile) -> str:
    return pick_engine(profile._replace(waits=False))


def needs_cores_to_wait(profile: Profile) -> str:
    return "inline" if profile.cores == 1 else pick_engine(profile)


def takes_waiting_for_crumbs(profile: Profile) -> str:
    small = profile.work_us <= profile.handing_us
    return "inline" if small else pick_engine(profile)


def sees_two_cores(profile: Profile) -> str:
    return pick_engine(profile._replace(cores=2))


def hands_over_crumbs(profile: Profile) -> str:
    return pick_engine(profile._replace(handing_us=0.0))


def thinks_threads_are_free(profile: Profile) -> str:
    free = not profile.gil and profile.cores > 1
    return "threads" if free else pick_engine(profile)


def test_each_misconception_meets_its_own_hint():
    try_all(
        PICK_ENGINE,
        {
            always_threads: "would take turns",
            never_asks_for_a_gil: "There is no GIL",
            thinks_c_code_holds_it: "has let go of it",
            forgets_sub_interpreters: "cheaper than a process",
            loads_anything: "refuses to load",
            waits_in_processes: "cheapest workers are enough",
            needs_cores_to_wait: "one core can wait",
            takes_waiting_for_crumbs: "not how long it takes",
            sees_two_cores: "share what inline has",
            hands_over_crumbs: "compare work_us",
            thinks_threads_are_free: "handed its piece as well",
        },
    )


def test_a_pick_is_weighed_against_the_best_engine_there():
    race = Race((raced(sum=1.0),))
    found = picks(always_threads, race)
    assert [each.share for each in found.all] == pytest.approx([1 / 1.8, 1, 1, 0.1])
    assert "threads for crumbs" in repr(found)
    assert judge("the-picked-engine-is-near-the-best", found).word == "REFUTED"


def test_an_engine_that_is_not_there_is_no_good_pick():
    found = picks(lambda profile: "quantum", Race((raced(),)))
    assert {each.share for each in found.all} == {0.0}


def test_a_profile_tells_what_the_race_measured():
    row = raced(gil=False)
    seconds = row.seconds | {
        "crumbs": {"inline": 1e-3, "threads": 4e-3, "processes": 1}
    }
    row = row._replace(seconds=seconds)
    told = pick_task.profile_of(row, "sum")
    assert told.handing_us == pytest.approx(4e-3 / 200 * 1e6)
    assert told.work_us == pytest.approx(1e6 / 8)
    assert (told.gil, told.own_gils, told.lets_go, told.waits) == (False, True, 0, 0)
    assert pick_task.profile_of(row, "hash").lets_go
    assert pick_task.profile_of(row, "wait").waits
