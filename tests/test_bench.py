"""The ladder of engines: right verdicts, checked sums, whole reports."""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from math import exp, log
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from quants.cli import main
from quants.climb import (
    KERNELS,
    LAST,
    ROLLING,
    ROWS,
    SPAN_NS,
    Course,
    Plan,
    in_turn,
    measured,
)
from quants.engines import ENGINES
from quants.errors import QuantsError
from quants.kernels import PythonKernel
from quants.ladder import (
    NEVER,
    Found,
    Ladder,
    Reason,
    Run,
    Rung,
    Side,
    claims,
    conclusions,
    crossover,
    rungs,
)
from quants.ladder_picture import LOOKS, figure, png
from quants.sums import Sums
from quants.tick import Rows
from quants.vwap import Inline, Settled

ROOT = Path(__file__).parent.parent
TINY = ("--rounds", "1", "--seconds", "0.001", "--workers", "1")
INLINE = Side("python", "session", "inline", 1000)


def engines(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "engines", *arguments])


def rung(
    batch: int, ratio: float, engine: str = "shared", kernel: str = "python"
) -> Rung:
    return Rung(kernel, "session", engine, batch, 1e6 * ratio, ratio, 1.1, 9.0, 1.5)


def found(**rates: list[float]) -> Found:
    """Ticks a second of runs of 2 s, by engine, `_again` for its second run."""
    runs: Found = {}
    for name, ticks in rates.items():
        engine, _, again = name.partition("_")
        side = INLINE._replace(engine=engine, again=bool(again))  # type: ignore[arg-type]
        runs[side] = [Run(int(2 * n), 2 * int(n) // 1000, 2.0, 1.0, 3.6) for n in ticks]
    return runs


def ladder(*rungs: Rung) -> Ladder:
    host = {"cores": "2 of 2", "interpreter": "CPython 3.99"}
    settings = {"rounds": 9, "seconds": 0.06, "workers": 2}
    reason = Reason("python", "interpreters", "there are none")
    return Ladder(host, settings, list(rungs), [reason], [])


# Decide ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.12, "faster"), (1.08, "alike"), (0.95, "alike"), (0.9, "slower")],
)
def test_only_a_difference_beyond_the_band_is_one(ratio: float, verdict: str):
    assert rung(1000, ratio).verdict == verdict


@pytest.mark.parametrize(
    ("ratios", "batch"),
    [
        ([0.1, 0.5, 1.5, 1.9], 1000),
        ([1.5, 1.5, 1.5, 1.5], 10),
        ([0.1, 0.5, 0.9, 1.5], 4096),
        ([0.1, 0.5, 1.5, 1.0], None),  # within the band at the end
        ([1.5, 0.5, 1.5, 1.5], 1000),  # a lucky small one does not count
        ([0.1, 0.2, 0.3, 0.4], None),
        ([], None),
    ],
)
def test_a_crossover_is_where_all_larger_batches_are_faster(
    ratios: list[float], batch: int | None
):
    sizes = (10, 100, 1000, 4096)
    line = [rung(size, ratio) for size, ratio in zip(sizes, ratios, strict=False)]
    assert crossover(line) == batch


def test_ratio_and_band_are_medians_of_what_a_round_pairs():
    runs = found(
        inline=[1000, 2000, 4000],
        inline_again=[1100, 2000, 3200],  # apart by 1.1, 1 and 1.25
        shared=[3000, 4000, 40000],  # 3, 2 and 10 times inline
    )
    _, shared = rungs(runs)
    assert shared.ratio == 3
    assert shared.band == pytest.approx(1.1)
    assert shared.ticks_per_second == 4000
    assert shared.here_us == pytest.approx(0.5e6 / 40)  # CPU time: the least
    assert shared.busy_cores == 1.8
    assert shared.verdict == "faster"


def test_a_rolling_window_is_held_against_the_session():
    runs = found(inline=[2000], inline_again=[2000])
    runs[INLINE._replace(window="time")] = [Run(500, 1, 1.0, 0.5, 0.0)]
    assert [each.ratio for each in rungs(runs)] == [1, 0.25]


def test_shared_is_held_against_processes_and_their_noise():
    runs = found(processes=[1000, 1000], processes_again=[1200, 1200])
    assert not list(claims(runs))
    (finding,) = claims(runs | found(shared=[2500, 2500]))
    assert (finding.ratio, finding.verdict) == (2.5, "SUPPORTED")
    assert finding.band == pytest.approx(exp(log(1.2)))
    (finding,) = claims(runs | found(shared=[2300, 2300]))
    assert finding.verdict == "INCONCLUSIVE"


def test_every_round_begins_with_another_side():
    sides = [INLINE._replace(batch=batch) for batch in (1, 2, 3)]
    turns = [(turn, side.batch) for turn, side in in_turn(sides, 4)]
    assert [batch for _, batch in turns] == [1, 2, 3, 2, 3, 1, 3, 1, 2, 1, 2, 3]
    assert [turn for turn, _ in turns] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


# Measure ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def course() -> Course:
    return Course()


class Forgetful(Inline):
    """An engine that loses one of its batches."""

    async def submit(self, rows: Rows, settled: Settled) -> None:
        if self.sums()[0].ticks or not len(rows):
            settled(True)
        else:
            await super().submit(rows, settled)


async def test_a_run_with_wrong_sums_is_no_run(course: Course):
    good, bad = (kind(PythonKernel(8)) for kind in (Inline, Forgetful))
    for _ in range(2):  # its sums go on from the last run
        assert (await course.run(INLINE, good, 0.001)).ticks
    with pytest.raises(QuantsError, match="does not have the sums"):
        await course.run(INLINE, bad, 0.01)


async def test_a_rolling_window_sees_the_rows_once(course: Course):
    side = Side("numpy", "time", "inline", 4096)
    done = await course.run(side, Inline(PythonKernel(8)), 60.0)
    assert (done.ticks, done.batches) == (ROWS, ROWS // 4096)


async def test_the_first_round_warms_up():
    plan = Plan(KERNELS, ["inline"], [], [4096], 1, rounds=3, seconds=0.001)
    shares = list[float]()
    runs, reasons = await measured(plan, shares.append)
    assert [len(each) for each in runs.values()] == [3] * 4
    assert shares == [1 / 16] * 16  # the first round's, too
    assert not reasons


@pytest.mark.parametrize("ticks", [1, 999, 60_000, ROWS])
@pytest.mark.parametrize("window", ROLLING)
def test_a_windows_sums_are_those_of_the_ticks_in_it(
    course: Course, window: str, ticks: int
):
    rows = course.rows[:ticks].tolist()
    if window == "time":
        inside = [row for row in rows if row[0] > rows[-1][0] - SPAN_NS]
    else:
        inside = [r for s in range(8) for r in [r for r in rows if r[3] == s][-LAST:]]
    expected = [Sums()] * 8
    for _, price, size, symbol, _ in inside:
        expected[symbol] += Sums(price * size, size, 1)
    assert course.sums(INLINE._replace(window=window), ticks) == expected


def test_rows_that_come_round_again_count_again(course: Course):
    once, rest = (course.sums(INLINE, n) for n in (ROWS, 5000))
    thrice = [a + a + a + b for a, b in zip(once, rest, strict=True)]
    assert course.sums(INLINE, 3 * ROWS + 5000) == thrice


# Say -------------------------------------------------------------------------


def test_the_report_is_complete_and_names_nobody(tmp_path: Path):
    file = tmp_path / "found.json"
    result = engines(*TINY, "--batch", "1000,7", "--json", str(file))
    assert result.exit_code == 0, result.output
    text = file.read_text(encoding="utf-8")
    report: dict[str, Any] = json.loads(text)
    reasons = {(r["kernel"], r["engine"]) for r in report["reasons"]}
    rows = {(r["kernel"], r["engine"], r["window"], r["batch"]) for r in report["rows"]}
    assert rows == {
        (kernel, engine, "session", batch)
        for kernel in KERNELS
        for engine in ENGINES
        for batch in (7, 1000)
        if (kernel, engine) not in reasons
    } | {("numpy", "inline", window, b) for window in ROLLING for b in (7, 1000)}
    assert all(row["ticks_per_second"] > 0 for row in report["rows"])
    assert len(report["crossovers"]) == 2 * (len(ENGINES) - 1) - len(reasons)
    assert [claim["claim"]["right"] for claim in report["claims"]] == ["processes"]
    assert report["settings"]["batches"] == [7, 1000]
    assert report["schema"] == 1
    for private in (str(ROOT), str(tmp_path), sys.prefix, socket.gethostname()):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_an_engine_that_cannot_run_says_why():
    result = engines(*TINY, "--kernel", "numpy", "--engine", "interpreters")
    assert result.exit_code == 0
    assert "numpy, interpreters: not measured; " in result.output
    assert "inline" in result.output


def test_every_engine_has_a_sentence_of_its_own():
    lines = (rung(100, 0.5), rung(1000, 1.5), rung(1000, 0.5, "threads"))
    assert list(conclusions(ladder(*lines))) == [
        "python, interpreters: not measured; there are none",
        f"python, threads: {NEVER}",
        "python, shared: beats inline from 1,000 rows a batch on",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "0"), "batch=0: 1 to 4096"),
        (("--batch", "100,5000"), "batch=5000: 1 to 4096"),
        (("--batch", "ten"), "batch=ten: numbers of rows"),
        (("--workers", "0"), "workers=0: at least 1"),
        (("--rounds", "0"), "rounds=0: at least 1"),
        (("--seconds", "0"), "seconds=0.0: "),
        (("--seconds", "nan"), "seconds=nan: "),
    ],
)
def test_wrong_input_is_one_sentence(arguments: tuple[str, ...], words: str):
    result = engines(*arguments)
    assert result.exit_code == 2
    (sentence,) = result.output.splitlines()
    assert sentence.startswith(f"quants: {words}")


def test_a_picture_without_matplotlib_is_one_sentence(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = engines("--png", str(tmp_path / "ladder.png"))
    assert result.exit_code == 2
    (sentence,) = result.output.splitlines()
    assert 'pip install "quants-in-motion[lab]"' in sentence


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    file = tmp_path / "no folder" / "ladder.png"
    arguments = ("--kernel", "numpy", "--engine", "inline", "--batch", "4096")
    result = engines(*TINY, *arguments, "--png", str(file))
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith(f"quants: png {file}: ")


def test_ctrl_c_ends_it_with_one_sentence(tmp_path: Path):
    command = [sys.executable, "-m", "quants", "bench", "engines", "--json", "found"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout
            while not child.stdout.readline().startswith("interpreter"):
                pass
            # In the middle of asyncio's own start Ctrl-C leaves half a loop, whose
            # end Python tells of; a worker shows that it is past that.
            while not psutil.Process(child.pid).children():
                assert child.poll() is None, "it ended before it had a worker"
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 1
    assert "quants: stopped, nothing is written" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


# Draw ------------------------------------------------------------------------


def test_the_picture_says_what_it_shows():
    lines = [
        rung(batch, ratio, engine, kernel)
        for kernel in KERNELS
        for engine, ratios in {"inline": (1.0, 1.0), "shared": (0.5, 1.5)}.items()
        for batch, ratio in zip((100, 1000), ratios, strict=True)
    ]
    drawn = figure(ladder(*lines))
    assert "Where a VWAP is summed" in drawn.get_suptitle()
    assert "n = 9 rounds of 0.06 s" in drawn.get_supxlabel()
    assert "CPython 3.99" in drawn.get_supxlabel()
    left, right = drawn.axes
    assert "ticks/s" in left.get_ylabel()
    for axes, kernel in ((left, KERNELS[0]), (right, KERNELS[1])):
        assert axes.get_xlabel() == "batch (rows)"
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_title() == (
            f"{kernel} kernel\nfaster than inline (ring): shared from 1,000 rows on"
        )
        named = {line.get_label(): line for line in axes.lines}
        assert list(named["shared"].get_xydata().ravel()) == [100, 5e5, 1000, 1.5e6]
        rings = [line for line in axes.lines if line.get_fillstyle() == "none"]
        assert [list(ring.get_xydata().ravel()) for ring in rings] == [[1000, 1.5e6]]
    assert png(drawn).startswith(b"\x89PNG\r\n\x1a\n")


def test_every_engine_has_a_look_of_its_own():
    assert set(LOOKS) == set(ENGINES)
    colors, markers = zip(*LOOKS.values(), strict=True)
    assert len(set(colors)) == len(set(markers)) == len(ENGINES)
