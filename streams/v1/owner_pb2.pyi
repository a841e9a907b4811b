from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Claim(_message.Message):
    __slots__ = ("output", "output_id", "app", "changelog", "precedes", "epoch", "claimed_ms")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ID_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    CHANGELOG_FIELD_NUMBER: _ClassVar[int]
    PRECEDES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_MS_FIELD_NUMBER: _ClassVar[int]
    output: str
    output_id: bytes
    app: str
    changelog: str
    precedes: bool
    epoch: int
    claimed_ms: int
    def __init__(self, output: _Optional[str] = ..., output_id: _Optional[bytes] = ..., app: _Optional[str] = ..., changelog: _Optional[str] = ..., precedes: bool = ..., epoch: _Optional[int] = ..., claimed_ms: _Optional[int] = ...) -> None: ...

class Incarnation(_message.Message):
    __slots__ = ("app", "instance", "incarnation", "to", "host")
    APP_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    app: str
    instance: str
    incarnation: str
    to: str
    host: str
    def __init__(self, app: _Optional[str] = ..., instance: _Optional[str] = ..., incarnation: _Optional[str] = ..., to: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...
