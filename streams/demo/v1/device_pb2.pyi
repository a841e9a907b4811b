from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Geo(_message.Message):
    __slots__ = ("lat", "lon", "accuracy")
    LAT_FIELD_NUMBER: _ClassVar[int]
    LON_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    lat: float
    lon: float
    accuracy: float
    def __init__(self, lat: _Optional[float] = ..., lon: _Optional[float] = ..., accuracy: _Optional[float] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("device_id", "tenant", "model", "firmware", "serial", "region", "owner_email", "status", "uptime_s", "rx_bytes", "tx_bytes", "rssi", "cpu", "mem", "temp_c", "battery", "online", "locked", "last_seen_us", "errors", "geo", "tags", "labels", "slots")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FIRMWARE_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    OWNER_EMAIL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    RX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    RSSI_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEM_FIELD_NUMBER: _ClassVar[int]
    TEMP_C_FIELD_NUMBER: _ClassVar[int]
    BATTERY_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_US_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    GEO_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    tenant: str
    model: str
    firmware: str
    serial: str
    region: str
    owner_email: str
    status: str
    uptime_s: int
    rx_bytes: int
    tx_bytes: int
    rssi: int
    cpu: float
    mem: float
    temp_c: float
    battery: float
    online: bool
    locked: bool
    last_seen_us: int
    errors: int
    geo: Geo
    tags: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, device_id: _Optional[str] = ..., tenant: _Optional[str] = ..., model: _Optional[str] = ..., firmware: _Optional[str] = ..., serial: _Optional[str] = ..., region: _Optional[str] = ..., owner_email: _Optional[str] = ..., status: _Optional[str] = ..., uptime_s: _Optional[int] = ..., rx_bytes: _Optional[int] = ..., tx_bytes: _Optional[int] = ..., rssi: _Optional[int] = ..., cpu: _Optional[float] = ..., mem: _Optional[float] = ..., temp_c: _Optional[float] = ..., battery: _Optional[float] = ..., online: bool = ..., locked: bool = ..., last_seen_us: _Optional[int] = ..., errors: _Optional[int] = ..., geo: _Optional[_Union[Geo, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., slots: _Optional[_Iterable[int]] = ...) -> None: ...
