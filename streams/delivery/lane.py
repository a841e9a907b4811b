"""What waits for one target, and the requests that are cut from it. Pure: no clock, time is an argument.

Patches wait in lanes, one per key (`partition.py`). Here is who goes next: first come first served across keys, and a
key that failed rests while the others go on.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from streams._native import Records
from streams.delivery.conflate import Head
from streams.delivery.partition import READY, RESTING, Entry, Partition, Rules, Trouble

__all__ = ["Batch", "Entry", "Lanes"]

PATCH_BYTES = 170
LANE_BYTES = 290
KEY_BYTES = 230
"""What Python adds to the bytes of a patch, and takes for a lane and for an absent key, measured: `pending_bytes` is
about the memory in use."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One request. An entry whose partition was released, or that was settled, is void: nothing changes it any more."""

    id: int
    entries: tuple[Entry, ...]
    records: int
    nbytes: int


class Queue:
    """Entries that may leave, first come first served; those that rest, by when they are due."""

    def __init__(self) -> None:
        self.ready: deque[Entry] = deque()
        """May hold some that are GONE."""
        self._alone: deque[Entry] = deque()
        self._resting: list[tuple[int, int, Entry]] = []  # a heap
        self._numbers = count()
        self._single: tuple[Entry, int] | None = None  # the last that left alone, and its batch
        self._turn_of_others = False

    def rest(self, entries: Iterable[Entry], due_ms: int) -> None:
        """Until they are due."""
        for entry in entries:
            heapq.heappush(self._resting, (due_ms, next(self._numbers), entry))

    def wake(self, now_ms: int) -> None:
        """Moves what is due to where it may leave from. What leaves alone stays RESTING: what comes conflates."""
        due: list[Entry] = []
        while self._resting and self._resting[0][0] <= now_ms:
            _, _, entry = heapq.heappop(self._resting)
            if entry.flight != RESTING:
                continue
            if entry.trouble is not None and entry.trouble.alone:
                self._alone.append(entry)
            else:
                entry.flight = READY
                due.append(entry)
        self.ready.extendleft(reversed(due))
        while self._alone and self._alone[0].flight != RESTING:
            self._alone.popleft()
        while self.ready and self.ready[0].flight != READY:
            self.ready.popleft()

    def single(self, batch_id: int) -> Entry | None:
        """An entry that is to leave alone now, as this batch.

        One at a time, and in turn with requests of others: a thousand sick keys take a part of one connection, not all.
        """
        busy = self._single is not None and self._single[0].flight == self._single[1]
        if not self._alone or busy or (self.ready and self._turn_of_others):
            self._turn_of_others = False
            return None
        entry = self._alone.popleft()
        self._single, self._turn_of_others = (entry, batch_id), True
        return entry

    @property
    def next_ms(self) -> int | None:
        """When the first resting entry is due."""
        while self._resting and self._resting[0][2].flight != RESTING:
            heapq.heappop(self._resting)
        return self._resting[0][0] if self._resting else None

    @property
    def resting(self) -> int:
        """Entries that rest or wait for their turn to leave alone."""
        return len(self._resting) + len(self._alone)

    def sweep(self) -> None:
        """Lets go of what is GONE."""
        self.ready = deque(entry for entry in self.ready if entry.flight == READY)
        self._alone = deque(entry for entry in self._alone if entry.flight == RESTING)
        self._resting = [resting for resting in self._resting if resting[2].flight == RESTING]
        heapq.heapify(self._resting)


class Held:
    """What is held for one target, all partitions together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parts: dict[int, Partition] = {}

    def progress(self, partition: int) -> int:
        """Every record of an assigned partition below this offset is done."""
        return self._parts[partition].progress.offset

    @property
    def pending_records(self) -> int:
        """Patches that are not in flight."""
        return sum(part.pending for part in self._parts.values())

    @property
    def pending_bytes(self) -> int:
        """Memory of everything held, what is in flight and Python's own share included."""
        nbytes = self.waiting_keys * KEY_BYTES
        for part in self._parts.values():
            nbytes += part.nbytes + part.records * PATCH_BYTES + len(part.lanes) * LANE_BYTES
        return nbytes

    @property
    def full(self) -> bool:
        """Whether no more should be taken in: `pending_bytes` is at `bytes_max`."""
        return self.pending_bytes >= self._bytes_max

    @property
    def waiting_keys(self) -> int:
        """Absent keys: their patches are dropped until a SNAPSHOT or a DELETE comes."""
        return sum(len(part.wanted) + len(part.waiting) for part in self._parts.values())

    def wanted(self) -> Iterator[tuple[bytes, int]]:
        """Absent keys whose snapshot nobody has asked for yet, with their partitions.

        `drop_pending` leaves such keys, and conflating where a patch was missing between two. Progress waits for them.
        """
        for part in self._parts.values():
            for key in part.wanted:
                yield key, part.number

    def take_arrived(self) -> list[tuple[bytes, tuple[int, int]]]:
        """Keys of which a SNAPSHOT or DELETE came in since the last call, because the key was absent or this target had
        asked for it, each with its (epoch, revision).
        """
        arrived = []
        for part in self._parts.values():
            arrived += part.arrived
            part.arrived = []
        return arrived


class Lanes(Held):
    """All lanes of one target. Not thread-safe; no call waits."""

    def __init__(
        self,
        compose: Callable[[bytes, bytes], bytes | None],
        head: Callable[[bytes], Head],
        *,
        requester: bytes,
        bytes_max: int,
    ) -> None:
        """`compose` and `head` are a `Conflater`'s. `requester`: the target's name on requests for snapshots."""
        super().__init__(bytes_max)
        self._rules = Rules(compose, head, requester)
        self._queue = Queue()
        self._batch_ids = count(1)
        self._conflating = False

    # -- what comes in ----------------------------------------------------------------------------------------

    def assign(self, partition: int, begin: int) -> None:
        """Takes a partition over: every record below `begin` is done."""
        self.release(partition)
        self._parts[partition] = Partition(partition, begin, self._rules)

    def release(self, partition: int) -> None:
        """Forgets a partition that went to another worker; what is in flight of it becomes void."""
        part = self._parts.pop(partition, None)
        if part is not None:
            part.release()
            self._queue.sweep()

    def take(self, partition: int, records: Records, start: int = 0) -> None:
        """Takes a chunk in.

        Passed over are records below `start` or taken before, those without a value, snapshots that other requesters
        asked for, and patches of absent keys. Nothing is taken of a partition that is not assigned: it is another's.
        """
        part = self._parts.get(partition)
        if part is not None:
            self._queue.ready.extend(part.take(records, start, self._conflating))

    @property
    def conflating(self) -> bool:
        """While True, pending patches of a key become one: memory is bounded by the number of keys."""
        return self._conflating

    @conflating.setter
    def conflating(self, conflating: bool) -> None:
        if conflating and not self._conflating:
            for part in self._parts.values():
                for entry in _pending(part):
                    part.conflate(entry)
        self._conflating = conflating

    # -- what goes out ----------------------------------------------------------------------------------------

    def cut(self, now_ms: int, records_max: int, bytes_max: int, keys_max: int | None = None) -> Batch | None:
        """The next request: first come first served, patches of a key in order. None: nothing may leave now.

        A patch that is larger than `bytes_max` goes by itself. `keys_max` is 1 where the URL names the key.
        """
        keys_max = records_max if keys_max is None else keys_max
        queue, batch_id = self._queue, next(self._batch_ids)
        queue.wake(now_ms)
        single = queue.single(batch_id)
        if single is not None:
            single.trim(records_max, bytes_max)
            return _take_off([single], batch_id)
        ready = queue.ready
        entries: list[Entry] = []
        while ready and len(entries) < keys_max:
            entry = ready[0]
            if entry.flight == READY:
                if len(entry.patches) > records_max or entry.nbytes > bytes_max:
                    if entries:
                        break
                    entry.trim(records_max, bytes_max)
                records_max -= len(entry.patches)
                bytes_max -= entry.nbytes
                entries.append(entry)
            ready.popleft()
        return _take_off(entries, batch_id) if entries else None

    def delivered(self, batch: Batch) -> None:
        """The target has taken all of it."""
        for entry in batch.entries:
            if entry.flight == batch.id:
                behind = entry.part.delivered(entry)
                if behind is not None:
                    self._queue.ready.append(behind)

    def keep(self, batch: Batch, keys: Collection[bytes]) -> Batch:
        """The target has taken all but the entries of these keys; they stay in flight, as the batch returned."""
        kept = _batch([entry for entry in _live(batch) if entry.key in keys], next(self._batch_ids))
        self.delivered(batch)
        return kept

    def split(self, batch: Batch) -> list[Batch]:
        """Halves of a batch by keys, both in flight; a batch of one key is its only half."""
        live = _live(batch)
        if len(live) < 2:
            return [batch]
        half = len(live) // 2
        return [_batch(entries, next(self._batch_ids)) for entries in (live[:half], live[half:])]

    def put_back(self, batch: Batch, not_before_ms: int = 0, alone: bool = False) -> None:
        """The target has not taken it, or nobody knows: it is at the head of its lanes again, before all others.

        With `not_before_ms` its keys rest until then, and what comes meanwhile conflates; with `alone` each of them
        leaves in a batch of its own.
        """
        flight = RESTING if not_before_ms or alone else READY
        waiting = []
        for entry in _live(batch):
            if flight == RESTING or entry.trouble is not None:
                entry.trouble = entry.trouble or Trouble()
                entry.trouble.alone = alone
            if entry.part.put_back(entry, flight, self._conflating):
                waiting.append(entry)
        if flight == RESTING:
            self._queue.rest(waiting, not_before_ms)
        else:
            self._queue.ready.extendleft(reversed(waiting))

    def key_failed(self, key: bytes, now_ms: int) -> int:
        """Notes that a key has failed alone. Since when it fails, without a success in between."""
        for part in self._parts.values():
            entry = part.lanes.get(key)
            if entry is not None:
                entry.trouble = entry.trouble or Trouble()
                if entry.trouble.failed_ms is None:
                    entry.trouble.failed_ms = now_ms
                return entry.trouble.failed_ms
        return now_ms

    @property
    def next_ms(self) -> int | None:
        """When the first key that rests is due; None: none rests."""
        return self._queue.next_ms

    @property
    def resting_keys(self) -> int:
        """Keys that rest, or wait for their turn to leave alone; as a rule one pending patch each."""
        return self._queue.resting

    # -- what is never sent -----------------------------------------------------------------------------------

    def drop(self, entries: Iterable[Entry]) -> dict[bytes, int]:
        """Nobody is going to send these entries again, which are in flight (409, a dead letter, a skip).

        Their keys are absent from here on, unless a snapshot has come in behind. Returns those that are `wanted` now,
        with their partitions.
        """
        wanted = {}
        for entry in entries:
            if entry.flight > READY:
                behind = entry.part.give_up(entry)
                if behind is not None:
                    self._queue.ready.append(behind)
                elif entry.key in entry.part.wanted:
                    wanted[entry.key] = entry.partition
        return wanted

    def await_snapshot(self, items: Iterable[Entry | bytes]) -> None:
        """Snapshots are asked for and the requests are durable: what was dropped before them is done.

        An Entry in flight is dropped first. A key is one of `wanted`; nothing changes for any other, because its
        snapshot may have come while it was asked for.
        """
        for item in items:
            if isinstance(item, Entry):
                for key in self.drop([item]):
                    item.part.asked(key)
            else:
                for part in self._parts.values():
                    part.asked(item)

    def drop_pending(self) -> dict[bytes, int]:
        """Drops everything that is not in flight. Returns its keys, which are `wanted` now, with their partitions."""
        dropped = {}
        for part in self._parts.values():
            for entry in _pending(part):
                part.drop(entry)
                dropped[entry.key] = part.number
        self._queue.sweep()
        return dropped


def _pending(part: Partition) -> list[Entry]:
    """The entries of a partition that are not in flight."""
    found = [entry if entry.flight <= READY else entry.behind for entry in part.lanes.values()]
    return [entry for entry in found if entry is not None]


def _live(batch: Batch) -> list[Entry]:
    return [entry for entry in batch.entries if entry.flight == batch.id]


def _batch(entries: list[Entry], batch_id: int) -> Batch:
    """A batch of entries, which are in flight in it from here on."""
    records = nbytes = 0
    for entry in entries:
        entry.flight = batch_id
        records += len(entry.patches)
        nbytes += entry.nbytes
    return Batch(batch_id, tuple(entries), records, nbytes)


def _take_off(entries: list[Entry], batch_id: int) -> Batch:
    """As `_batch`, for entries that were not in flight before."""
    for entry in entries:
        entry.part.pending -= len(entry.patches)
    return _batch(entries, batch_id)
