"""The user's part of the job, shared by the programs in Python: reading an event and comparing two devices."""

from __future__ import annotations

from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch

SEQUENCE_BYTES = 8
_FIELDS = [
    (field.name, field.message_type is None and not field.is_repeated) for field in DeviceState.DESCRIPTOR.fields
]
_NOTHING = DeviceState()


def read(value: bytes) -> tuple[str, int, bytes]:
    """Key, sequence and message of an event."""
    event = CloudEvent.FromString(value)
    attributes = event.attributes
    return attributes["subject"].ce_string, int(attributes["sequence"].ce_string), event.proto_data.value


def make_patch(key: str, sequence: int, base: int, old: DeviceState | None, new: DeviceState) -> Patch:
    """The fields of `new` that differ from `old`; without an old one, those that are set."""
    old = _NOTHING if old is None else old
    paths, part = [], DeviceState()
    for name, is_scalar in _FIELDS:
        value = getattr(new, name)
        if value != getattr(old, name):
            paths.append(name)
            if is_scalar:
                setattr(part, name, value)
            else:
                getattr(part, name).MergeFrom(value)
    patch = Patch(
        key=key.encode(), revision=sequence, base_revision=base, kind=Patch.DELTA, data=part.SerializeToString()
    )
    patch.mask.paths.extend(paths)
    return patch


def pack(sequence: int, message: bytes) -> bytes:
    """A held device as stored bytes, for systems that store bytes."""
    return sequence.to_bytes(SEQUENCE_BYTES, "big") + message


def unpack(stored: bytes) -> tuple[int, bytes]:
    """The sequence and the message of `pack`."""
    return int.from_bytes(stored[:SEQUENCE_BYTES], "big"), stored[SEQUENCE_BYTES:]
