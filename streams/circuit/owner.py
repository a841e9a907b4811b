"""The circuits that one worker owns: those of the targets whose partition of the outcomes it has.

Folds reports, keeps rows in a table with a changelog, and gathers what is to be told. Used on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, MutableMapping
from itertools import islice

from google.protobuf.message import DecodeError

from streams._native import Records
from streams.circuit.fleet import Fleet
from streams.clock import Clock
from streams.options import CircuitSettings
from streams.v1.outcome_pb2 import Outcomes

__all__ = ["Owner"]

STAMP_BYTES = 8
"""In front of a row: wall time of its writing, in milliseconds. The next owner takes its age from it."""
TARGETS_MAX = 10_000
"""Circuits of one owner, some kilobytes each. Beyond, those heard of longest ago are forgotten: somebody invents names,
and must not keep those out that traffic goes to."""
KNOWN_MAX = 2 * TARGETS_MAX
"""Names whose last record is remembered, a hundred bytes each: those that this owner has, and as many of others."""
NAME_LENGTH_MAX = 249
"""Of targets and reporters, as of a topic: names, not documents."""
COMPLAINT_EACH = 1_000
"""Reports that are none are named in the log at the first and then at every thousandth."""

log = logging.getLogger(__name__)


class Owner:
    """Circuits by target. `known`: numbers of the last records that were told, by whomever."""

    def __init__(self, settings: CircuitSettings, clock: Clock) -> None:
        self.table: MutableMapping[bytes, bytes] = {}
        """Rows by target; the worker puts the table with the changelog here."""
        self.generation = 1
        """Of the group, when this worker got its partitions."""
        self.changed = asyncio.Event()
        """There is something to tell."""
        self._settings = settings
        self._clock = clock
        self._fleets: dict[str, tuple[int, Fleet]] = {}  # with the partition that they came in on
        self._kept_ms: dict[str, int] = {}  # when a row was written
        self._known: dict[str, tuple[int, int]] = {}
        self._untold: set[str] = set()
        self.ignored = 0
        """Reports that are none, or beyond the targets that there may be."""
        self.damaged = 0
        """Stored rows that are none."""

    @property
    def targets(self) -> list[str]:
        """Whose circuits are owned here and have been heard of."""
        return sorted(self._fleets)

    def assign(self, partitions: set[int], generation: int) -> None:
        """After a rebalance: circuits of other partitions are others', and are forgotten here.

        So are those of which others have told more meanwhile: the table has their rows.
        """
        self.generation = max(generation, 1)
        for target, (partition, fleet) in list(self._fleets.items()):
            if partition not in partitions or self._known.get(target, (0, 0)) > fleet.pair:
                self._forget(target)
            else:
                self._take_over(target, fleet)

    def fold(self, value: bytes | None, partition: int) -> None:
        """Takes a record of the outcomes in."""
        try:
            report = Outcomes.FromString(value or b"")
        except DecodeError:
            report = Outcomes()
        usable = 0 < len(report.target) <= NAME_LENGTH_MAX and 0 < len(report.reporter) <= NAME_LENGTH_MAX
        if not usable:
            self.ignored += 1
            if self.ignored % COMPLAINT_EACH == 1:
                log.warning(
                    "outcomes: %d records without a target and a reporter of at most %d characters are ignored",
                    self.ignored,
                    NAME_LENGTH_MAX,
                )
            return
        now_ms, target = self._now_ms(), report.target
        fleet = self._owned(target, partition, now_ms)
        self._fleets[target] = self._fleets.pop(target)  # the one heard of longest ago comes first
        while len(self._fleets) > TARGETS_MAX:
            self._drop(next(iter(self._fleets)), partition)
        changed = fleet.fold(report, now_ms, random.random())
        if changed:
            self._note(target)
        # A row a bucket is as exact as the window is; what is told must not be told again otherwise after a crash.
        kept_ms = self._kept_ms.get(target)
        if changed or kept_ms is None or now_ms - kept_ms >= self._settings.bucket_ms:
            self._kept_ms[target] = now_ms
            self.table[target.encode()] = self._clock.now_ms().to_bytes(STAMP_BYTES, "big") + fleet.row(now_ms)

    def tick(self) -> None:
        """Windows close and open times end without anybody's report."""
        now_ms = self._now_ms()
        for target, (_, fleet) in self._fleets.items():
            if fleet.tick(now_ms, random.random()):
                self._note(target)
                self._kept_ms.pop(target, None)  # the next report writes the row

    def heard(self, target: str, pair: tuple[int, int]) -> None:
        """A record was told, by this owner or another one."""
        known = self._known.pop(target, (0, 0))
        self._known[target] = max(known, pair)
        if len(self._known) > KNOWN_MAX:
            self._forget_known()
        _, fleet = self._fleets.get(target, (0, None))
        if fleet is None or pair == fleet.pair:
            return
        if pair > fleet.pair:
            # Somebody is above us. If it is not our successor, the next report takes the circuit over, above this.
            self._forget(target)
        elif known == fleet.pair:
            # A former owner that did not know yet wrote after us: the last record of the key has to be ours.
            fleet.tell_again()
            self._note(target)

    def untold(self) -> tuple[list[str], Records]:
        """What is to be told now, and the records for it; `tell` puts back what could not be."""
        self.changed.clear()
        targets, records, now_ms = sorted(self._untold & self._fleets.keys()), Records(), self._now_ms()
        self._untold.clear()
        for target in targets:
            records.append(target.encode(), self._fleets[target][1].record(now_ms).SerializeToString())
        return targets, records

    def tell(self, targets: Iterable[str]) -> None:
        """These are to be told."""
        for target in targets:
            self._note(target)

    def _owned(self, target: str, partition: int, now_ms: int) -> Fleet:
        """A circuit of ours; taken over with what its last owner left, the first time."""
        if target in self._fleets:
            return self._fleets[target][1]
        row = self.table.get(target.encode())
        fleet = self._restored(target, row, now_ms) if row is not None else Fleet(self._settings, target, now_ms)
        self._fleets[target] = (partition, fleet)
        self._take_over(target, fleet)
        return fleet

    def _restored(self, target: str, row: bytes, now_ms: int) -> Fleet:
        age_ms = max(self._clock.now_ms() - int.from_bytes(row[:STAMP_BYTES], "big"), 0)
        try:
            return Fleet.of_row(self._settings, target, row[STAMP_BYTES:], now_ms, age_ms)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.damaged += 1
            log.warning("circuit %s: its stored row is none, and is ignored: it begins closed", target)
            return Fleet(self._settings, target, now_ms)

    def _take_over(self, target: str, fleet: Fleet) -> None:
        known = self._known.get(target, (0, 0))
        if fleet.take_over(self.generation, known, self._now_ms(), random.random()):
            self._note(target)

    def _drop(self, target: str, partition: int) -> None:
        """Somebody invents names: the one that nobody has used for longest goes.

        Its row goes too, where it is in the partition of the record in work: Faust writes the removal there.
        """
        own, _ = self._fleets[target]
        self._forget(target)
        self._untold.discard(target)
        if own == partition:
            self.table.pop(target.encode(), None)

    def _forget_known(self) -> None:
        """The name heard of longest ago goes, of those that nobody reports to this owner."""
        for target in [*islice(self._known, TARGETS_MAX + 1)]:
            number = self._known.pop(target)
            if target not in self._fleets:
                return
            self._known[target] = number

    def _forget(self, target: str) -> None:
        del self._fleets[target]
        self._kept_ms.pop(target, None)

    def _note(self, target: str) -> None:
        self._untold.add(target)
        self.changed.set()

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)
