from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Circuit(_message.Message):
    __slots__ = ("target", "state", "mode", "generation", "transition", "open_ms", "trips", "reason", "failure_rate", "slow_rate", "calls", "leases")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Circuit.State]
        CLOSED: _ClassVar[Circuit.State]
        OPEN: _ClassVar[Circuit.State]
        HALF_OPEN: _ClassVar[Circuit.State]
    STATE_UNSPECIFIED: Circuit.State
    CLOSED: Circuit.State
    OPEN: Circuit.State
    HALF_OPEN: Circuit.State
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[Circuit.Mode]
        AUTOMATIC: _ClassVar[Circuit.Mode]
        FORCED_OPEN: _ClassVar[Circuit.Mode]
        FORCED_CLOSED: _ClassVar[Circuit.Mode]
        METRICS_ONLY: _ClassVar[Circuit.Mode]
    MODE_UNSPECIFIED: Circuit.Mode
    AUTOMATIC: Circuit.Mode
    FORCED_OPEN: Circuit.Mode
    FORCED_CLOSED: Circuit.Mode
    METRICS_ONLY: Circuit.Mode
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_FIELD_NUMBER: _ClassVar[int]
    OPEN_MS_FIELD_NUMBER: _ClassVar[int]
    TRIPS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_RATE_FIELD_NUMBER: _ClassVar[int]
    SLOW_RATE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    target: str
    state: Circuit.State
    mode: Circuit.Mode
    generation: int
    transition: int
    open_ms: int
    trips: int
    reason: str
    failure_rate: float
    slow_rate: float
    calls: int
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    def __init__(self, target: _Optional[str] = ..., state: _Optional[_Union[Circuit.State, str]] = ..., mode: _Optional[_Union[Circuit.Mode, str]] = ..., generation: _Optional[int] = ..., transition: _Optional[int] = ..., open_ms: _Optional[int] = ..., trips: _Optional[int] = ..., reason: _Optional[str] = ..., failure_rate: _Optional[float] = ..., slow_rate: _Optional[float] = ..., calls: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "reporter", "probes", "expires_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    reporter: str
    probes: int
    expires_ms: int
    def __init__(self, id: _Optional[int] = ..., reporter: _Optional[str] = ..., probes: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...
