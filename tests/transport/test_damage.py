"""The embedded log on a disk that lies: a flipped bit is named or changes nothing, wherever in the file it is."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from streams._native import Records
from streams.errors import LogDamagedError, TransportError
from streams.transport.log import Log
from tests.transport.test_log import batch

FLIPS = 300


def fill(directory: Path) -> None:
    """A log of two topics, one of them compacted, with a group's offsets."""
    with Log(directory) as log:
        log.create_topic("events", 2)
        log.create_topic("rows", 1, cleanup="compact")
        for batch in range(12):
            records = Records()
            for index in range(20):
                records.append(b"k%d" % index, b"value %d of %d " % (index, batch) * 20)
            offset = 20 * (batch // 2 + 1)
            log.append([("events", batch % 2, records), ("rows", 0, records.slice(0, 5))], "group",
                       [("events", batch % 2, offset)])  # fmt: skip


def content(directory: Path) -> object:
    """Everything that a reader sees. TransportError where something is damaged."""
    with Log(directory) as log:
        found: dict[object, object] = {"committed": log.committed("group"), "topics": log.topics()}
        for topic, settings in log.topics().items():
            for partition in range(settings.partitions):
                records, position = [], 0
                while len(run := log.read(topic, partition, position)):
                    records += [(run.offset(at), run.key(at), run.value(at)) for at in range(len(run))]
                    position = run.last_offset + 1
                found[topic, partition] = (log.start(topic, partition), log.end(topic, partition), records)
        return found


def test_a_log_that_is_written_meanwhile_is_whole(tmp_path: Path) -> None:
    """Whoever looks at a log while its owner appends and removes sees it as of one moment: nothing is damaged."""
    with Log(tmp_path) as log:
        log.create_topic("t", 2, retention_ms=1)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                log.append([("t", 0, batch(b"x")), ("t", 1, batch(b"y"))], "g", [("t", 0, 1)])
                log.maintain(1 << 45, 10)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(300):
                Log(tmp_path, readonly=True).close()
        finally:
            stop.set()
            writer.join()


def test_a_flipped_bit_is_named_or_harmless(tmp_path: Path, seed: int) -> None:
    """Topics, offsets and records are what was written, or an error says that the file is damaged."""
    choice = random.Random(seed)
    fill(tmp_path / "whole")
    raw, right = (tmp_path / "whole" / "log.sqlite3").read_bytes(), content(tmp_path / "whole")
    used = [at for at, byte in enumerate(raw) if byte]  # most of the pages is room
    noticed = 0
    for _ in range(FLIPS):
        bit = 8 * choice.choice(used) + choice.randrange(8)
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        (tmp_path / "flipped").mkdir()
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped" / "log.sqlite3").write_bytes(flipped)
        try:
            found = content(tmp_path / "flipped")
        except TransportError as error:
            noticed += "log.sqlite3" in str(error)
        else:
            assert right == found, f"bit {bit} gave other content without an error"
    assert noticed


def test_a_bit_that_flips_in_what_a_kill_left_is_named(tmp_path: Path, seed: int) -> None:
    """SQLite would end the log there, and every append behind it would be gone without a word."""
    choice = random.Random(seed)
    with Log(tmp_path / "log") as log:
        log.create_topic("t", 1)
        log.checkpoint()
        for number in range(12):
            log.append([("t", 0, batch(b"%d" % number * 9_000))], "group", [("t", 0, number)])
        shutil.copytree(tmp_path / "log", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    wal = (tmp_path / "killed" / "log.sqlite3-wal").read_bytes()
    for turn in range(60):
        bit = choice.randrange(8 * (len(wal) if turn else 32))
        flipped = bytearray(wal)
        flipped[bit // 8] ^= 1 << bit % 8
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        shutil.copytree(tmp_path / "killed", tmp_path / "flipped")
        (tmp_path / "flipped" / "log.sqlite3-wal").write_bytes(flipped)
        with pytest.raises(LogDamagedError, match=r"its -wal at byte \d+: what was appended after it would be lost"):
            Log(tmp_path / "flipped")
    with Log(tmp_path / "killed") as log:
        assert 12 == log.end("t", 0)


def test_a_log_that_lost_its_file_is_not_begun_anew(tmp_path: Path) -> None:
    """Emptied, overwritten by something else, or gone from beside its last appends: it is named, with the cure."""
    fill(tmp_path / "log")
    file = tmp_path / "log" / "log.sqlite3"
    file.write_bytes(b"")
    for readonly in (True, False):
        with pytest.raises(LogDamagedError, match="it is empty"):
            Log(tmp_path / "log", readonly=readonly)
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("create table somebody (name)")
    for readonly in (True, False):
        with pytest.raises(LogDamagedError, match="it is something else"):
            Log(tmp_path / "log", readonly=readonly)
    file.unlink()
    file.with_name("log.sqlite3-wal").write_bytes(b"the last appends")
    with pytest.raises(LogDamagedError, match=r"it is gone.*move it away"):
        Log(tmp_path / "log")
    assert not file.exists()


@pytest.mark.parametrize("place", ["", "/log", "/log/lock", "/log/log.sqlite3"])
def test_a_path_that_is_something_else_is_named(tmp_path: Path, place: str) -> None:
    """A file where a directory should be, or the other way round, is one sentence with the path."""
    there = Path(f"{tmp_path}/there{place}")
    there.parent.mkdir(parents=True, exist_ok=True)
    if place in ("", "/log"):
        there.write_text("")
    else:
        there.mkdir()
    with pytest.raises(TransportError, match=f"embedded log {tmp_path}/there/log.*read and write"):
        Log(tmp_path / "there" / "log")
