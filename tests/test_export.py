"""A log as a table: every tick a row, every digit as it was, or no file at all."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from decimal import Decimal, localcontext
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from quants.cli import main
from quants.errors import CorruptLog, EnvironmentFault, SettingsError
from quants.export import export
from quants.frame import Kind, encode, ticks_frame
from quants.logfile import Segment
from quants.selection import select
from quants.tick import TICK, Rows, Symbol
from tests.test_cli import DEADLINE, QUANTS, started, until

COLUMNS = ["seq", "time_ns", "symbol", "price", "size"]
SYMBOLS = (Symbol("AAPL"), Symbol("BTC-USD", 2, 8), Symbol("JPY", 0, 18))
BOTH = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


def quants(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def random_rows(rng: random.Random, n: int, symbols: int = len(SYMBOLS)) -> Rows:
    """Rows of every magnitude that 64 bits have, of both signs."""
    rows = np.zeros(n, TICK)
    for name in ("time_ns", "price", "size"):
        magnitudes = [rng.getrandbits(rng.randrange(64)) for _ in range(n)]
        rows[name] = [rng.choice([m, m, -m]) for m in magnitudes]
    rows["symbol"] = [rng.randrange(symbols) for _ in range(n)]
    return rows


def trades(rng: np.random.Generator, n: int) -> Rows:
    """Rows as a market has them, eight decimals included."""
    rows = np.zeros(n, TICK)
    rows["time_ns"] = 1_767_364_200_000_000_000 + np.arange(n) * 20_000
    rows["price"] = rng.integers(1, 10**8, n)
    rows["size"] = rng.integers(0, 10**10, n)
    rows["symbol"] = rng.integers(0, len(SYMBOLS), n)
    return rows


def segment(
    stream: str = "s", first_seq: int = 1, symbols: tuple[Symbol, ...] = SYMBOLS
) -> bytes:
    return Segment(stream, symbols, 1_767_364_200_000_000_000, first_seq).encode()


def frames(rows: Rows, first_seq: int = 1, each: int = 1000) -> bytes:
    return b"".join(
        ticks_frame(rows[i : i + each], first_seq + i, 7)
        for i in range(0, len(rows), each)
    )


def exact(value: int, decimals: int) -> Decimal:
    """What a fixed-point integer stands for, by way of a fraction."""
    fraction = Fraction(value, 10**decimals)
    return Decimal(fraction.numerator * 10**decimals // fraction.denominator).scaleb(
        -decimals
    )


def expected(
    rows: Rows, first_seq: int = 1, symbols: tuple[Symbol, ...] = SYMBOLS
) -> list[tuple[Any, ...]]:
    return [
        (
            seq,
            time_ns,
            symbols[index].name,
            exact(price, symbols[index].price_decimals),
            exact(size, symbols[index].size_decimals),
        )
        for seq, (time_ns, price, size, index, _) in enumerate(rows.tolist(), first_seq)
    ]


def read(path: Path) -> list[tuple[Any, ...]]:
    """A table by Python's csv module, or by PyArrow, values as Decimal."""
    if path.suffix == ".parquet":
        return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    kinds = {"seq": int, "time_ns": int, "price": Decimal, "size": Decimal}
    return [
        tuple(kinds.get(n, str)(v) for n, v in zip(head, row, strict=True))
        for row in rows
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 2,500 ticks, each value of any magnitude."""
    path = tmp_path / "ticks.log"
    path.write_bytes(segment() + frames(random_rows(random.Random(1), 2500)))
    return path


# What a table holds ----------------------------------------------------------


@BOTH
@pytest.mark.parametrize("seed", [20260102, 20260103])
def test_every_tick_is_a_row_with_every_digit(suffix: str, seed: int, tmp_path: Path):
    print(f"seed {seed}")
    rows = random_rows(random.Random(seed), 5000)
    extremes = [2**63 - 1, -(2**63), 0, 1, -1, 10, -10, 10**18, -(10**18)]
    for name in ("price", "size", "time_ns"):
        rows[name][: len(extremes)] = extremes
    (tmp_path / "log").write_bytes(segment(first_seq=71) + frames(rows, 71, each=999))
    out = tmp_path / f"ticks{suffix}"
    ended = quants("export", tmp_path / "log", out)
    assert ended.exit_code == 0, ended.output
    assert read(out) == expected(rows, 71)
    assert not list(tmp_path.glob("*.part"))


def test_a_csv_value_has_exactly_its_symbols_decimals(tmp_path: Path):
    rows = np.zeros(4, TICK)
    rows["price"] = [18950, 5, -5, 7]
    rows["size"] = [300, 1, 123_456_789_012, 1]
    rows["symbol"] = [0, 0, 1, 2]
    (tmp_path / "log").write_bytes(segment() + frames(rows))
    assert quants("export", tmp_path / "log", tmp_path / "t.csv").exit_code == 0
    assert (tmp_path / "t.csv").read_bytes() == (
        b"seq,time_ns,symbol,price,size\n"
        b"1,0,AAPL,189.50,300\n"
        b"2,0,AAPL,0.05,1\n"
        b"3,0,BTC-USD,-0.05,1234.56789012\n"
        b"4,0,JPY,7,0.000000000000000001\n"
    )


def test_a_parquet_column_says_what_it_is(log: Path, tmp_path: Path):
    assert quants("export", log, tmp_path / "t.parquet").exit_code == 0
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == COLUMNS
    assert schema.field("seq").type == pa.uint64()
    assert schema.field("time_ns").type == pa.int64()
    assert schema.field("symbol").type == pa.dictionary(pa.int32(), pa.string())
    assert schema.field("price").type == pa.decimal128(38, 2)
    assert schema.field("size").type == pa.decimal128(38, 18)


@BOTH
def test_a_million_ticks_add_up_in_pandas_as_in_the_log(suffix: str, tmp_path: Path):
    rows = trades(np.random.default_rng(3), 1_000_000)
    log, out = tmp_path / "log", tmp_path / f"t{suffix}"
    log.write_bytes(segment() + frames(rows, each=4096))
    ended = quants("export", log, out)
    assert ended.exit_code == 0, ended.output
    assert "1,000,000 rows; read back, the ticks, sizes and price" in ended.output
    if suffix == ".csv":
        table = pd.read_csv(out, dtype={"price": str, "size": str})
    else:
        table = pd.read_parquet(out)
    assert list(table.columns) == COLUMNS
    assert table.seq.tolist() == list(range(1, 1_000_001))
    assert table.time_ns.tolist() == rows["time_ns"].tolist()
    for index, symbol in enumerate(SYMBOLS):
        own, told = rows[rows["symbol"] == index], table[table.symbol == symbol.name]
        scale = 10**symbol.price_decimals * 10**symbol.size_decimals
        volume = sum(map(mul, own["price"].tolist(), own["size"].tolist()))
        with localcontext(prec=60):
            prices, sizes = map(Decimal, told.price), map(Decimal, told["size"])
            assert Fraction(sum(map(mul, prices, sizes))) == Fraction(volume, scale)
        assert len(told) == len(own)


@BOTH
def test_names_that_csv_must_quote_come_back(suffix: str, tmp_path: Path):
    names = ['say "hi"', "BRK,B", "日経", "", "a'b; c"]
    symbols = tuple(Symbol(name, 2, 0) for name in names)
    rows = random_rows(random.Random(4), 500, len(symbols))
    (tmp_path / "log").write_bytes(segment("s", 1, symbols) + frames(rows))
    ended = quants("export", tmp_path / "log", tmp_path / f"t{suffix}")
    assert ended.exit_code == 0, ended.output
    assert read(tmp_path / f"t{suffix}") == expected(rows, 1, symbols)


# Streams ---------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Rows]:
    """two.log: streams a and b over the same numbers, and a again."""
    rng = random.Random(5)
    a, b, more = (random_rows(rng, n) for n in (30, 20, 10))
    log = segment("a") + frames(a) + segment("b", 1, SYMBOLS[::-1]) + frames(b)
    log += segment("a", 31) + frames(more, 31)
    (tmp_path / "two.log").write_bytes(log)
    return {"a": np.concatenate([a, more]), "b": b}


@BOTH
def test_the_last_stream_is_exported_unless_another_is_named(
    suffix: str, two: dict[str, Rows], tmp_path: Path
):
    last, b = tmp_path / f"last{suffix}", tmp_path / f"b{suffix}"
    assert quants("export", tmp_path / "two.log", last).exit_code == 0
    assert read(last) == expected(two["a"])
    assert quants("export", tmp_path / "two.log", b, "--stream", "b").exit_code == 0
    assert read(b) == expected(two["b"], 1, SYMBOLS[::-1])


@BOTH
def test_all_streams_have_a_column_that_tells_them_apart(
    suffix: str, two: dict[str, Rows], tmp_path: Path
):
    out = tmp_path / f"t{suffix}"
    ended = quants("export", tmp_path / "two.log", out, "--stream", "all")
    assert ended.exit_code == 0, ended.output
    a = [("a", *row) for row in expected(two["a"])]
    b = [("b", *row) for row in expected(two["b"], 1, SYMBOLS[::-1])]
    assert read(out) == a[:30] + b + a[30:]


def test_a_stream_without_ticks_is_a_table_without_rows(tmp_path: Path):
    (tmp_path / "log").write_bytes(segment())
    for suffix in (".csv", ".parquet"):
        ended = quants("export", tmp_path / "log", tmp_path / f"t{suffix}")
        assert ended.exit_code == 0, ended.output
        assert read(tmp_path / f"t{suffix}") == []


# What is missing -------------------------------------------------------------


@BOTH
def test_missing_ticks_are_said_and_the_others_are_there(suffix: str, tmp_path: Path):
    rows = random_rows(random.Random(6), 20)
    pieces = [segment(), frames(rows[:5]), encode(Kind.GAP, 6, 3, 7), frames(rows, 9)]
    damaged = bytearray(b"".join([*pieces, frames(rows[:4], 29), b"QTIK, but torn"]))
    damaged[sum(map(len, pieces)) + 50] ^= 1  # rot in the last frame
    (tmp_path / "log").write_bytes(damaged)
    out = tmp_path / f"t{suffix}"
    ended = quants("export", tmp_path / "log", out)
    assert ended.exit_code == 1
    assert "problem: stream s: 3 ticks missing from the log" in ended.output
    assert "174 rotten or torn bytes, which may have held more" in ended.output
    assert ended.output.splitlines()[-1].startswith(f"{out}: 25 rows; read back")
    assert read(out) == expected(rows[:5]) + expected(rows, 9)


def test_ticks_of_nobody_knows_which_symbol_are_refused(tmp_path: Path):
    rows = random_rows(random.Random(7), 5)
    damaged = bytearray(segment("a") + frames(rows) + segment("b") + frames(rows))
    at = len(segment("a") + frames(rows))
    damaged[at + 40] ^= 1
    (tmp_path / "log").write_bytes(damaged)
    ended = quants("export", tmp_path / "log", tmp_path / "t.csv")
    assert ended.exit_code == 1
    assert f"stream lost-{at}: the header that named its symbols" in ended.stderr
    ended = quants("export", tmp_path / "log", tmp_path / "t.csv", "--stream", "a")
    assert ended.exit_code == 1  # the rot may have held more of them
    assert read(tmp_path / "t.csv") == expected(rows)


ODD = [
    ((Symbol("A"), Symbol("A", 4)), "two of its symbols have one name"),
    ((Symbol("A\n"),), "a name in it is not printable"),
    ((Symbol("A", 19),), "a symbol has 19 decimals, 18 are the most"),
]


@pytest.mark.parametrize(("symbols", "reason"), ODD)
def test_a_table_that_would_be_ambiguous_is_refused(symbols, reason, tmp_path: Path):
    rows = random_rows(random.Random(8), 3, 1)
    (tmp_path / "log").write_bytes(segment("s", 1, symbols) + frames(rows))
    ended = quants("export", tmp_path / "log", tmp_path / "t.csv")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert reason in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (SYMBOLS[:2], "ticks up to 6 are of no symbol it names"),
        (SYMBOLS[::-1], "stream s has two tables of symbols"),
    ],
)
def test_a_symbol_is_never_guessed(second, reason: str, tmp_path: Path):
    rows = np.zeros(3, TICK)
    rows["symbol"] = 2
    log = segment("s", 1, second) + frames(rows)
    if len(second) == 3:
        log += segment("s", 4)
    (tmp_path / "log").write_bytes(log + frames(rows, 4))
    ended = quants("export", tmp_path / "log", tmp_path / "t.csv")
    assert ended.exit_code == 1
    assert reason in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


# Files -----------------------------------------------------------------------

REFUSED = [
    (["ticks.log", "t.xlsx"], "t.xlsx: name a file that ends in .csv or .parquet"),
    (["absent.log", "t.csv"], "log=absent.log: no such file; name a tick log"),
    (["poem.txt", "t.csv"], "poem.txt: not a tick log"),
    (["empty.log", "t.csv"], "empty.log holds no stream"),
    (["ticks.log", "t.csv", "--stream", "x"], "stream=x: ticks.log holds s"),
    (["ticks.log", "old.csv"], "out=old.csv: it is there; --force replaces it"),
    (["log.csv", "log.csv", "--force"], "log.csv: the log itself lies there"),
    (["l.csv.part", "l.csv", "--force"], "l.csv: the log itself lies there"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_what_cannot_work_gets_one_sentence_and_changes_nothing(
    arguments: list[str], sentence: str, log: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = log.parent
    monkeypatch.chdir(folder)
    (folder / "poem.txt").write_text("O for a Muse of fire", encoding="utf-8")
    (folder / "empty.log").touch()
    (folder / "old.csv").write_text("old", encoding="utf-8")
    for copy in ("log.csv", "l.csv.part"):
        (folder / copy).write_bytes(log.read_bytes())
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    ended = quants("export", *arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert re.fullmatch(rf"quants: .*{re.escape(sentence)}.*\n", ended.stderr)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_force_replaces_the_file_that_is_there(log: Path, tmp_path: Path):
    (tmp_path / "t.CSV").write_text("old", encoding="utf-8")
    assert quants("export", log, tmp_path / "t.CSV", "--force").exit_code == 0
    assert len((tmp_path / "t.CSV").read_bytes().splitlines()) == 2501


def test_a_file_that_came_meanwhile_is_kept(log: Path, tmp_path: Path):
    out = tmp_path / "t.csv"

    def meanwhile(ticks: int) -> None:
        out.write_text("of somebody else", encoding="utf-8")

    with pytest.raises(SettingsError, match="it is there; --force replaces it"):
        export(select(log), out, advance=meanwhile)
    assert out.read_text(encoding="utf-8") == "of somebody else"


def test_parquet_without_pyarrow_says_what_to_install(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # an import of it fails
    ended = quants("export", log, tmp_path / "t.parquet")
    assert ended.exit_code == 2
    assert 'pip install "quants-in-motion[parquet]", or write a .csv' in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["ticks.log"]
    assert quants("export", log, tmp_path / "t.csv").exit_code == 0


@BOTH
def test_a_file_that_does_not_read_back_gets_no_name(suffix: str, tmp_path: Path):
    """A digit is changed on the disk, after it was written."""
    log, out = tmp_path / "log", tmp_path / f"t{suffix}"
    log.write_bytes(segment() + frames(trades(np.random.default_rng(9), 200_000)))
    rest = [200_000]  # to write

    def damage(ticks: int) -> None:
        if rest[0] == 0:  # the first chunk was read back: change the last
            with open(f"{out}.part", "r+b") as file:
                file.seek(-40_000, os.SEEK_END)
                found = file.read(30_000)
                file.seek(-40_000, os.SEEK_END)
                file.write(found.replace(b"7", b"8"))
        rest[0] -= ticks

    with pytest.raises(EnvironmentFault, match=r"export .*t\."):
        export(select(log), out, advance=damage)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@BOTH
def test_ticks_appended_meanwhile_are_not_in_the_table(suffix: str, log: Path):
    rows = random_rows(random.Random(10), 100)
    selection = select(log)
    with open(log, "ab") as file:
        file.write(frames(rows, 2501) + b"QTIK half a frame")
    out = log.with_suffix(suffix)
    export(selection, out)
    assert len(read(out)) == 2500
    assert read(out) == expected(random_rows(random.Random(1), 2500))


def test_a_log_that_is_cut_meanwhile_is_no_table(log: Path):
    selection = select(log)
    os.truncate(log, log.stat().st_size - 40)
    with pytest.raises(CorruptLog, match="it was cut while it was read"):
        export(selection, log.with_suffix(".csv"))
    assert [p.name for p in log.parent.iterdir()] == ["ticks.log"]


def test_a_log_that_a_run_appends_to_is_exported(tmp_path: Path):
    with started("run", "--metrics-port", "0", cwd=tmp_path) as child:
        until(tmp_path, r"\d s ")
        ended = [
            quants("export", tmp_path / "ticks.log", tmp_path / f"{i}.csv")
            for i in range(5)
        ]
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=DEADLINE)
    assert [e.exit_code for e in ended] == [0] * 5
    counts = [len(read(tmp_path / f"{i}.csv")) for i in range(5)]
    assert counts == sorted(counts)
    assert quants("export", tmp_path / "ticks.log", tmp_path / "t.csv").exit_code == 0
    whole = read(tmp_path / "t.csv")
    for i, count in enumerate(counts):
        assert read(tmp_path / f"{i}.csv") == whole[:count]


@BOTH
@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit on Windows")
def test_a_full_disk_leaves_nothing(suffix: str, tmp_path: Path):
    rows = trades(np.random.default_rng(11), 100_000)
    (tmp_path / "log").write_bytes(segment() + frames(rows))
    limited = ["bash", "-c", 'ulimit -f 512 && exec "$@"', "-", *QUANTS]
    ended = subprocess.run(
        [*limited, "export", "log", f"t{suffix}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == (
        f"quants: export log to t{suffix}: File too large; nothing is kept, "
        "name a file elsewhere\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@BOTH
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal to send there")
def test_ctrl_c_leaves_no_half_file(suffix: str, tmp_path: Path):
    rows = trades(np.random.default_rng(12), 2_000_000)
    (tmp_path / "log").write_bytes(segment() + frames(rows))
    with started("export", "log", f"t{suffix}", cwd=tmp_path) as child:
        ends = time.monotonic() + DEADLINE
        while not list(tmp_path.glob("*.part")):
            assert time.monotonic() < ends
            time.sleep(0.002)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=DEADLINE)
    said = (tmp_path / "err").read_text(encoding="utf-8")
    assert said == f"quants: stopped, there is no new t{suffix}\n"
    assert child.returncode == 1
    assert {p.name for p in tmp_path.iterdir()} == {"log", "err"}


# What it says ----------------------------------------------------------------


def test_the_examples_of_the_help_work(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(log.parent)
    (log.parent / "ticks.parquet").touch()
    text = quants("export", "--help").output
    examples = re.findall(r"^ *quants (export .*)$", text, re.M)
    assert len(examples) == 3
    for example in examples:
        ended = quants(*example.split())
        assert ended.exit_code == 0, ended.output


def test_a_pipe_gets_no_progress_bar(log: Path, tmp_path: Path):
    ended = subprocess.run(
        [*QUANTS, "export", log, tmp_path / "t.csv"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal on Windows")
def test_a_terminal_gets_a_progress_bar(log: Path, tmp_path: Path):
    master, terminal = os.openpty()
    with subprocess.Popen(
        [*QUANTS, "export", log, tmp_path / "t.csv"],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm"},
    ) as child:
        assert child.wait(DEADLINE) == 0
    os.close(terminal)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "writing and reading back" in shown
    assert "100%" in shown
