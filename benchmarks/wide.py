"""A message of any size, and events of it by the million: what `scaling` varies.

`benchmarks.Wide` has its key and twenty text fields; how long they are, how many of them change from one event of a key
to the next, and how many events are repeated, are arguments. Made as bytes: two microseconds an event, where Protobuf's
own messages take fifty. Thirty-two sets of texts are shared by all keys, so that compression finds about what it would
in a real fleet.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from streams._native import Records

SEED = 7
FIELDS = 20
PERSONAS = 32
VERSIONS = 8
"""Texts of a changing field before the first comes again; never the one before."""
BATCH_RECORDS = 4_000
KEY_BYTES = 10
CLOUD_EVENT: list[tuple[str, bytes | None]] = [("ce_specversion", b"1.0"), ("ce_source", b"/bench")]

Event = tuple[bytes, bytes, list[tuple[str, bytes | None]]]


@cache
def message_class() -> type[Message]:
    """The class, in a pool of its own."""
    file = FileDescriptorProto(name="benchmarks/wide.proto", package="benchmarks", syntax="proto3")
    message = file.message_type.add(name="Wide")
    for number in range(1, FIELDS + 2):
        name = "id" if number == 1 else f"f{number - 1:02d}"
        message.field.add(
            name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
        )
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("benchmarks.Wide"))


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: first one event for each key (unless they are there `already`), then `events` of random keys."""

    keys: int
    events: int
    message_bytes: int = 300
    changed: float = 0.1
    """Share of the fields that differ from one event of a key to the next."""
    duplicates: float = 0.0
    """Share of the events that repeat the key's last one; they come as CloudEvents then, to be known by their id."""
    already: bool = False

    @property
    def total(self) -> int:
        """Records in the source topic."""
        return self.events + (0 if self.already else self.keys)

    @property
    def record_bytes(self) -> int:
        """About what one record takes in the topic, uncompressed."""
        return self.message_bytes + KEY_BYTES + (80 if self.duplicates else 0)


def text_bytes(message_bytes: int) -> int:
    """How long each field's text is, for the message to be about so long."""
    tags_and_lengths = FIELDS * 2 + 5 + KEY_BYTES
    return max(1, (message_bytes - tags_and_lengths) // FIELDS)


def key(number: int) -> bytes:
    """The key of an entity."""
    return b"%010d" % number


def _tails(load: Load) -> list[list[bytes]]:
    """Everything of a message but its key, by persona and version."""
    random_ = random.Random(SEED)
    size, changing = text_bytes(load.message_bytes), round(FIELDS * load.changed)
    return [
        [_fields(texts, changing, version) for version in range(VERSIONS)]
        for texts in ([f"{random_.getrandbits(size * 4):x}".rjust(size, "0") for _ in range(FIELDS)]
                      for _ in range(PERSONAS))
    ]  # fmt: skip


def _fields(texts: list[str], changing: int, version: int) -> bytes:
    message = message_class()()
    for number, text in enumerate(texts):
        setattr(message, f"f{number + 1:02d}", f"{version}{text[1:]}" if number < changing else text)
    return message.SerializeToString(deterministic=True)


def created(load: Load) -> Iterator[Event]:
    """The first event of each key."""
    tails = _tails(load)
    for number in range(load.keys):
        name = key(number)
        yield name, b"\n\n" + name + tails[number % PERSONAS][0], _headers(load, number, 0)


def events(load: Load) -> Iterator[Event]:
    """All events in their order."""
    if not load.already:
        yield from created(load)
    random_, tails, versions = random.Random(SEED), _tails(load), bytearray(load.keys)
    # A key's versions are counted in a byte; its ids are made of where it stands in the whole.
    ids: dict[int, int] = {}
    for place in range(1, load.events + 1):
        number = int(random_.random() * load.keys)
        if load.duplicates and random_.random() < load.duplicates:
            id_ = ids.get(number, 0)
        else:
            versions[number] = (versions[number] + 1) % VERSIONS
            id_ = place
            if load.duplicates:
                ids[number] = place
        name = key(number)
        yield name, b"\n\n" + name + tails[number % PERSONAS][versions[number]], _headers(load, number, id_)


def _headers(load: Load, number: int, place: int) -> list[tuple[str, bytes | None]]:
    if not load.duplicates:
        return []
    return [*CLOUD_EVENT, ("ce_id", b"%d-%d" % (number, place)), ("ce_type", b"benchmarks.Wide")]


def patches(load: Load) -> int:
    """How many patches these events make."""
    made = 0 if load.already else load.keys
    if round(FIELDS * load.changed) == 0:
        return made
    if not load.duplicates:
        return made + load.events
    random_ = random.Random(SEED)
    for _ in range(load.events):
        random_.random()
        made += random_.random() >= load.duplicates
    return made


def batches(source: Iterator[Event], offset: int | None = None) -> Iterator[Records]:
    """The events in batches; `offset`: all of them get this one."""
    batch = Records()
    for name, value, headers in source:
        batch.append(name, value, headers, -1, -1 if offset is None else offset)
        if len(batch) == BATCH_RECORDS:
            yield batch
            batch = Records()
    if len(batch):
        yield batch
