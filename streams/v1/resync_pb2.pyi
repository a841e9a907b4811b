from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Resync(_message.Message):
    __slots__ = ("requester", "epoch", "held_revision", "reason", "topic_id", "partition", "offset")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Resync.Reason]
        GAP: _ClassVar[Resync.Reason]
        DIGEST_MISMATCH: _ClassVar[Resync.Reason]
        UNKNOWN_FIELD: _ClassVar[Resync.Reason]
        LATE_JOINER: _ClassVar[Resync.Reason]
        OPERATOR: _ClassVar[Resync.Reason]
    REASON_UNSPECIFIED: Resync.Reason
    GAP: Resync.Reason
    DIGEST_MISMATCH: Resync.Reason
    UNKNOWN_FIELD: Resync.Reason
    LATE_JOINER: Resync.Reason
    OPERATOR: Resync.Reason
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HELD_REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    requester: str
    epoch: int
    held_revision: int
    reason: Resync.Reason
    topic_id: bytes
    partition: int
    offset: int
    def __init__(self, requester: _Optional[str] = ..., epoch: _Optional[int] = ..., held_revision: _Optional[int] = ..., reason: _Optional[_Union[Resync.Reason, str]] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...
