"""Prints what confluent-kafka's ProtobufSerializer writes, a JSON object a line. Runs beside that client alone."""

import json

from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from streams.demo.v1.device_pb2 import DeviceState

for name, options in (("prefix", {}), ("header", {"schema.id.serializer": header_schema_id_serializer})):
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    serializer = ProtobufSerializer(DeviceState, registry, {"use.deprecated.format": False, **options})
    headers: list[tuple[str, bytes]] = []
    context = SerializationContext("devices", MessageField.VALUE, headers)
    value = serializer(DeviceState(device_id="dev-1", cpu=0.5), context)
    record = {"value": value.hex(), "headers": [[header, held.hex()] for header, held in headers]}
    print(json.dumps({"name": f"confluent-kafka (PyPI) 2.16.1, ProtobufSerializer, {name}", **record}))
