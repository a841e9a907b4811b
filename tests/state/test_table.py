"""State of one partition, in memory and in a store: what a restore makes of a changelog."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from streams._native import EXPIRE_MAX, RESERVED_PREFIX, SCHEMA_KEY, Job, Records, Table, decode_row
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.state.rocks import Store
from streams.state.table import PartitionState
from streams.sync.agent import make_job


class Log:
    """What a state could ask its transport for; restoring asks for nothing."""

    marker_offsets = 0

    def read_log(self, *_: object) -> dict[tuple[str, int], int]:
        raise AssertionError("the test hands the rows over by itself")

    def log_end(self, topic: str, partition: int) -> int:
        return 0


@pytest.fixture
def job() -> Job:
    """A job over DeviceState."""
    schema = MessageSchema(DeviceState)
    return make_job(schema, SyncSettings(source="devices"), "devices", partitions=0, record_bytes_max=1 << 20)


def rows_of(job: Job, batteries: list[float]) -> list[tuple[bytes, bytes | None]]:
    """The changelog rows of one device, one per state; the schema's record comes first."""
    table = Table(job, 0)
    out: list[tuple[bytes, bytes | None]] = []
    for offset, battery in enumerate(batteries):
        events = Records()
        message = DeviceState(device_id="d", battery=battery).SerializeToString(deterministic=True)
        events.append(b"d", message, [], -1, offset)
        step = table.process(events, 1_000)
        changed = table.changelog(step.mark - 1, step.mark)
        out += [(changed.key(i) or b"", changed.value(i)) for i in range(len(changed))]
        table.commit(step.mark)
    return out


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("batches", [1, 3])
def test_a_late_row_of_a_former_owner_does_not_win(tmp_path: Path, job: Job, stored: bool, batches: int) -> None:
    """At least once fences nobody: the highest (epoch, revision, offset) is the state, wherever it stands."""
    rows = rows_of(job, [0.1, 0.2, 0.3])
    newest = rows[-1][1]
    late = [*rows, rows[-2], rows[-3]]
    state = PartitionState(job, 0, "changelog", Store(tmp_path / "0") if stored else None, Log())
    size = -(-len(late) // batches)

    for first in range(0, len(late), size):
        batch = Records()
        for offset, (key, value) in enumerate(late[first : first + size], first):
            batch.append(key, value, [], -1, offset)
        state.restore(batch)

    held = state.row(b"d")
    assert held == newest
    assert held is not None
    assert decode_row(held)["revision"] == 3
    assert state.row(SCHEMA_KEY) is not None
    state.close()


def test_a_removed_row_is_gone_from_a_store(tmp_path: Path, job: Job) -> None:
    """A changelog record without a value removes the key."""
    rows = Records()
    for offset, (key, value) in enumerate([*rows_of(job, [0.5]), (b"d", None)]):
        rows.append(key, value, [], -1, offset)
    state = PartitionState(job, 0, "changelog", Store(tmp_path / "0"), Log())

    state.restore(rows)

    assert state.row(b"d") is None
    assert state.restore_from() == len(rows)
    state.close()


RETENTION_MS = 60_000


@pytest.fixture
def brief() -> Job:
    """A job that forgets a deleted key after a minute."""
    spec = SyncSettings(source="devices", tombstone_retention_ms=RETENTION_MS)
    return make_job(MessageSchema(DeviceState), spec, "devices", partitions=0, record_bytes_max=1 << 20)


class Life:
    """One partition in a store through restarts: each call is a chunk, committed, with its changelog kept."""

    def __init__(self, job: Job, path: Path) -> None:
        self.job = job
        self.path = path
        self.changelog = Records()
        self.offset = 0
        self.start()

    def start(self) -> None:
        """Opens the store and restores what it lacks."""
        self.state = PartitionState(self.job, 0, "changelog", Store(self.path), Log())
        position = self.state.restore_from()
        self.state.restore(self.changelog.slice(position, len(self.changelog)))
        self.state.list_tombstones(lambda: True)

    def restart(self, *, lose: bool = False) -> None:
        """Stops, and starts again, where asked without what the store had."""
        self.state.close()
        if lose:
            shutil.rmtree(self.path)
        self.start()

    def chunk(self, now_ms: int, *events: tuple[bytes, bool]) -> int:
        """Keys that come, or go where False; how many tombstones were forgotten."""
        records = Records()
        for key, lives in events:
            value = DeviceState(device_id=key.decode()).SerializeToString() if lives else None
            records.append(key, value, [], -1, self.offset)
            self.offset += 1
        step = self.state.process(records, now_ms)
        self._keep(step.mark)
        return step.counts["expired"]

    def work(self, states: Sequence[tuple[bytes, DeviceState]], now_ms: int) -> list[int]:
        """Events of one chunk; how many each call took of them."""
        records, taken = Records(), []
        for key, state in states:
            records.append(key, state.SerializeToString(), [], -1, self.offset)
            self.offset += 1
        while len(records):
            step = self.state.process(records, now_ms)
            self._keep(step.mark)
            taken.append(step.taken)
            records = records.slice(step.taken, len(records))
        return taken

    def _keep(self, mark: int) -> None:
        rows = self.state.table.changelog(mark - 1, mark)
        rows.assign(len(self.changelog), -1)
        self.changelog.extend(rows)
        self.state._changelog_end = len(self.changelog)
        self.state.commit(mark)

    def rows(self) -> set[bytes]:
        """Keys with a row in the store, tombstones included."""
        assert self.state.store is not None
        return {key for key, _ in self.state.store.items() if not key.startswith(RESERVED_PREFIX)}


@pytest.mark.parametrize("restart", ["none", "restart", "lost", "older"])
def test_a_store_forgets_the_tombstones_that_memory_would(tmp_path: Path, brief: Job, restart: str) -> None:
    """Those made before a restart too; also where the store went, or an older release wrote it, which kept no list."""
    life = Life(brief, tmp_path / "0")
    keys = [f"k-{at}".encode() for at in range(40)]
    life.chunk(1_000, *[(key, True) for key in keys])
    for at, key in enumerate(keys):
        life.chunk(2_000 + at, (key, False))
    life.chunk(3_000, (keys[0], True))
    assert life.state.store is not None
    if restart == "older":
        rows = Records()
        rows.append(keys[1], life.state.row(keys[1]))
        life.state.store.write(rows, len(life.changelog))  # as ed30627 did: the rows' offset, and no list
    if restart != "none":
        life.restart(lose=restart == "lost")

    assert (39, 39) == (life.state.table.tombstones, life.state.store.tombstones)
    assert (0, set(keys)) == (life.chunk(2_000 + RETENTION_MS), life.rows())
    assert (19, {keys[0], *keys[20:]}) == (life.chunk(2_019 + RETENTION_MS), life.rows())
    life.restart()
    assert (20, {keys[0]}) == (life.chunk(2_100 + RETENTION_MS), life.rows())
    assert (0, 0, 0) == (life.chunk(9_000 + RETENTION_MS), life.state.table.tombstones, life.state.store.tombstones)
    assert [] == life.state.store.due(1 << 60, 10)
    life.state.close()


def test_the_limit_of_tombstones_counts_those_of_a_store(tmp_path: Path) -> None:
    """Also after a restart, when none of them is in memory."""
    spec = SyncSettings(source="devices", tombstone_retention_ms=RETENTION_MS, tombstones_max=2)
    job = make_job(MessageSchema(DeviceState), spec, "devices", partitions=0, record_bytes_max=1 << 20)
    life = Life(job, tmp_path / "0")
    for restarts in range(2):
        life.chunk(1_000, (b"a", False), (b"b", False), (b"c", False))
        assert (2, {b"a", b"b"}) == (life.state.table.tombstones, life.rows()), restarts
        life.restart()

    life.chunk(1_001 + RETENTION_MS)
    life.chunk(1_002 + RETENTION_MS, (b"c", False))
    assert {b"c"} == life.rows()
    life.state.close()


def test_a_key_deleted_again_and_again_costs_a_store_one_entry(tmp_path: Path, brief: Job) -> None:
    """The row has the time of its last DELETE, and so has the list."""
    life = Life(brief, tmp_path / "0")
    for at in range(50):
        life.chunk(1_000 + at, (b"session", True), (b"session", False))
    assert life.state.store is not None

    assert (1, [b"session"]) == (life.state.store.tombstones, life.state.store.due(1 << 60, 10))
    assert 0 == life.chunk(1_048 + RETENTION_MS)
    assert 1 == life.chunk(1_049 + RETENTION_MS)
    assert set() == life.rows()
    life.state.close()


def test_a_store_forgets_at_most_so_many_at_once_and_not_before_they_are_committed(tmp_path: Path, brief: Job) -> None:
    """An abort in between puts them back."""
    life = Life(brief, tmp_path / "0")
    keys = [f"k-{at}".encode() for at in range(EXPIRE_MAX + 1)]
    life.chunk(1_000, *[(key, True) for key in keys])
    life.chunk(1_000, *[(key, False) for key in keys])
    later = 1_000 + RETENTION_MS
    life.restart()

    counts = [life.state.process(Records(), later).counts["expired"] for _ in range(2)]
    life.state.table.drop_pending()

    assert [EXPIRE_MAX, 0] == counts
    assert [0, EXPIRE_MAX, 1] == [life.chunk(later) for _ in range(3)]
    assert set() == life.rows()
    life.state.close()


def test_a_call_has_no_more_rows_of_a_store_than_memory_is_for(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: small events about keys with large rows had all of these loaded at once, at work and when restoring."""
    keys = [f"d-{number:04}".encode() for number in range(600)]
    monkeypatch.setattr("streams.state.loader.ROWS_BYTES_MAX", 100_000)
    life = Life(job, tmp_path / "0")
    life.work([(key, DeviceState(device_id=key.decode(), owner_email="x" * 5_000)) for key in keys], 1_000)
    life.restart()  # until the next commit the rows of the last one are here
    small = [(key, DeviceState(device_id=key.decode())) for key in [*keys, *keys]]

    taken = life.work(small, 2_000)

    assert 1_200 == sum(taken)
    assert max(taken) <= 600  # 20 rows of 5 KB are let in; where keys come again they are small
    assert len(taken) > 20
    assert {2} == {decode_row(life.state.row(key) or b"")["revision"] for key in keys}
    life.restart(lose=True)
    assert {2} == {decode_row(life.state.row(key) or b"")["revision"] for key in keys}
    life.state.close()
