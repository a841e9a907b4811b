import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Position(_message.Message):
    __slots__ = ("airport", "lat", "lon", "altitude_ft")
    AIRPORT_FIELD_NUMBER: _ClassVar[int]
    LAT_FIELD_NUMBER: _ClassVar[int]
    LON_FIELD_NUMBER: _ClassVar[int]
    ALTITUDE_FT_FIELD_NUMBER: _ClassVar[int]
    airport: str
    lat: float
    lon: float
    altitude_ft: int
    def __init__(self, airport: _Optional[str] = ..., lat: _Optional[float] = ..., lon: _Optional[float] = ..., altitude_ft: _Optional[int] = ...) -> None: ...

class PlannedFlight(_message.Message):
    __slots__ = ("carrier", "flight_number", "origin", "destination", "scheduled_departure")
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_DEPARTURE_FIELD_NUMBER: _ClassVar[int]
    carrier: str
    flight_number: int
    origin: str
    destination: str
    scheduled_departure: _timestamp_pb2.Timestamp
    def __init__(self, carrier: _Optional[str] = ..., flight_number: _Optional[int] = ..., origin: _Optional[str] = ..., destination: _Optional[str] = ..., scheduled_departure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AircraftState(_message.Message):
    __slots__ = ("tail_number", "phase", "position", "carrier", "carrier_name", "flight_number", "origin", "destination", "scheduled_departure", "actual_departure", "scheduled_arrival", "actual_arrival", "departure_delay_minutes", "arrival_delay_minutes", "air_time_minutes", "distance_miles", "flights", "delayed_flights", "cancelled_flights", "total_minutes", "total_miles", "year", "airframe_type", "manufacturer", "model", "engines", "seats", "engine", "recent_airports", "minutes_by_airport", "timetable")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[AircraftState.Phase]
        ON_GROUND: _ClassVar[AircraftState.Phase]
        AIRBORNE: _ClassVar[AircraftState.Phase]
    PHASE_UNSPECIFIED: AircraftState.Phase
    ON_GROUND: AircraftState.Phase
    AIRBORNE: AircraftState.Phase
    class MinutesByAirportEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TAIL_NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    CARRIER_NAME_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_DEPARTURE_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_DEPARTURE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    DEPARTURE_DELAY_MINUTES_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_DELAY_MINUTES_FIELD_NUMBER: _ClassVar[int]
    AIR_TIME_MINUTES_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_MILES_FIELD_NUMBER: _ClassVar[int]
    FLIGHTS_FIELD_NUMBER: _ClassVar[int]
    DELAYED_FLIGHTS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FLIGHTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MINUTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MILES_FIELD_NUMBER: _ClassVar[int]
    YEAR_FIELD_NUMBER: _ClassVar[int]
    AIRFRAME_TYPE_FIELD_NUMBER: _ClassVar[int]
    MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RECENT_AIRPORTS_FIELD_NUMBER: _ClassVar[int]
    MINUTES_BY_AIRPORT_FIELD_NUMBER: _ClassVar[int]
    TIMETABLE_FIELD_NUMBER: _ClassVar[int]
    tail_number: str
    phase: AircraftState.Phase
    position: Position
    carrier: str
    carrier_name: str
    flight_number: int
    origin: str
    destination: str
    scheduled_departure: _timestamp_pb2.Timestamp
    actual_departure: _timestamp_pb2.Timestamp
    scheduled_arrival: _timestamp_pb2.Timestamp
    actual_arrival: _timestamp_pb2.Timestamp
    departure_delay_minutes: int
    arrival_delay_minutes: int
    air_time_minutes: int
    distance_miles: int
    flights: int
    delayed_flights: int
    cancelled_flights: int
    total_minutes: int
    total_miles: int
    year: int
    airframe_type: str
    manufacturer: str
    model: str
    engines: int
    seats: int
    engine: str
    recent_airports: _containers.RepeatedScalarFieldContainer[str]
    minutes_by_airport: _containers.ScalarMap[str, int]
    timetable: _containers.RepeatedCompositeFieldContainer[PlannedFlight]
    def __init__(self, tail_number: _Optional[str] = ..., phase: _Optional[_Union[AircraftState.Phase, str]] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., carrier: _Optional[str] = ..., carrier_name: _Optional[str] = ..., flight_number: _Optional[int] = ..., origin: _Optional[str] = ..., destination: _Optional[str] = ..., scheduled_departure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actual_departure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scheduled_arrival: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actual_arrival: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., departure_delay_minutes: _Optional[int] = ..., arrival_delay_minutes: _Optional[int] = ..., air_time_minutes: _Optional[int] = ..., distance_miles: _Optional[int] = ..., flights: _Optional[int] = ..., delayed_flights: _Optional[int] = ..., cancelled_flights: _Optional[int] = ..., total_minutes: _Optional[int] = ..., total_miles: _Optional[int] = ..., year: _Optional[int] = ..., airframe_type: _Optional[str] = ..., manufacturer: _Optional[str] = ..., model: _Optional[str] = ..., engines: _Optional[int] = ..., seats: _Optional[int] = ..., engine: _Optional[str] = ..., recent_airports: _Optional[_Iterable[str]] = ..., minutes_by_airport: _Optional[_Mapping[str, int]] = ..., timetable: _Optional[_Iterable[_Union[PlannedFlight, _Mapping]]] = ...) -> None: ...
