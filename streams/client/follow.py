"""How a receiver follows a patches topic, step by step. Pure: `streams.client.step` does a step's blocking calls.

A shell, async or blocking, repeats: take changes until there are none, `plan` a step, `perform` it (in a thread, or
not), `absorb` what came of it. An offset counts as taken when the next change is asked for; only taken offsets are
committed, and none above a gap that was not asked for yet: a change is handed out at least once.
"""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, Literal, get_args

from streams.client.broker import Run, Start
from streams.client.change import Change, M
from streams.client.held import HeldStates
from streams.client.kept import Save
from streams.client.places import Places
from streams.client.resync import Asks
from streams.client.rows import Entry
from streams.client.step import Result, Step
from streams.errors import Finding, SettingsError

__all__ = ["Follower", "OnGap"]

OnGap = Literal["snapshot", "wait"]

FETCH_RECORDS_MAX = 500
"""Records per step: small enough that a group's commit is never far behind, large enough to pay for a thread hop."""
SILENT_RECORDS_MAX = 256
"""Records worked through without a change before the shell gets to breathe: some milliseconds."""
COMMIT_INTERVAL_MS = 1_000
"""What a crash may hand out again is about this much."""
PAUSE_MS = 20
"""How long reading pauses for requests to be sent: at 500 a second ten of them go meanwhile."""
LOOK_INTERVAL_MS = 30_000
"""How often it is asked whose log the topic is, and why offsets were left out: neither shows by an error."""
PATCHES = ".patches"
NAME_BYTES_MAX = 249
"""What Kafka allows for a topic. A group's name stands in requests for snapshots, which take 512 bytes of it."""


class Follower(Generic[M]):
    """The order of steps of one receiver, and its place in every partition."""

    def __init__(
        self,
        topic: str,
        message_class: type[M],
        *,
        group: str | None,
        start: Start,
        keeps: bool,
        on_gap: OnGap,
        resync_topic: str | None,
        snapshots_per_second_max: float,
    ) -> None:
        """Arguments as in `Receiver`. SettingsError when they do not go together."""
        findings = _named("group", group) if group is not None else []
        findings += _named("topic", topic)
        if resync_topic is not None:
            findings += _named("resync_topic", resync_topic)
        if start not in get_args(Start):
            findings.append(Finding("start", repr(start), "group or earliest"))
        if on_gap not in get_args(OnGap):
            findings.append(Finding("on_gap", repr(on_gap), "snapshot or wait"))
        if on_gap == "snapshot" and resync_topic is None and not str(topic).endswith(PATCHES):
            cure = "name the owner's {source}.resync as resync_topic"
            findings.append(Finding("topic", topic, f"a name that ends with {PATCHES}, to know the source's", cure))
        if keeps and start == "earliest":
            findings.append(Finding("datadir", "one with start earliest", "one of the two", "what is kept is not read"))
        if not 0 < snapshots_per_second_max < math.inf:
            findings.append(Finding("snapshots_per_second_max", str(snapshots_per_second_max), "more than 0"))
        if findings:
            raise SettingsError(*findings)
        self.requester = group or f"receiver-{uuid.uuid4()}"
        self.resync_topic = resync_topic or topic.removesuffix(PATCHES) + ".resync"
        self._asks = Asks(per_second_max=snapshots_per_second_max) if on_gap == "snapshot" else None
        self.held = HeldStates(message_class, requester=self.requester, asks=self._asks)
        self._commits = group is not None and start == "group"
        self.places = Places(topic, self.held)
        self._keeps = keeps
        self._check_due_ms = 0
        self._unsaved: dict[tuple[int, bytes], Entry] = {}
        self._saved: dict[int, int] = {}
        self._runs: deque[Run] = deque()
        self._index = 0  # of the next record in the first run
        self._lent: tuple[int, int] | None = None  # partition and offset of the change that is with the caller
        self._taken: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_due_ms = 0
        self._reached: dict[int, int] = {}  # per partition: everything below was applied

    def next_change(self) -> Change[M] | None:
        """The next change of what was fetched; asking for it takes the one before.

        None: nothing is left, or a long run of records changed nothing (`has_records` tells).
        """
        self.take()
        for _ in range(SILENT_RECORDS_MAX):
            if not self.has_records:
                return None
            run, index = self._runs[0], self._index
            offset = run.records.offset(index)
            change = self.held.take(
                run.partition, offset, run.records.key(index), run.records.value(index), run.records.headers(index)
            )
            self._advance(run, offset)
            if change is not None and offset >= self.places.hand_from(run.partition):
                self._lent = (run.partition, offset)
                return change
            self._note()
            self._taken[run.partition] = offset + 1
        return None

    def _note(self) -> None:
        """Rows that changed are to be saved as they are now. Those of a change that is with the caller come later."""
        if self._keeps:
            self._unsaved.update({where: self.held.rows.entry(*where) for where in self.held.rows.touched})
        self.held.rows.touched.clear()

    def take(self) -> None:
        """The change that was handed out last is done with: its offset may be committed."""
        if self._lent is not None:
            partition, offset = self._lent
            self._taken[partition] = offset + 1
            self._lent = None
            self._note()

    @property
    def has_records(self) -> bool:
        """Whether fetched records wait to be worked through."""
        return bool(self._runs)

    def plan(self, now_ms: int, timeout_ms: int) -> Step:
        """The next step. Reading pauses while too many requests wait to be sent, so that none is lost."""
        due = self._asks.due(now_ms) if self._asks is not None else []
        step = Step(self.places.unknown(), seek=dict(self.places.seek), asks=due, log=self.places.log)
        step = replace(step, records_max=FETCH_RECORDS_MAX)
        if now_ms >= self._check_due_ms:
            self._check_due_ms = now_ms + LOOK_INTERVAL_MS
            step = replace(step, check=True)
        if now_ms >= self._commit_due_ms:
            settling = self.settle()
            if settling.save is not None or settling.commit:
                self._commit_due_ms = now_ms + COMMIT_INTERVAL_MS
            step = replace(step, save=settling.save, commit=settling.commit)
        if self._asks is not None and self._asks.full:
            return replace(step, records_max=0, timeout_ms=min(timeout_ms, PAUSE_MS))
        return replace(step, timeout_ms=0 if step.look or step.seek else timeout_ms)

    def _begin_anew(self) -> None:
        """A place that was lost is given up for good once nothing of before is left: it is told once."""
        for partition in self.places.fresh.keys() - _busy(self._runs, self._lent):
            offset = self.places.fresh.pop(partition)
            self._taken[partition] = max(offset, self._taken.get(partition, offset))

    def settle(self) -> Step:
        """A step that saves and commits what was taken, and nothing else."""
        self._begin_anew()
        safe = self._safe()
        moved = {
            partition: offset
            for partition, offset in safe.items()
            # The group is further where only what is held here is made up for.
            if offset != self._committed.get(partition) and offset >= self.places.hand_from(partition)
        }
        save = None
        if self._keeps and (self._unsaved or any(self._saved.get(mine) != offset for mine, offset in safe.items())):
            save = Save(dict(self._unsaved), {mine: self.places.kept(mine, offset) for mine, offset in safe.items()})
        return Step(save=save, commit=moved if self._commits else {}, log=self.places.log)

    def _safe(self) -> dict[int, int]:
        """Per partition the offset up to which everything was taken, and every gap asked for.

        Behind the last record it is the end: the markers of transactions that stand before it are no loss when
        retention has removed them.
        """
        safe, busy = {}, _busy(self._runs, self._lent)
        ends = {partition: offset for partition, offset in self._reached.items() if offset and partition not in busy}
        for partition in self._taken.keys() | ends.keys():
            offset = max(self._taken.get(partition, 0), ends.get(partition, 0))
            if not self.places.counts(partition):
                continue
            floor = self._asks.floor(partition) if self._asks is not None else None
            safe[partition] = offset if floor is None else min(offset, floor)
        return safe

    def absorb(self, result: Result, now_ms: int) -> None:
        """Takes in what came of a step."""
        if self._asks is not None and result.asked:
            self._asks.asked(result.asked, now_ms)
            self.held.counts.snapshots_asked += len(result.asked)
        self._committed.update(result.committed)
        self._absorb_save(result.saved)
        self.places.sought(result.sought)
        if result.assignment is not None:
            for partition in self.places.assign(result.assignment, result.membership):
                self._drop(partition)
        for partition, bounds in result.bounds.items():
            runs, is_other = self.places.begin(partition, bounds, result.loaded.get(partition))
            if is_other:
                self._forget_offsets(partition)
            for run in runs:
                self._arrive(run)
        if result.log is not None:
            self.places.check(result.log)
        for run in result.runs:
            self._arrive(run)

    def _absorb_save(self, saved: Save | None) -> None:
        if saved is None:
            return
        self._saved.update({partition: place.stored.offset for partition, place in saved.places.items()})
        for where, entry in saved.entries.items():
            if where in self._unsaved and self._unsaved[where] is entry:
                del self._unsaved[where]

    def _arrive(self, run: Run) -> None:
        """Queues a run, where its partition's place is known."""
        if self.places.takes(run):
            if len(run.records):
                self._runs.append(run)
            else:
                self._reach(run.partition, run.end)

    @property
    def is_assigned(self) -> bool:
        """Whether this receiver has partitions; a member of a group waits for them, and may get none."""
        return bool(self.places.assignment)

    @property
    def stale_keys(self) -> int:
        """Keys whose patch could not be applied, those that are doubtful, and unknown ones that were asked for."""
        return self.held.rows.stale + (0 if self._asks is None else self._asks.unknown)

    def look_again(self) -> None:
        """Has the next step find out whether the places still count."""
        self.places.doubt()

    def has_reached(self, ends: dict[int, int]) -> bool:
        """Whether every record below `ends`, per partition that is still this receiver's, was worked through."""
        if self.places.unknown() or self.places.seek:
            return False
        return all(self._reached.get(mine, 0) >= end for mine, end in ends.items() if mine in self.places.assignment)

    def _advance(self, run: Run, offset: int) -> None:
        self._index += 1
        self._reach(run.partition, offset + 1)
        if self._index == len(run.records):
            self._runs.popleft()
            self._index = 0
            self._reach(run.partition, run.end)

    def _reach(self, partition: int, offset: int) -> None:
        self._reached[partition] = max(self._reached.get(partition, 0), offset)

    def _drop(self, partition: int) -> None:
        """Forgets a partition that another member reads now: what it held would only grow old."""
        self.held.drop(partition)
        self._forget_offsets(partition)
        self._unsaved = {where: row for where, row in self._unsaved.items() if where[0] != partition}

    def _forget_offsets(self, partition: int) -> None:
        """What was fetched and taken of a partition counts in a log, or in an assignment, that is over."""
        if self._lent is not None and self._lent[0] == partition:
            self._lent = None
        for positions in (self._taken, self._committed, self._saved, self._reached):
            positions.pop(partition, None)
        if self._runs and self._runs[0].partition == partition:
            self._index = 0
        self._runs = deque(run for run in self._runs if run.partition != partition)


def _busy(runs: Iterable[Run], lent: tuple[int, int] | None) -> set[int]:
    """Partitions of which something was fetched that is not taken yet."""
    return {run.partition for run in runs} | ({lent[0]} if lent is not None else set())


def _named(setting: str, name: object) -> list[Finding]:
    """What is wrong with a name that goes to a broker; one that is no text is not shown."""
    wanted = f"1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters"
    if not isinstance(name, str):
        return [Finding(setting, type(name).__name__, wanted)]
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return [Finding(setting, "text that is no UTF-8", wanted)]
    if not 1 <= size <= NAME_BYTES_MAX or any(ord(each) < 32 for each in name):
        return [Finding(setting, f"{size} bytes" if size > NAME_BYTES_MAX else repr(name), wanted)]
    return []
