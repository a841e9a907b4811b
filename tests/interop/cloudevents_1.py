"""Prints what the CloudEvents SDK for Python 1 writes for Kafka, a JSON object a line. Runs beside that SDK alone."""

import json

from cloudevents.http import CloudEvent
from cloudevents.kafka import KafkaMessage, to_binary, to_structured

MESSAGE = bytes.fromhex("0a056465762d3169000000000000e03f")
ATTRIBUTES = {"id": "e1", "source": "/ingest", "type": "device.changed", "subject": "dev-1", "sequence": "7"}
PROTOBUF = {"datacontenttype": "application/protobuf"}


def show(name: str, message: KafkaMessage) -> None:
    """One record."""
    value = None if message.value is None else bytes(message.value).hex()
    headers = [[name, bytes(held).hex()] for name, held in message.headers.items()]
    print(json.dumps({"name": f"cloudevents (PyPI) 1.13.0, {name}", "value": value, "headers": headers}))


def as_it_is(data: bytes) -> bytes:
    """What is bytes already."""
    return data


show("binary data", to_binary(CloudEvent(ATTRIBUTES | PROTOBUF, MESSAGE), data_marshaller=as_it_is))
show("binary empty", to_binary(CloudEvent(ATTRIBUTES | PROTOBUF, b""), data_marshaller=as_it_is))
show("structured data", to_structured(CloudEvent(ATTRIBUTES | PROTOBUF, MESSAGE)))
show("structured empty", to_structured(CloudEvent(ATTRIBUTES | PROTOBUF, b"")))
show("structured no content type", to_structured(CloudEvent(ATTRIBUTES, MESSAGE)))
show("structured none", to_structured(CloudEvent(ATTRIBUTES, None)))
