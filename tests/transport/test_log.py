"""The durable local log against real files: atomic, durable, exclusive, bounded."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams._native import Records
from streams.clock import ManualClock
from streams.errors import (
    LogBusyError,
    LogDamagedError,
    LogFormatError,
    LogFullError,
    RecordTooLargeError,
    TransportError,
)
from streams.transport.log import Log
from tests.transport.log_writer import append, run_of

WRITER = Path(__file__).with_name("log_writer.py")
HOUR_MS = 3_600_000


def batch(*values: bytes | None, key: bytes | None = b"k") -> Records:
    records = Records()
    for value in values:
        records.append(key, value)
    return records


def numbered(count: int, size: int = 20) -> Records:
    return batch(*(b"%0*d" % (size, n) for n in range(count)))


def read_all(
    log: Log, topic: str, partition: int = 0, offset: int = 0, step: int = 1_000
) -> list[tuple[int, bytes | None, bytes | None]]:
    found: list[tuple[int, bytes | None, bytes | None]] = []
    while len(records := log.read(topic, partition, offset, step)):
        found.extend((records.offset(i), records.key(i), records.value(i)) for i in range(len(records)))
        offset = records.last_offset + 1
    return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log(tmp_path / "log") as opened:
        opened.create_topic("t", 2)
        yield opened


def test_records_come_back_as_they_were(log: Log) -> None:
    """Key, value, headers and timestamp survive, offsets are given in order, a missing timestamp becomes now."""
    records = Records()
    records.append(b"k", b"v", [("h", b"1"), ("h", None)], 123)
    records.append(None, None)
    before = time.time_ns() // 1_000_000
    assert log.append([("t", 1, records)]) == [1]
    assert log.append([("t", 1, batch(b"x", b"y"))]) == [3]
    back = log.read("t", 1, 0)
    assert [back.offset(i) for i in range(4)] == [0, 1, 2, 3]
    assert (back.key(0), back.value(0), back.headers(0), back.timestamp_ms(0)) == (
        b"k",
        b"v",
        [("h", b"1"), ("h", None)],
        123,
    )
    assert (back.key(1), back.value(1)) == (None, None)
    assert before <= back.timestamp_ms(1) <= time.time_ns() // 1_000_000
    assert (log.start("t", 1), log.end("t", 1), log.end("t", 0)) == (0, 4, 0)


def test_read_begins_anywhere_and_keeps_its_limits(log: Log) -> None:
    """A read may begin in the middle of a block, gives at most `records_max`, and one block more than `bytes_max`."""
    for _ in range(3):
        log.append([("t", 0, numbered(10))])
    assert [o for o, _, _ in read_all(log, "t", offset=7, step=4)] == list(range(7, 30))
    assert len(log.read("t", 0, 0, 25)) == 20, "whole blocks while they fit, so that none is decoded twice"
    assert len(log.read("t", 0, 0, 3)) == 3
    assert len(log.read("t", 0, 0, 1_000, 1)) == 10
    assert len(log.read("t", 0, 30)) == 0


def test_a_large_batch_becomes_several_blocks(log: Log) -> None:
    """Block sizes are bounded whatever a caller appends."""
    log.append([("t", 0, numbered(30_000))])
    assert [v for _, _, v in read_all(log, "t", step=777)] == [b"%020d" % n for n in range(30_000)]
    assert len(log.read("t", 0, 0, 30_000, 1)) <= 8_192


def test_outputs_and_offsets_are_one(log: Log) -> None:
    """An append that fails leaves neither records nor offsets; one that succeeds leaves both."""
    log.create_topic("small", 1, record_bytes_max=50)
    with pytest.raises(RecordTooLargeError, match=r"record 1 of a batch for small has 61 bytes .* 50 at most"):
        log.append([("t", 0, batch(b"x")), ("small", 0, batch(b"y", b"z" * 60, b"y"))], "g", [("t", 0, 5)])
    assert (log.end("t", 0), log.committed("g")) == (0, {})
    log.append([("t", 0, batch(b"x")), ("small", 0, batch(b"y"))], "g", [("t", 0, 5), ("t", 1, 6)])
    assert (log.end("t", 0), log.end("small", 0)) == (1, 1)
    assert log.committed("g") == {("t", 0): 5, ("t", 1): 6}
    log.reset_offsets("g", [("t", 0, 0)])
    assert log.committed("g") == {("t", 0): 0, ("t", 1): 6}
    with pytest.raises(ValueError, match="without the group"):
        log.append([], offsets=[("t", 0, 1)])


def test_topics_are_made_once(log: Log) -> None:
    """Making a topic again changes only the settings that are named; another partition count is refused."""
    log.create_topic("t", 2, cleanup="compact", retention_ms=5)
    log.create_topic("t", 2)
    topic = log.topics()["t"]
    assert (topic.cleanup, topic.retention_ms, topic.partitions) == ("compact", 5, 2)
    with pytest.raises(TransportError, match="has 2 partitions, not 3"):
        log.create_topic("t", 3)
    assert (log.partitions("t"), log.partitions("u")) == (2, None)
    with pytest.raises(TransportError, match="it has 2 partitions"):
        log.read("t", 2, 0)
    with pytest.raises(TransportError, match="no such topic"):
        log.append([("u", 0, batch(b"x"))])


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    """Topics, records, offsets and ends survive a clean close."""
    with Log(tmp_path) as log:
        log.create_topic("t", 1, retention_ms=7)
        log.append([("t", 0, numbered(5))], "g", [("t", 0, 3)])
    with Log(tmp_path, "normal") as log:
        assert log.topics()["t"].retention_ms == 7
        assert (len(read_all(log, "t")), log.end("t", 0), log.committed("g")) == (5, 5, {("t", 0): 3})
        assert log.append([("t", 0, batch(b"x"))]) == [5]
    with pytest.raises(TransportError, match="is closed"):
        log.end("t", 0)


def test_second_process_learns_who_holds_the_log(tmp_path: Path) -> None:
    """A second process, and a second opening in this one, is refused with the holder's pid; reading only is allowed."""
    command = [sys.executable, str(WRITER), str(tmp_path), "normal"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        for _ in range(20):
            holder.stdout.readline()
        with pytest.raises(LogBusyError, match=rf"pid {holder.pid} \(log_writer.py"):
            Log(tmp_path)
        with Log(tmp_path, readonly=True) as seen:
            position = seen.end("b", 0)
            assert seen.wait({("b", 0): position}, 10_000) == [("b", 0)], "a read-only log sees what is appended"
            assert seen.end("b", 0) > position
            assert len(seen.read("b", 0, position)) > 0
            with pytest.raises(TransportError, match="for reading only"):
                seen.append([("b", 0, batch(b"x"))])
    finally:
        holder.kill()
        holder.wait()
    with Log(tmp_path, readonly=True) as seen:
        assert seen.end("b", 0) > position, "what a killed process left can be looked at"
    with Log(tmp_path), pytest.raises(LogBusyError, match="this process"):
        Log(tmp_path)


def test_readonly_needs_a_log(tmp_path: Path) -> None:
    """Looking at a directory without a log says so and makes nothing."""
    with pytest.raises(TransportError, match="does not exist"):
        Log(tmp_path / "none", readonly=True)
    assert not (tmp_path / "none").exists()


def test_one_program_shares_one_log(tmp_path: Path) -> None:
    """`shared` gives a program's parts the same log; it closes with its last user."""
    first, second = Log.shared(tmp_path), Log.shared(tmp_path / ".." / tmp_path.name)
    assert first is second
    Log(first.directory, readonly=True).close()
    first.create_topic("t", 1)
    first.close()
    second.append([("t", 0, batch(b"x"))])
    second.close()
    with Log(tmp_path) as log:
        assert log.end("t", 0) == 1


def check_whole(directory: Path, acknowledged: dict[int, int]) -> dict[int, int]:
    """Every append of the writer is there wholly or not at all, the acknowledged ones are; the newest per thread."""
    newest = {}
    with Log(directory) as log:
        if log.partitions("c") is None:
            assert not acknowledged
            return {}
        latest = {key: value for _, key, value in read_all(log, "c")}
        for thread in range(log.partitions("b") or 0):
            names = [key for _, key, _ in read_all(log, "b", thread)]
            assert names == [str(n).encode() for n in range(len(names))], "appends of a thread in order, no gap"
            newest[thread] = len(names) - 1
            assert newest[thread] >= acknowledged.get(thread, -1), "an acknowledged append is lost"
            expected = [str(n).encode() for n in range(len(names)) for _ in range(run_of(n))]
            assert [key for _, key, _ in read_all(log, "a", thread, step=20_000)] == expected
            assert log.committed(f"g{thread}") == ({("in", thread): len(names)} if names else {})
            assert latest.get(str(thread).encode()) == (str(len(names) - 1).encode() if names else None)
    return newest


@pytest.mark.parametrize("fsync", ["full", "normal"])
def test_kill_at_any_moment(tmp_path: Path, fsync: str, seed: int, kills: int) -> None:
    """After kill -9 under load every acknowledged append is there wholly, and nothing is half there."""
    moments = random.Random(seed)
    newest: dict[int, int] = {}
    for _ in range(kills):
        writer = subprocess.Popen([sys.executable, str(WRITER), str(tmp_path), fsync], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        acknowledged = dict(newest)
        for _ in range(moments.randrange(1, 400)):
            thread, number = map(int, writer.stdout.readline().split())
            acknowledged[thread] = number
        time.sleep(moments.random() * 0.02)
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                thread, number = map(int, line.split())
                acknowledged[thread] = number
        writer.wait()
        newest = check_whole(tmp_path, acknowledged)
        assert set(newest) == {0, 1}


def test_torn_tail(tmp_path: Path, seed: int) -> None:
    """A WAL cut off or overwritten before its last frame leaves a prefix of the appends, and a log that works."""
    chance = random.Random(seed)
    with Log(tmp_path / "log") as log:
        for topic in ("in", "a", "b"):
            log.create_topic(topic, 2)
        log.create_topic("c", 1, cleanup="compact")
        log.checkpoint()
        for number in range(1, 40):
            append(log, 0, number - 1)
        wal = (tmp_path / "log" / "log.sqlite3-wal").read_bytes()
        shutil.copytree(tmp_path / "log", tmp_path / "copy")
    seen = set()
    last_frame = 24 + int.from_bytes(wal[8:12], "big")  # in it alone, whole in length, other bytes are damage
    for _ in range(15):
        at = chance.randrange(len(wal) - last_frame)
        torn = wal[:at] + (chance.randbytes(len(wal) - at) if chance.random() < 0.5 else b"")
        shutil.rmtree(tmp_path / "torn", ignore_errors=True)
        shutil.copytree(tmp_path / "copy", tmp_path / "torn", ignore=shutil.ignore_patterns("*-shm"))
        (tmp_path / "torn" / "log.sqlite3-wal").write_bytes(torn)
        seen.add(check_whole(tmp_path / "torn", {})[0])
        with Log(tmp_path / "torn") as log:
            end = log.end("a", 1)
            assert log.append([("a", 1, batch(b"x"))]) == [end]
    assert len(seen) > 3, "cuts at different places leave different prefixes"


def fill(log: Log, topic: str = "t") -> None:
    """Appends ten times what a log of 2 MB takes."""
    for number in range(400):
        log.append([(topic, 0, batch(os.urandom(50_000)))], "g", [(topic, 0, number + 1)])


def test_full_log_says_so_and_goes_on(tmp_path: Path) -> None:
    """No room: LogFullError, nothing of the append written, and appends work again once retention made room."""
    clock = ManualClock()
    with Log(tmp_path, bytes_max=2 << 20, clock=clock) as log:
        log.create_topic("t", 1, retention_ms=HOUR_MS)
        with pytest.raises(LogFullError, match="no room left"):
            fill(log)
        ends = log.end("t", 0)
        assert ends > 10
        assert (log.end("t", 0), log.committed("g")) == (ends, {("t", 0): ends})
        assert len(read_all(log, "t")) == ends
        clock.advance(2 * HOUR_MS)
        while log.maintain(clock.now_ms(), 1_000):
            pass
        assert log.append([("t", 0, batch(b"x"))]) == [ends]
        assert [o for o, _, _ in read_all(log, "t")] == [ends]


def test_newer_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    """A newer format, a damaged block and a file that is no log each give an error that names path and cure."""
    with Log(tmp_path) as log:
        log.create_topic("t", 1)
        log.append([("t", 0, batch(b"x"))])
        file = sqlite3.connect(tmp_path / "log.sqlite3")
        file.execute("update blocks set data = x'01ffffffff00'")
        file.commit()
        with pytest.raises(LogDamagedError, match=r"t partition 0 offset 0: damaged block.*restore"):
            log.read("t", 0, 0)
        file.execute("update meta set value = 3 where key = 'format'")
        file.commit()
        file.close()
    with pytest.raises(LogFormatError, match="has format 3, the newest this release reads is 2"):
        Log(tmp_path)
    (tmp_path / "log.sqlite3").write_bytes(b"something else entirely" * 1_000)
    with pytest.raises(LogDamagedError, match="damaged"):
        Log(tmp_path)


def test_a_topic_made_anew_is_another(log: Log) -> None:
    """Records and offsets go with the topic; the new one begins at 0 with another id. Other topics keep theirs."""
    log.create_topic("other", 1)
    log.append([("t", 1, numbered(3)), ("other", 0, numbered(2))], "g", [("t", 1, 2, "kept"), ("other", 0, 1)])
    first = log.topics()["t"].id
    assert first == log.create_topic("t", 2, retention_ms=HOUR_MS).id
    log.delete_topic("t")
    log.delete_topic("t")

    assert {("other", 0): 1} == log.committed("g")
    with pytest.raises(TransportError, match="no such topic"):
        log.append([("t", 1, numbered(1))])
    with pytest.raises(TransportError, match="no such topic"):
        log.wait({("t", 1): 0}, 1_000)

    again = log.create_topic("t", 2)
    log.append([], "g", [("t", 1, 0)])
    assert again.id != first
    assert (0, []) == (log.end("t", 1), read_all(log, "t", 1))
    assert not log.maintain(0, 1_000, everything=True)
    with Log(log.directory, readonly=True) as looked_at:  # what is there fits its checksums
        assert 2 == len(read_all(looked_at, "other"))
        assert {("other", 0): 1, ("t", 1): 0} == looked_at.committed("g")


def test_retention_by_time(tmp_path: Path) -> None:
    """Whole blocks go once they were appended longer ago than `retention_ms`, whatever their records' timestamps."""
    clock = ManualClock()
    with Log(tmp_path, clock=clock) as log:
        log.create_topic("t", 1, retention_ms=HOUR_MS)
        for _ in range(3):
            records = Records()
            records.append(b"k", b"v", (), 1)
            records.append(b"k", b"v", (), 1)
            log.append([("t", 0, records)])
            clock.advance(HOUR_MS / 2)
        assert not log.maintain(clock.now_ms(), 1_000)
        assert (log.start("t", 0), log.end("t", 0)) == (2, 6)
        assert [o for o, _, _ in read_all(log, "t")] == [2, 3, 4, 5], "an offset below start goes on at start"
        clock.advance(10 * HOUR_MS)
        log.maintain(clock.now_ms(), 1_000)
        assert (log.start("t", 0), log.end("t", 0)) == (6, 6)
        assert log.wait({("t", 0): 0}, 0) == [], "nothing to read"
    with Log(tmp_path, clock=clock) as log:
        assert log.append([("t", 0, batch(b"x"))]) == [6], "offsets go on after everything was removed"


def test_retention_by_size_in_bounded_steps(tmp_path: Path) -> None:
    """The oldest blocks go while at least `retention_bytes` stay; a small budget leaves the rest for later."""
    with Log(tmp_path, "normal") as log:
        log.create_topic("t", 1, retention_bytes=100_000)
        for _ in range(400):
            log.append([("t", 0, batch(os.urandom(1_000)))])
        assert log.maintain(0, 0), "one step a call when the budget is used up"
        assert 0 < log.start("t", 0) < 200
        while log.maintain(0, 0):
            pass
        assert 90 <= log.end("t", 0) - log.start("t", 0) <= 100


def test_many_threads_append(log: Log) -> None:
    """Appends from many threads each get their own offsets, in one order, and a reader that waits sees all of them."""
    given_offsets: list[int] = []
    guard = threading.Lock()

    def work(thread: int) -> None:
        for number in range(40):
            (last,) = log.append([("t", 0, batch(b"%d.%d" % (thread, number)))])
            with guard:
                given_offsets.append(last)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    position = 0
    seen: list[bytes | None] = []
    while len(seen) < 320:
        assert log.wait({("t", 0): position, ("t", 1): 0}, 10_000) == [("t", 0)]
        records = log.read("t", 0, position, 50)
        seen.extend(records.value(i) for i in range(len(records)))
        position = records.last_offset + 1
    for thread in threads:
        thread.join()
    assert sorted(given_offsets) == list(range(320))
    for thread_number in range(8):
        own = [value for value in seen if value is not None and value.startswith(b"%d." % thread_number)]
        assert own == [b"%d.%d" % (thread_number, number) for number in range(40)]


def test_one_bad_append_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    """Appends that share a transaction are written alone when it fails: only the one without room gets the error."""
    with Log(tmp_path, bytes_max=1 << 20) as log:
        log.create_topic("t", 1, record_bytes_max=-1)
        outcomes: dict[str, object] = {}

        def send(name: str, value: bytes) -> None:
            try:
                outcomes[name] = log.append([("t", 0, batch(value))])
            except LogFullError as error:
                outcomes[name] = error

        threads = [threading.Thread(target=send, args=("large", os.urandom(2 << 20)))]
        threads += [threading.Thread(target=send, args=(f"small {n}", b"x")) for n in range(5)]
        with log._write_lock:
            for thread in threads:
                thread.start()
            while len(log._appender._queue) < 6:
                time.sleep(0.001)
        for thread in threads:
            thread.join()
        assert isinstance(outcomes.pop("large"), LogFullError)
        assert sorted(str(offsets) for offsets in outcomes.values()) == [f"[{n}]" for n in range(5)]


def test_wait_ends_in_time_and_on_close(tmp_path: Path) -> None:
    """A wait ends with the append, with its timeout, or with the log."""
    log = Log(tmp_path)
    log.create_topic("t", 1)
    assert log.wait({("t", 0): 0}, 10) == []
    timer = threading.Timer(0.05, lambda: log.append([("t", 0, batch(b"x"))]))
    timer.start()
    assert log.wait({("t", 0): 0}, 10_000) == [("t", 0)]
    timer.join()
    timer = threading.Timer(0.05, log.close)
    timer.start()
    began = time.monotonic()
    assert log.wait({("t", 0): 1}, 10_000) == []
    assert time.monotonic() - began < 5
    timer.join()


step = st.one_of(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c", b"d", None]), st.sampled_from([b"1", b"2", None])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["tidy", "hour", "reopen"]),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, max_size=14), data=st.data())
def test_compaction_against_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[object], data: st.DataObject
) -> None:
    """The last record of each key stays at its offset, older ones go, tombstones stay their time, keyless always."""
    directory = tmp_path_factory.mktemp("compaction")
    clock = ManualClock()
    written: list[tuple[bytes | None, bytes | None, int]] = []

    def opened() -> Log:
        return Log(directory, "normal", clock=clock)

    log = opened()
    log.create_topic("t", 1, cleanup="compact", delete_retention_ms=3 * HOUR_MS)
    for one in [*steps, "tidy"]:
        if isinstance(one, list):
            records = Records()
            for key, value in one:
                records.append(key, value)
                written.append((key, value, clock.now_ms()))
            log.append([("t", 0, records)])
        elif one == "hour":
            clock.advance(HOUR_MS)
        elif one == "reopen":
            log.close()
            log = opened()
        else:
            while log.maintain(clock.now_ms(), data.draw(st.sampled_from([0, 1_000])), everything=True):
                pass
            check_compacted(log, written, clock.now_ms())
    clock.advance(10 * HOUR_MS)
    while log.maintain(clock.now_ms(), 1_000, everything=True):
        pass
    left = read_all(log, "t")
    assert all(value is not None or key is None or offset == len(written) - 1 for offset, key, value in left)
    log.close()


def check_compacted(log: Log, written: list[tuple[bytes | None, bytes | None, int]], now_ms: int) -> None:
    last = {key: offset for offset, (key, _, _) in enumerate(written)}
    left = read_all(log, "t", step=2)
    assert log.end("t", 0) == len(written)
    assert all(written[offset][:2] == (key, value) for offset, key, value in left)
    offsets = [offset for offset, _, _ in left]
    assert offsets == sorted(set(offsets))
    for offset, (key, value, created_ms) in enumerate(written):
        if key is None or offset == len(written) - 1:
            assert offset in offsets
        elif last[key] != offset:
            assert offset not in offsets, "superseded"
        elif value is not None or now_ms < created_ms + 3 * HOUR_MS:
            assert offset in offsets


def test_compaction_begins_anew_after_a_failure(tmp_path: Path) -> None:
    """A pass that failed halfway is not taken for a whole one: everything superseded goes in the next."""
    with Log(tmp_path, "normal") as log:
        log.create_topic("t", 1, cleanup="compact")
        for _ in range(4):
            records = Records()
            for key in range(5_000):
                records.append(b"%d" % key, b"v")
            log.append([("t", 0, records)])
        while not (under_way := log._upkeep._passes.get(("t", 0))) or under_way.learning:
            assert log.maintain(0, 0, everything=True)
        file = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
        (whole,) = file.execute("select data from blocks where first = 5000").fetchone()
        file.execute("update blocks set data = x'01' where first = 5000")
        with pytest.raises(LogDamagedError, match="offset 5000"):
            log.maintain(0, 10_000, everything=True)
        file.execute("update blocks set data = ? where first = 5000", (whole,))
        file.close()
        assert not log.maintain(0, 10_000, everything=True)
        assert [offset for offset, _, _ in read_all(log, "t")] == list(range(15_000, 20_000))


def test_compaction_merges_single_sends(tmp_path: Path) -> None:
    """Blocks of one record each become one block, at their offsets; a topic that is hardly dirty is left alone."""
    with Log(tmp_path, "normal") as log:
        log.create_topic("t", 1, cleanup="compact")
        for number in range(50):
            log.append([("t", 0, batch(b"v", key=b"%d" % (number % 30)))])
        assert not log.maintain(0, 1_000)
        assert len(read_all(log, "t")) == 50
        assert not log.maintain(0, 10_000, everything=True)
        assert [o for o, _, _ in read_all(log, "t")] == list(range(20, 50))
        file = sqlite3.connect(tmp_path / "log.sqlite3")
        assert file.execute("select count(*) from blocks").fetchone() == (1,)
        file.close()
        assert log.checkpoint()
