import datetime

from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Patch(_message.Message):
    __slots__ = ("key", "revision", "base_revision", "kind", "type", "mask", "data", "digest", "event_id", "event_source", "event_time", "traceparent", "sequence", "epoch", "schema", "tracestate", "numbers")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Patch.Kind]
        DELTA: _ClassVar[Patch.Kind]
        SNAPSHOT: _ClassVar[Patch.Kind]
        DELETE: _ClassVar[Patch.Kind]
    KIND_UNSPECIFIED: Patch.Kind
    DELTA: Patch.Kind
    SNAPSHOT: Patch.Kind
    DELETE: Patch.Kind
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    revision: int
    base_revision: int
    kind: Patch.Kind
    type: str
    mask: _field_mask_pb2.FieldMask
    data: bytes
    digest: int
    event_id: str
    event_source: str
    event_time: _timestamp_pb2.Timestamp
    traceparent: str
    sequence: int
    epoch: int
    schema: int
    tracestate: str
    numbers: _containers.RepeatedCompositeFieldContainer[FieldPath]
    def __init__(self, key: _Optional[bytes] = ..., revision: _Optional[int] = ..., base_revision: _Optional[int] = ..., kind: _Optional[_Union[Patch.Kind, str]] = ..., type: _Optional[str] = ..., mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., data: _Optional[bytes] = ..., digest: _Optional[int] = ..., event_id: _Optional[str] = ..., event_source: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ..., sequence: _Optional[int] = ..., epoch: _Optional[int] = ..., schema: _Optional[int] = ..., tracestate: _Optional[str] = ..., numbers: _Optional[_Iterable[_Union[FieldPath, _Mapping]]] = ...) -> None: ...

class PatchBatch(_message.Message):
    __slots__ = ("patches",)
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    patches: _containers.RepeatedCompositeFieldContainer[Patch]
    def __init__(self, patches: _Optional[_Iterable[_Union[Patch, _Mapping]]] = ...) -> None: ...

class FieldPath(_message.Message):
    __slots__ = ("numbers",)
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ...) -> None: ...
