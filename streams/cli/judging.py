"""What the worker would make of replayed letters: the native core itself, over the stored rows of their keys.

Only a forecast: live events go on, and the worker decides when it meets the record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from streams._native import PARTITION_KEY, Records, Table, decode_row
from streams.cli import reading
from streams.dead_letters.letter import Letter, replayed
from streams.kernel.schema import MessageSchema
from streams.options import Settings, SyncSettings
from streams.sync.agent import make_job
from streams.sync.topics import SyncTopics

__all__ = ["APPLIED", "APPLIES", "DIES", "KNOWN", "SUPERSEDED", "Judge"]

APPLIES = "applies"
"""Nothing newer of its key is applied."""
APPLIED = "applied"
"""It is the event that its key's state is from."""
SUPERSEDED = "superseded"
"""A newer event of its key is applied: the record will be dropped and counted."""
KNOWN = "known"
"""Its id is one of the last that its key had: applied before."""
DIES = "dies:"
"""It would be a dead letter again; the reason follows."""


class Judge:
    """The rules of one sync, and where its rows are."""

    def __init__(
        self,
        settings: Settings,
        sync: SyncSettings,
        topics: SyncTopics,
        kind: type[Message],
        ends: Mapping[int, int],
    ) -> None:
        """`ends`: next offsets of the topic that the sync reads, where a replayed record would come to lie."""
        keyed = replace(sync, key="record") if topics.rekey else sync
        self._settings = settings
        self._topics = topics
        self._ends = ends
        self._job = make_job(
            MessageSchema(kind, sync.ignore),
            keyed,
            topics.input,
            partitions=0,
            record_bytes_max=settings.limits.record_bytes_max,
        )

    def keys(self, letters: Sequence[Letter]) -> list[bytes | None]:
        """The entity key of each letter; None where the record does not say it, or did not die in this sync."""
        table = Table(self._job, 0, resident=False)
        found = [table.missing(self._record(letter)) if self._is_ours(letter) else [] for letter in letters]
        return [keys[0] if keys else None for keys in found]

    def forecasts(self, letters: Sequence[Letter], keys: Sequence[bytes | None]) -> list[str]:
        """What would become of each, in this order: one of this module's words.

        Empty for a letter that the sync would not judge by its origin.
        """
        ours = [self._is_ours(letter) for letter in letters]
        wanted = {
            (letter.partition, key) for letter, key, is_ours in zip(letters, keys, ours, strict=True) if is_ours and key
        }
        rows = self._rows(wanted)
        tables: dict[int, Table] = {}
        for partition in self._ends:
            held = [PARTITION_KEY, *(key for at, key in wanted if at == partition)]
            tables[partition] = Table(self._job, partition, resident=False)
            tables[partition].load(held, [rows.get((partition, key)) for key in held])
        return [
            self._forecast(letter, tables[letter.partition], key) if is_ours else ""
            for letter, key, is_ours in zip(letters, keys, ours, strict=True)
        ]

    def _forecast(self, letter: Letter, table: Table, key: bytes | None) -> str:
        row = table.get(key) if key else None
        if row is not None and self._is_last(row, letter, table):
            return APPLIED
        step = table.process(self._record(letter), time.time_ns() // 1_000_000)
        table.commit(step.mark)
        reasons = [name.removeprefix("dead.") for name in step.counts if name.startswith("dead.")]
        if reasons:
            return DIES + reasons[0]
        if step.counts["dropped.superseded"]:
            return SUPERSEDED
        return KNOWN if step.counts["dropped.id"] else APPLIES

    @staticmethod
    def _is_last(row: bytes, letter: Letter, table: Table) -> bool:
        """Whether the letter's record is the last one that its key took, as far as the logs of both are known."""
        found = decode_row(row)
        log = table.partition_record["logs"].get(found["ordinal"], b"").hex()
        return found["offset"] == letter.offset and letter.topic_id in ("", log)

    def _is_ours(self, letter: Letter) -> bool:
        """Whether the letter is of the topic whose offsets the rows have, and can go back to it."""
        known = letter.topic == self._topics.input and letter.partition in self._ends
        return known and letter.length is None and not letter.target

    def _record(self, letter: Letter) -> Records:
        """The record as the worker would meet it: behind everything that is in its topic now."""
        out, there = Records(), Records()
        replayed(out, letter)
        offset = max(self._ends[letter.partition], letter.offset + 1)
        there.append(out.key(0), out.value(0), out.headers(0), offset=offset)
        return there

    def _rows(self, wanted: set[tuple[int, bytes]]) -> dict[tuple[int, bytes], bytes]:
        """The stored rows of these keys, as of now. The whole changelog is read: seconds for a million keys."""
        rows: dict[tuple[int, bytes], bytes] = {}
        if not wanted:
            return rows
        for partition, records in reading.read_all(self._settings, self._topics.changelog):
            for index in range(len(records)):
                key = records.key(index)
                if key is None or (key != PARTITION_KEY and (partition, key) not in wanted):
                    continue
                value = records.value(index)
                if value is None:
                    rows.pop((partition, key), None)
                else:
                    rows[partition, key] = value
        return rows
