# ruff: noqa: E501 - a line of the table REFUSED is a row of it
"""Recorded trades: every value as the file has it, or the line that is wrong.

What is expected of a file in tests/recordings stands beside its name, read by
eye; of files made here it comes from Fraction, csv, pandas or zoneinfo.
"""

import gzip
import random
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from quants.errors import RecordingError, SettingsError
from quants.exact import decimals, epoch_times, iso_times
from quants.export import export
from quants.frame import Kind, encode, ticks_frame
from quants.layouts import LAYOUTS, new_york_midnight_ns
from quants.lines import BLOCK, SHOWN, Lines
from quants.logfile import Segment
from quants.recordings import FORMATS, Recording, open_recording
from quants.selection import select
from quants.survey import AHEAD, MOST_RUNS, Ids
from quants.tick import TICK, Symbol, rows_of

HERE = Path(__file__).parent / "recordings"
AGG = "BTCUSDT-aggTrades-2025-01.csv"
LOBSTER = "XYZ_2024-03-08_34200000_57600000_message_1.csv"

Trade = tuple[str, Fraction, Fraction, int, int]  # symbol, price, size, ns, flags


def trades(recording: Recording, n: int = 1 << 20) -> list[Trade]:
    """What is left of a recording, without fixed point."""
    rows, names = recording.take(n), recording.symbols
    return [
        (
            names[row["symbol"]].name,
            Fraction(int(row["price"]), 10 ** names[row["symbol"]].price_decimals),
            Fraction(int(row["size"]), 10 ** names[row["symbol"]].size_decimals),
            int(row["time_ns"]),
            int(row["flags"]),
        )
        for row in rows
    ]


def trade(name: str, price: str, size: str, time: str, flags: int = 0) -> Trade:
    return name, Fraction(price), Fraction(size), pd.Timestamp(time).value, flags


def fewest(texts: list[str]) -> int:
    """The fewest decimals that hold all of some decimal texts."""
    return max(
        next(k for k in range(99) if (Fraction(text) * 10**k).denominator == 1)
        for text in texts
    )


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


# Each layout -----------------------------------------------------------------

BTC, XYZ = "BTCUSDT", "XYZ"
EXPECTED: dict[str, tuple[str, list[Trade], list[tuple[str, int, int]], list[str]]] = {
    AGG: (
        "binance",
        [  # in ms, then in us
            trade(BTC, "93500.1", "0.0012", "2024-12-31T23:59:59.999Z", 1),
            trade(BTC, "93500.2", "0.5", "2025-01-01T00:00:00.000123Z", 0),
            trade(BTC, "93500", "12", "2025-01-01T00:00:00.000456Z", 1),
            trade(BTC, "93499.9", "0.00001", "2025-01-01T00:00:00.000400Z", 0),
        ],
        [(BTC, 1, 5)],
        [
            "Trades dropped, for their id came before: 1.",
            "Trades earlier than one before them, left in their place: 1.",
            "Trades missing, by their ids: 2 of BTCUSDT.",
        ],
    ),
    "ETHUSDT-aggTrades-2025-01-02.csv": (
        "binance",
        [  # futures: with a header, in ms
            trade("ETHUSDT", "3340.05", "2.5", "2025-01-02T00:00:00.001Z", 1),
            trade("ETHUSDT", "3340.06", "0.1", "2025-01-02T00:00:00.002Z", 0),
        ],
        [("ETHUSDT", 2, 1)],
        [],
    ),
    "SOLUSDT-trades-2024-12.csv": (
        "binance",
        [
            trade("SOLUSDT", "190.5", "3", "2024-12-01T00:00:00Z", 0),
            trade("SOLUSDT", "190.49", "1.25", "2024-12-01T00:00:00.007Z", 1),
        ],
        [("SOLUSDT", 2, 2)],
        [],
    ),
    "XRPUSDT-trades-2025-02.csv": (
        "binance",
        [
            trade("XRPUSDT", "2.4001", "100", "2025-02-01T00:00:00Z", 0),
            trade("XRPUSDT", "2.4", "7", "2025-02-01T00:00:00.001Z", 1),
        ],
        [("XRPUSDT", 4, 0)],
        [],
    ),
    "matches.jsonl": (
        "coinbase",
        [  # side is the maker's
            trade("BTC-USD", "93000.01", "0.5", "2025-01-01T00:00:00.000001Z", 0),
            trade("BTC-USD", "93000", "0.0001", "2025-01-01T00:00:01.25Z", 1),
            trade("ETH-USD", "3300.125", "1.5", "2025-01-01T00:00:02.123456Z", 0),
            trade("BTC-USD", "93000.02", "2", "2025-01-01T00:00:04Z", 0),
        ],
        [("BTC-USD", 2, 4), ("ETH-USD", 3, 1)],
        [
            "Lines that are no trade are left out: 1 subscriptions, 1 heartbeat.",
            "Trades dropped, for their id came before: 1.",
            "Trades missing, by their ids: 2 of BTC-USD.",
        ],
    ),
    "market_trades.jsonl": (
        "coinbase-advanced",
        [  # of snapshots what is new, the oldest first
            trade("BTC-USD", "93000.25", "0.1", "2025-01-01T00:00:00.25Z"),
            trade("BTC-USD", "93000.5", "0.2", "2025-01-01T00:00:00.5Z"),
            trade("BTC-USD", "93001", "3", "2025-01-01T00:00:01.123456789Z"),
            trade("BTC-USD", "93002", "0.4", "2025-01-01T00:00:05Z"),
        ],
        [("BTC-USD", 2, 1)],
        [
            "Lines that are no trade are left out: 1 subscriptions, 1 heartbeats.",
            "Trades dropped, for their id came before: 1.",
        ],
    ),
    LOBSTER: (
        "lobster",
        [  # New York, two days before summer time; 1: the resting order buys
            trade(XYZ, "585.33", "18", "2024-03-08T14:30:00.025551909Z", 1),
            trade(XYZ, "585.335", "300", "2024-03-08T14:30:00.201743399Z", 0),
            trade(XYZ, "585.32", "100", "2024-03-08T14:30:01.000000001Z", 0),
        ],
        [(XYZ, 3, 0)],
        ["Lines that are no trade are left out: 1 order, 1 cross, 1 halt, 1 deletion."],
    ),
    "tape.csv": (
        "csv",
        [
            trade("ABC", "101.25", "300", "2025-03-03T14:30:00.000000001Z"),
            trade("X,Y", "0.0005", "10", "2025-03-03T14:30:00.5Z"),
            trade("ABC", "-1.5", "7", "2025-03-03T14:30:00.25Z"),
        ],
        [("ABC", 2, 0), ("X,Y", 4, 0)],
        [
            "Columns left aside: venue.",
            "Trades dropped, for their id came before: 1.",
            "Trades earlier than one before them, left in their place: 1.",
        ],
    ),
}


def test_every_file_of_the_folder_is_expected():
    assert {path.name for path in HERE.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("told", [False, True])
def test_a_file_is_read_exactly_with_its_format_told_or_not(name: str, told: bool):
    format, expected, symbols, remarks = EXPECTED[name]
    with open_recording(HERE / name, format if told else "auto") as recording:
        assert trades(recording) == expected
        assert recording.ticks == len(expected)
        assert list(map(Symbol, *zip(*symbols, strict=True))) == [*recording.symbols]
        assert recording.first_time_ns == expected[0][3]
        assert recording.last_time_ns == max(time_ns for *_, time_ns, _ in expected)
        assert recording.remarks == remarks


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip in two parts": lambda b: gzip.compress(b[:99]) + gzip.compress(b[99:]),
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd in two parts": lambda b: (
        zstandard.compress(b[:99]) + zstandard.compress(b[99:])
    ),
    "zstd without a size": lambda b: zstandard.ZstdCompressor(
        write_content_size=False
    ).compress(b),
    "Windows line ends": lambda b: b.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda b: b"\xef\xbb\xbf" + b,
    "blank lines": lambda b: b"\n\n" + b.replace(b"\n", b"\n\n"),
    "no last line end": lambda b: b.removesuffix(b"\n"),
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("packed", PACKED)
def test_a_file_is_the_same_however_packed(name: str, packed: str, tmp_path: Path):
    copy = tmp_path / name
    copy.write_bytes(PACKED[packed]((HERE / name).read_bytes()))
    with open_recording(copy) as recording:
        assert trades(recording) == EXPECTED[name][1]


def test_a_zip_with_one_file_is_read_as_binance_gives_it(tmp_path: Path):
    copy = tmp_path / AGG.replace("csv", "zip")
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(HERE / AGG, AGG)
    with open_recording(copy) as recording:
        assert trades(recording) == EXPECTED[AGG][1]


def test_each_format_is_a_layout_or_the_log():
    assert set(FORMATS) == {*LAYOUTS, "log"}


# As a source -----------------------------------------------------------------


def test_rows_come_in_the_portions_that_are_asked_for_and_then_none():
    with open_recording(HERE / AGG) as recording:
        parts = [recording.take(n) for n in (0, 1, 2, 9, 9)]
    assert [len(part) for part in parts] == [0, 1, 2, 1, 0]
    assert all(part.dtype == TICK for part in parts)
    with open_recording(HERE / AGG) as recording:
        assert np.concatenate(parts).tobytes() == recording.take(9).tobytes()


def test_rows_cannot_be_written():
    with open_recording(HERE / AGG) as recording:
        for rows in (recording.take(1), recording.take(9), recording.take(9)):
            assert not rows.flags.writeable


def test_a_rewound_recording_begins_again():
    with open_recording(HERE / AGG) as recording:
        recording.take(2)
        recording.rewind()
        assert trades(recording) == EXPECTED[AGG][1]
        recording.rewind()
        assert trades(recording) == EXPECTED[AGG][1]


def test_a_recording_says_what_it_is():
    with open_recording(HERE / "tape.csv") as recording:
        recording.take(2)
        end = r"tape.csv: 2 of 3 ticks taken, 2 symbols>"
        assert re.fullmatch(f"<Recording .*{end}", repr(recording))


def test_a_symbol_chooses_among_those_of_a_file():
    with open_recording(HERE / "matches.jsonl", symbol="ETH-USD") as recording:
        assert recording.symbols == (Symbol("ETH-USD", 3, 1),)
        assert trades(recording) == [EXPECTED["matches.jsonl"][1][2]]


def test_a_symbol_names_the_ticks_of_a_file_that_holds_no_name(tmp_path: Path):
    path = written(tmp_path, "x.csv", "time_ns,price,size\n1735689600000000000,1,2\n")
    with open_recording(path, symbol="ABC") as recording:
        assert trades(recording) == [trade("ABC", "1", "2", "2025-01-01")]
    with open_recording(HERE / AGG, symbol="BTC-PERP") as recording:
        assert recording.symbols[0].name == "BTC-PERP"


def test_a_file_that_grows_gives_what_it_held_at_first(tmp_path: Path):
    path = written(tmp_path, AGG, (HERE / AGG).read_text("utf-8"))
    with open_recording(path) as recording:
        with path.open("a", encoding="utf-8") as file:
            file.write("7007,1.00000001,1,1,1,1735689600000999,True,True\n")
        assert trades(recording) == EXPECTED[AGG][1]


def test_a_file_that_became_finer_is_refused_by_line(tmp_path: Path):
    path = written(tmp_path, AGG, (HERE / AGG).read_text("utf-8"))
    with open_recording(path) as recording:
        finer = path.read_text("utf-8").replace(".20000000", ".20000001")
        path.write_text(finer, "utf-8")
        with pytest.raises(RecordingError, match=r"csv line 2: price was another"):
            recording.take(9)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path):
    path = written(tmp_path, AGG, (HERE / AGG).read_text("utf-8"))
    with open_recording(path) as recording:
        path.write_text(path.read_text("utf-8").splitlines()[0], "utf-8")
        with pytest.raises(RecordingError, match="became shorter"):
            recording.take(9)


# Our own log -----------------------------------------------------------------

TABLE = (Symbol("ABC", 2, 0), Symbol("BTC-USD", 1, 8))


def log(folder: Path, *parts: bytes) -> Path:
    path = folder / "run.log"
    path.write_bytes(b"".join(parts))
    return path


def frame(first_seq: int, *ticks: tuple[int, int, int, int, int]) -> bytes:
    return ticks_frame(rows_of(ticks), first_seq, 0)


def a_log(folder: Path) -> Path:
    """An older stream, then one of four ticks with a gap among them."""
    return log(
        folder,
        Segment("older", (Symbol("OLD"),), 0, 1).encode(),
        frame(1, (5, 1, 1, 0, 0)),
        Segment("newer", TABLE, 0, 1).encode(),
        frame(1, (10, 10125, 300, 0, 0), (12, 5, 7, 1, 1)),
        encode(Kind.GAP, 3, 5, 0),
        frame(8, (11, 6, 8, 1, 0), (11, 10126, 9, 0, 0)),
    )


def test_the_last_stream_of_a_log_is_replayed(tmp_path: Path):
    with open_recording(a_log(tmp_path)) as recording:
        assert recording.symbols == TABLE
        assert recording.remarks == ["Ticks missing in the log: 5."]
        assert (recording.first_time_ns, recording.last_time_ns) == (10, 12)
        rows = recording.take(9)
        assert rows["price"].tolist() == [10125, 5, 6, 10126]
        recording.rewind()
        assert recording.take(9).tobytes() == rows.tobytes()


def test_a_symbol_of_a_log_is_replayed_alone(tmp_path: Path):
    with open_recording(a_log(tmp_path), "log", "BTC-USD") as recording:
        assert recording.symbols == TABLE[1:]
        assert recording.ticks == 2
        assert recording.take(9).tolist() == [(12, 5, 7, 0, 1), (11, 6, 8, 0, 0)]


def test_a_run_appended_later_changes_nothing(tmp_path: Path):
    path = a_log(tmp_path)
    with open_recording(path) as recording, path.open("ab") as file:
        file.write(Segment("newest", TABLE, 0, 1).encode() + frame(1, (9, 9, 9, 1, 0)))
        file.flush()
        assert recording.take(9)["time_ns"].tolist() == [10, 12, 11, 11]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "run.log: is empty; name a file that holds trades"),
        ([b"QTIK"], "run.log: names no symbol in its last stream"),
        ([Segment("s", TABLE, 0, 1).encode()], "run.log: holds no tick"),
        ([frame(1, (1, 1, 1, 0, 0))], "run.log: names no symbol in its last stream"),
    ],
)
def test_a_log_without_ticks_is_refused(
    parts: list[bytes], sentence: str, tmp_path: Path
):
    with pytest.raises(RecordingError) as refused:
        open_recording(log(tmp_path, *parts))
    assert sentence in str(refused.value)


def test_a_text_is_no_log():
    with pytest.raises(SettingsError, match="not a tick log"):
        open_recording(HERE / AGG, "log")


def test_a_compressed_log_is_refused_with_the_way_out(tmp_path: Path):
    path = log(tmp_path, gzip.compress(a_log(tmp_path).read_bytes()))
    with pytest.raises(RecordingError, match="a compressed tick log; decompress it"):
        open_recording(path)


# Values ----------------------------------------------------------------------


def column(*texts: str):
    lines = Lines(Path("x.csv"), range(1, len(texts) + 1), texts)
    return lines.column("price", texts)


def exact(texts: list[str]) -> list[Fraction]:
    digits, places = decimals(column(*texts))
    return [Fraction(int(d), 10 ** int(p)) for d, p in zip(digits, places, strict=True)]


plain = st.from_regex(r"\A-?[0-9]{1,12}(\.[0-9]{1,12})?\Z")
holdable = plain.filter(lambda text: len(text.lstrip("-0").replace(".", "")) <= 18)


@given(st.lists(holdable, min_size=1))
@example(["0.20000000", "50.00000000", "0", "-0", "-0.0", "100", "00.1"])
def test_a_decimal_is_exact_and_ends_in_no_zero_behind_the_point(texts: list[str]):
    assert exact(texts) == list(map(Fraction, texts))
    assert decimals(column(*texts))[1].tolist() == [fewest([text]) for text in texts]


@given(st.lists(holdable), st.text("0123456789.-+e _\n٣", max_size=6))
@example([], "")
@example(["1"], ".5")
@example(["1"], "5.")
@example(["1"], "1.2.3")
@example(["1"], "1\n2")
@example(["1.5"], "--1")
@example(["1"], "1-1")
@example(["1"], "٣")
@example(["1"], "9223372036854775807")
@example(["1"], "9223372036854775808")
@example(["1"], "0.0000000000000000001")
def test_a_text_is_exact_or_refused_with_its_line(before: list[str], text: str):
    whole, point, fraction = text.removeprefix("-").partition(".")
    parts = [whole, fraction] if point else [whole]
    held = all(part.isascii() and part.isdecimal() for part in parts)
    if held:
        places = fewest([text])
        held = places <= 18 and abs(Fraction(text)) * 10**places < 2**63
    if held:
        assert exact([*before, text, "1"]) == list(map(Fraction, [*before, text, "1"]))
    else:
        with pytest.raises(RecordingError) as refused:
            exact([*before, text, "1"])
        assert refused.value.line == len(before) + 1
        assert repr(text) in str(refused.value)


def test_a_text_of_thousands_of_digits_is_shown_in_short():
    assert exact(["0" * 5000 + ".5"]) == [Fraction(1, 2)]
    with pytest.raises(RecordingError, match=f"price '1{{{SHOWN}}}…' has over 18"):
        exact(["1", "1" * 5000])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("AB"),
            st.from_regex(r"\A-?[0-9]{1,9}(\.[0-9]{1,9})?\Z"),
            st.from_regex(r"\A[0-9]{1,9}(\.[0-9]{1,9})?\Z"),
        ),
        min_size=1,
    )
)
def test_a_symbol_gets_the_fewest_decimals_that_hold_all_it_has(tmp_path_factory, made):
    texts = [f"2025-01-01 00:00:00Z,{s},{p},{q}\n" for s, p, q in made]
    path = tmp_path_factory.mktemp("made") / "made.csv"
    path.write_text("time,symbol,price,size\n" + "".join(texts), encoding="utf-8")
    with open_recording(path) as recording:
        read = [(s, p, q) for s, p, q, _, _ in trades(recording)]
        assert read == [(s, Fraction(p), Fraction(q)) for s, p, q in made]
        for symbol in recording.symbols:
            mine = [row for row in made if row[0] == symbol.name]
            assert symbol.price_decimals == fewest([p for _, p, _ in mine])
            assert symbol.size_decimals == fewest([q for _, _, q in mine])


@given(st.datetimes(datetime(1970, 1, 2), datetime(2115, 1, 1)), st.integers(0, 999))
def test_a_time_is_exact_to_the_nanosecond(moment: datetime, ns: int):
    text = f"{moment:%Y-%m-%dT%H:%M:%S.%f}{ns:03}"
    expected = pd.Timestamp(text).value
    for zone, hours in (("Z", 0), ("", 0), ("+02:00", 2), ("-05:00", -5)):
        shift = hours * 3600 * 10**9
        if expected >= shift:
            assert iso_times(column(text + zone)).tolist() == [expected - shift]


@pytest.mark.parametrize("places", [0, 1, 3, 6])
@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("year", [1980, 2025, 2110])
def test_the_size_of_an_epoch_time_tells_its_unit(year: int, unit: int, places: int):
    seconds = int(pd.Timestamp(year, 5, 6).timestamp())
    text = f"{seconds * unit + unit // 8}" + (".125000"[: places + 1] if places else "")
    if fewest([text]) > 9 - (len(str(unit)) - 1):
        with pytest.raises(RecordingError, match=r"finer than 1 ns|over 18 digits"):
            epoch_times(column(text))
    else:
        expected = Fraction(text) / unit * 10**9
        assert epoch_times(column(text)).tolist() == [expected]


def test_the_exchange_begins_its_day_as_the_table_of_time_zones_says():
    for days in range(0, 365 * 24, 1):
        day = date(2007, 6, 27) + timedelta(days)
        midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("US/Eastern"))
        assert new_york_midnight_ns(day) == int(midnight.timestamp()) * 10**9


some_ids = st.lists(st.integers(0, 40) | st.integers(0, 2**62), min_size=1, max_size=9)


@given(st.lists(some_ids | some_ids.map(sorted)))
def test_an_id_is_new_once(parts: list[list[int]]):
    ids, met = Ids(), set[int]()
    for part in parts:
        expected = [i not in met and i not in part[:at] for at, i in enumerate(part)]
        met.update(part)
        assert ids.new(np.array(part, np.int64)).tolist() == expected
        starts, stops = ids.runs()
        assert (stops - starts).sum() == len(met)
        assert (starts[1:] > stops[:-1]).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=300))
def test_ids_that_ascend_are_known_afterwards(steps: list[int]):
    ids, ascending = Ids(), np.cumsum(steps)
    assert all(ids.new(ascending[at : at + 1])[0] for at in range(len(steps)))
    assert not ids.new(ascending).any()


def test_ids_with_holes_take_no_more_memory_than_they_may():
    ids, most = Ids(), 0
    for start in range(0, 200 * 1000, 1000):
        assert ids.new(np.arange(start, start + 1000) * 2).all()
        most = max(most, len(ids._starts), sum(map(len, ids._ahead)))
    assert most == max(MOST_RUNS, (AHEAD - 1) * 1000)
    assert not ids.new(np.array([2 * 200 * 1000 - 2]))[0]


# What is refused -------------------------------------------------------------

AGG_LINES = (HERE / AGG).read_text("utf-8").splitlines()
MATCH_LINES = (HERE / "matches.jsonl").read_text("utf-8").splitlines()
HEADER = "time_ns,symbol,price,size"
ROW = "1735689600000000000,ABC,1.5,2"


def spoilt(lines: list[str], number: int, old: str, new: str) -> str:
    assert old in lines[number - 1]
    fixed = lines[number - 1].replace(old, new)
    return "\n".join([*lines[: number - 1], fixed, *lines[number:]]) + "\n"


def at(number: int, old: str, new: str) -> str:
    return spoilt(AGG_LINES, number, old, new)


REFUSED = [
    (AGG, at(3, "93500.00000000", "9.35e4"), 3, "price '9.35e4' is not a plain decimal; write it as digits, such as 0.00001"),
    (AGG, at(3, "93500.00000000", ""), 3, "price '' is not a plain decimal"),
    (AGG, at(2, "0.50000000", "nan"), 2, "size 'nan' is not a plain decimal"),
    (AGG, at(2, "0.50000000", "-0.5"), 2, "size '-0.5' is negative; a size is at least 0"),
    (AGG, at(5, "7006", "70x6"), 5, "trade id '70x6' is not a whole number"),
    (AGG, at(4, "1735689600000456", "soon"), 4, "time 'soon' is not a plain decimal"),
    (AGG, at(4, "1735689600000456", "-5"), 4, "time '-5' is before 1970 or after 2116"),
    (AGG, at(4, "1735689600000456", "1735689600000456000.5"), 4, "time '1735689600000456000.5' has over 18 digits"),
    (AGG, at(2, "False,True", "maybe,True"), 2, "buyer is maker 'maybe' is neither true nor false"),
    (AGG, at(4, ",True,True", ",True"), 4, "has 7 fields, not 8 as the first line; complete it or leave it out"),
    (AGG, at(4, ",True,True", ",True,True,1"), 4, "has 9 fields, not 8"),
    (AGG, at(2, "93500.20000000", "0.0000000000000001"), 2, "price '0.0000000000000001' and those of BTCUSDT before it need 5 digits before the point and 16 behind it, over 18 in all; leave one of the lines out"),
    (AGG, at(2, "93500.20000000", "1234567890123456789"), 2, "digits before the point and"),
    (AGG, at(2, "93500.20000000", "12345678901234567890"), 2, "price '12345678901234567890' has over 18 digits, more than a tick holds"),
    (AGG, at(3, "12.0", "12\0.0"), 3, "byte 0x00 is no text; name a text file or a tick log"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, '"ETH-USD",', '"ETH-'), 4, "cannot be read (JSON is malformed"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, '"3300.125"', "3300.125"), 4, "cannot be read (Expected `str`, got `float` - at `$.price`); correct the line"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, '"trade_id":77,', ""), 4, "trade id '' is not a whole number"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, '"product_id":"ETH-USD",', ""), 4, "symbol '' is no name"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, "T00:00:02.123456Z", "T25:00:00Z"), 4, "time '2025-01-01T25:00:00Z' is no time; write it as 2025-01-01T00:00:00.123456Z"),
    ("matches.jsonl", spoilt(MATCH_LINES, 4, "2025-01-01T", "1925-01-01T"), 4, "is no time"),
    (LOBSTER, "34200.1,4,1,10,5853300,1\n34200.0000000001,4,1,10,5853300,1\n", 2, "time '34200.0000000001' is finer than 1 ns"),
    (LOBSTER, "34200.1,4,1,10,5853300,1\n34200.2,9,1,10,5853300,1\n", 2, "type '9' is none of 1 to 7"),
    (LOBSTER, "34200.1,4,1,10,5853300,1\n34200.2,4,1,10,58533.5,1\n", 2, "price '58533.5' is not a whole number"),
    ("message.csv", "34200.1,4,1,10,5853300,1\n", None, "its name holds no date; call it AAPL_2012-06-21_message.csv or so"),
    ("a.csv", f"time_ns,symbol,size\n{ROW}\n", 1, "no column holds the price; call it price"),
    ("a.csv", f"symbol,price,size\n{ROW}\n", 1, "no column holds the time; call it time_ns or time or timestamp"),
    ("a.csv", f"{HEADER}\n{ROW}\n{ROW},\n", 3, "has 5 fields, not 4"),
    ("a.csv", f"{HEADER}\n{ROW.replace('ABC', '')}\n", 2, "symbol '' is no name; correct the line"),
    ("a.csv", f"{HEADER}\n{ROW}\n9223372036854775808,ABC,1,2\n", 3, "time '9223372036854775808' is not a whole number"),
    ("a.csv", f"{HEADER}\n{ROW}\n9223372036854775807,ABC,1,2\n", 3, "is before 1970 or after 2116"),
    ("a.csv", f"{HEADER}\n", None, "holds no trade; name another file"),
    ("a.csv", "\n\n", None, "holds no line; name a file of trades"),
    ("a.csv", "", None, "is empty; name a file that holds trades"),
    ("m.jsonl", '{"type":"heartbeat"}\n' * 3, None, "holds no trade, only 3 heartbeat; name another file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line", "sentence"), REFUSED)
def test_a_line_that_cannot_be_a_tick_is_named(
    name: str, text: str, line: int | None, sentence: str, tmp_path: Path
):
    path = written(tmp_path, name, text)
    with pytest.raises(RecordingError) as refused:
        open_recording(path)
    where = f"{path}: " if line is None else f"{path} line {line}: "
    assert str(refused.value).startswith(where)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (refused.value.line, refused.value.exit_code) == (line, 2)


LONG = f"{HEADER}\n" + "".join(f"{10**18 + i},ABC,{i}.5,1\n" for i in range(30_000))
DAMAGED: dict[str, tuple[bytes, str]] = {
    "torn gzip": (gzip.compress(LONG.encode())[:-50], "end-of-stream marker"),
    "torn zstd": (zstandard.compress(LONG.encode())[:-50], "breaks off inside a zstd"),
    "rotten gzip": (gzip.compress(LONG.encode())[:-8] + b"12345678", "CRC check"),
    "garbage after gzip": (gzip.compress(LONG.encode()) + b"garbage", "Not a gzipped"),
    "torn zip": (b"PK\x03\x04" + bytes(99), "not a zip file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_with_the_line_where_it_breaks_off(
    kind: str, tmp_path: Path
):
    damaged, cause = DAMAGED[kind]
    path = tmp_path / "a.csv"
    path.write_bytes(damaged)
    with pytest.raises(RecordingError) as refused:
        open_recording(path)
    assert cause in str(refused.value)
    assert str(refused.value).endswith("; copy it again")
    assert refused.value.line is not None


def test_a_bit_that_flips_in_zstd_is_noticed(tmp_path: Path):
    packed = bytearray(
        zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 99)
    )
    packed[-1] ^= 1
    path = tmp_path / "a.csv"
    path.write_bytes(packed)
    with pytest.raises(RecordingError, match="damaged from here on"):
        open_recording(path)


def test_a_zip_with_several_files_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", LONG)
        archive.writestr("b.csv", LONG)
    with pytest.raises(RecordingError, match="it holds 2 files, not one"):
        open_recording(tmp_path / "a.zip")


def test_garbage_is_refused_as_no_text(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(random.Random(1).randbytes(5000))
    with pytest.raises(RecordingError, match=r"byte 0x.. is no text"):
        open_recording(path)


def test_garbage_without_a_line_end_is_not_read_into_memory(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (17 << 20))
    with pytest.raises(RecordingError, match="goes on for 16 MiB without an end"):
        open_recording(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(RecordingError, match="name a file that can be read"):
        open_recording(tmp_path / "none.csv")
    with pytest.raises(RecordingError, match="no file that can be read twice"):
        open_recording(tmp_path)


@pytest.mark.parametrize("text", ["1,2,3\n", "hello\n", '{"e":"trade"}\n', "{,\n"])
def test_a_file_of_no_known_layout_lists_the_formats(text: str, tmp_path: Path):
    with pytest.raises(SettingsError) as refused:
        open_recording(written(tmp_path, "a.txt", text))
    assert all(name in str(refused.value) for name in LAYOUTS)


# A header of Binance's names the columns of plain CSV too.
OTHERS = [
    (name, format)
    for name, (own, *_) in EXPECTED.items()
    for format in LAYOUTS
    if format != own and (own, format) != ("binance", "csv")
]


@pytest.mark.parametrize(("name", "format"), OTHERS)
def test_a_format_that_is_not_that_of_the_file_is_refused(name: str, format: str):
    with pytest.raises(RecordingError, match=f"is not in the layout {format}"):
        open_recording(HERE / name, format)


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(SettingsError, match="format=taq: say binance or coinbase"):
        open_recording(HERE / AGG, "taq")


@pytest.mark.parametrize(
    ("name", "held"), [("matches.jsonl", "BTC-USD, ETH-USD"), ("log", "ABC, BTC-USD")]
)
def test_a_symbol_that_is_not_there_lists_those_that_are(
    name: str, held: str, tmp_path: Path
):
    path = a_log(tmp_path) if name == "log" else HERE / name
    with pytest.raises(SettingsError, match=f"symbol=DOGE: not in .*; it holds {held}"):
        open_recording(path, symbol="DOGE")


def test_a_file_that_names_no_symbol_asks_for_one(tmp_path: Path):
    for name, text in (("x.csv", AGG_LINES[0]), ("tape", "time,price,size\n1,2,3")):
        with pytest.raises(SettingsError, match="names no symbol; say --symbol"):
            open_recording(written(tmp_path, name, text))


# Traps -----------------------------------------------------------------------


def test_messages_that_are_no_match_may_have_what_a_match_may_not(tmp_path: Path):
    text = '{"type":"change","price":null,"size":7,"trade_id":null}\n'
    with open_recording(
        written(tmp_path, "m.jsonl", text + "\n".join(MATCH_LINES))
    ) as recording:
        assert trades(recording) == EXPECTED["matches.jsonl"][1]


def test_the_first_message_may_be_of_an_order_that_sells(tmp_path: Path):
    text = "34200.1,4,1,10,5853300,-1\n"
    with open_recording(written(tmp_path, LOBSTER, text)) as recording:
        assert trades(recording)[0][:3] == (XYZ, Fraction("585.33"), Fraction(10))


def test_files_put_end_to_end_may_each_have_a_header(tmp_path: Path):
    text = (HERE / "XRPUSDT-trades-2025-02.csv").read_text("utf-8")
    more = text.replace("901,", "903,").replace("902,", "904,")
    with open_recording(written(tmp_path, "XRPUSDT-trades-2025.csv", text + more)) as r:
        assert trades(r) == EXPECTED["XRPUSDT-trades-2025-02.csv"][1] * 2


def test_times_without_a_zone_are_utc_and_that_is_said(tmp_path: Path):
    text = "time,price,qty\n2025-01-01 10:00:00.5,1,2\n"
    with open_recording(written(tmp_path, "ABC.csv", text)) as recording:
        assert trades(recording) == [trade("ABC", "1", "2", "2025-01-01T10:00:00.5Z")]
        assert recording.remarks == ["Times name no zone and are read as UTC."]


def test_ids_that_are_no_numbers_are_not_compared_and_that_is_said(tmp_path: Path):
    row = "2025-01-01T10:00:00Z,1,2,a7\n"
    path = written(tmp_path, "ABC.csv", "time,price,size,trade_id\n" + row * 2)
    with open_recording(path) as recording:
        assert recording.ticks == 2
        assert recording.remarks == [
            "Trade ids are no whole numbers, so a repeated trade is not noticed."
        ]


def test_symbols_have_trade_ids_of_their_own(tmp_path: Path):
    rows = [f"2025-01-01T10:00:0{i}Z,{s},1,2,7" for i, s in enumerate("ABA")]
    text = "\n".join(["time,symbol,price,size,id", *rows])
    with open_recording(written(tmp_path, "t.csv", text)) as recording:
        assert [symbol for symbol, *_ in trades(recording)] == ["A", "B"]


@pytest.mark.parametrize(
    "prices", [("12345678901", "0.00000001"), ("0.00000001", "12345678901")]
)
def test_digits_that_need_too_much_room_together_are_refused_where_it_shows(
    prices: tuple[str, str], tmp_path: Path
):
    # The blocks of a file are surveyed one after the other.
    rows = [ROW] * 9_000
    rows[10] = ROW.replace("1.5", prices[0])
    rows[8_000] = ROW.replace("1.5", prices[1])
    path = written(tmp_path, "a.csv", "\n".join([HEADER, *rows]))
    with pytest.raises(RecordingError) as refused:
        open_recording(path)
    assert "need 11 digits before the point and 8 behind it" in str(refused.value)
    assert refused.value.line == 8_002


def test_an_exported_log_is_the_log(tmp_path: Path):
    export(select(a_log(tmp_path)), tmp_path / "a.csv")
    with (
        open_recording(tmp_path / "a.csv") as text,
        open_recording(tmp_path / "run.log") as ours,
    ):
        assert [t[:4] for t in trades(text)] == [t[:4] for t in trades(ours)]


# Many ------------------------------------------------------------------------


def many(folder: Path, count: int, seed: int = 1) -> Path:
    """Rows as of Binance, some repeated, with headers nowhere."""
    rng, time = random.Random(seed), 1_735_689_000_000_000
    path = folder / "BTCUSDT-aggTrades-2025-01.csv"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            time += rng.randrange(90_000)
            price = f"{rng.randrange(9_000_000, 9_900_000) / 100:.2f}000000"
            size = f"0.{rng.randrange(1, 10**5):05}000"
            number -= rng.random() < 0.001
            maker = rng.choice(["True", "False"])
            file.write(f"{number},{price},{size},1,1,{time},{maker},True\n")
    return path


def agrees_with_pandas(path: Path) -> None:
    """Every column, exactly, in portions as the feed asks for them."""
    text = pd.read_csv(path, header=None, dtype=str).drop_duplicates(0)
    with open_recording(path) as recording:
        parts = []
        while len(part := recording.take(4096)):
            parts.append(part)
    rows = np.concatenate(parts)
    assert recording.symbols == (Symbol("BTCUSDT", 2, 5),)
    assert (rows["time_ns"] == text[5].astype("int64") * 1000).all()
    assert (rows["flags"] == (text[6] == "True")).all()
    for name, at, places in (("price", 1, 2), ("size", 2, 5)):
        digits = text[at].str.replace(".", "").str[: places - 8]
        assert (rows[name] == digits.astype("int64")).all()


def test_100_000_rows_are_what_pandas_reads(tmp_path: Path):
    agrees_with_pandas(many(tmp_path, 100_000))


@pytest.mark.long
def test_a_million_rows_are_what_pandas_reads(tmp_path: Path):
    agrees_with_pandas(many(tmp_path, 1_000_000))


def peak(path: Path) -> int:
    """Bytes held at most while a file is read twice."""
    tracemalloc.start()
    with open_recording(path) as recording:
        while len(recording.take(4096)):
            pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    small, large = peak(many(tmp_path, 10_000)), peak(many(tmp_path, 40_000))
    assert small < 100 * BLOCK
    assert large < 1.25 * small
