from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Dictionary(_message.Message):
    __slots__ = ("id", "type", "content", "sha256", "created_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    type: str
    content: bytes
    sha256: bytes
    created_ms: int
    def __init__(self, id: _Optional[int] = ..., type: _Optional[str] = ..., content: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., created_ms: _Optional[int] = ...) -> None: ...
