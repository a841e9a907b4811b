"""What does keyed state cost? Rows found, changed, written and restored; in memory, and in RocksDB.

    streams bench state
    streams bench state --small --json

A million rows of devices (24 fields, about 390 bytes a row) in one partition, keys touched in random order, in chunks
of the product's size. `read`: events find their rows, and are dropped as known; `write`: the rows of uncommitted events
become the state; `restore`: the changelog's rows, newest of each key. Beside the time: bytes of memory, and of disk,
per row.

What the figures do not show: state larger than the machine's memory, whose reads wait for the disk; the restore from a
broker (`streams bench restore`).
"""

from __future__ import annotations

import random
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from benchmarks import measure
from benchmarks.kernel import CHUNK, NOW_MS, new_table, renewed
from benchmarks.measure import Figures, Step
from benchmarks.restore import KEYS, SMALL_KEYS, states
from benchmarks.workload import HEADERS
from streams._native import Job, Records, Table, xxh3_64
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.state.rocks import Store
from streams.state.table import PartitionState
from streams.sync.agent import make_job

SEED = 7
TOUCHED = 200_000
"""Keys that one repetition reads and writes: more than any cache holds, done in seconds on disk."""


class Fixture:
    """The rows of a state, as its changelog has them, and chunks of events that touch random keys of it."""

    def __init__(self, keys: int) -> None:
        self.keys = keys
        self.touched = min(TOUCHED, keys)
        table = new_table()
        for chunk in _chunks(states(keys), count()):
            table.commit(table.process(chunk, NOW_MS).mark)
        names = table.keys()
        names = [name for name in names if not name.startswith(b"\x00")]
        self.rows = [_rows(table, part) for part in _parts(names)]
        random.Random(SEED).shuffle(names)
        chosen = set(names[: self.touched])
        order = {name: number for number, name in enumerate(names)}
        events = sorted(((key, value) for key, value in states(keys) if key in chosen), key=lambda each: order[each[0]])
        # The same events at later offsets: their ids are known, so that nothing is timed but finding the row.
        self.again = list(_chunks(iter(events), count(keys)))
        self.renewed = list(_chunks(((key, renewed(value)) for key, value in events), count(keys)))
        self.some = [_rows(table, [key for key, _ in part]) for part in _parts(events)]
        schema = MessageSchema(DeviceState)
        self.job: Job = make_job(schema, SyncSettings(source="bench"), "bench", partitions=0, record_bytes_max=1 << 20)


def _parts(whole: Sequence) -> Iterator[Sequence]:
    return (whole[first : first + CHUNK] for first in range(0, len(whole), CHUNK))


def _chunks(source: Iterator[tuple[bytes, bytes]], offsets: Iterator[int]) -> Iterator[Records]:
    while part := list(islice(source, CHUNK)):
        records = Records()
        for key, value in part:
            records.append(key, value, HEADERS, NOW_MS, next(offsets))
        yield records


def _rows(table: Table, keys: Sequence[bytes]) -> Records:
    rows = Records()
    for key in keys:
        rows.append(key, table.get(key))
    return rows


class _NoLog:
    """A store asks the log how far it has come; here nobody else writes."""

    def read_log(self, start: object, sink: object, keep_going: object, progress: object = None) -> dict:
        """Nothing to read."""
        return {}

    def log_end(self, topic: str, partition: int) -> int:
        """Nothing there."""
        return 0


def memory_cases(fixture: Fixture, times: int, step: Step) -> list[Figures]:
    """A table that has every row."""

    def restored() -> PartitionState:
        state = PartitionState(fixture.job, 0, "bench", None, _NoLog())
        for rows in fixture.rows:
            state.restore(rows)
        return state

    def restore() -> Callable[[], int]:
        return lambda: len(restored().table)

    def read() -> Callable[[], int]:
        state = restored()
        return lambda: sum(state.process(chunk, NOW_MS).counts["dropped.id"] for chunk in fixture.again)

    def write() -> Callable[[], int]:
        state = restored()
        steps = [state.process(chunk, NOW_MS) for chunk in fixture.renewed]

        def work() -> int:
            for step in steps:
                state.commit(step.mark)
            return sum(step.counts["unchanged"] for step in steps)

        return work

    nbytes = restored().table.nbytes / fixture.keys
    found = _cases("memory", fixture, times, step, restore, read, write)
    found[0]["row_bytes_in_memory"] = round(nbytes)
    return found


def disk_cases(fixture: Fixture, directory: Path, times: int, step: Step) -> list[Figures]:
    """A store, and a table that asks it for the rows of each chunk."""

    def opened() -> PartitionState:
        return PartitionState(fixture.job, 0, "bench", Store(directory / uuid.uuid4().hex), _NoLog())

    def restore() -> Callable[[], int]:
        state = opened()

        def work() -> int:
            for rows in fixture.rows:
                state.restore(rows)
            state.close()
            return fixture.keys

        return work

    filled = opened()
    for rows in fixture.rows:
        filled.restore(rows)

    def read() -> Callable[[], int]:
        filled.table.drop_pending()
        return lambda: sum(filled.process(chunk, NOW_MS).counts["dropped.id"] for chunk in fixture.again)

    def write() -> Callable[[], int]:
        def work() -> int:
            for rows in fixture.some:
                assert filled.store is not None
                filled.store.write(rows, 0)
            return fixture.touched

        return work

    found = _cases("rocksdb", fixture, times, step, restore, read, write)
    filled.close()
    assert filled.store is not None
    size = sum(path.stat().st_size for path in filled.store.path.rglob("*") if path.is_file())
    found[0]["row_bytes_on_disk"] = round(size / fixture.keys)
    return found


def _cases(
    name: str, fixture: Fixture, times: int, step: Step, *makers: Callable[[], Callable[[], int]]
) -> list[Figures]:
    units = (fixture.keys, fixture.touched, fixture.touched)
    return [
        {"case": f"{name}, {what}", "keys": fixture.keys, **measure.repeat(make, unit, times, step)}
        for what, make, unit in zip(("restore", "read", "write"), makers, units, strict=True)
    ]


def run(keys: int, times: int, *, small: bool = False) -> Figures:
    """Both kinds of state over the same rows."""
    machine = measure.machine()
    with measure.progress("state", 1 + 6 * times) as step, tempfile.TemporaryDirectory() as directory:
        fixture = Fixture(keys)
        step()
        cases = [*memory_cases(fixture, times, step), *disk_cases(fixture, Path(directory), times, step)]
    wanted = [measure.hash_of([count]) for count in 2 * (fixture.keys, fixture.touched, fixture.touched)]
    return {
        "benchmark": "state",
        "small": small,
        "verified": [case["hash"] for case in cases] == wanted,
        "repetitions": times,
        "seed": SEED,
        "rows": f"{xxh3_64(b''.join(rows.encode() for rows in fixture.rows[:10])):016x}",
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = measure.parser(__doc__ or "").parse_args(arguments)
    keys = SMALL_KEYS if given.small else KEYS
    return measure.finish(run(keys, measure.repetitions(given), small=given.small), given)


if __name__ == "__main__":
    sys.exit(main())
