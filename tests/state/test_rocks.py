"""The RocksDB store of one partition, on real files."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from streams._native import Records
from streams.errors import StateError
from streams.state.rocks import Store
from tests.state.store_writer import state_at

WRITER = Path(__file__).with_name("store_writer.py")
keys = st.binary(max_size=3) | st.sampled_from([b"", b"\x00", b"\x00format", b"format", b"\x01", b"\xff"])


def rows_of(rows: dict[bytes, bytes | None]) -> Records:
    records = Records()
    for key, value in rows.items():
        records.append(key, value)
    return records


@given(writes=st.lists(st.dictionaries(keys, st.none() | st.binary(max_size=4), max_size=6), max_size=6))
def test_against_a_dict(tmp_path_factory: pytest.TempPathFactory, writes: list[dict[bytes, bytes | None]]) -> None:
    """Rows, removals and iteration equal a dict's, whatever bytes the keys are; the offset is the last write's."""
    path = tmp_path_factory.mktemp("store")
    expected: dict[bytes, bytes] = {}
    store = Store(path)
    assert store.changelog_offset() is None
    for offset, rows in enumerate(writes):
        store.write(rows_of(rows), offset)
        expected.update({key: value for key, value in rows.items() if value is not None})
        for key in [key for key, value in rows.items() if value is None]:
            expected.pop(key, None)
    for _ in range(2):
        asked = [*expected, b"never written", *(key for rows in writes for key in rows)]
        assert store.multi_get(asked) == [expected.get(key) for key in asked]
        assert list(store.items()) == sorted(expected.items())
        assert store.changelog_offset() == (len(writes) - 1 if writes else None)
        store.close()
        store = Store(path)
    store.close()


def test_kill_in_the_middle_of_writes(tmp_path: Path, seed: int, kills: int) -> None:
    """After kill -9 the rows are exactly those of the stored changelog offset, and no acknowledged write is lost."""
    moments = random.Random(seed)
    acknowledged = 0
    for _ in range(kills):
        writer = subprocess.Popen([sys.executable, str(WRITER), str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(moments.randrange(1, 2_000)):
            acknowledged = int(writer.stdout.readline())
        time.sleep(moments.random() * 0.005)
        writer.send_signal(signal.SIGKILL)
        written = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        acknowledged = max([acknowledged, *map(int, written)])
        writer.wait()
        store = Store(tmp_path)
        offset = store.changelog_offset()
        assert offset is not None
        assert offset >= acknowledged
        assert dict(store.items()) == state_at(offset)
        store.close()


def test_torn_tail_leaves_rows_and_offset_together(tmp_path: Path, seed: int) -> None:
    """RocksDB's own log cut off anywhere, as power loss does, leaves an older state, never a mixed one."""
    chance = random.Random(seed)
    store = Store(tmp_path / "store")
    for number in range(1, 40):
        rows: dict[bytes, bytes | None] = {b"%d" % key: state_at(number).get(b"%d" % key) for key in range(50)}
        store.write(rows_of(rows), number)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store.close()
    seen = set()
    for _ in range(10):
        shutil.rmtree(tmp_path / "torn", ignore_errors=True)
        shutil.copytree(tmp_path / "copy", tmp_path / "torn")
        (log,) = (tmp_path / "torn").glob("*.log")
        whole = log.read_bytes()
        log.write_bytes(whole[: chance.randrange(len(whole))])
        with_tail_gone = Store(tmp_path / "torn")
        offset = with_tail_gone.changelog_offset() or 0
        assert dict(with_tail_gone.items()) == (state_at(offset) if offset else {})
        with_tail_gone.close()
        seen.add(offset)
    assert len(seen) > 3


def truncate_manifest(path: Path) -> None:
    for manifest in path.glob("MANIFEST*"):
        manifest.write_bytes(b"")


def remove_tables(path: Path) -> None:
    for table in path.glob("*.sst"):
        table.unlink()


def overwrite_current(path: Path) -> None:
    (path / "CURRENT").write_bytes(b"not a manifest\n")


def forget_format(path: Path) -> None:
    database = Rdict(str(path), Options(raw_mode=True))
    database.delete(b"\x00format")
    database.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store whose rows are in table files."""
    store = Store(tmp_path / "store")
    store.write(rows_of({b"%06d" % key: bytes([key % 251]) * 100 for key in range(20_000)}), 7)
    store.close()
    database = Rdict(str(tmp_path / "store"), Options(raw_mode=True))
    database.flush()
    database.close()
    return tmp_path / "store"


def flip_manifest(path: Path) -> None:
    """The type of its first record, 1 or 2, becomes that of a reused log: RocksDB would read it for ever."""
    (manifest,) = path.glob("MANIFEST-*")
    raw = bytearray(manifest.read_bytes())
    raw[6] ^= 4
    manifest.write_bytes(raw)


@pytest.mark.parametrize("damage", [truncate_manifest, flip_manifest, remove_tables, overwrite_current, forget_format])
def test_damage_names_path_and_cure(filled: Path, damage: Callable[[Path], None]) -> None:
    """A directory that cannot be trusted is refused at start with its path and the command that mends it."""
    damage(filled)
    with pytest.raises(StateError, match=r"state store .*/store is damaged.*`streams state rebuild`"):
        Store(filled)


def test_a_damaged_block_is_never_an_end(filled: Path) -> None:
    """Bytes changed within a table file are an error for reads and iteration, never missing rows."""
    for table in filled.glob("*.sst"):
        content = bytearray(table.read_bytes())
        middle = len(content) // 3
        content[middle : middle + 40] = bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
        table.write_bytes(content)
    store = Store(filled)
    with pytest.raises(StateError, match="streams state rebuild"):
        list(store.items())
    with pytest.raises(StateError, match="streams state rebuild"):
        store.multi_get([b"%06d" % key for key in range(20_000)])
    store.close()


def test_one_holder_newer_format_closed(filled: Path) -> None:
    """A second opening, a newer format and use after close are refused by name."""
    store = Store(filled)
    with pytest.raises(StateError, match="is held by another"):
        Store(filled)
    with pytest.raises(StateError, match="row 0 of a write has no key"):
        store.write(_keyless(), 8)
    assert store.changelog_offset() == 7
    store.close()
    store.close()
    with pytest.raises(StateError, match="is closed"):
        store.multi_get([b"k"])
    database = Rdict(str(filled), Options(raw_mode=True))
    database.put(b"\x00format", b"\x02")
    database.close()
    with pytest.raises(StateError, match="has format 2, the newest this release reads is 1"):
        Store(filled)


def _keyless() -> Records:
    records = Records()
    records.append(None, b"v")
    return records
