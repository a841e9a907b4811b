"""The place of a receiver in each of its partitions: where it reads, whose log that is, whether it still counts. Pure.

A partition is begun when its bounds are known; what was fetched of it before waits. A place is looked at again when the
broker's client cannot go on from it, and when the topic turns out to be another one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from streams.client.beginning import CUT, REPLACED, Beginning, Bounds, LogReplaced, Stored, begin
from streams.client.broker import Run
from streams.client.held import HeldStates
from streams.client.kept import Loaded, Place

__all__ = ["Places"]

TOLD_MAX = 1_000
"""Lost places that wait to be told: more partitions than a receiver has; beyond, the oldest go, and are counted."""


@dataclass(frozen=True, slots=True)
class _Place:
    """From where on changes of a partition are handed out, and the id of the log that its offsets count in."""

    hand_from: int
    log: bytes


class Places:
    """All partitions of one receiver. `held` is told of what becomes doubtful."""

    def __init__(self, topic: str, held: HeldStates[Any]) -> None:
        self._topic = topic
        self._held = held
        self.assignment: frozenset[int] = frozenset()
        self.log = b""
        """Id of the topic, as of the last look; empty: not known."""
        self.seek: dict[int, int] = {}
        """Where reading is to go on; until it does, what comes of these partitions is none of theirs."""
        self.lost: deque[LogReplaced] = deque(maxlen=TOLD_MAX)
        """Places that were given up since somebody last looked."""
        self.fresh: dict[int, int] = {}
        """Where partitions that lost their place were begun anew, so that this is kept and told once."""
        self._places: dict[int, _Place] = {}
        self._doubted: set[int] = set()
        self._stopped: set[int] = set()  # the broker's client reads no more of them by itself
        self._turned: set[int] = set()  # read from an offset below one that was read before
        self._jumped: dict[int, int] = {}  # where offsets were left out: markers, compaction, or retention
        self._was_rewound = False  # then what was fetched of a partition that is to come may be lost, too
        self._membership = ("", -1)
        self._returned: set[int] = set()  # dealt anew to this receiver: others may have read them in between
        self._early: list[Run] = []  # fetched before the place of their partition was known
        self._fetched: dict[int, int] = {}  # next offset to be fetched

    def unknown(self) -> frozenset[int]:
        """Partitions whose bounds are wanted: new ones, and those whose place is in doubt."""
        return (self.assignment - self._places.keys()) | self._doubted

    def assign(self, assignment: frozenset[int], membership: tuple[str, int] = ("", -1)) -> list[int]:
        """These partitions are this receiver's now; those that went.

        Under another membership one that stayed may have been another member's between two looks: what that one
        committed was not read here, and the broker's client goes on from there.
        """
        if membership != self._membership:
            stayed = self.assignment & assignment
            self._membership = membership
            self._returned |= self._places.keys() & stayed
            self._doubted |= self._returned
            self._stopped |= stayed
            self._early.clear()
        self.assignment = assignment
        gone = [partition for partition in self._places if partition not in assignment]
        for partition in gone:
            del self._places[partition]
            self._fetched.pop(partition, None)
            self.seek.pop(partition, None)
            self.fresh.pop(partition, None)
        self._doubted &= assignment
        self._stopped &= assignment
        self._turned &= assignment
        self._returned &= assignment
        self._jumped = {partition: offset for partition, offset in self._jumped.items() if partition in assignment}
        self._early = [run for run in self._early if run.partition in assignment]
        return gone

    def hand_from(self, partition: int) -> int:
        """From where on changes are handed out."""
        return self._places[partition].hand_from

    def counts(self, partition: int) -> bool:
        """Whether offsets of a partition are those of the topic that is there, as far as is known."""
        return partition not in self._doubted and self._places[partition].log in (b"", self.log)

    def doubt(self) -> None:
        """All places are to be looked at again."""
        self._doubted |= self._places.keys()

    def kept(self, partition: int, offset: int) -> Place:
        """The place of a partition that was worked through up to `offset`, to be stored."""
        rows = self._held.rows
        stored = Stored(offset, self._places[partition].log)
        return Place(stored, rows.age(partition), partition in rows.partial)

    def takes(self, run: Run) -> bool:
        """Whether a run is to be worked through now. One whose partition's place is not known yet waits here."""
        if run.lost:
            lost = self.assignment if run.partition < 0 else self.assignment & {run.partition}
            self._stopped |= lost
            self._doubted |= lost & self._places.keys()
            return False
        if run.partition not in self.assignment or run.partition in self.seek or run.partition in self._returned:
            return False  # fetched just before it is moved
        if run.partition not in self._places:
            self._early.append(run)
            return False
        if len(run.records):
            expected, first = self._fetched[run.partition], run.records.first_offset
            if first < expected:
                self._turned.add(run.partition)
                self._doubted.add(run.partition)
                return False
            if first > expected:
                self._jumped.setdefault(run.partition, expected)
            self._fetched[run.partition] = run.records.last_offset + 1
        # Markers of transactions stand before the end: no record is left out there, whatever retention removes.
        self._fetched[run.partition] = max(self._fetched[run.partition], run.end)
        return True

    def begin(self, partition: int, bounds: Bounds, loaded: Loaded | None) -> tuple[list[Run], bool]:
        """Begins a partition, or finds out whether its place still counts.

        What waited for that, and whether the offsets so far were those of another log.
        """
        if partition not in self.assignment:
            return [], False
        self.log = bounds.log or self.log
        if partition in self._places:
            return [], self._look_again(partition, bounds)
        place = loaded.place if loaded is not None else None
        if loaded is not None and place is not None:
            self._held.fill(partition, loaded.rows, place.age, own=loaded.own, missing=loaded.missing)
        began = begin(bounds, place.stored if place is not None else None)
        partial = began.partial or (place is not None and place.partial)
        self._held.rows.begin(partition, partial=partial, lost=bool(began.lost))
        self._places[partition] = _Place(began.hand_from, bounds.log)
        self._fetched[partition] = began.read_from
        if began.lost:
            self._tell(partition, began)
        early = [run for run in self._early if run.partition == partition]
        self._early = [run for run in self._early if run.partition != partition]
        is_early = all(run.records.first_offset >= began.read_from for run in early if len(run.records))
        by_itself = partition not in self._stopped and not self._was_rewound
        if bounds.position == began.read_from and is_early and by_itself:
            return early, False
        self._go_on_at(partition, began.read_from)
        return [], False

    def _look_again(self, partition: int, bounds: Bounds) -> bool:
        """Finds out whether the place of a partition still counts in the log that the broker has now."""
        self._doubted.discard(partition)
        fetched, jumped = self._fetched[partition], self._jumped.pop(partition, None)
        place, returned = self._places[partition], partition in self._returned
        began = begin(replace(bounds, committed=None), Stored(fetched, place.log))
        if partition in self._turned and bounds.log and bounds.log == place.log:
            # The broker's client began at the group's offset again, below what was read since.
            self._stopped.add(partition)
        elif partition in self._turned or (returned and not bounds.log and bounds.committed is None):
            # Without ids: offsets turn back, or the group has none any more, where the topic was deleted.
            began = Beginning(bounds.start, bounds.start, REPLACED, fetched)
        elif not began.lost and jumped is not None and jumped < bounds.start <= fetched:
            # Retention was faster, and the client went on behind what it removed.
            self._held.rows.begin(partition, partial=True, lost=True)
            self._tell(partition, Beginning(bounds.start, bounds.start, CUT, jumped))
        self._turned.discard(partition)
        self._returned.discard(partition)
        if not began.lost:
            if returned and bounds.committed is not None:
                # Read on from where it was; what others have handed out meanwhile is applied and not handed out.
                others = begin(bounds, Stored(fetched, place.log))
                hand_from = place.hand_from if others.lost else max(place.hand_from, others.hand_from)
                self._places[partition] = replace(place, hand_from=hand_from)
            if partition in self._stopped:
                self._go_on_at(partition, fetched)
            return False
        self._held.rows.begin(partition, partial=True, lost=True)
        is_other = began.lost != CUT  # what was fetched before a cut is there to be handed out
        hand_from = began.hand_from if is_other else place.hand_from
        self._places[partition] = _Place(hand_from, bounds.log)
        self._fetched[partition] = began.read_from
        self._tell(partition, began)
        self._go_on_at(partition, began.read_from)
        return is_other

    def _go_on_at(self, partition: int, offset: int) -> None:
        self._stopped.discard(partition)
        self.seek[partition] = offset

    def _tell(self, partition: int, began: Beginning) -> None:
        if began.lost == REPLACED:
            self._held.replaced(partition)
        if began.read_from >= self.hand_from(partition):
            self.fresh[partition] = began.read_from
        self._held.counts.logs_replaced += 1
        self.lost.append(LogReplaced(self._topic, partition, began.lost, began.expected, began.read_from))

    def rewind(self) -> None:
        """A step was cut short: whatever it fetched, or found out, it has to fetch and find out again."""
        self.doubt()
        self.seek = {partition: self._fetched[partition] for partition in self._places} | self.seek
        self._was_rewound = True

    def sought(self, offsets: dict[int, int]) -> None:
        """Reading goes on at these offsets."""
        for partition, offset in offsets.items():
            if self.seek.get(partition) == offset:
                del self.seek[partition]

    def check(self, log: bytes) -> None:
        """The topic has this id as of now; empty: not known. Time also to see why offsets were left out."""
        if log and self.log and log != self.log:
            self._doubted |= self._places.keys()
        self._doubted |= self._jumped.keys() & self._places.keys()
        self.log = log or self.log
