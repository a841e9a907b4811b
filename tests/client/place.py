"""A broker as a test sees it, and an owner of entities on it: the native core between a topic and its patches."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message

from streams._native import Job, Records, Table
from streams.client.broker import Ack, Reader, ReaderOptions, WriterOptions
from streams.client.connect import open_reader, open_writer
from streams.client.event import Encoder, Event
from streams.kernel import reference
from streams.kernel.envelope import message_index
from streams.kernel.messages import descriptor_of
from streams.kernel.schema import MessageSchema
from streams.v1.patch_pb2 import Patch

Read = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""Partition, offset, key, value and headers of a record."""
EPOCH = 1_700_000_000_000


class Place:
    """One broker, Kafka or embedded; `source` and the topics that belong to it are this test's own."""

    def __init__(self, url: str, source: str) -> None:
        self.url = url
        self.source = source
        self.patches = f"{source}.patches"
        self.resync = f"{source}.resync"

    def __enter__(self) -> Self:
        self._writer = open_writer(self.url, WriterOptions(delivery_timeout_ms=20_000))
        self._encoder = Encoder("cloudevents", "/test", record_bytes_max=1_000_000)
        self._readers: dict[str, Reader] = {}
        self._reached: dict[str, dict[int, int]] = {}
        self._found: dict[str, list[Read]] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers.values():
            reader.close()
        self._writer.close()

    def create(self, *topics: str, partitions: int = 2) -> None:
        """Makes topics; without names the source and those that belong to it."""
        for topic in topics or (self.source, self.patches, self.resync):
            self._writer.create_topic(topic, partitions)

    def write(self, topic: str, records: Records, partition: int = -1) -> list[Ack]:
        """Writes records that must all be taken."""
        acks = [outcome for outcome in self._writer.write(topic, records, partition) if isinstance(outcome, Ack)]
        assert len(acks) == len(records)
        return acks

    def send(self, key: str, *states: Message | None) -> None:
        """Sends an entity's states to the source; None deletes."""
        records = Records()
        for state in states:
            records.append(*self._encoder.encode(self.source, Event(state, key)))
        self.write(self.source, records)

    def publish(self, *patches: Patch, headers: tuple[tuple[str, bytes], ...] = ()) -> list[Ack]:
        """Writes hand-made patches."""
        records = Records()
        for patch in patches:
            records.append(patch.key, patch.SerializeToString(), headers)
        return self.write(self.patches, records)

    def log(self, topic: str) -> bytes:
        """The id of a topic that was read before."""
        return self._readers[topic].log()

    def read(self, topic: str) -> list[Read]:
        """Every committed record of a topic."""
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = open_reader(self.url, topic, ReaderOptions())
            self._reached[topic], self._found[topic] = {}, []
        reached, found = self._reached[topic], self._found[topic]
        ends = reader.ends()
        while any(reached.get(partition, 0) < end for partition, end in ends.items()):
            for run in reader.fetch(10_000, 1_000):
                records, at = run.records, run.partition
                for i in range(len(records)):
                    found.append((at, records.offset(i), records.key(i), records.value(i), records.headers(i)))
                reached[at] = max(reached.get(at, 0), run.end, records.last_offset + 1)
        return found


def job_of(message_class: type[Message], source: str) -> Job:
    """The native core's job for one topic, with everything as it is by default."""
    schema = MessageSchema(message_class)
    return Job(
        schema.native,
        type=schema.full_name,
        fingerprint=schema.fingerprint,
        field_table=schema.field_table_bytes,
        source=source,
        key="record",
        sequence="attribute",
        format="auto",
        partitions=0,
        record_bytes_max=1_000_000,
        output_bytes_max=1_000_000 + 65_536,
        tombstone_retention_ms=1_000_000,
        schema_ids=[],
        message_index=message_index(descriptor_of(message_class)),
        sealed=False,
        canonicalise=schema.canonicalise,
    )


class Owner:
    """Keeps the entities of `place.source` with the native core and publishes their patches; without transactions."""

    def __init__(self, place: Place, message_class: type[Message], partitions: int = 2) -> None:
        self._place = place
        job = job_of(message_class, place.source)
        self._tables = [Table(job, partition) for partition in range(partitions)]
        place.read(place.patches)
        for table in self._tables:
            table.assigned(log=b"", output=place.log(place.patches), generation=None)
        self._done: dict[tuple[str, int], int] = {}

    def work(self, spoil: Callable[[Patch], Patch | None] = lambda patch: patch) -> int:
        """Takes new events and new requests; returns how many patches they gave. `spoil` damages or loses patches."""
        published = 0
        for topic in (self._place.source, self._place.resync):
            read = self._place.read(topic)
            for partition, table in enumerate(self._tables):
                records = Records()
                for at, offset, key, value, headers in read:
                    if at == partition and offset >= self._done.get((topic, partition), 0):
                        records.append(key, value, headers, EPOCH, offset)
                        self._done[topic, partition] = offset + 1
                if not len(records):
                    continue
                work = table.process if topic == self._place.source else table.snapshots
                step = work(records, EPOCH)
                assert (step.fatal, len(step.dead_letters)) == (None, 0)
                table.commit(step.mark)
                published += len(step.patches)
                self._place.write(self._place.patches, _spoiled(step.patches, spoil), partition)
        return published


def _spoiled(patches: Records, spoil: Callable[[Patch], Patch | None]) -> Records:
    """What is left of patches on a bad day."""
    left = Records()
    for i in range(len(patches)):
        patch = spoil(Patch.FromString(patches.value(i) or b""))
        if patch is not None:
            left.append(patches.key(i), patch.SerializeToString(), patches.headers(i))
    return left


class History:
    """The patches of one entity, revision by revision, and its canonical state after each."""

    def __init__(self, message_class: type[Message], key: bytes, epoch: int = EPOCH) -> None:
        self._schema = MessageSchema(message_class)
        self._class = message_class
        self._head: dict[str, Any] = {"key": key, "epoch": epoch, "schema": self._schema.fingerprint}
        self.patches: list[Patch] = []
        self.states: list[bytes | None] = [None]  # by revision; nothing before the first

    def add(self, message: Message | None) -> Patch:
        """One revision more; None deletes."""
        head = dict(self._head, revision=len(self.states), base_revision=len(self.states) - 1)
        before = self.states[-1]
        after = None if message is None else self._schema.canonicalise(message.SerializeToString())
        if after is None:
            patch = Patch(kind=Patch.DELETE, type=self._schema.full_name, **head)
        elif before is None:
            patch = reference.snapshot(self._class, after, **dict(head, base_revision=0))
        else:
            patch = reference.delta(self._class, before, after, **head)
        self.states.append(after)
        self.patches.append(patch)
        return patch

    def snapshot(self) -> Patch:
        """A snapshot on demand: the current revision once more."""
        state, head = self.states[-1], dict(self._head, revision=len(self.states) - 1)
        if state is None:
            return Patch(kind=Patch.DELETE, type=self._schema.full_name, **head)
        return reference.snapshot(self._class, state, **head)
