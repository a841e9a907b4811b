"""A log of devices' patches as their owner would write it, with the native kernel, and a receiver that applies them."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams._native import Records, encode_patch, xxh3_64
from streams.client.held import HeldStates
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.rule import DELETE, DELTA, SNAPSHOT
from streams.kernel.schema import MessageSchema
from streams.v1.patch_pb2 import Patch

SCHEMA = MessageSchema(DeviceState)
REQUESTER = b"fleet/billing"
DAMAGED = b"\xff\xff"

Header = tuple[str, bytes]


@dataclass(frozen=True)
class Logged:
    """One record, and the place in its key's history that it stands for."""

    offset: int
    key: bytes
    value: bytes | None
    kind: int
    reached: tuple[int, int]
    headers: tuple[Header, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Whether another requester asked for it."""
        return any(name == "resync-for" and value != REQUESTER for name, value in self.headers)


@dataclass
class Owner:
    """The states of devices and the log of their patches; keys are parted by their last byte."""

    partitions: int = 1
    logs: dict[int, list[Logged]] = field(default_factory=dict)
    states: dict[bytes, bytes | None] = field(default_factory=dict)
    reached: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def partition(self, key: bytes) -> int:
        """Where a key is."""
        return key[-1] % self.partitions

    def log(self, partition: int) -> list[Logged]:
        """The records of a partition."""
        return self.logs.setdefault(partition, [])

    def end(self, partition: int) -> int:
        """The offset after the last record."""
        log = self.log(partition)
        return log[-1].offset + 1 if log else 0

    def change(self, key: bytes, *, lost: bool = False, damaged: bool = False, **fields: object) -> bytes:
        """Sets fields of a device; the first change makes it. Returns the patch, which a lost one has no record of."""
        before = self.states.get(key)
        message = DeviceState.FromString(before or b"")
        message.device_id = key.decode()
        for name, value in fields.items():
            setattr(message, name, value)
        state = SCHEMA.canonicalise(message.SerializeToString())
        assert state is not None
        epoch, revision = self.reached.get(key, (1_000, 0))
        self.states[key], self.reached[key] = state, (epoch, revision + 1)
        if before is None:
            return self._write(key, SNAPSHOT, [], state, 0, lost=lost, damaged=damaged)
        diff = SCHEMA.native.diff(before, state)
        assert diff is not None
        _, paths, data = diff
        return self._write(key, DELTA, paths, data, revision, lost=lost, damaged=damaged)

    def delete(self, key: bytes) -> bytes:
        """The device is gone."""
        epoch, revision = self.reached[key]
        self.states[key], self.reached[key] = None, (epoch, revision + 1)
        return self._write(key, DELETE, [], b"", revision)

    def forget(self, key: bytes) -> None:
        """The tombstone goes: a new device of this key starts a new epoch."""
        assert self.states[key] is None
        self.reached[key] = (self.reached[key][0] + 1, 0)

    def answer(self, key: bytes, requester: bytes = REQUESTER) -> bytes:
        """The current revision once more, because somebody asked for it."""
        state, headers = self.states[key], (("resync-for", requester),)
        if state is None:
            return self._write(key, DELETE, [], b"", self.reached[key][1] - 1, headers)
        return self._write(key, SNAPSHOT, [], state, 0, headers)

    def _write(
        self,
        key: bytes,
        kind: int,
        paths: list[str],
        data: bytes,
        base_revision: int,
        headers: tuple[Header, ...] = (),
        *,
        lost: bool = False,
        damaged: bool = False,
    ) -> bytes:
        epoch, revision = self.reached[key]
        state = self.states[key]
        patch = encode_patch(
            key=key,
            revision=revision,
            base_revision=base_revision,
            kind=kind,
            type="streams.demo.v1.DeviceState",
            paths=["*"] if kind == SNAPSHOT else paths,
            data=data,
            digest=0 if state is None else xxh3_64(state),
            event_id="",
            event_source="",
            event_time_us=None,
            traceparent="",
            sequence=0,
            epoch=epoch,
            schema=SCHEMA.fingerprint,
        )
        if not lost:
            partition = self.partition(key)
            # Every fourth offset is a transaction's marker, which no reader ever sees.
            offset = self.end(partition)
            offset += offset % 4 == 3
            value = DAMAGED if damaged else patch
            self.log(partition).append(Logged(offset, key, value, kind, (epoch, revision), headers))
        return patch


def records(logged: list[Logged]) -> Records:
    """A chunk of these records."""
    chunk = Records()
    for record in logged:
        chunk.append(record.key, record.value, record.headers, 1_700_000_000_000, record.offset)
    return chunk


class Receiver:
    """A receiver by DESIGN's rule, with what it would answer."""

    def __init__(self) -> None:
        self.held = HeldStates(DeviceState, requester="nobody", asks=None)

    def apply(self, key: bytes, patches: list[bytes]) -> bool:
        """Applies what a request carries of one key; False: it cannot go on without a snapshot."""
        fine = True
        for patch in patches:
            self.held.take(0, 0, key, patch)
            if patch == DAMAGED:
                fine = False
                continue
            read = Patch.FromString(patch)
            have = self.held.revision(read.key)
            fine = (fine or read.kind != DELTA) and have is not None and have >= (read.epoch, read.revision)
        return fine

    def reached(self, key: bytes) -> tuple[int, int]:
        """How far a key is here."""
        return self.held.revision(key) or (0, 0)
