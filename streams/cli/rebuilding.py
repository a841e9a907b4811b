"""What `streams state rebuild` does, step by step, so that it can be said before it is done."""

from __future__ import annotations

import fcntl
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from streams._native import Records
from streams.cli import groups, reading
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.errors import Finding, SettingsError, StateError, TransportError
from streams.options import Settings
from streams.sync.topics import SyncTopics
from streams.transport.identity import Bounds, offset_metadata

__all__ = ["Step", "steps"]

PARCEL_RECORDS = 1_000


class Step(NamedTuple):
    """One thing to do, and how to say it."""

    what: str
    act: Callable[[], None]


def steps(settings: Settings, source: str, *, from_source: bool, partial: bool = False) -> list[Step]:
    """The steps in their order. A crash between two of them leaves a state that a worker can start from.

    SettingsError: the source lacks its beginning, and nobody said that the state may be partial.
    """
    made: list[Step] = []
    if from_source:
        lacking = _lacks_beginning(settings, source)
        if lacking and not partial:
            raise SettingsError(
                Finding(
                    "--from-source",
                    f"{source}, whose first records are gone from partitions {lacking}",
                    "a source that has its beginning",
                    "keys whose events are gone would be forgotten, and live; --partial does it nevertheless: unknown "
                    "keys get no DELETE from then on",
                )
            )
        made += _anew(settings, SyncTopics.of(settings.app.id, source, "", "repartition"), partial=bool(lacking))
    for directory in _stores(settings, source):
        made.append(Step(f"remove {directory}", lambda directory=directory: _remove(directory)))  # type: ignore[misc]
    return made


def _anew(settings: Settings, topics: SyncTopics, *, partial: bool) -> list[Step]:
    """What makes the next worker read all events. No file need say that the source is repartitioned: its topic does.

    Copies that were not read yet go: all are made once more, and one from further on would make them look old.
    """
    # A changelog that was deleted is made by the next worker, and right as it is then.
    rows = reading.latest(settings, topics.changelog) if groups.places(settings, topics.changelog) else {}
    made = []
    for topic, is_source in ((topics.source, True), (topics.rekey, False)):
        if groups.places(settings, topic):
            made.append(
                Step(
                    f"move group {settings.app.id} to the {'start' if is_source else 'end'} of {topic}",
                    functools.partial(_move, settings, topic, topics.changelog, to_start=is_source, partial=partial),
                )
            )
    what = f"delete {len(rows)} rows from {topics.changelog}"
    return [*made, Step(what, lambda: _delete_rows(settings, topics.changelog, list(rows)))]


def _stores(settings: Settings, source: str) -> list[Path]:
    """Local stores of a source under the data directory, those of several workers on this machine included."""
    if "/" in source or source in ("", ".", ".."):
        raise SettingsError(Finding("SOURCE", "a path", "the name of a topic"))
    root, place = Path(settings.app.datadir), Path("state") / source
    return sorted(path for path in [root / place, *root.glob(f"[0-9]*/{place}")] if path.is_dir())


def _move(settings: Settings, topic: str, changelog: str, *, to_start: bool, partial: bool) -> None:
    """Commits the first or the next offset of every partition, and beside it that the changelog is right as it is."""
    ids = groups.ids(settings, [topic, changelog])
    held = {place.partition: place.bounds for place in groups.places(settings, changelog)}
    moved = []
    for place in groups.places(settings, topic):
        rows = held.get(place.partition, Bounds(0, 0))
        logs_of = ids.get(topic, b""), ids.get(changelog, b"")
        beside = offset_metadata(*logs_of, rows.start, rows.end, partial=partial, moved=True)
        moved.append((place.partition, place.bounds.start if to_start else place.bounds.end, beside))
    groups.move(settings, topic, moved)


def _lacks_beginning(settings: Settings, source: str) -> list[int]:
    """Partitions of which retention has taken the first records."""
    return [place.partition for place in groups.places(settings, source) if place.bounds.start > 0]


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
