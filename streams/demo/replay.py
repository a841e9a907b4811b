"""The same month in plain Python and Protobuf: what the receiver must hold in the end, and what full states cost.

This is the oracle behind "verified": it shares no code with the worker. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
from google.protobuf.json_format import MessageToDict

from streams.demo.flights import FlightEvent
from streams.demo.v1.aircraft_pb2 import AircraftState


@dataclass(slots=True)
class Replay:
    """The last state of each aircraft and the size of everything delivered, after the events that `add` was given."""

    events: int = 0
    duplicates: int = 0
    # Of every delivery as it would cross the wire, without its envelope.
    json_bytes: int = 0
    protobuf_bytes: int = 0
    # The deterministic Protobuf encoding of the last state by aircraft; canonical, since no field here is unknown.
    states: dict[str, bytes] = field(default_factory=dict)
    _sequences: dict[str, int] = field(default_factory=dict)
    _timetables: dict[str, int] = field(default_factory=dict)

    def add(self, event: FlightEvent) -> None:
        """Count one delivery and keep its state, unless the aircraft's sequence says that it came before."""
        encoded = event.state.SerializeToString(deterministic=True)
        self.events += 1
        self.protobuf_bytes += len(encoded)
        self.json_bytes += self._json_size(event)
        if event.sequence <= self._sequences.get(event.key, 0):
            self.duplicates += 1
            return
        self._sequences[event.key] = event.sequence
        self.states[event.key] = encoded

    def _json_size(self, event: FlightEvent) -> int:
        """Bytes of the state as JSON. An aircraft's timetable, which never changes, is written once, then counted."""
        rest = AircraftState()
        rest.CopyFrom(event.state)
        rest.ClearField("timetable")
        if event.key not in self._timetables:
            self._timetables[event.key] = _json(event.state) - _json(rest)
        return _json(rest) + self._timetables[event.key]

    def differences(self, held: dict[str, bytes]) -> int:
        """How many aircraft `held` has with other bytes than the replay; missing and extra ones count too."""
        return sum(self.states.get(key) != held.get(key) for key in self.states.keys() | held.keys())


def _json(state: AircraftState) -> int:
    return len(orjson.dumps(MessageToDict(state, preserving_proto_field_name=True)))
