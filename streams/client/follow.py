"""How a receiver follows a patches topic, step by step. Pure but for `perform`, which does one step's blocking calls.

A shell, async or blocking, repeats: take changes until there are none, `plan` a step, `perform` it (in a thread, or
not), `absorb` what came of it. An offset counts as taken when the next change is asked for; only taken offsets are
committed, and none above a gap that was not asked for yet: a change is handed out at least once.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, get_args

from streams._native import Records
from streams.client.broker import Ack, Reader, Run, Start, Writer
from streams.client.change import Change, M
from streams.client.held import HeldStates
from streams.client.resync import Ask, Asks
from streams.errors import Finding, SettingsError, TransportError
from streams.v1.resync_pb2 import Resync

__all__ = ["Follower", "OnGap", "Result", "Step", "perform"]

OnGap = Literal["snapshot", "wait"]

FETCH_RECORDS_MAX = 500
"""Records per step: small enough that a group's commit is never far behind, large enough to pay for a thread hop."""
SILENT_RECORDS_MAX = 256
"""Records worked through without a change before the shell gets to breathe: some milliseconds."""
COMMIT_INTERVAL_MS = 1_000
"""What a crash may hand out again is about this much."""
PAUSE_MS = 20
"""How long reading pauses for requests to be sent: at 500 a second ten of them go meanwhile."""
PATCHES = ".patches"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next with the broker, in this order: ask, commit, fetch, or pause where nothing is to be fetched."""

    asks: list[Ask] = field(default_factory=list)
    commit: dict[int, int] = field(default_factory=dict)
    records_max: int = 0
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step."""

    asked: list[Ask] = field(default_factory=list)
    committed: dict[int, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    assignment: frozenset[int] | None = None


class Follower(Generic[M]):
    """The order of steps of one receiver, and its place in every partition."""

    def __init__(
        self,
        topic: str,
        message_class: type[M],
        *,
        group: str | None,
        start: Start,
        on_gap: OnGap,
        resync_topic: str | None,
        snapshots_per_second_max: float,
    ) -> None:
        """Arguments as in `Receiver`. SettingsError when they do not go together."""
        findings = []
        if start not in get_args(Start):
            findings.append(Finding("start", repr(start), "group or earliest"))
        if on_gap not in get_args(OnGap):
            findings.append(Finding("on_gap", repr(on_gap), "snapshot or wait"))
        if on_gap == "snapshot" and resync_topic is None and not topic.endswith(PATCHES):
            cure = "name the owner's {source}.resync as resync_topic"
            findings.append(Finding("topic", topic, f"a name that ends with {PATCHES}, to know the source's", cure))
        if findings:
            raise SettingsError(*findings)
        self.requester = group or f"receiver-{uuid.uuid4()}"
        self.resync_topic = resync_topic or topic.removesuffix(PATCHES) + ".resync"
        self._asks = Asks(per_second_max=snapshots_per_second_max) if on_gap == "snapshot" else None
        self.held = HeldStates(message_class, requester=self.requester, asks=self._asks)
        self._commits = group is not None and start == "group"
        self._runs: deque[Run] = deque()
        self._index = 0  # of the next record in the first run
        self._lent: tuple[int, int] | None = None  # partition and offset of the change that is with the caller
        self._taken: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_due_ms = 0
        self._assignment: frozenset[int] = frozenset()
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
            if change is not None:
                self._lent = (run.partition, offset)
                return change
            self._taken[run.partition] = offset + 1
        return None

    def take(self) -> None:
        """The change that was handed out last is done with: its offset may be committed."""
        if self._lent is not None:
            partition, offset = self._lent
            self._taken[partition] = offset + 1
            self._lent = None

    @property
    def has_records(self) -> bool:
        """Whether fetched records wait to be worked through."""
        return bool(self._runs)

    def plan(self, now_ms: int, timeout_ms: int) -> Step:
        """The next step. Reading pauses while too many requests wait to be sent, so that none is lost."""
        due = self._asks.due(now_ms) if self._asks is not None else []
        commit = self.commits() if now_ms >= self._commit_due_ms else {}
        if commit:
            self._commit_due_ms = now_ms + COMMIT_INTERVAL_MS
        if self._asks is not None and self._asks.full:
            return Step(due, commit, timeout_ms=min(timeout_ms, PAUSE_MS))
        return Step(due, commit, FETCH_RECORDS_MAX, timeout_ms)

    def commits(self) -> dict[int, int]:
        """Per partition the offset to commit, where it moved."""
        if not self._commits:
            return {}
        moved = {}
        for partition, offset in self._taken.items():
            floor = self._asks.floor(partition) if self._asks is not None else None
            safe = offset if floor is None else min(offset, floor)
            if safe != self._committed.get(partition):
                moved[partition] = safe
        return moved

    def absorb(self, result: Result, now_ms: int) -> None:
        """Takes in what came of a step."""
        if self._asks is not None and result.asked:
            self._asks.asked(result.asked, now_ms)
            self.held.counts.snapshots_asked += len(result.asked)
        self._committed.update(result.committed)
        if result.assignment is not None:
            self._assignment = result.assignment
            for partition in [mine for mine in self._reached if mine not in result.assignment]:
                self._drop(partition)
        for run in result.runs:
            if result.assignment is not None and run.partition not in result.assignment:
                continue  # fetched just before it was moved
            if len(run.records):
                self._runs.append(run)
            else:
                self._reach(run.partition, run.end)

    @property
    def is_assigned(self) -> bool:
        """Whether this receiver has partitions; a member of a group waits for them, and may get none."""
        return bool(self._assignment)

    @property
    def stale_keys(self) -> int:
        """Keys that a snapshot is wanted or was asked for."""
        return 0 if self._asks is None else len(self._asks)

    def has_reached(self, ends: dict[int, int]) -> bool:
        """Whether every record below `ends`, per partition that is still this receiver's, was worked through."""
        return all(self._reached.get(mine, 0) >= end for mine, end in ends.items() if mine in self._assignment)

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
        for positions in (self._taken, self._committed, self._reached):
            positions.pop(partition, None)
        if self._lent is not None and self._lent[0] == partition:
            self._lent = None
        if self._runs and self._runs[0].partition == partition:
            self._index = 0
        self._runs = deque(run for run in self._runs if run.partition != partition)


def perform(step: Step, reader: Reader, writer: Callable[[], Writer], resync_topic: str, requester: str) -> Result:
    """Does one step's blocking calls. `writer` is called only when there is something to ask for.

    A request that cannot be sent for now is asked again with a later step; TransportError when it never can.
    """
    asked = _ask(step.asks, writer(), resync_topic, requester) if step.asks else []
    committed = dict(step.commit) if step.commit and reader.commit(step.commit) else {}
    if step.records_max == 0:
        time.sleep(step.timeout_ms / 1000)
        return Result(asked, committed)
    runs = reader.fetch(step.records_max, step.timeout_ms)
    return Result(asked, committed, runs, reader.assignment())


def _ask(asks: list[Ask], writer: Writer, topic: str, requester: str) -> list[Ask]:
    """Writes the requests, each on the partition of the patch that showed its gap; returns those that are durable."""
    by_partition: dict[int, list[Ask]] = {}
    for ask in asks:
        by_partition.setdefault(ask.partition, []).append(ask)
    sent = []
    for partition, group in by_partition.items():
        records = Records()
        for ask in group:
            request = Resync(requester=requester, epoch=ask.epoch, held_revision=ask.revision, reason=ask.reason)
            records.append(ask.key, request.SerializeToString())
        for ask, outcome in zip(group, writer.write(topic, records, partition), strict=True):
            if isinstance(outcome, Ack):
                sent.append(ask)
            elif not outcome.retriable:
                raise TransportError(
                    f"no snapshot can be asked for on {topic}: {outcome}; or receive with on_gap = 'wait'"
                ) from outcome
    return sent
