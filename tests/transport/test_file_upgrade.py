"""A log that commit ed30627 wrote: it stays what it was until it is upgraded, and an upgrade may end anywhere."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streams.errors import LogDamagedError
from streams.transport import file_upgrade
from streams.transport.log import Log
from tests.transport.test_log import batch, read_all

ED30627 = Path(__file__).parent.parent / "fixtures" / "ed30627"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A log's directory as commit ed30627 left it."""
    return Path(shutil.copytree(ED30627 / "embedded" / "log", tmp_path / "old"))


def test_a_log_of_format_1_stays_one(old: Path) -> None:
    """It has ids, and what is kept beside an offset; the release that made it finds and writes all."""
    with Log(old, readonly=True) as looked_at:
        before = {topic: read_all(looked_at, topic) for topic in looked_at.topics()}
        offsets = looked_at.committed("fleet")
        assert {b""} == {topic.id for topic in looked_at.topics().values()}
    with Log(old) as log:
        assert before == {topic: read_all(log, topic) for topic in log.topics()}
        ids = {name: topic.id for name, topic in log.topics().items()}
        assert {16} == {len(each) for each in ids.values()}
        assert len(set(ids.values())) == len(ids) > 5
        assert {where: (offset, "") for where, offset in offsets.items()} == log.kept("fleet")
        end = log.end("devices", 0)
        log.append([("devices", 0, batch(b"x"))], "fleet", [("devices", 0, 35, "beside"), ("devices", 1, 3, "beside")])
        log.create_topic("more", 1)
        ids["more"] = log.topics()["more"].id
    written_by_the_old_release(old, end)
    with Log(old, readonly=True) as again:
        assert (35, "beside") == again.kept("fleet")["devices", 0]
        assert (4, "") == again.kept("fleet")["devices", 1], "moved by a release that keeps nothing beside"
    with Log(old) as log:
        assert ids == {name: topic.id for name, topic in log.topics().items() if name != "old"}
        assert 16 == len(log.topics()["old"].id)
        assert [(end, b"k", b"x"), (end + 1, b"k", b"old")] == read_all(log, "devices")[-2:]


def written_by_the_old_release(directory: Path, end: int) -> None:
    """What commit ed30627 does to a file: its statements, and its check of format and blocks."""
    with closing(sqlite3.connect(directory / "log.sqlite3", isolation_level=None)) as file:
        assert (1,) == file.execute("select value from meta where key = 'format'").fetchone()
        assert {b"\x01"} == {data[:1] for (data,) in file.execute("select data from blocks")}
        records = batch(b"old")
        records.assign(end + 1, 1)
        block = records.encode(checksum=False)
        file.execute("insert or replace into topics values ('old', 1, 'delete', -1, -1, -1, -1)")
        file.execute("insert or ignore into partitions (topic, partition) values ('old', 0)")
        (number,) = file.execute("select id from partitions where topic = 'devices' and partition = 0").fetchone()
        file.execute(
            'insert into blocks (partition_id, "first", "last", records, bytes, created_ms, data) '
            "values (?, ?, ?, 1, ?, 1, ?)",
            (number, end + 1, end + 1, len(block), block),
        )
        file.execute('update partitions set "end" = ? where id = ?', (end + 2, number))
        file.execute("insert or replace into group_offsets values ('fleet', 'devices', 1, 4)")


def contents(log: Log) -> tuple[object, object, dict[tuple[str, int], list[object]]]:
    """All that a log holds."""
    records = {
        (name, at): read_all(log, name, at) for name, each in log.topics().items() for at in range(each.partitions)
    }
    return log.topics(), log.kept("fleet"), records


def test_an_upgrade_gives_checksums_to_everything(old: Path) -> None:
    """Records, ids and offsets stay; then a bit that flips is named, and the older release is refused by the format."""
    with Log(old) as log:
        log.append([], "fleet", [("devices", 0, 35, "beside")])
    written_by_the_old_release(old, 35)
    with Log(old) as log:
        before, blocks = contents(log), max(log.upgrade.steps())
        assert not log.upgrade.is_due
        assert before == contents(log)
        assert [] == list(log.upgrade.steps())
    with closing(sqlite3.connect(old / "log.sqlite3", isolation_level=None)) as file:
        assert (2,) == file.execute("select value from meta where key = 'format'").fetchone()
        assert (blocks,) == file.execute("select count(*) from blocks where substr(data, 1, 1) = x'02'").fetchone()
    with Log(old) as log:
        assert before == contents(log)
    with closing(sqlite3.connect(old / "log.sqlite3", isolation_level=None)) as file:
        file.execute("update topics set retention_ms = 1 where name = 'old'")
    with pytest.raises(LogDamagedError, match="a row of topics"):
        Log(old)


def test_an_upgrade_in_steps_may_end_at_each_of_them(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two transactions the log works as ever, reads, writes and tidies up; the next upgrade goes on there."""
    monkeypatch.setattr(file_upgrade, "STEP_BLOCKS", 3)
    with Log(old) as log:
        expected = contents(log)
        count = sum(len(found) for found in expected[2].values())
    done = 0
    for turn in range(count):
        with Log(old) as log:
            assert expected == contents(log)
            steps = log.upgrade.steps()
            if (step := next(steps, None)) is None:
                break
            done += step
            log.append([("devices", 0, batch(b"x"))], "fleet", [("devices", 0, turn, "beside")])
            while log.maintain(1, 1_000, everything=True):
                pass
            expected = contents(log)
        with Log(old, readonly=True) as log:
            assert expected == contents(log)
    assert done > 3
    assert turn > 3
    with Log(old) as log:
        assert not log.upgrade.is_due
        assert expected == contents(log)


def test_an_upgrade_passes_over_a_damaged_block(old: Path) -> None:
    """Whoever reads it is told where it is; the rest of the log has its checksums."""
    with closing(sqlite3.connect(old / "log.sqlite3", isolation_level=None)) as file:
        file.execute("update blocks set data = x'01ffffffff00' where id = (select min(id) from blocks)")
    with Log(old) as log:
        list(log.upgrade.steps())
        assert not log.upgrade.is_due
        with pytest.raises(LogDamagedError, match=r"offset 0: damaged block.*restore"):
            contents(log)
