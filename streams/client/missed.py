"""What keys miss: patches that were seen and could not be applied, until something newer is held. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from streams.v1.resync_pb2 import Resync

__all__ = ["Missed", "Missing"]


@dataclass(frozen=True, slots=True)
class Missing:
    """What was seen of a key and could not be applied: a state at `needed`, (epoch, revision), or above helps.

    `offset` is that of the patch that showed it first, -1 where none did; `reason` why it was not applied, as a request
    for a snapshot says it.
    """

    needed: tuple[int, int]
    offset: int
    reason: Resync.Reason


class Missed:
    """What is missing, by partition and key; keys that miss nothing cost nothing."""

    def __init__(self, touched: dict[tuple[int, bytes], None]) -> None:
        """`touched` is told of every key whose entry changed."""
        self._touched = touched
        self._missing: dict[int, dict[bytes, Missing]] = {}  # partitions with none are not in it

    def add(self, partition: int, key: bytes, missing: Missing) -> None:
        """A patch of the key could not be applied. Of several the first is named, and the highest is needed."""
        known = self._missing.setdefault(partition, {})
        before = known.get(key)
        if before is None or before.needed < missing.needed:
            known[key] = missing if before is None else replace(before, needed=missing.needed)
            self._touched[partition, key] = None

    def made_up(self, key: bytes, version: tuple[int, int]) -> None:
        """The key is held at this version now: what it missed up to there is made up for."""
        for partition in [where for where, known in self._missing.items() if key in known]:
            if self._missing[partition][key].needed <= version:
                del self._missing[partition][key]
                self._touched[partition, key] = None
                if not self._missing[partition]:
                    del self._missing[partition]

    def find(self, key: bytes) -> tuple[int, Missing] | None:
        """What a key misses, and in which partition."""
        return next(((where, known[key]) for where, known in self._missing.items() if key in known), None)

    def get(self, partition: int, key: bytes) -> Missing | None:
        """What a key misses in a partition."""
        return self._missing.get(partition, {}).get(key)

    def fill(self, partition: int, missing: Mapping[bytes, Missing]) -> None:
        """Takes in what was stored of a partition."""
        if missing:
            self._missing[partition] = dict(missing)

    def forgive(self, partition: int) -> None:
        """What keys missed was of another log; they are doubtful, or may exist, for that."""
        self._touched.update({(partition, key): None for key in self._missing.pop(partition, {})})

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._missing.pop(partition, None)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Partition and key of all that miss something."""
        return ((partition, key) for partition, known in self._missing.items() for key in known)
