"""What is held of one partition for one target: a lane per key. Pure.

A lane is what is unfinished of one key: at most one entry in flight and one behind it, so that patches of a key are
never on their way twice. Progress stays below the lowest record that anybody still needs.

A key whose patches are not going to be sent is *absent*: they are dropped until a SNAPSHOT or a DELETE comes, which
covers all of them. Until that snapshot is asked for, progress stays before the first dropped record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from streams._native import Records
from streams.delivery.conflate import Head, fold
from streams.delivery.progress import Progress
from streams.kernel.rule import DELETE, SNAPSHOT

__all__ = ["GONE", "READY", "RESTING", "Entry", "Partition", "Rules", "Trouble"]

RESYNC_FOR = "resync-for"
ANYBODY = b"*"
"""Several asked for the snapshot, or somebody did for everybody."""
"""Header of a snapshot on demand; its value names who asked."""
FRAME_BYTES = 5
"""Tag and length of a patch in a PatchBatch: the body of a request is never larger than its `nbytes`."""

GONE, RESTING, READY = -2, -1, 0
"""Where an entry is. Above READY: the id of the batch in which it is in flight."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What all partitions of a target have in common. `compose` and `head` are a `Conflater`'s."""

    compose: Callable[[bytes, bytes], bytes | None]
    head: Callable[[bytes], Head]
    requester: bytes


@dataclass(slots=True)
class Trouble:
    """Of an entry that was put back: whether it leaves alone, and since when it fails alone."""

    alone: bool = False
    failed_ms: int | None = None


class Entry:
    """Patches of one key, in order: what one request carries of it, or will carry."""

    __slots__ = ("behind", "flight", "key", "last", "nbytes", "offsets", "part", "patches", "trouble")

    def __init__(self, part: Partition, key: bytes, patches: list[bytes], offsets: list[int], nbytes: int) -> None:
        self.part = part
        self.key = key
        self.patches = patches
        self.offsets = offsets  # of each patch; of a composed one the first of its records, the others are done
        self.last = offsets[-1]
        """Offset of the last record in it."""
        self.nbytes = nbytes
        """Bytes of its patches in a PatchBatch, at most."""
        self.flight = READY
        self.behind: Entry | None = None  # what came while this one was in flight
        self.trouble: Trouble | None = None

    @property
    def partition(self) -> int:
        """Partition of its records."""
        return self.part.number

    @property
    def first(self) -> int:
        """Offset of the first record in it."""
        return self.offsets[0]

    def trim(self, records_max: int, bytes_max: int) -> None:
        """Keeps what fits into a request, at least one patch; the rest stays behind it."""
        fits = nbytes = 0
        for patch in self.patches[:records_max]:
            if fits and nbytes + len(patch) + FRAME_BYTES > bytes_max:
                break
            fits += 1
            nbytes += len(patch) + FRAME_BYTES
        if fits == len(self.patches):
            return
        self.behind = Entry(self.part, self.key, self.patches[fits:], self.offsets[fits:], self.nbytes - nbytes)
        self.behind.last = self.last
        self.patches, self.offsets, self.nbytes = self.patches[:fits], self.offsets[:fits], nbytes
        self.last = self.offsets[-1]


class Partition:
    """The lanes of one partition by key, and its keys that are absent."""

    __slots__ = (
        "_rules",
        "arrived",
        "lanes",
        "nbytes",
        "number",
        "pending",
        "progress",
        "records",
        "waiting",
        "wanted",
    )

    def __init__(self, number: int, begin: int, rules: Rules) -> None:
        self.number = number
        self.progress = Progress(begin)
        self.lanes: dict[bytes, Entry] = {}
        self.wanted: dict[bytes, int] = {}
        """Absent keys whose snapshot nobody has asked for, each with its first dropped record, which is not done."""
        self.waiting: set[bytes] = set()
        """Absent keys whose request is durable."""
        self.arrived: list[tuple[bytes, tuple[int, int]]] = []
        """Keys of which a snapshot or a delete came that was waited or asked for, with its epoch and revision."""
        self.records = 0
        """Patches held, those in flight included."""
        self.pending = 0
        """Patches held that are not in flight."""
        self.nbytes = 0
        """Bytes of all patches held."""
        self._rules = rules

    # -- what comes in ----------------------------------------------------------------------------------------

    def take(self, records: Records, start: int, conflating: bool) -> list[Entry]:
        """Takes a chunk in; returns the entries that are new and ready. See `Lanes.take`."""
        lanes, begin, new, wanted, waiting = self.lanes, self.progress.begin, [], self.wanted, self.waiting
        offset_of, key_of, value_of, headers_of = records.offset, records.key, records.value, records.headers
        start = max(start, self.progress.reached)
        taken = nbytes = 0
        for index in range(len(records)):
            offset, patch = offset_of(index), value_of(index)
            if offset < start or patch is None:
                continue
            key, headers = key_of(index) or b"", headers_of(index)
            asking: object = wanted or waiting
            for name, _ in headers:
                asking = asking or name == RESYNC_FOR
            if asking and not self._admits(key, patch, headers):
                continue
            begin(offset)
            size = len(patch) + FRAME_BYTES
            taken += 1
            nbytes += size
            entry = lanes.get(key)
            if entry is None:
                lanes[key] = entry = Entry(self, key, [patch], [offset], size)
                new.append(entry)
            elif entry.flight <= READY:
                self._add(entry, patch, offset, conflating)
            elif entry.behind is not None:
                self._add(entry.behind, patch, offset, conflating)
            else:
                entry.behind = Entry(self, key, [patch], [offset], size)
        self.progress.passed(max(start, records.last_offset + 1))
        self.records += taken
        self.pending += taken
        self.nbytes += nbytes
        return new

    def _admits(self, key: bytes, patch: bytes, headers: Sequence[tuple[str, bytes | None]]) -> bool:
        """Whether a record is for this target, and of use to its key where that is absent."""
        requester = None
        for name, value in headers:
            if name == RESYNC_FOR:
                requester = value
        if requester not in (None, ANYBODY, self._rules.requester):
            return False
        absent = key in self.wanted or key in self.waiting
        if requester is None and not absent:
            return True
        try:
            head = self._rules.head(patch)
        except ValueError:
            return not absent
        if head.kind not in (SNAPSHOT, DELETE):
            return not absent
        self.arrived.append((key, (head.epoch, head.revision)))
        self.waiting.discard(key)
        first = self.wanted.pop(key, None)
        if first is not None:
            self.progress.done(first)
        return True

    def _add(self, entry: Entry, patch: bytes, offset: int, conflating: bool) -> None:
        """Adds a patch, which `take` counts, to an entry that is not in flight."""
        conflating = conflating or entry.flight == RESTING
        last = entry.patches[-1]
        composed = self._rules.compose(last, patch) if conflating else None
        entry.last = offset
        if composed is not None:
            entry.patches[-1] = composed
            entry.nbytes += len(composed) - len(last)
            self.nbytes += len(composed) - len(last) - len(patch) - FRAME_BYTES
            self.records -= 1
            self.pending -= 1
            self.progress.done(offset)
            return
        entry.patches.append(patch)
        entry.offsets.append(offset)
        entry.nbytes += len(patch) + FRAME_BYTES
        if conflating:
            self.conflate(entry, len(entry.patches) - 2)

    def conflate(self, entry: Entry, start: int = 0) -> None:
        """Makes the patches of an entry that is not in flight one, from `start` on, as far as that can be.

        Where one is missing between them the key is absent from here on.
        """
        patches, offsets = entry.patches[start:], entry.offsets[start:]
        if len(patches) < 2:
            return
        folded = fold(self._rules.compose, self._rules.head, patches)
        if folded is None:
            self.drop(entry)
            return
        entry.patches[start:] = folded[0]
        entry.offsets[start:] = [offsets[first] for first in folded[1]]
        for index in set(range(len(offsets))).difference(folded[1]):
            self.progress.done(offsets[index])
        fewer = len(patches) - len(folded[0])
        smaller = sum(map(len, patches)) - sum(map(len, folded[0])) + fewer * FRAME_BYTES
        entry.nbytes -= smaller
        self.nbytes -= smaller
        self.records -= fewer
        self.pending -= fewer

    # -- what goes out ----------------------------------------------------------------------------------------

    def delivered(self, entry: Entry) -> Entry | None:
        """The target has taken an entry that was in flight; returns the one behind it, which is ready now."""
        done = self.progress.done
        for offset in entry.offsets:
            done(offset)
        self.records -= len(entry.patches)
        self.nbytes -= entry.nbytes
        entry.flight = GONE
        behind = entry.behind
        if behind is None:
            del self.lanes[entry.key]
        else:
            self.lanes[entry.key] = behind
        return behind

    def put_back(self, entry: Entry, flight: int, conflating: bool) -> bool:
        """An entry was in flight and was not taken: it is in front of what is behind it again, at RESTING or READY.

        False: it is not needed, because its key is absent.
        """
        if entry.key in self.wanted or entry.key in self.waiting:
            self.give_up(entry)
            return False
        entry.flight = flight
        self.pending += len(entry.patches)
        behind, entry.behind = entry.behind, None
        if behind is not None:
            entry.patches = entry.patches + behind.patches
            entry.offsets = entry.offsets + behind.offsets
            entry.nbytes += behind.nbytes
            entry.last = behind.last
        if conflating or flight == RESTING:
            self.conflate(entry)
        return entry.flight != GONE

    # -- what is never sent -----------------------------------------------------------------------------------

    def give_up(self, entry: Entry) -> Entry | None:
        """Nobody is going to send an entry again that was in flight: its key is absent.

        Returns what is behind it where that is, or becomes, what an absent key waits for: it is ready now.
        """
        key, offsets, behind = entry.key, entry.offsets, entry.behind
        self._forget(entry)
        del self.lanes[key]
        if behind is None:
            self._hold(key, offsets)
            return None
        for index, patch in enumerate(behind.patches):
            if self._is_absolute(patch):
                self._cut_front(behind, index)
                self._done(offsets)
                self.lanes[key] = behind
                return behind
        self.pending -= len(behind.patches)
        self._forget(behind)
        self._hold(key, offsets + behind.offsets)
        return None

    def drop(self, entry: Entry) -> None:
        """Drops an entry that is not in flight: its key is absent."""
        head = self.lanes[entry.key]
        if head is entry:
            del self.lanes[entry.key]
        else:
            head.behind = None
        self.pending -= len(entry.patches)
        self._forget(entry)
        self._hold(entry.key, entry.offsets)

    def asked(self, key: bytes) -> None:
        """The request for the snapshot of a key is durable; nothing where none is wanted."""
        first = self.wanted.pop(key, None)
        if first is not None:
            self.progress.done(first)
            self.waiting.add(key)

    def release(self) -> None:
        """Another worker has the partition: every entry is void."""
        for entry in self.lanes.values():
            entry.flight = GONE

    def _hold(self, key: bytes, offsets: Sequence[int]) -> None:
        """Records of an absent key are done, but for the first one while no snapshot was asked for."""
        if key in self.waiting:
            self._done(offsets)
            return
        first = self.wanted.get(key)
        if first is None:
            self.wanted[key] = offsets[0]
            self._done(offsets[1:])
        elif offsets[0] < first:
            self.wanted[key] = offsets[0]
            self._done([*offsets[1:], first])
        else:
            self._done(offsets)

    def _done(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            self.progress.done(offset)

    def _forget(self, entry: Entry) -> None:
        entry.flight = GONE
        self.records -= len(entry.patches)
        self.nbytes -= entry.nbytes

    def _cut_front(self, entry: Entry, index: int) -> None:
        """Takes patches that a later one of the entry covers out of it; it is not in flight."""
        nbytes = sum(len(patch) + FRAME_BYTES for patch in entry.patches[:index])
        self._done(entry.offsets[:index])
        del entry.patches[:index], entry.offsets[:index]
        entry.nbytes -= nbytes
        self.nbytes -= nbytes
        self.records -= index
        self.pending -= index

    def _is_absolute(self, patch: bytes) -> bool:
        try:
            return self._rules.head(patch).kind in (SNAPSHOT, DELETE)
        except ValueError:
            return False
