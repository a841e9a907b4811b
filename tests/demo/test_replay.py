from __future__ import annotations

import orjson
from google.protobuf.json_format import MessageToDict, Parse

from streams.demo.flights import events
from streams.demo.replay import Replay
from streams.demo.v1.aircraft_pb2 import AircraftState


def test_the_replay_holds_the_last_state_of_each_aircraft() -> None:
    """A late repetition of an older state does not win over the newer one."""
    deliveries = list(events(limit=6000))
    assert any(event.repeated for event in deliveries)
    replay = Replay()
    for event in deliveries:
        replay.add(event)
    newest = {event.key: event for event in deliveries if not event.repeated}
    assert replay.states == {key: e.state.SerializeToString(deterministic=True) for key, e in newest.items()}
    assert replay.events == len(deliveries)
    assert replay.duplicates == sum(event.repeated for event in deliveries)


def test_sizes_count_every_delivery() -> None:
    """A retry crosses the wire too, so its bytes count once more."""
    event = next(iter(events(limit=1)))
    replay = Replay()
    replay.add(event)
    once = (replay.protobuf_bytes, replay.json_bytes)
    replay.add(event)
    assert (replay.protobuf_bytes, replay.json_bytes) == (2 * once[0], 2 * once[1])
    assert replay.duplicates == 1
    assert once[0] == event.state.ByteSize()


def test_states_survive_json() -> None:
    """The JSON that is counted says everything: each parses back to the same state, and all are counted in full."""
    replay, counted = Replay(), 0
    for event in events(limit=1000):
        replay.add(event)
        text = orjson.dumps(MessageToDict(event.state, preserving_proto_field_name=True))
        counted += len(text)
        assert Parse(text, AircraftState()) == event.state
    assert replay.json_bytes == counted


def test_differences_count_wrong_missing_and_extra() -> None:
    """Each aircraft whose bytes are not exactly the replay's counts once."""
    replay = Replay()
    for event in events(limit=50):
        replay.add(event)
    held = dict(replay.states)
    assert replay.differences(held) == 0
    keys = list(held)
    held[keys[0]] += b"\x00"
    del held[keys[1]]
    held["N0"] = b""
    assert replay.differences(held) == 3
