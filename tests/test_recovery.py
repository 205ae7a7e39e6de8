"""What comes out of a tick log after crashes, cuts and rot: never a wrong tick."""

import hashlib
import io
import random
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from quants.errors import CorruptLog, EnvironmentFault, SettingsError
from quants.frame import Kind, decode, encode, ticks_frame
from quants.logfile import Hole, Segment, continued, in_order, parts
from quants.recovery import (
    open_log,
    recover_for_append,
    replay,
    replay_frames,
    replay_segments,
    scan,
)
from quants.tick import TICK, Batch, Symbol, gap

SYMBOLS = (Symbol("AAPL"), Symbol("BTC-USD", 2, 8), Symbol("MSFT"))


def ticks(rng: random.Random, first_seq: int, count: int) -> Batch:
    rows = np.zeros(count, TICK)
    for name, most in (("time_ns", 2**62), ("price", 10**7), ("size", 10**5)):
        rows[name] = [rng.randrange(most) for _ in range(count)]
    rows["symbol"] = [rng.randrange(len(SYMBOLS)) for _ in range(count)]
    return decode(ticks_frame(rows, first_seq, rng.randrange(2**62)), 3)[1]


def run_of(rng: random.Random, first_seq: int, frames: int, most: int) -> list[Batch]:
    """Some batches in a row, at times a gap among them."""
    run: list[Batch] = []
    for _ in range(frames):
        seq = run[-1].next_seq if run else first_seq
        if rng.random() < 0.1:
            missing = rng.randrange(1, 50)
            frame = encode(Kind.GAP, seq, missing, 7)
            run.append(gap(seq, missing, 7, frame))
        else:
            run.append(ticks(rng, seq, rng.randrange(1, most)))
    return run


def segment(stream: str, first_seq: int = 1) -> bytes:
    return Segment(stream, SYMBOLS, 1_767_364_200_000_000_000, first_seq).encode()


def frames(batches: Iterable[Batch]) -> bytes:
    return b"".join(batch.frame for batch in batches)


def test_replay_yields_the_bytes_that_were_appended(tmp_path):
    run = run_of(random.Random(1), 1, 200, 100)
    (tmp_path / "log").write_bytes(segment("a") + frames(run))
    replayed = hashlib.sha256(b"".join(replay_frames(tmp_path / "log")))
    assert replayed.digest() == hashlib.sha256(frames(run)).digest()
    assert [b.rows.tolist() for b in replay(tmp_path / "log")] == [
        b.rows.tolist() for b in run
    ]


def test_replay_takes_the_last_stream_or_the_one_named_or_all(tmp_path):
    rng = random.Random(2)
    a, b = run_of(rng, 1, 5, 9), run_of(rng, 71, 5, 9)
    log = tmp_path / "log"
    log.write_bytes(segment("a") + frames(a) + segment("b", 71) + frames(b))
    assert b"".join(replay_frames(log)) == frames(b)
    assert b"".join(replay_frames(log, "a")) == frames(a)
    assert b"".join(replay_frames(log, "all")) == frames(a) + frames(b)
    assert {s.symbols for s, _ in replay_segments(log)} == {SYMBOLS}
    with pytest.raises(SettingsError, match=r"stream=c: .* holds a, b"):
        list(replay(log, "c"))


def test_a_stream_logged_by_two_runs_is_one_each_tick_once(tmp_path):
    rng = random.Random(3)
    before, after = ticks(rng, 1, 10), ticks(rng, 8, 5)
    log = tmp_path / "log"
    log.write_bytes(segment("a") + before.frame + segment("a", 8) + after.frame)
    replayed = list(replay(log))
    assert [(b.first_seq, len(b)) for b in replayed] == [(1, 10), (11, 2)]
    assert replayed[1].rows.tolist() == after.rows[3:].tolist()
    assert decode(replayed[1].frame, 3)[1].first_seq == 11


def test_ticks_between_two_runs_of_a_stream_are_a_gap(tmp_path):
    rng = random.Random(4)
    first, second = ticks(rng, 1, 10), ticks(rng, 31, 5)
    log = tmp_path / "log"
    log.write_bytes(segment("a") + first.frame + segment("a", 31) + second.frame)
    spans = [(b.is_gap, b.first_seq, b.span) for b in replay(log)]
    assert spans == [(False, 1, 10), (True, 11, 20), (False, 31, 5)]


def test_joining_a_stream_late_is_not_a_gap(tmp_path):
    late = ticks(random.Random(5), 5000, 3)
    (tmp_path / "log").write_bytes(segment("a", 5000) + late.frame)
    assert [b.first_seq for b in replay(tmp_path / "log")] == [5000]


@pytest.mark.parametrize(
    ("first_seq", "span", "spans"),
    [
        (10, 5, [(10, 5)]),
        (13, 5, [(10, 3), (13, 5)]),  # a gap, then the batch
        (8, 5, [(10, 3)]),  # only what is new
        (5, 5, []),  # all known
        (2**32 + 9, 1, [(10, 2**32 - 1), (2**32 + 9, 1)]),  # the longest gap
    ],
)
def test_a_batch_continues_a_stream_at_the_number_expected(first_seq, span, spans):
    batch = ticks(random.Random(6), first_seq, span)
    hole = gap(first_seq, span, 0, encode(Kind.GAP, first_seq, span, 0))
    for piece in (batch, hole):
        found = list(continued(piece, 10))
        assert [(b.first_seq, b.span) for b in found] == spans
        assert all(decode(b.frame, 3)[1].span == b.span for b in found)


def test_a_forged_number_does_not_make_an_endless_scan(tmp_path):
    rng = random.Random(7)
    for forged in (2**32 + 10, 2**64 - 1):
        last = ticks(rng, forged, 1)
        (tmp_path / "log").write_bytes(
            segment("a") + ticks(rng, 1, 9).frame + last.frame
        )
        with pytest.raises(CorruptLog, match=f"tick {forged} follows tick 9, and no"):
            scan(tmp_path / "log")


def test_a_segment_is_one_byte_over_a_multiple_of_32():
    for length in range(1, 70):
        assert len(segment("x" * length)) % 32 == 1


# Torn tails ------------------------------------------------------------------


def cut_at_every_byte(log: Path, pieces: list[bytes]) -> None:
    """Cut, recover, append, replay: for each length that a crash can leave."""
    whole, ends = b"".join(pieces), [0, *accumulate(map(len, pieces))]
    next_run = ticks(random.Random(9), 1, 2)
    for length in range(len(whole) + 1):
        log.write_bytes(whole[:length])
        kept = max(end for end in ends if end <= length)
        said = recover_for_append(log)
        aside = Path(f"{log}.torn-{kept}")
        assert log.read_bytes() == whole[:kept], length
        assert bool(said) == (kept < length) == aside.exists()
        if said:
            assert aside.read_bytes() == whole[kept:length]
            assert f"{length - kept:,} bytes to {aside}" in said
            aside.unlink()
        with open(log, "ab") as restarted:
            restarted.write(segment("next") + next_run.frame)
        known = [p for p, end in zip(pieces, ends[1:], strict=True) if end <= kept]
        expected = [p for p in known if p[5] != Kind.SEGMENT]
        assert list(replay_frames(log, "all")) == [*expected, next_run.frame]
        assert not scan(log).torn


def test_a_log_cut_at_any_byte_keeps_every_whole_frame(tmp_path, record_property):
    rng = random.Random(7)
    a, b = run_of(rng, 1, 3, 4), run_of(rng, 9, 2, 3)
    pieces = [segment("a"), *(x.frame for x in a), segment("b", 9)]
    pieces += [x.frame for x in b]
    cut_at_every_byte(tmp_path / "log", pieces)
    record_property("cuts", sum(map(len, pieces)) + 1)


@pytest.mark.long
def test_a_log_of_64_kib_cut_at_any_byte_keeps_every_whole_frame(record_property):
    run = run_of(random.Random(8), 1, 40, 200)
    pieces = [segment("a"), *(x.frame for x in run)]
    whole, ends = b"".join(pieces), [0, *accumulate(map(len, pieces))]
    assert len(whole) >= 1 << 16
    for length in range(len(whole) + 1):
        kept = max(end for end in ends if end <= length)
        found = list(parts(io.BytesIO(whole[:length])))
        if kept < length:
            assert found.pop() == Hole(kept, length - kept, at_end=True)
        batches = [part for part in found if isinstance(part, Batch)]
        assert len(found) == ends.index(kept)
        assert frames(batches) == whole[len(pieces[0]) : kept]
    record_property("cuts", len(whole) + 1)


def test_a_second_tear_at_the_same_byte_keeps_the_first_tail(tmp_path):
    log = tmp_path / "log"
    for tail in (b"QTIK one", b"QTIK two"):
        log.write_bytes(segment("a") + tail)
        assert recover_for_append(log)
    tails = {file.read_bytes() for file in tmp_path.glob("log.torn-*")}
    assert tails == {b"QTIK one", b"QTIK two"}


# Rot -------------------------------------------------------------------------


def rotted(rng: random.Random, log: bytes) -> bytes:
    """A log with one to three blocks flipped, zeroed or randomised."""
    damaged = bytearray(log)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(log))
        length = min(rng.choice([1, 4, 32, 200, 512, 4096]), len(log) - at)
        match rng.randrange(3):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                damaged[at : at + length] = bytes(length)
            case 2:
                damaged[at : at + length] = rng.randbytes(length)
    return bytes(damaged[: rng.choice([len(log), rng.randrange(len(log))])])


def mutate_and_check(seed: int, times: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    streams = {"a": 1, "b": 40, "c": 1, "d": 300}  # all over the same numbers
    runs = {name: run_of(rng, first, 12, 20) for name, first in streams.items()}
    log = b"".join(segment(s, streams[s]) + frames(runs[s]) for s in runs)
    log += segment("a", runs["a"][-1].next_seq)
    log += frames(more := run_of(rng, runs["a"][-1].next_seq, 12, 20))
    runs["a"] += more
    true = {
        (stream, seq): row
        for stream, run in runs.items()
        for batch in run
        for seq, row in enumerate(batch.rows.tolist(), batch.first_seq)
    }
    anywhere = {(seq, row) for (_, seq), row in true.items()}
    for _ in range(times):
        damaged = rotted(rng, log)
        expected: dict[str, int] = {}
        for found, batch in in_order(parts(io.BytesIO(damaged))):
            # In order, without a break: what is missing is said to be missing.
            assert batch.first_seq == expected.get(found.stream, found.first_seq)
            expected[found.stream] = batch.next_seq
            for seq, row in enumerate(batch.rows.tolist(), batch.first_seq):
                lost = found.stream.startswith("lost-")
                assert (seq, row) in anywhere
                assert lost or true[found.stream, seq] == row


def test_rot_never_makes_a_wrong_tick_and_its_hole_is_a_gap(record_property):
    mutate_and_check(seed=20260102, times=1000)
    record_property("logs with rot", 1000)


@pytest.mark.long
def test_rot_never_makes_a_wrong_tick_in_20_000_logs(record_property):
    mutate_and_check(seed=20260103, times=20_000)
    record_property("logs with rot", 20_000)


def test_rot_inside_is_a_gap_of_just_the_ticks_it_hit(tmp_path):
    run = [ticks(random.Random(10), seq, 10) for seq in (1, 11, 21, 31)]
    damaged = bytearray(segment("a") + frames(run))
    damaged[len(segment("a")) + 352 + 100] ^= 1  # in the second of four
    (tmp_path / "log").write_bytes(damaged)
    spans = [(b.is_gap, b.first_seq, b.span) for b in replay(tmp_path / "log")]
    assert spans == [(False, 1, 10), (True, 11, 10), (False, 21, 10), (False, 31, 10)]
    found = scan(tmp_path / "log")
    assert (found.frames, found.ticks, found.streams["a"].gap_ticks) == (3, 30, 10)
    assert [hole.length for hole in found.holes] == [352]
    assert not found.torn
    assert recover_for_append(tmp_path / "log") == ""
    assert (tmp_path / "log").read_bytes() == damaged


def test_ticks_behind_a_rotted_segment_are_not_given_to_another_stream(tmp_path):
    rng = random.Random(11)
    a, b = ticks(rng, 1, 5), ticks(rng, 6, 5)
    damaged = bytearray(segment("a") + a.frame + segment("b", 6) + b.frame)
    at = len(segment("a")) + len(a.frame)
    damaged[at + 40] ^= 1
    log = tmp_path / "log"
    log.write_bytes(damaged)
    assert list(replay_frames(log, "a")) == [a.frame]
    assert list(replay_frames(log, f"lost-{at}")) == [b.frame]
    assert list(scan(log).streams) == ["a", f"lost-{at}"]


def test_a_rotted_header_does_not_make_recovery_read_gigabytes():
    segment_of_4_gib = encode(Kind.SEGMENT, 1, 2**32 - 1, 0)
    good = ticks(random.Random(12), 1, 3).frame

    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(size)

    file = Counting(segment("a") + segment_of_4_gib + good)
    assert [b.frame for _, b in in_order(parts(file))] == [good]
    assert file.most <= 1 << 24


# Files that are no logs ------------------------------------------------------


def test_a_file_that_is_no_tick_log_is_refused_and_untouched(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("# Not a log\n", encoding="utf-8")
    for ask in (scan, recover_for_append, lambda path: list(replay(path))):
        with pytest.raises(SettingsError, match=r"README.md: not a tick log, .*# No"):
            ask(file)
    assert file.read_text(encoding="utf-8") == "# Not a log\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_log_that_cannot_be_opened_is_named_with_the_reason(tmp_path):
    with pytest.raises(EnvironmentFault, match="absent: No such file"):
        scan(tmp_path / "absent")
    with pytest.raises(EnvironmentFault, match="Is a directory"):
        recover_for_append(tmp_path)


def test_an_empty_log_holds_nothing_and_is_fine(tmp_path):
    (tmp_path / "log").touch()
    assert not scan(tmp_path / "log").streams
    assert recover_for_append(tmp_path / "log") == ""
    with pytest.raises(SettingsError, match="holds no stream"):
        list(replay(tmp_path / "log"))


def test_only_one_at_a_time_may_append_to_a_log(tmp_path):
    (tmp_path / "log").write_bytes(segment("a"))
    with (
        open_log(tmp_path / "log", "a+b"),
        pytest.raises(EnvironmentFault, match="another process appends to it"),
    ):
        recover_for_append(tmp_path / "log")
    assert recover_for_append(tmp_path / "log") == ""
