"""One step of a receiver: what is to be done with broker and store, and the blocking calls that do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from streams._native import Records
from streams.client.beginning import Bounds
from streams.client.broker import Ack, Reader, Run, Writer
from streams.client.kept import Kept, Loaded, Save
from streams.client.resync import Ask
from streams.errors import TransportError
from streams.v1.resync_pb2 import Resync

__all__ = ["Result", "Step", "perform", "settle"]

RESYNC_ALL = "resync-all"
"""Header of a request that goes to every partition: only who has the key answers."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next with broker and store, in this order: look, load, seek, ask, save, commit, fetch, or pause where
    nothing is to be fetched.

    `look`: partitions whose bounds are wanted; `load` of these also what is stored of them. `check`: whose log it is.
    """

    look: frozenset[int] = frozenset()
    check: bool = False
    seek: dict[int, int] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    save: Save | None = None
    commit: dict[int, int] = field(default_factory=dict)
    log: bytes = b""
    """Id of the topic that offsets count in, as of the last look."""
    records_max: int = 0
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step."""

    asked: list[Ask] = field(default_factory=list)
    saved: Save | None = None
    committed: dict[int, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    assignment: frozenset[int] | None = None
    membership: tuple[str, int] = ("", -1)
    bounds: dict[int, Bounds] = field(default_factory=dict)
    loaded: dict[int, Loaded] = field(default_factory=dict)
    sought: dict[int, int] = field(default_factory=dict)
    log: bytes | None = None
    error: TransportError | None = None
    """Why no more was read; everything else of the step was done."""


def perform(
    step: Step, reader: Reader, writer: Callable[[], Writer], kept: Kept | None, resync_topic: str, requester: str
) -> Result:
    """Does one step's blocking calls. `writer` is called only when there is something to ask for.

    A request that cannot be sent for now is asked again with a later step; TransportError when it never can.
    """
    bounds = reader.bounds(step.look) if step.look else {}
    loaded = {partition: kept.load(partition) for partition in bounds} if kept is not None else {}
    sought = step.seek if step.seek and reader.seek(step.seek) else {}
    asked = _ask(step.asks, writer(), step.log, resync_topic, requester) if step.asks else []
    committed = settle(step, reader, kept)
    result = Result(asked, step.save, committed, bounds=bounds, loaded=loaded, sought=sought)
    if step.check:
        result = replace(result, log=reader.log())
    if step.records_max == 0:
        time.sleep(step.timeout_ms / 1000)
        return result
    try:
        result = replace(result, runs=reader.fetch(step.records_max, step.timeout_ms))
    except TransportError as error:
        result = replace(result, error=error)
    return replace(result, assignment=reader.assignment(), membership=reader.membership())


def settle(step: Step, reader: Reader, kept: Kept | None) -> dict[int, int]:
    """Saves, then commits; what was committed. Never the other way round: what is committed is not read again."""
    if step.save is not None and kept is not None:
        kept.save(step.save)
    return dict(step.commit) if step.commit and reader.commit(step.commit, step.log) else {}


def _ask(asks: list[Ask], writer: Writer, log: bytes, topic: str, requester: str) -> list[Ask]:
    """Writes the requests, each on the partition of the patch that showed its gap; returns those that are durable.

    One about a key that nothing is held of goes to every partition where the key may be.
    """
    by_partition: dict[int, list[Ask]] = {}
    for ask in asks:
        for partition in ask.everywhere or (ask.partition,):
            by_partition.setdefault(partition, []).append(ask)
    sent = []
    for partition, group in by_partition.items():
        records = Records()
        for ask in group:
            request = Resync(requester=requester, epoch=ask.epoch, held_revision=ask.revision, reason=ask.reason)
            if ask.partition >= 0:  # the key's patches are there: an owner that has no row of it says that it is gone
                request.topic_id, request.partition, request.offset = log, ask.partition, max(ask.offset, 0)
            records.append(ask.key, request.SerializeToString(), [(RESYNC_ALL, b"")] if ask.everywhere else ())
        for ask, outcome in zip(group, writer.write(topic, records, partition), strict=True):
            if isinstance(outcome, Ack):
                sent.append(ask)
            elif not outcome.retriable and ask.is_use:
                sent.append(ask)  # who only looks at a key is not stopped by that; it is asked again later
            elif not outcome.retriable:
                raise TransportError(
                    f"no snapshot can be asked for on {topic}: {outcome}; or receive with on_gap = 'wait'"
                ) from outcome
    return sent
