"""`quants replay`: a recording reaches everybody, exactly and to the end."""

import asyncio
import csv
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quants.feed_client import subscribe
from quants.recovery import replay_segments
from quants.tick import TICK, Batch
from tests.test_cli import DEADLINE, quants, started, until
from tests.test_recordings import EXPECTED, HERE, many

HEADER = "agg_trade_id,price,quantity,first_id,last_id,transact_time,is_buyer_maker"


def binance(folder: Path, trades: list[tuple[str, str, int]]) -> Path:
    """A Binance spot file of 2025: price, quantity, time in microseconds."""
    path = folder / "BTCUSDT-aggTrades-2025-03-01.csv"
    rows = [f"{n},{p},{q},{n},{n},{t},true" for n, (p, q, t) in enumerate(trades)]
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


START_US = 1_740_787_200_000_000  # 2025-03-01T00:00:00Z
TRADES = [
    ("84349.95000000", "0.00012000", START_US),
    ("84350.00000000", "1.50000000", START_US + 250_000),
    ("84349.90000000", "0.00000001", START_US + 260_000),
]


def by_hand(trades: list[tuple[str, str, int]]) -> tuple[int, Fraction, Fraction]:
    """Ticks, Σ price·size and Σ size of the file, in exact fractions."""
    pairs = [(Fraction(p), Fraction(q)) for p, q, _ in trades]
    return (
        len(pairs),
        sum((p * q for p, q in pairs), Fraction()),
        sum((q for _, q in pairs), Fraction()),
    )


def sums_in(report: Path) -> tuple[int, Fraction, Fraction]:
    """The same of a run's only symbol."""
    (row,) = json.loads(report.read_text(encoding="utf-8"))["vwap"].values()
    size = 10 ** row["size_decimals"]
    product = Fraction(row["price_size_sum"], size * 10 ** row["price_decimals"])
    return row["ticks"], product, Fraction(row["size_sum"], size)


def url_of(folder: Path) -> str:
    return str(re.findall(r"ws://\S+", until(folder, r"ws://\S+ "))[0])


def round_trip(file: Path, folder: Path) -> list[dict[str, str]]:
    """File -> replay -> pump -> log -> export: the rows of the table."""
    with started("replay", str(file), "--speed", "max", cwd=folder) as child:
        ended = quants(
            "run", "--feed-url", url_of(folder), "--metrics-port", "0",
            "--report", "r.json", cwd=folder,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        child.communicate(timeout=DEADLINE)
    assert child.returncode == 0
    exported = quants("export", "ticks.log", "out.csv", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    with open(folder / "out.csv", encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_a_file_goes_through_the_pump_and_comes_out_the_same(tmp_path: Path):
    rows = round_trip(binance(tmp_path, TRADES * 500), tmp_path)
    kept = by_hand(TRADES)  # one id a row: no row of the file is a duplicate
    assert sums_in(tmp_path / "r.json") == tuple(500 * n for n in kept)
    assert [(r["price"], r["size"]) for r in rows[:3]] == [
        ("84349.95", "0.00012000"),
        ("84350.00", "1.50000000"),
        ("84349.90", "0.00000001"),
    ]
    assert [int(r["time_ns"]) for r in rows[:3]] == [t * 1000 for *_, t in TRADES]
    assert quants("verify", "ticks.log", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layout_makes_the_round_trip_exactly(name: str, tmp_path: Path):
    _, expected, _, _ = EXPECTED[name]
    rows = round_trip(HERE / name, tmp_path)
    assert [
        (r["symbol"], Fraction(r["price"]), Fraction(r["size"]), int(r["time_ns"]))
        for r in rows
    ] == [trade[:4] for trade in expected]
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    for symbol, told in report["vwap"].items():
        of_it = [(p, s) for n, p, s, *_ in expected if n == symbol]
        scale = 10 ** (told["price_decimals"] + told["size_decimals"])
        total = sum(p * s for p, s in of_it)
        assert Fraction(told["price_size_sum"], scale) == total


def test_a_million_rows_of_binance_make_the_round_trip(tmp_path: Path):
    """The sums of the report are those that pandas finds in the file."""
    file = many(tmp_path, 1_000_000)
    rows = round_trip(file, tmp_path)
    text = pd.read_csv(file, header=None, dtype=str).drop_duplicates(0)
    cents = text[1].str.replace(".", "").str[:-6].astype("int64")  # 2 decimals
    sizes = text[2].str.replace(".", "").str[:-3].astype("int64")  # 5 decimals
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    told = report["vwap"]["BTCUSDT"]
    assert len(rows) == told["ticks"] == len(text) > 990_000
    assert told["price_size_sum"] == int((cents * sizes).sum())
    assert told["size_sum"] == int(sizes.sum())
    assert [r["price"] for r in rows[::1000]] == text[1].str[:-6].tolist()[::1000]


async def collected(url: str) -> list[Batch]:
    async with subscribe(url) as feed:
        return [batch async for batch in feed]


async def test_three_clients_get_the_same_rows_from_the_first_to_the_last(
    tmp_path: Path,
):
    trades = [("1.50", "2", START_US + 1000 * n) for n in range(20_000)]
    file = str(binance(tmp_path, trades))
    options = ("--speed", "max", "--subscribers", "3")
    with started("replay", file, *options, cwd=tmp_path) as child:
        url = url_of(tmp_path)
        three = await asyncio.gather(*(collected(url) for _ in range(3)))
        await asyncio.to_thread(child.wait, DEADLINE)
    assert child.returncode == 0
    rows = [np.concatenate([batch.rows for batch in got]) for got in three]
    assert [len(r) for r in rows] == [20_000] * 3
    assert rows[0].tobytes() == rows[1].tobytes() == rows[2].tobytes()
    times = [START_US * 1000 + 1_000_000 * n for n in range(20_000)]
    assert rows[0]["time_ns"].tolist() == times


def test_a_log_replays_and_loops(tmp_path: Path):
    first = quants(
        "run", "--duration", "0.3", "--metrics-port", "0", "--log-file", "a.log",
        cwd=tmp_path,
    )  # fmt: skip
    assert first.returncode == 0
    options = ("--speed", "max", "--loop-times", "3")
    with started("replay", "a.log", *options, cwd=tmp_path):
        ended = quants(
            "run", "--feed-url", url_of(tmp_path), "--metrics-port", "0",
            "--log-file", "b.log", cwd=tmp_path,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    one, three = (logged(tmp_path / name) for name in ("a.log", "b.log"))
    assert len(three) == 3 * len(one) == 900
    for field in ("price", "size", "symbol"):
        assert three[field].tolist() == one[field].tolist() * 3
    assert np.diff(three["time_ns"]).min() > 0


def logged(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    rows = [batch.rows for _, batch in replay_segments(path) if len(batch)]
    return np.concatenate(rows).astype(TICK)


REFUSED = [
    (["no-such.csv"], 2, "no-such.csv"),
    (["poem.txt"], 2, "poem.txt"),
    (["poem.txt", "--speed", "0"], 2, "'0' is neither a number above 0 nor max"),
    (["poem.txt", "--speed", "fast"], 2, "'fast' is neither a number above 0 nor"),
    (["poem.txt", "--loop-times", "0"], 2, "0 is not in the range"),
    (["poem.txt", "--format", "parquet"], 2, "'parquet' is not one of"),
    (["poem.txt", "--host", "0.0.0.0"], 2, ""),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_what_cannot_be_replayed_gets_its_sentence(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
):
    poem = tmp_path / "poem.txt"
    poem.write_text("O for a Muse of fire\n", encoding="utf-8")
    ended = quants("replay", *arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ on Windows")
def test_a_signal_ends_a_replay_that_nobody_came_to(tmp_path: Path):
    file = str(binance(tmp_path, TRADES))
    with started("replay", file, cwd=tmp_path) as child:
        url_of(tmp_path)
        child.terminate()
        child.communicate(timeout=DEADLINE)
    assert child.returncode == 0
    assert "0 ticks sent" in (tmp_path / "err").read_text(encoding="utf-8")
