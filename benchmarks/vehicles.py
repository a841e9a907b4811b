"""Vehicles of a city's transit as GTFS Realtime knows them: a third real schema, with what patches like least.

The message is `transit_realtime.FeedEntity` of GTFS Realtime 2.0 (MobilityData, Apache-2.0; the compiled schema is in
`schemas/`): a vehicle's position, and a list of the stops before it with the delay at each. A list is replaced whole by
a patch, and delays change often. The drives are made up, from a fixed seed: a report every 15 s, as feeds do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from google.protobuf.message import Message

from streams.kernel.messages import load_message

SCHEMA = Path(__file__).parent / "schemas" / "gtfs-realtime.binpb"
SEED = 7
REPORT_S = 15
STOPS = 24
STOP_S = 90
"""Between two stops, on time."""
START_S = 1_700_000_000
DELAY_CHANGE = 0.2
"""Share of reports with another delay; all later stops take it over."""


@cache
def message_class() -> type[Message]:
    """The class of the entity."""
    return load_message("transit_realtime.FeedEntity", descriptors=SCHEMA)


def states(vehicles: int, reports: int, seed: int = SEED) -> Iterator[tuple[bytes, Message]]:
    """Key and full state, report after report, all vehicles in turn. The message is changed by the next step."""
    random_ = random.Random(seed)
    entities = [_entity(random_, number) for number in range(vehicles)]
    for report in range(1, reports + 1):
        for entity in entities:
            _drive(random_, entity, START_S + report * REPORT_S)
            yield entity.id.encode(), entity


def _entity(random_: random.Random, number: int) -> Message:
    entity = message_class()(id=f"vehicle-{number:05d}")
    for trip in (entity.trip_update.trip, entity.vehicle.trip):
        trip.trip_id = f"2023-{number % 400:03d}-{number:05d}"
        trip.route_id = f"{number % 60}"
        trip.direction_id = number % 2
        trip.start_date = "20231114"
        trip.start_time = "22:13:20"
    entity.vehicle.vehicle.id = f"{number:05d}"
    entity.vehicle.vehicle.label = f"Bus {number}"
    entity.vehicle.position.latitude = 47 + random_.random()
    entity.vehicle.position.longitude = 8 + random_.random()
    entity.vehicle.current_stop_sequence = 1
    for sequence in range(1, STOPS + 1):
        stop = entity.trip_update.stop_time_update.add(stop_sequence=sequence)
        stop.stop_id = f"stop-{(number * 7 + sequence) % 900:04d}"
        stop.arrival.time = START_S + sequence * STOP_S
        stop.arrival.delay = 0
    return entity


def _drive(random_: random.Random, entity: Message, now_s: int) -> None:
    vehicle, update = entity.vehicle, entity.trip_update
    vehicle.position.latitude += (random_.random() - 0.5) * 0.002
    vehicle.position.longitude += (random_.random() - 0.5) * 0.002
    vehicle.position.bearing = random_.randrange(360)
    vehicle.position.speed = random_.randrange(15)
    vehicle.timestamp = now_s
    reached = min((now_s - START_S - update.delay) // STOP_S + 1, STOPS)
    if reached > vehicle.current_stop_sequence:
        vehicle.current_stop_sequence = reached
        vehicle.occupancy_status = random_.randrange(5)
    if random_.random() < DELAY_CHANGE:
        update.delay += random_.choice((-30, 15, 30))
        for stop in update.stop_time_update[vehicle.current_stop_sequence :]:
            stop.arrival.delay = update.delay
        update.timestamp = now_s
