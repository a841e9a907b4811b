"""Prints what the CloudEvents SDK for Python 2 writes for Kafka, a JSON object a line. Runs beside that SDK alone."""

import json
from datetime import UTC, datetime

from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

MESSAGE = bytes.fromhex("0a056465762d3169000000000000e03f")
ATTRIBUTES = {"id": "e1", "source": "/ingest", "type": "device.changed", "specversion": "1.0", "sequence": "7"}
ATTRIBUTES |= {"subject": "dev-1", "time": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)}
PROTOBUF = {"datacontenttype": "application/protobuf"}

for name, attributes, data in (
    ("data", ATTRIBUTES | PROTOBUF, MESSAGE),
    ("none", ATTRIBUTES, None),
    ("empty", ATTRIBUTES | PROTOBUF, b""),
):
    for mode, write in (("binary", to_binary), ("structured", to_structured)):
        message = write(CloudEvent(attributes, data), JSONFormat())
        value = None if message.value is None else bytes(message.value).hex()
        headers = [[header, bytes(held).hex()] for header, held in message.headers.items()]
        print(json.dumps({"name": f"cloudevents (PyPI) 2.2.0, {mode} {name}", "value": value, "headers": headers}))
