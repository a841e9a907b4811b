"""Chunk: a run of consecutive records of one partition, and the one Faust event that carries it.

An agent over `app.chunks(...)` receives chunks instead of single events. Everything it sends while it works on a chunk,
and every keyed state it changed, belongs to that chunk and moves in one transaction with the chunk's offset. A chunk is
finished when every agent that reads its topic has asked for the next one. Each agent has a share of it: the same
records, its own sends. An agent that raised is offered parts of them again, the others are not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from faust.serializers.schemas import Schema
from typing_extensions import override

from streams._native import Records
from streams.errors import ChunkClosed, RecordTooLargeError, SendsTooLargeError
from streams.v1 import patch_pb2

__all__ = ["Chunk", "ChunkSchema", "Headers", "Output", "Participant", "Record", "parts", "record_bytes", "sizes"]


UNPACKED_BYTES_MAX = 32 << 20
"""What a chunk's compressed values may come to, or the answers to its requests: patches and rows are three times as
much, beside the 64 MB of a transaction. Of values that do not say their size 32 still make a chunk."""
OUTPUT_BYTES = 64
"""What a client holds beside the bytes of a record that waits to be sent: a million empty ones are no small
transaction."""


NONE_REFUSED: Mapping[str, int] = MappingProxyType({})
"""Of nearly every record."""

Headers = Sequence[tuple[str, bytes | None]]


class Output(NamedTuple):
    """Records for one topic; partition -1 leaves the choice to the key (murmur2, as the Java client does)."""

    topic: str
    partition: int
    records: Records


class Participant(Protocol):
    """Keyed state that a chunk changed. `mark` numbers the changes; a higher mark contains the lower ones."""

    def changelog(self, after: int, upto: int) -> Output | None:
        """Rows changed by the marks in (after, upto], last value per key, for the changelog topic."""
        ...

    def acknowledged(self) -> None:
        """Called when the changelog's rows are acknowledged, while the transaction can still be refused.

        No other worker owned the partition up to here, or it will be refused: what the changelog holds now is known.
        """
        ...

    def commit(self, upto: int) -> None:
        """Called after the transaction is confirmed: the rows of these marks are the state from now on."""
        ...

    @property
    def committed_mark(self) -> int:
        """The last mark that `commit` was called with; 0 in the beginning."""
        ...


class Record:
    """One record of a chunk, read from the chunk's memory when an attribute is asked for."""

    __slots__ = ("_index", "_patch", "_records")

    def __init__(self, records: Records, index: int) -> None:
        self._records = records
        self._index = index
        self._patch: patch_pb2.Patch | None = None

    @property
    def key(self) -> bytes | None:
        """The record key."""
        return self._records.key(self._index)

    @property
    def value(self) -> bytes | None:
        """The value as it came; None is a tombstone."""
        return self._records.value(self._index)

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Headers in their order."""
        return self._records.headers(self._index)

    @property
    def offset(self) -> int:
        """Offset in the partition."""
        return self._records.offset(self._index)

    @property
    def timestamp(self) -> float:
        """Seconds since the epoch."""
        return self._records.timestamp_ms(self._index) / 1000.0

    @property
    def patch(self) -> patch_pb2.Patch:
        """The value read as `streams.v1.Patch`; raises protobuf's DecodeError where it is none."""
        if self._patch is None:
            self._patch = patch_pb2.Patch.FromString(self.value or b"")
        return self._patch

    def changed(self, path: str) -> bool:
        """Whether the patch names this field path, one above it or one below it, or carries the whole message.

        A DELETE changes no field. Raises as `patch` does.
        """
        if self.patch.kind == patch_pb2.Patch.SNAPSHOT:
            return True
        return any(f"{path}.".startswith(f"{one}.") or one.startswith(f"{path}.") for one in self.patch.mask.paths)


class Chunk:
    """Consecutive records of one partition.

    `begin`: the position it was fetched at, where the chunk before it ended; its first record may lie above it
    (compaction, transaction markers). `generation`: the group generation that fetched it; `epoch`: counts the
    transport's rewinds. A chunk of an older epoch must not be committed: its records were, or will be, fetched again.
    """

    __slots__ = (
        "agent",
        "begin",
        "closed",
        "complete",
        "epoch",
        "finished",
        "generation",
        "last",
        "marks",
        "named",
        "outputs",
        "partition",
        "reached",
        "records",
        "refused",
        "row_bytes",
        "sends_max",
        "sent",
        "topic",
        "turn",
        "whole",
    )

    def __init__(
        self, topic: str, partition: int, begin: int, records: Records, *, generation: int, epoch: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.begin = begin
        self.records = records
        self.generation = generation
        self.epoch = epoch
        self.last = records.last_offset
        self.outputs: list[Output] = []
        self.marks: list[tuple[Participant, int]] = []
        self.named: set[str] = set()
        """Topics that its agent has sent to, one by one: it named them, and they may not exist."""
        self.complete = False
        """Every agent that reads it has finished it."""
        self.finished = 0
        """Agents that have finished it."""
        self.reached = 0
        """The record that an agent looked at last: a slow agent is told from a stalled one by it."""
        self.row_bytes = 0
        """Of the rows it changed, as they go to the changelog at most."""
        self.turn = 0
        """How often its partition had gone on after a stop when it was fetched."""
        self.refused = NONE_REFUSED
        """Where this chunk has one record: the topics that refused what came of it, and the bytes of the least record
        that each refused. It cannot be processed as before."""
        self.sent = 0
        """Bytes that its agent has sent, one by one."""
        self.sends_max = 0
        """How many it may send; 0: no limit."""
        self.whole: Chunk | None = None
        """The chunk that this is one agent's share of."""
        self.agent = ""
        self.closed = False
        """The agent is done with it, or has failed: nothing joins it any more."""

    @property
    def nbytes(self) -> int:
        """What it adds to a transaction: its own records, what was sent and the rows behind it."""
        sent = sum(output.records.nbytes + OUTPUT_BYTES * len(output.records) for output in self.outputs)
        return self.records.nbytes + sent + self.row_bytes

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        for index in range(len(self.records)):
            self.reached = index
            yield Record(self.records, index)

    def __repr__(self) -> str:
        return f"<Chunk {self.topic}/{self.partition} {self.records.first_offset}-{self.last}, {len(self)} records>"

    def share(self, agent: str, first: int = 0, end: int | None = None) -> Chunk:
        """These records for one agent, [first, end) or all of them, with sends of its own."""
        end = len(self) if end is None else end
        everything = (first, end) == (0, len(self))
        records = self.records if everything else self.records.slice(first, end)
        begin = self.records.offset(first - 1) + 1 if first else self.begin
        share = Chunk(self.topic, self.partition, begin, records, generation=self.generation, epoch=self.epoch)
        share.whole, share.agent = self, agent
        share.turn, share.refused = self.turn, self.refused
        return share

    def take_in(self, share: Chunk) -> None:
        """What an agent sent for its share belongs to this chunk."""
        self.outputs.extend(share.outputs)
        self.marks.extend(share.marks)
        self.row_bytes += share.row_bytes

    def _check_open(self) -> None:
        if self.closed:
            raise ChunkClosed(self.agent, self.topic, self.partition, self.last)

    def _check_size(self, topic: str, size: int) -> None:
        least = self.refused.get(topic)
        if least is not None and size >= least:
            raise RecordTooLargeError(topic, size, least - 1)

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        partition: int = -1,
        timestamp_ms: int = -1,
    ) -> None:
        """Adds one record to the chunk's transaction. ChunkClosed: the agent is done with it.

        RecordTooLargeError: the topic has refused one of this size. SendsTooLargeError: a transaction holds no more.
        """
        self._check_open()
        size = record_bytes(key, value, headers)
        self._check_size(topic, size)
        if self.sends_max and self.sent + size > self.sends_max:
            raise SendsTooLargeError(self.agent, self.topic, self.partition, self.last, len(self), self.sends_max)
        self.sent += size + OUTPUT_BYTES
        last = self.outputs[-1] if self.outputs else None
        if last is None or (last.topic, last.partition) != (topic, partition):
            last = Output(topic, partition, Records())
            self.outputs.append(last)
            self.named.add(topic)
        last.records.append(key, value, headers, timestamp_ms)

    def send_records(self, topic: str, partition: int, records: Records) -> None:
        """Adds a batch to the chunk's transaction; an empty batch adds nothing. ChunkClosed, RecordTooLargeError: as
        with `send`.
        """
        self._check_open()
        if topic in self.refused:
            for size in sizes(records):
                self._check_size(topic, size)
        if len(records):
            self.outputs.append(Output(topic, partition, records))

    def changed(self, participant: Participant, mark: int, row_bytes: int = 0) -> None:
        """Notes that `participant` holds uncommitted rows of this chunk under `mark`, of so many bytes."""
        self.marks.append((participant, mark))
        self.row_bytes += row_bytes


def record_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a record: key, value and headers."""
    return len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)


def sizes(records: Records) -> Iterator[int]:
    """Bytes of each record."""
    for index in range(len(records)):
        yield record_bytes(records.key(index), records.value(index), records.headers(index))


def parts(records: Records, each_max: int, *, requests: bool) -> Iterator[Records]:
    """The run, cut where more would come of it than a chunk may hold: nearly always it is one part."""
    cuts = records.cuts(UNPACKED_BYTES_MAX, each_max, requests=requests)
    if not cuts:
        yield records
        return
    for first, end in pairwise([0, *cuts, len(records)]):
        yield records.slice(first, end)


class ChunkSchema(Schema[Any, Any]):
    """Marks a topic as delivered in chunks: the event's value is the chunk itself, nothing is decoded."""

    requests: Collection[str] = ()
    """Topics whose records are requests for snapshots."""

    @override
    def compile(
        self,
        app: Any,
        *,
        on_key_decode_error: Any = None,
        on_value_decode_error: Any = None,
        default_propagate: bool = False,
    ) -> Callable[..., Any]:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode

    @override
    async def decode(self, app: Any, message: Any, *, propagate: bool = False) -> Any:
        return app.create_event(None, message.value, message.headers, message)
