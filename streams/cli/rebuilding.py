"""What `streams state rebuild` does, step by step, so that it can be said before it is done."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError, Records
from streams.cli import reading
from streams.cli.reading import native
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.errors import StateError, TransportError
from streams.options import Settings
from streams.sync.topics import SyncTopics
from streams.transport.log import Log

__all__ = ["Step", "steps"]

TIMEOUT_MS = 30_000
PARCEL_RECORDS = 1_000
GRACE_S = 5.0
"""On top of the session's timeout: the broker looks once in a while."""
POLL_S = 0.5


class Step(NamedTuple):
    """One thing to do, and how to say it."""

    what: str
    act: Callable[[], None]


def steps(settings: Settings, source: str, *, from_source: bool) -> list[Step]:
    """The steps in their order. A crash between two of them leaves a state that a worker can start from."""
    made: list[Step] = []
    if from_source:
        changelog = SyncTopics.of(settings.app.id, source, "").changelog
        rows = reading.latest(settings, changelog)
        made.append(Step(f"move group {settings.app.id} to the start of {source}", lambda: _rewind(settings, source)))
        made.append(
            Step(f"delete {len(rows)} rows from {changelog}", lambda: _delete_rows(settings, changelog, list(rows)))
        )
    for directory in _stores(settings, source):
        made.append(Step(f"remove {directory}", lambda directory=directory: _remove(directory)))  # type: ignore[misc]
    return made


def _stores(settings: Settings, source: str) -> list[Path]:
    """Local stores of a source under the data directory, those of several workers on this machine included."""
    root, place = Path(settings.app.datadir), Path("state") / source
    return sorted(path for path in [root / place, *root.glob(f"[0-9]*/{place}")] if path.is_dir())


def _rewind(settings: Settings, source: str) -> None:
    """Commits the first offset of every partition for the group; refused while a worker is in it."""
    directory = reading.embedded_directory(settings)
    group = settings.app.id
    if directory is not None:
        with Log(directory) as log:
            count = log.partitions(source) or 0
            log.reset_offsets(group, [(source, partition, log.start(source, partition)) for partition in range(count)])
        return
    consumer = native(KafkaConsumer, settings, {"group.id": group})
    # A worker that was stopped is a member until its session has timed out: it might have come back.
    deadline_s = time.monotonic() + settings.app.broker_session_timeout_ms / 1000 + GRACE_S
    try:
        count = native(KafkaAdmin, settings).topics(TIMEOUT_MS).get(source, 0)
        lows = [consumer.watermarks(source, partition, TIMEOUT_MS)[0] for partition in range(count)]
        while not _committed(consumer, [(source, partition, low) for partition, low in enumerate(lows)]):
            if time.monotonic() > deadline_s:
                raise TransportError(
                    f"group {group}: got members that stay, expected none; stop all of its workers", retriable=True
                )
            time.sleep(POLL_S)
    except KafkaError as error:
        raise TransportError(f"group {group}: offsets of {source} not moved: {error}", retriable=True) from error
    finally:
        consumer.close()


def _committed(consumer: KafkaConsumer, offsets: list[tuple[str, int, int]]) -> bool:
    """Commits for a group from outside; False while it has members."""
    try:
        consumer.commit(offsets)
    except KafkaError as error:
        if error.code == "UNKNOWN_MEMBER_ID":
            return False
        raise
    return True


def _delete_rows(settings: Settings, changelog: str, places: list[tuple[int, bytes]]) -> None:
    """Writes a record without a value for each row: compaction removes it, a restoring worker forgets it at once."""
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    try:
        for partition in sorted({partition for partition, _ in places}):
            keys = [key for at, key in places if at == partition]
            for first in range(0, len(keys), PARCEL_RECORDS):
                records = Records()
                for key in keys[first : first + PARCEL_RECORDS]:
                    records.append(key, None)
                for outcome in writer.write(changelog, records, partition):
                    if isinstance(outcome, TransportError):
                        raise outcome
    finally:
        writer.close()


def _remove(directory: Path) -> None:
    """Removes a store, unless a process has it open: RocksDB keeps a lock on the file LOCK."""
    for lock in directory.rglob("LOCK"):
        with lock.open("r+") as held:
            try:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StateError(
                    f"{directory} is open in another process, expected no worker; stop it and try again"
                ) from None
    shutil.rmtree(directory)
