"""`quants verify`: what is whole, what is torn, what has rotted, what never came."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from quants.cli import main
from quants.frame import Kind, encode
from quants.recovery import open_log, scan
from quants.selection import counted
from quants.tick import Symbol
from tests.test_export import SYMBOLS, frames, random_rows, segment


def verify(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def told(*arguments: str | Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(verify(*arguments, "--json").stdout)
    return facts


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten frames of ten ticks in stream a, then five in b, from 71 on."""
    rng = random.Random(1)
    path = tmp_path / "ticks.log"
    a = segment("a") + frames(random_rows(rng, 100), each=10)
    b = segment("b", 71, SYMBOLS[:2]) + frames(random_rows(rng, 50, 2), 71, each=10)
    path.write_bytes(a + b)
    return path


def test_a_whole_log_is_counted_and_exits_0(log: Path):
    ended = verify(log, "--stream", "all")
    assert ended.exit_code == 0
    assert ended.output.splitlines() == [
        f"{log}: 15 whole frames, 150 ticks, 2 streams",
        "  stream a: 100 ticks of 3 symbols, numbered 1 to 100, 0 missing",
        "  stream b: 50 ticks of 2 symbols, numbered 71 to 120, 0 missing",
        "  0 holes, 0 torn bytes",
    ]


def test_programs_get_the_same_as_json(log: Path):
    aapl, coin = (
        {"name": s.name, "price_decimals": s.price_decimals, "size_decimals": d}
        for s, d in zip(SYMBOLS, (0, 8), strict=False)
    )
    assert told(log) == {
        "path": str(log),
        "frames": 15,
        "ticks": 150,
        "streams": [
            {
                "stream": "b",
                "first_seq": 71,
                "next_seq": 121,
                "ticks": 50,
                "gaps": 0,
                "gap_ticks": 0,
                "symbols": [aapl, coin],
            }
        ],
        "holes": [],
        "torn_bytes": 0,
        "repaired": None,
        "problems": [],
    }
    assert [s["stream"] for s in told(log, "--stream", "all")["streams"]] == ["a", "b"]
    assert [s["ticks"] for s in told(log, "--stream", "a")["streams"]] == [100]


def test_a_stream_that_two_runs_logged_begins_where_the_first_did(log: Path):
    with open(log, "ab") as file:
        file.write(segment("a", 101) + frames(random_rows(random.Random(2), 7), 101))
    stream = told(log)["streams"][0]
    assert (stream["stream"], stream["first_seq"], stream["next_seq"]) == ("a", 1, 108)


def test_a_torn_end_is_named_and_repaired_on_request(log: Path):
    whole = log.read_bytes()
    log.write_bytes(whole + b"QTIK and then the power went")
    ended = verify(log)
    assert ended.exit_code == 1
    assert f"its end is torn at byte {len(whole):,}" in ended.output
    assert '"quants verify --repair" keeps the 15 whole frames' in ended.output
    assert told(log)["torn_bytes"] == 28
    assert log.read_bytes() == whole + b"QTIK and then the power went"

    ended = verify(log, "--repair")
    assert ended.exit_code == 0
    beside = f"{log}.torn-{len(whole)}"
    assert "kept 15 whole frames (150 ticks), moved a torn tail of 28 bytes to " in (
        ended.output
    )
    assert beside in ended.output
    assert Path(beside).read_bytes() == b"QTIK and then the power went"
    assert log.read_bytes() == whole
    assert verify(log).exit_code == 0


def test_a_repair_tells_programs_what_it_did(log: Path):
    log.write_bytes(log.read_bytes() + b"torn")
    facts = told(log, "--repair")
    assert facts["repaired"].endswith(f".torn-{log.stat().st_size}")
    assert (facts["torn_bytes"], facts["problems"]) == (0, [])
    assert told(log, "--repair")["repaired"] is None


def test_rot_is_named_by_its_bytes_and_stays_after_a_repair(log: Path):
    damaged = bytearray(log.read_bytes())
    damaged[len(segment("a")) + 352 + 100] ^= 1  # in the second frame of a
    log.write_bytes(damaged)
    ended = verify(log, "--stream", "a", "--repair")
    assert ended.exit_code == 1
    at = len(segment("a")) + 352
    assert f"352 bytes from byte {at:,} on fail their checksum" in ended.output
    assert "problem: stream a: 10 ticks missing, in 1 gap\n" in ended.output
    assert told(log, "--stream", "a")["holes"] == [{"offset": at, "length": 352}]
    assert log.read_bytes() == damaged
    # What the other stream lost cannot be known, the file is not whole.
    assert verify(log, "--stream", "b").exit_code == 1


def test_ticks_that_never_came_are_counted(log: Path):
    with open(log, "ab") as file:
        file.write(encode(Kind.GAP, 121, 1, 7) + encode(Kind.GAP, 122, 2000, 7))
    ended = verify(log)
    assert ended.exit_code == 1
    assert "problem: stream b: 2,001 ticks missing, in 2 gaps\n" in ended.output
    assert verify(log, "--stream", "a").exit_code == 0


def test_half_a_frame_that_grows_is_not_torn(
    log: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another process appends between the count and the look at the size."""
    whole = log.read_bytes()
    log.write_bytes(whole[:-100])

    def scan_while_growing(path: Path) -> Any:
        found: Any = scan(path)
        log.write_bytes(whole)
        return found

    assert counted(log).torn
    monkeypatch.setattr("quants.selection.scan", scan_while_growing)
    assert not counted(log).torn


def test_a_log_that_is_being_written_is_not_repaired(log: Path):
    torn = log.read_bytes() + b"half a frame, so far"
    log.write_bytes(torn)
    with open_log(log, "a+b"):
        ended = verify(log, "--repair")
    assert ended.exit_code == 1
    assert "another process appends to it" in ended.stderr
    assert log.read_bytes() == torn


def test_an_empty_log_is_whole(tmp_path: Path):
    (tmp_path / "ticks.log").touch()
    ended = verify(tmp_path / "ticks.log")
    assert ended.exit_code == 0
    assert "0 whole frames, 0 ticks, 0 streams" in ended.output


REFUSED = [
    (["absent.log"], "log=absent.log: no such file; name a tick log"),
    (["absent.log", "--repair"], "log=absent.log: no such file"),
    (["poem.txt"], "poem.txt: not a tick log, it begins with b'O fo'"),
    (["poem.txt", "--repair"], "poem.txt: not a tick log"),
    (["ticks.log", "--stream", "c"], "stream=c: ticks.log holds a, b"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_what_is_no_log_gets_one_sentence_and_exits_2(
    arguments: list[str], sentence: str, log: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(log.parent)
    poem = log.parent / "poem.txt"
    poem.write_text("O for a Muse of fire", encoding="utf-8")
    ended = verify(*arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert re.fullmatch(rf"quants: .*{re.escape(sentence)}.*\n", ended.stderr)
    assert poem.read_text(encoding="utf-8") == "O for a Muse of fire"
    assert {p.name for p in log.parent.iterdir()} == {"poem.txt", "ticks.log"}


def test_the_examples_of_the_help_work(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(log.parent)
    text = verify("--help").output
    examples = re.findall(r"^ *quants verify (.*)$", text, re.M)
    assert len(examples) == 3
    for example in examples:
        assert verify(*example.split()).exit_code == 0


def test_a_log_cut_at_any_byte_is_repaired_to_its_whole_frames(tmp_path: Path):
    rows = random_rows(random.Random(3), 6, 1)
    header = segment("a", 1, (Symbol("A"),))
    whole = header + frames(rows, each=2)
    for length in range(len(header), len(whole) + 1, 7):
        log = tmp_path / f"{length}.log"
        log.write_bytes(whole[:length])
        facts = told(log, "--repair")
        assert (facts["torn_bytes"], facts["problems"]) == (0, [])
        assert whole.startswith(log.read_bytes())
        assert (
            facts["ticks"] == 2 * facts["frames"] == 2 * ((length - len(header)) // 96)
        )
