"""The rows of a receiver, by partition and key, and which keys are stale. Pure.

A partition that lost its place grows older by one: rows of a lower age are doubtful until a patch of their key comes. A
partition that was begun in the middle is partial: keys may exist in it that nothing is held of. A key whose patch could
not be applied misses something, whether it has a row or not, until its state is as new as that patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streams.client.missed import Missed, Missing
from streams.kernel.rule import Held

__all__ = ["DELETED_KEYS_MAX", "Entry", "Row", "Rows"]

DELETED_KEYS_MAX = 100_000
"""Deleted keys remembered, so that an older patch of them is a duplicate. Beyond, the oldest is forgotten: the log is
read in order, so older patches of a forgotten key only come again before its DELETE comes again."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is held of one key. `state` is canonical for the receiver's own descriptor; None after a DELETE.

    `age`: how often its partition had lost its place before; a row of a lower age than the partition's is doubtful.
    """

    held: Held
    state: bytes | None
    age: int = 0


Entry = tuple[Row | None, Missing | None]
"""All that is known of one key in its partition."""


class Rows:
    """What is held, partition by partition."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[bytes, Row]] = {}
        self._deleted: dict[tuple[int, bytes], None] = {}  # oldest first
        self._ages: dict[int, int] = {}
        self._doubtful: dict[int, int] = {}  # rows of each partition that are older than its age
        self._partial: set[int] = set()
        self.touched: dict[tuple[int, bytes], None] = {}
        """Keys of which something changed since somebody last cleared this."""
        self.missed = Missed(self.touched)

    def find(self, key: bytes) -> tuple[int, Row] | None:
        """The partition that holds a key, and its row: the newest that is not doubtful, where a key has moved."""
        found = [(partition, rows[key]) for partition, rows in self._rows.items() if key in rows]
        if len(found) <= 1:
            return found[0] if found else None
        return max(found, key=lambda at: (not self.is_doubtful(*at), at[1].held.epoch, at[1].held.revision))

    def get(self, partition: int, key: bytes) -> Row | None:
        """What is held of a key in a partition."""
        return self._rows.get(partition, {}).get(key)

    def items(self) -> Iterator[tuple[bytes, Row]]:
        """Every row, deleted keys included. Changes meanwhile may show."""
        for rows in list(self._rows.values()):
            yield from list(rows.items())

    def put(self, partition: int, key: bytes, held: Held, state: bytes | None) -> Row:
        """Writes a row of the partition's present age; the oldest of too many deleted keys goes."""
        rows = self._rows.setdefault(partition, {})
        before = rows.get(key)
        if before is not None and self.is_doubtful(partition, before):
            self._doubtful[partition] -= 1
        row = rows[key] = Row(held, state, self.age(partition))
        self.touched[partition, key] = None
        self._deleted.pop((partition, key), None)
        if state is None:
            self._deleted[partition, key] = None
            while len(self._deleted) > DELETED_KEYS_MAX:
                self._forget(*next(iter(self._deleted)))
        return row

    def confirm(self, partition: int, key: bytes, version: tuple[int, int]) -> Row | None:
        """The whole of this version came again: a doubtful row of it is doubtful no more. The row as it is now."""
        row = self.get(partition, key)
        if row is None or not self.is_doubtful(partition, row) or version != (row.held.epoch, row.held.revision):
            return row
        return self.put(partition, key, row.held, row.state)

    def distrust(self, partition: int, key: bytes, row: Row) -> None:
        """Only a snapshot or a delete helps this row from here on."""
        held = Held(row.held.epoch, row.held.revision, intact=False)
        self._rows[partition][key] = Row(held, row.state, row.age)
        self.touched[partition, key] = None

    def entry(self, partition: int, key: bytes) -> Entry:
        """All that is known of a key in a partition."""
        return self.get(partition, key), self.missed.get(partition, key)

    def _forget(self, partition: int, key: bytes) -> None:
        """Lets a deleted key go."""
        del self._deleted[partition, key]
        if self.is_doubtful(partition, self._rows[partition].pop(key)):
            self._doubtful[partition] -= 1
        self.touched[partition, key] = None

    def begin(self, partition: int, *, partial: bool, lost: bool) -> None:
        """A partition is read from a new place on. `partial`: not from its beginning; `lost`: what is held is old."""
        rows = self._rows.setdefault(partition, {})
        (self._partial.add if partial else self._partial.discard)(partition)
        if lost:
            self._ages[partition] = self.age(partition) + 1
            self._doubtful[partition] = len(rows)

    def fill(
        self,
        partition: int,
        rows: Iterable[tuple[bytes, Row]],
        missing: Mapping[bytes, Missing],
        age: int,
        *,
        changed: bool,
    ) -> None:
        """Takes in what was stored of a partition of this age; `changed`: it is to be stored anew."""
        held = self._rows[partition] = dict(rows)
        self.missed.fill(partition, missing)
        self._ages[partition] = age
        self._doubtful[partition] = sum(row.age < age for row in held.values())
        self._deleted.update({(partition, key): None for key, row in held.items() if row.state is None})
        if changed:
            self.touched.update({(partition, key): None for key in held})

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._rows.pop(partition, None)
        self.missed.drop(partition)
        self._ages.pop(partition, None)
        self._doubtful.pop(partition, None)
        self._partial.discard(partition)
        self._deleted = {entry: None for entry in self._deleted if entry[0] != partition}

    def age(self, partition: int) -> int:
        """How often a partition has lost its place."""
        return self._ages.get(partition, 0)

    def is_doubtful(self, partition: int, row: Row) -> bool:
        """Whether the partition lost its place since the row was written."""
        return row.age < self.age(partition)

    @property
    def stale(self) -> int:
        """Keys that are doubtful, or miss something."""
        only_missing = sum(
            (row := self.get(*where)) is None or not self.is_doubtful(where[0], row) for where in self.missed
        )
        return sum(self._doubtful.values()) + only_missing

    @property
    def partial(self) -> frozenset[int]:
        """Partitions in which keys may exist that nothing is held of."""
        return frozenset(self._partial)

    def __len__(self) -> int:
        """Keys with a message."""
        return sum(len(rows) for rows in self._rows.values()) - len(self._deleted)
