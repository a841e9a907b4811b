from streams.v1 import circuit_pb2 as _circuit_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcomes(_message.Message):
    __slots__ = ("target", "reporter", "ok", "failed", "slow", "throttled", "latency_us", "lease", "probes_ok", "probes_failed", "generation", "transition", "over", "exhausted", "waiting", "set_mode", "gone")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PROBES_OK_FIELD_NUMBER: _ClassVar[int]
    PROBES_FAILED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SET_MODE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    target: str
    reporter: str
    ok: int
    failed: int
    slow: int
    throttled: int
    latency_us: int
    lease: int
    probes_ok: int
    probes_failed: int
    generation: int
    transition: int
    over: bool
    exhausted: bool
    waiting: bool
    set_mode: _circuit_pb2.Circuit.Mode
    gone: bool
    def __init__(self, target: _Optional[str] = ..., reporter: _Optional[str] = ..., ok: _Optional[int] = ..., failed: _Optional[int] = ..., slow: _Optional[int] = ..., throttled: _Optional[int] = ..., latency_us: _Optional[int] = ..., lease: _Optional[int] = ..., probes_ok: _Optional[int] = ..., probes_failed: _Optional[int] = ..., generation: _Optional[int] = ..., transition: _Optional[int] = ..., over: bool = ..., exhausted: bool = ..., waiting: bool = ..., set_mode: _Optional[_Union[_circuit_pb2.Circuit.Mode, str]] = ..., gone: bool = ...) -> None: ...
