"""How an event travels in a Kafka record: built here for producers, and recognised as the worker's native core does.

Formats: a CloudEvent as one Protobuf message (structured) or as JSON, a CloudEvent in headers (binary), Confluent
framing, plain Protobuf. Sources: CloudEvents Kafka protocol binding 1.0.2, Protobuf event format 1.0.2 and sequence
extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streams.kernel.attributes import sequence_number
from streams.kernel.cloudevents import SPEC_VERSION, STRUCTURED
from streams.kernel.confluent import confluent_prefix, message_index
from streams.kernel.recognition import Headers, Recognised, Rules, recognise
from streams.v1.cloudevents_pb2 import CloudEvent

__all__ = [
    "TRACEPARENT",
    "Event",
    "Headers",
    "Recognised",
    "Rules",
    "binary",
    "confluent_prefix",
    "message_index",
    "recognise",
    "sequence_number",
    "structured",
]

CONTENT_TYPE = "content-type"
PROTOBUF = b"application/protobuf"
TRACEPARENT = "traceparent"


@dataclass(frozen=True, slots=True)
class Event:
    """One event and its CloudEvents attributes; empty text and None: not given. `data` None deletes the entity."""

    id: str
    source: str
    type: str
    data: bytes | None
    subject: str = ""
    time: datetime | None = None
    sequence: int | None = None
    traceparent: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Further attributes, each a name of lower-case letters and digits."""


def structured(event: Event) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return value and headers of a record that carries `event` as one Protobuf message.

    An event without data has no structured form (its record would not say DELETE to every reader): ValueError, use
    `binary`.
    """
    if event.data is None:
        raise ValueError("a structured CloudEvent needs data; send a DELETE in binary mode, without a value")
    message = CloudEvent(
        id=event.id, source=event.source, spec_version=SPEC_VERSION, type=event.type, binary_data=event.data
    )
    attributes = message.attributes
    if event.subject:
        attributes["subject"].ce_string = event.subject
    if event.time is not None:
        attributes["time"].ce_timestamp.FromDatetime(event.time)
    if event.sequence is not None:
        attributes["sequence"].ce_string = str(event.sequence)
    if event.traceparent:
        attributes["traceparent"].ce_string = event.traceparent
    for name, text in event.extensions.items():
        attributes[name].ce_string = text
    return message.SerializeToString(), [(CONTENT_TYPE, STRUCTURED)]


def binary(event: Event) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """Return value and headers of a record that carries `event` in binary mode; without data the value is None."""
    attributes = {"specversion": SPEC_VERSION, "id": event.id, "source": event.source, "type": event.type}
    if event.subject:
        attributes["subject"] = event.subject
    if event.time is not None:
        attributes["time"] = event.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if event.sequence is not None:
        attributes["sequence"] = str(event.sequence)
    if event.traceparent:
        attributes["traceparent"] = event.traceparent
    headers = [(f"ce_{name}", text.encode()) for name, text in {**attributes, **event.extensions}.items()]
    if event.data is not None:
        headers.append((CONTENT_TYPE, PROTOBUF))
    return event.data, headers
