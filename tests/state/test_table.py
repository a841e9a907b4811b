"""State of one partition, in memory and in a store: what a restore makes of a changelog."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams._native import SCHEMA_KEY, Job, Records, Table, decode_row
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.state.rocks import Store
from streams.state.table import PartitionState
from streams.sync.agent import make_job


class Log:
    """What a state could ask its transport for; restoring asks for nothing."""

    def read_log(self, *_: object) -> dict[tuple[str, int], int]:
        raise AssertionError("the test hands the rows over by itself")

    def log_end(self, topic: str, partition: int) -> int:
        raise AssertionError("nothing is committed here")


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
