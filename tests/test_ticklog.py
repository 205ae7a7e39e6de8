"""The tick log: what it acknowledges is there, whatever the disk does."""

import asyncio
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quants.errors import EnvironmentFault, FrameError, SettingsError
from quants.frame import Kind, decode, encode, ticks_frame
from quants.metrics import Registry
from quants.recovery import replay, replay_frames, replay_segments, scan
from quants.tick import TICK, Batch, Symbol, gap
from quants.ticklog import PerTickLog, TickLog

SYMBOLS = (Symbol("AAPL"), Symbol("MSFT"))


def ticks(first_seq: int, count: int) -> Batch:
    """Ticks that can be told from their sequence number alone."""
    rows = np.zeros(count, TICK)
    seq = np.arange(first_seq, first_seq + count)
    rows["time_ns"], rows["price"] = seq, 10_000 + seq
    rows["size"], rows["symbol"] = seq % 97 + 1, seq % 2
    return decode(ticks_frame(rows, first_seq, 0), 2)[1]


def batches(count: int, rows: int = 10) -> list[Batch]:
    return [ticks(1 + i * rows, rows) for i in range(count)]


def log_at(path: Path, **settings: Any) -> TickLog:
    usual: dict[str, Any] = {"stream": "s", "symbols": SYMBOLS, "registry": Registry()}
    return TickLog(path, **usual | settings)


async def feed(run: Iterable[Batch]) -> AsyncIterator[Batch]:
    for batch in run:
        yield batch
        await asyncio.sleep(0)


async def append_all(log: TickLog, run: Iterable[Batch]) -> None:
    """At once, without waiting for the disk in between."""
    async with log:
        for batch in run:
            log.append(batch)


async def all_others_wait() -> None:
    """Let every task go on until it waits for something outside the loop."""
    for _ in range(1000):
        await asyncio.sleep(0)


class Disk:
    """A disk that works when it is told to; counts who is in it at once."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.entered, self.ready = asyncio.Event(), threading.Event()
        self.writes = self.inside = self.most_inside = 0

    def write(self, file: int, some: memoryview) -> int:
        if self.writes:  # the segment header goes through
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.loop.call_soon_threadsafe(self.entered.set)
            assert self.ready.wait(30)
            self.inside -= 1
        self.writes += 1
        return os.write(file, some)


# Written ---------------------------------------------------------------------


async def test_the_log_holds_the_very_bytes_that_came(tmp_path):
    run = batches(50)
    lost = gap(501, 7, 3, encode(Kind.GAP, 501, 7, 3))
    run += [lost, ticks(508, 4096)]
    async with log_at(tmp_path / "log") as log:
        await log.run(feed(run))
        assert log.written_seq == run[-1].next_seq - 1
    appended = b"".join(batch.frame for batch in run)
    replayed = hashlib.sha256(b"".join(replay_frames(tmp_path / "log")))
    assert replayed.digest() == hashlib.sha256(appended).digest()
    assert (log.ticks, log.bytes) == (500 + 4096, len(appended))
    assert log.durable_seq == log.written_seq


async def test_each_run_opens_a_segment_that_names_stream_and_symbols(tmp_path):
    for stream in ("first", "second"):
        async with log_at(
            tmp_path / "log", stream=stream, first_seq=5, time_ns=lambda: 77
        ) as log:
            log.append(ticks(5, 2))
    segments = [s for s, _ in replay_segments(tmp_path / "log", "all")]
    assert [s.stream for s in segments] == ["first", "second"]
    assert {(s.symbols, s.first_seq, s.started_ns) for s in segments} == {
        (SYMBOLS, 5, 77)
    }


async def test_a_million_ticks_come_back_to_the_same_sums(tmp_path):
    generator = np.random.default_rng(seed := 20260102)
    print(f"seed {seed}")
    run, seq = [], 1
    while seq <= 1_000_000:
        rows = np.zeros(min(4096, 1_000_001 - seq), TICK)
        rows["price"] = generator.integers(1, 10**7, len(rows))
        rows["size"] = generator.integers(1, 10**4, len(rows))
        rows["symbol"] = generator.integers(0, 2, len(rows))
        run.append(decode(ticks_frame(rows, seq, 0), 2)[1])
        seq += len(rows)
    async with log_at(tmp_path / "log") as log:
        await log.run(feed(run))
    sums = {0: [0, 0, 0], 1: [0, 0, 0]}  # ticks, price times size, size
    for batch in run:
        for _, price, size, symbol, _ in batch.rows.tolist():
            sums[symbol][0] += 1
            sums[symbol][1] += price * size
            sums[symbol][2] += size
    table = pd.DataFrame(np.concatenate([b.rows for b in replay(log.path)]))
    table["notional"] = table["price"] * table["size"]
    by_symbol = table.groupby("symbol")
    for symbol, part in by_symbol:
        found = [len(part), part["notional"].sum(), part["size"].sum()]
        assert found == sums[symbol]


async def test_appending_again_sets_a_torn_tail_aside_and_says_so(tmp_path):
    async with log_at(tmp_path / "log") as log:
        await log.run(feed(batches(3)))
        assert log.recovered == ""
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole + ticks(31, 10).frame[:100])
    async with log_at(tmp_path / "log", stream="next") as log:
        assert "kept 3 whole frames (30 ticks), moved a torn tail of 100" in (
            log.recovered
        )
        await log.run(feed(batches(2)))
    found = scan(tmp_path / "log")
    assert {name: s.ticks for name, s in found.streams.items()} == {"s": 30, "next": 20}


# Groups ----------------------------------------------------------------------


async def test_batches_that_wait_together_share_one_write_and_one_fsync(tmp_path):
    async with log_at(tmp_path / "log", fsync="batch") as log:
        for batch in batches(100):
            log.append(batch)
        await log.durable(1000)
        assert (log.groups, log.syncs, log.durable_seq) == (1, 1, 1000)


async def test_one_write_is_outstanding_and_the_rest_is_the_next_group(tmp_path):
    disk = Disk()
    async with log_at(tmp_path / "log", write=disk.write, fsync="none") as log:
        first, *rest = batches(200)
        log.append(first)
        await disk.entered.wait()
        for batch in rest:
            log.append(batch)
            await asyncio.sleep(0)
        assert (disk.inside, log.written_seq) == (1, 0)
        disk.ready.set()
    assert (disk.most_inside, log.groups, log.written_seq) == (1, 2, 2000)


async def test_a_slow_disk_makes_the_feed_wait_and_not_the_loop(tmp_path):
    disk, run, taken = Disk(), batches(1000), []

    async def counted() -> AsyncIterator[Batch]:
        async for batch in feed(run):
            taken.append(batch)
            yield batch

    frame = len(run[0].frame)
    async with log_at(
        tmp_path / "log", write=disk.write, buffer_bytes=50 * frame
    ) as log:
        running = asyncio.create_task(log.run(counted()))
        await disk.entered.wait()
        await all_others_wait()
        assert len(taken) == 51  # 50 in the buffer, one in hand
        assert f"{50 * frame} bytes pending" in repr(log)
        disk.ready.set()
        await running
    assert b"".join(replay_frames(log.path)) == b"".join(b.frame for b in run)


# fsync -----------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_interval_syncs_no_more_often_than_it_says_and_at_the_end(tmp_path):
    clock = Clock()
    async with log_at(tmp_path / "log", clock=clock, fsync_seconds=0.05) as log:
        await log.run(feed(batches(100)))
        assert (log.written_seq, log.durable_seq, log.syncs) == (1000, 0, 0)
        clock.now = 0.05
        await log.run(feed([ticks(1001, 1)]))
        assert (log.durable_seq, log.syncs) == (1001, 1)
        await log.run(feed([ticks(1002, 1)]))
        assert (log.durable_seq, log.syncs) == (1001, 1)
    assert (log.durable_seq, log.syncs) == (1002, 2)


async def test_interval_syncs_the_last_ticks_of_a_feed_that_went_quiet(tmp_path):
    async with log_at(tmp_path / "log", fsync_seconds=0.001) as log:
        log.append(ticks(1, 5))
        await log.durable(5)
        assert log.written_seq == 5


async def test_without_fsync_nothing_is_durable_and_nobody_waits_for_it(tmp_path):
    async with log_at(tmp_path / "log", fsync="none") as log:
        await log.run(feed(batches(3)))
        with pytest.raises(SettingsError, match="fsync=none: nothing is ever durable"):
            await log.durable(1)
    assert (log.written_seq, log.durable_seq, log.syncs) == (30, 0, 0)


async def test_waiting_for_a_number_that_never_came_ends_with_the_log(tmp_path):
    async with log_at(tmp_path / "log") as log:
        waiting = asyncio.create_task(log.durable(99))
        await all_others_wait()
    with pytest.raises(EnvironmentFault, match="is closed"):
        await waiting
    with pytest.raises(EnvironmentFault, match="is closed"):
        log.append(ticks(1, 1))


# The disk refuses ------------------------------------------------------------


async def test_a_short_write_is_completed(tmp_path):
    def a_little(file: int, some: memoryview) -> int:
        return os.write(file, some[:100])

    run = batches(20)
    async with log_at(tmp_path / "log", write=a_little) as log:
        await log.run(feed(run))
    assert list(replay_frames(log.path)) == [batch.frame for batch in run]


def fails_after(length: int, number: int) -> Callable[[int, memoryview], int]:
    """A disk with room for so many bytes."""
    room = length

    def write(file: int, some: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(number, os.strerror(number))
        written = os.write(file, some[:room])
        room -= written
        return written

    return write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("room", [352 * 3 - 1, 352 * 3, 352 * 3 + 1])
async def test_a_full_disk_keeps_whole_frames_and_acknowledges_just_those(
    tmp_path, room, number
):
    async with log_at(tmp_path / "log", fsync="none"):
        pass
    header = (tmp_path / "log").stat().st_size
    disk = fails_after(header + room, number)
    log = log_at(tmp_path / "log", write=disk, patience_seconds=0)
    with pytest.raises(EnvironmentFault) as caught:
        await append_all(log, batches(10))  # frames of 352 bytes
    whole = room // 352
    assert log.written_seq == 10 * whole
    assert log.durable_seq == 0
    assert str(tmp_path / "log") in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert f"kept up to tick {10 * whole}" in str(caught.value)
    found = scan(tmp_path / "log")
    assert (found.ticks, found.torn) == (10 * whole, None)


class Filling:
    """A disk that is full until space returns; its clock goes by its waits."""

    def __init__(self, room: int, space_returns_after: float) -> None:
        self.write_some = fails_after(room, errno.ENOSPC)
        self.seconds, self.space_returns_after = 0.0, space_returns_after
        self.look: Callable[[], None] = lambda: None  # called in each wait

    def write(self, file: int, some: memoryview) -> int:
        if self.seconds >= self.space_returns_after:
            return os.write(file, some)
        return self.write_some(file, some)

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.look()
        await asyncio.sleep(0)

    def settings(self) -> dict[str, Any]:
        how = {"write": self.write, "clock": self.clock, "sleep": self.sleep}
        return how | {"linger_seconds": 0}


@pytest.mark.parametrize("fsync", ["interval", "batch", "none"])
@pytest.mark.parametrize("room", [400, 352 * 4 + 77])
async def test_a_disk_that_was_full_for_a_while_costs_no_tick(tmp_path, fsync, room):
    """Fewer bytes than the frames need, and in the middle of one."""
    disk, run = Filling(room, space_returns_after=9.0), batches(50)
    log = log_at(tmp_path / "log", fsync=fsync, **disk.settings())
    async with log:
        await log.run(feed(run))
    assert disk.seconds >= 9.0
    assert log.disk.retries >= 89
    assert (log.written_seq, log.ticks) == (500, 500)
    assert log.durable_seq == (0 if fsync == "none" else 500)
    assert [batch.frame for batch in replay(log.path)] == [b.frame for b in run]
    assert log.disk.full_since is None


async def test_while_the_disk_is_full_the_log_takes_no_more_than_its_buffer(tmp_path):
    """And the metrics say so."""
    disk, registry = Filling(400, space_returns_after=5.0), Registry()
    log = log_at(
        tmp_path / "log", buffer_bytes=3520, registry=registry, **disk.settings()
    )
    pending, exposed = list[int](), set[bool]()

    def look() -> None:
        pending.append(log._pending_bytes)
        exposed.add(b"quants_log_full 1.0" in registry.exposition("text/plain")[0])

    disk.look = look
    async with log:
        await log.run(feed(batches(100)))
    assert 3520 <= max(pending) < 3520 + 352
    assert exposed == {True}
    assert b"quants_log_full 0.0" in registry.exposition("text/plain")[0]
    assert log.written_seq == 1000


async def test_a_disk_that_stays_full_ends_the_log_with_what_it_kept(tmp_path):
    disk = Filling(2000, space_returns_after=60.0)
    log = log_at(tmp_path / "log", patience_seconds=10.0, **disk.settings())
    told = r"No space left on device for 10 s; it is kept up to tick \d+0, free"
    with pytest.raises(EnvironmentFault, match=told):
        async with log:
            await log.run(feed(batches(50)))
    assert 10.0 <= disk.seconds < 11.0
    found = scan(tmp_path / "log")
    assert (found.ticks, found.torn) == (log.written_seq, None)
    assert 0 < log.written_seq < 500


async def test_patience_begins_anew_with_each_time_the_disk_is_full(tmp_path):
    """Ten times nine seconds are ninety, and no reason to give up."""
    disk = Filling(400, space_returns_after=9.0)
    log = log_at(tmp_path / "log", patience_seconds=10.0, **disk.settings())
    async with log:
        for i in range(10):
            disk.write_some = fails_after(100, errno.ENOSPC)
            disk.space_returns_after = disk.seconds + 9.0
            log.append(ticks(1 + 10 * i, 10))
            await log.durable(10 + 10 * i)
    assert disk.seconds >= 90.0
    assert scan(log.path).ticks == 100


async def test_who_is_stopped_does_not_wait_for_space(tmp_path):
    """A second signal cancels; what was written is there, the rest is told."""
    disk = Filling(2000, space_returns_after=1e9)
    log = log_at(tmp_path / "log", patience_seconds=1e9, **disk.settings())

    async def run() -> None:
        async with log:
            await log.run(feed(batches(50)))

    running = asyncio.create_task(run())
    while log.disk.retries < 10:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(EnvironmentFault, match="it is kept up to tick"):
        await running
    assert scan(tmp_path / "log").ticks == log.written_seq > 0


async def test_any_other_refusal_ends_the_log_without_a_wait(tmp_path):
    """Above all a failed fsync: the next one says yes, to pages that are gone."""
    syncs = 0

    def refuse_once(file: int) -> None:
        nonlocal syncs
        syncs += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = Filling(10**9, space_returns_after=0.0)
    log = log_at(tmp_path / "log", fsync="batch", sync=refuse_once, **disk.settings())
    with pytest.raises(EnvironmentFault, match="No space left on device; it is kept"):
        await append_all(log, [ticks(1, 5)])
    assert (syncs, disk.seconds, log.durable_seq) == (1, 0.0, 0)


async def test_run_ends_with_the_fault_of_the_disk(tmp_path):
    disk = fails_after(400, errno.ENOSPC)
    log = log_at(tmp_path / "log", write=disk, patience_seconds=0)
    with pytest.raises(EnvironmentFault, match="No space left"):
        async with log:
            await log.run(feed(batches(1000)))
    with pytest.raises(EnvironmentFault, match="No space left"):
        log.append(ticks(1, 1))


async def test_a_failed_fsync_makes_nothing_durable(tmp_path):
    def refuse(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log = log_at(tmp_path / "log", sync=refuse, fsync="batch")
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        await append_all(log, [ticks(1, 5)])
    assert (log.written_seq, log.durable_seq) == (5, 0)


async def test_a_log_that_cannot_be_appended_to_is_refused_at_once(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("do not touch", encoding="utf-8")
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "absent" / "log", "No such file"),
        (text / "log", "Not a directory"),
    ):
        with pytest.raises(EnvironmentFault, match=reason):
            await log_at(path).__aenter__()
    with pytest.raises(SettingsError, match="not a tick log"):
        await log_at(text).__aenter__()
    assert text.read_text(encoding="utf-8") == "do not touch"


async def test_two_logs_cannot_append_to_one_file(tmp_path):
    async with log_at(tmp_path / "log") as log:
        with pytest.raises(EnvironmentFault, match="another process appends to it"):
            await log_at(tmp_path / "log").__aenter__()
        await log.run(feed(batches(2)))
    assert scan(tmp_path / "log").ticks == 20


async def test_a_conflated_batch_is_refused(tmp_path):
    async with log_at(tmp_path / "log") as log:
        with pytest.raises(FrameError, match="a conflated batch"):
            log.append(Batch(ticks(1, 2).rows, 1, 2, 0))


# Other processes -------------------------------------------------------------

CHILD = """
import asyncio, os, random, sys
from pathlib import Path
from tests.test_ticklog import log_at, ticks
from quants.errors import EnvironmentFault

path, stream, fsync, room = sys.argv[1:]
if room != "any":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))

log = log_at(Path(path), stream=stream, fsync=fsync, fsync_seconds=0.002)

def acknowledge():
    os.write(1, b"%d %d\\n" % (log.written_seq, log.durable_seq))

async def endless():
    rng, seq, said = random.Random(1), 1, 0
    while True:
        yield (batch := ticks(seq, rng.randrange(1, 300)))
        seq = batch.next_seq
        await asyncio.sleep(0)
        if log.written_seq > said:
            said = log.written_seq
            acknowledge()

async def main():
    try:
        async with log:
            await log.run(endless())
    except EnvironmentFault as fault:
        acknowledge()
        sys.exit(str(fault))

asyncio.run(main())
"""


Child = subprocess.Popen[bytes]


def child(path: Path, stream: str, fsync: str, room: str = "any") -> Child:
    command = [sys.executable, "-c", CHILD, str(path), stream, fsync, room]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )


def kill_and_recover(path: Path, fsync: str, kills: int, seed: int) -> int:
    """Kill a writing child again and again; how many ticks it acknowledged.

    None of them may be lost.
    """
    print(f"seed {seed}")
    rng, acknowledged = random.Random(seed), {}
    for kill in range(kills):
        with child(path, f"run-{kill}", fsync) as writer:
            assert writer.stdout
            for _ in range(rng.randrange(1, 60)):
                line = writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            lines = [line, *writer.stdout.read().splitlines(keepends=True)]
        assert writer.returncode == -signal.SIGKILL
        whole = [line.split() for line in lines if line.endswith(b"\n")]
        written, durable = map(int, whole[-1])
        assert durable <= written
        acknowledged[f"run-{kill}"] = written
    for stream, written in acknowledged.items():
        recovered = list(replay(path, stream))
        assert sum(map(len, recovered)) >= written > 0
        for batch in recovered:
            assert batch.frame == ticks(batch.first_seq, len(batch)).frame
    assert not scan(path).holes
    return sum(acknowledged.values())


posix = pytest.mark.skipif(os.name == "nt", reason="Windows knows no kill -9")


@posix
@pytest.mark.parametrize("fsync", ["interval", "batch", "none"])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, fsync, record_property):
    acknowledged = kill_and_recover(tmp_path / "log", fsync, kills=3, seed=1)
    record_property("kills", 3)
    record_property("acknowledged ticks", acknowledged)


@posix
@pytest.mark.long
@pytest.mark.parametrize("fsync", ["interval", "batch", "none"])
def test_50_kills_lose_nothing_that_was_acknowledged(tmp_path, fsync, record_property):
    acknowledged = kill_and_recover(tmp_path / "log", fsync, kills=50, seed=2)
    record_property("kills", 50)
    record_property("acknowledged ticks", acknowledged)


@posix
def test_a_file_at_its_size_limit_keeps_just_what_was_acknowledged(tmp_path):
    with child(tmp_path / "log", "s", "interval", room="500000") as writer:
        out, err = writer.communicate(timeout=30)
    written, durable = map(int, out.splitlines()[-1].split())
    assert writer.returncode == 1
    assert "File too large; it is kept up to tick" in err.decode()
    assert err.decode().count("\n") == 1
    found = scan(tmp_path / "log")
    assert (found.ticks, found.torn, found.holes) == (written, None, [])
    assert 500_000 - 32 - 300 * 32 <= (tmp_path / "log").stat().st_size <= 500_000
    assert 0 <= durable <= written


# The slow sibling ------------------------------------------------------------


async def test_the_per_tick_log_writes_each_tick_as_an_exact_line(tmp_path):
    log = PerTickLog(tmp_path / "log.jsonl", SYMBOLS)
    lost = gap(4, 2, 0, encode(Kind.GAP, 4, 2, 0))
    await log.run(feed([ticks(1, 3), lost, ticks(6, 1)]))
    lines = log.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4, 6]
    assert lines[0] == (
        '{"seq": 1, "time_ns": 1, "symbol": "MSFT", "price": "100.01", "size": "2"}'
    )
    assert lines[3] == '{"seq": 4, "missing": 2}'
    assert log.ticks == 4


async def test_the_metrics_of_the_log_are_its_counters(tmp_path):
    registry = Registry()
    async with log_at(tmp_path / "log", registry=registry) as log:
        await log.run(feed(batches(3)))
    text = registry.exposition("text/plain")[0].decode()
    for line in ("written_seq 30", "durable_seq 30", "ticks_total 30"):
        assert f"quants_log_{line}.0\n" in text
    assert f"quants_log_bytes_total {log.bytes:.1f}\n" in text
