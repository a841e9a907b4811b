"""One month of real flights as full-state events of their aircraft: pure and deterministic.

A flight is two events of its aircraft, `departed` and `arrived`, or one, `cancelled`. Each carries the complete
`AircraftState` as it is known from then on, from the airframe to the month's timetable. Events come in the order in
which they happened, across all aircraft. About one in twenty is delivered again a little later, byte for byte: the
retries of a webhook storm.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

from streams.demo.v1.aircraft_pb2 import AircraftState, PlannedFlight

DATA = Path(__file__).with_name("data")
MONTH = "flights-2013-01.csv.gz"

DUPLICATE_SHARE = 0.05
# A retry comes after up to this many other events: far enough to arrive behind newer events of the same aircraft.
DUPLICATE_DELAY_MAX = 2000
DUPLICATE_SEED = 2013

# The US Department of Transportation counts an arrival as late from here on.
DELAYED_MINUTES = 15
# Keeps a state small; an aircraft of this data touches New York every second time.
RECENT_AIRPORTS_MAX = 8

_DAY_MINUTES = 24 * 60
# The destinations that the airports table lacks are in Puerto Rico and the US Virgin Islands: Atlantic time, all year.
_UNLISTED_OFFSET_MINUTES = -4 * 60

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Flight:
    """One row of the flights table. Times are minutes since 1970 in UTC; None is what the row does not tell."""

    tail_number: str
    carrier: str
    number: int
    origin: str
    destination: str
    distance_miles: int
    scheduled_departure: int
    scheduled_arrival: int
    departure: int | None
    arrival: int | None
    departure_delay_minutes: int | None
    arrival_delay_minutes: int | None
    air_time_minutes: int | None


@dataclass(frozen=True, slots=True)
class Tables:
    """What the flights refer to, each by its key."""

    planes: dict[str, Row]
    airports: dict[str, Row]
    airlines: dict[str, Row]


@dataclass(frozen=True, slots=True)
class FlightEvent:
    """One delivery of one event. `id` and `sequence` are the same again in a repeated delivery."""

    id: str
    key: str
    sequence: int
    type: str
    time: datetime
    state: AircraftState
    repeated: bool = False


def events(limit: int | None = None) -> Iterator[FlightEvent]:
    """The month as deliveries in order of arrival, repetitions included; at most `limit` of them."""
    return islice(with_repetitions(state_changes(read_flights(), read_tables())), limit)


def read_flights(data: Path = DATA) -> list[Flight]:
    """The flights of the month as shipped, in the order of the file."""
    offsets = {code: int(row["tz"]) * 60 for code, row in read_tables(data).airports.items()}
    return [_flight(row, offsets.get(row["dest"], _UNLISTED_OFFSET_MINUTES)) for row in _rows(data / MONTH)]


def read_tables(data: Path = DATA) -> Tables:
    """The aircraft, airports and airlines that the flights mention, as far as the source lists them."""
    return Tables(
        planes={row["tailnum"]: row for row in _rows(data / "planes.csv.gz")},
        airports={row["faa"]: row for row in _rows(data / "airports.csv.gz")},
        airlines={row["carrier"]: row for row in _rows(data / "airlines.csv.gz")},
    )


def state_changes(flights: Iterable[Flight], tables: Tables) -> Iterator[FlightEvent]:
    """Every flight as events of its aircraft, each once, in the order in which they happened."""
    flights = list(flights)
    timetables = _timetables(flights)
    states: dict[str, AircraftState] = {}
    sequences: dict[str, int] = defaultdict(int)
    for minute, tail_number, type_, flight in sorted(_moments(flights), key=lambda moment: moment[:3]):
        state = states.get(tail_number)
        if state is None:
            state = states[tail_number] = _airframe(tail_number, tables.planes.get(tail_number))
            state.timetable.extend(timetables[tail_number])
        if type_ == "departed":
            _depart(state, flight, tables)
        elif type_ == "arrived":
            _arrive(state, flight, tables)
        else:
            _cancel(state, flight, tables)
        sequences[tail_number] += 1
        known = AircraftState()
        known.CopyFrom(state)
        yield FlightEvent(
            id=f"{tail_number}-{sequences[tail_number]}",
            key=tail_number,
            sequence=sequences[tail_number],
            type=type_,
            time=datetime.fromtimestamp(minute * 60, UTC),
            state=known,
        )


def with_repetitions(
    source: Iterable[FlightEvent], share: float = DUPLICATE_SHARE, seed: int = DUPLICATE_SEED
) -> Iterator[FlightEvent]:
    """The events of `source`, a `share` of them (0 to 1) delivered a second time, later and exactly as before."""
    random_ = random.Random(seed)
    waiting: list[tuple[int, int, FlightEvent]] = []
    numbers = count()
    for position, event in enumerate(source):
        while waiting and waiting[0][0] <= position:
            yield heapq.heappop(waiting)[2]
        yield event
        if random_.random() < share:
            due = position + random_.randint(1, DUPLICATE_DELAY_MAX)
            heapq.heappush(waiting, (due, next(numbers), replace(event, repeated=True)))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _rows(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def _number(text: str) -> int | None:
    return None if text in ("", "NA") else int(text)


def _flight(row: Row, destination_offset_minutes: int) -> Flight:
    hour = int(datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00")).timestamp()) // 60
    scheduled_departure = hour + int(row["minute"])
    delay, arrived_at = _number(row["dep_delay"]), _number(row["arr_time"])
    departure = None if delay is None else scheduled_departure + delay
    arrival = None
    if departure is not None and arrived_at is not None:
        arrival = _next_time(departure, arrived_at, destination_offset_minutes)
    return Flight(
        tail_number=row["tailnum"],
        carrier=row["carrier"],
        number=int(row["flight"]),
        origin=row["origin"],
        destination=row["dest"],
        distance_miles=int(row["distance"]),
        scheduled_departure=scheduled_departure,
        scheduled_arrival=_next_time(scheduled_departure, int(row["sched_arr_time"]), destination_offset_minutes),
        departure=departure,
        arrival=arrival,
        departure_delay_minutes=delay,
        arrival_delay_minutes=_number(row["arr_delay"]),
        air_time_minutes=_number(row["air_time"]),
    )


def _next_time(after: int, local: int, offset_minutes: int) -> int:
    """The first minute from `after` on at which a clock `offset_minutes` from UTC shows `local`, as in 1530 or 2400."""
    shown = local // 100 * 60 + local % 100
    return after + (shown - after - offset_minutes) % _DAY_MINUTES


def _moments(flights: Iterable[Flight]) -> Iterator[tuple[int, str, str, Flight]]:
    for flight in flights:
        if flight.departure is None:
            yield flight.scheduled_departure, flight.tail_number, "cancelled", flight
            continue
        yield flight.departure, flight.tail_number, "departed", flight
        if flight.arrival is not None:
            yield flight.arrival, flight.tail_number, "arrived", flight


def _timetables(flights: Iterable[Flight]) -> dict[str, list[PlannedFlight]]:
    planned: dict[str, list[PlannedFlight]] = defaultdict(list)
    for flight in sorted(flights, key=lambda each: each.scheduled_departure):
        entry = PlannedFlight(
            carrier=flight.carrier,
            flight_number=flight.number,
            origin=flight.origin,
            destination=flight.destination,
        )
        entry.scheduled_departure.seconds = flight.scheduled_departure * 60
        planned[flight.tail_number].append(entry)
    return planned


def _airframe(tail_number: str, plane: Row | None) -> AircraftState:
    state = AircraftState(tail_number=tail_number)
    if plane is None:
        return state
    state.airframe_type, state.engine = plane["type"], plane["engine"]
    state.manufacturer, state.model = plane["manufacturer"], plane["model"]
    for field in ("year", "engines", "seats"):
        value = _number(plane[field])
        if value is not None:
            setattr(state, field, value)
    return state


def _depart(state: AircraftState, flight: Flight, tables: Tables) -> None:
    _take_off(state, flight, tables)
    state.phase = AircraftState.AIRBORNE
    state.flights += 1
    state.ClearField("position")
    _visit(state, flight.origin)


def _arrive(state: AircraftState, flight: Flight, tables: Tables) -> None:
    assert flight.arrival is not None
    # Once more: where another flight was cancelled meanwhile, that one is the last flight of the state.
    _take_off(state, flight, tables)
    state.phase = AircraftState.ON_GROUND
    state.actual_arrival.seconds = flight.arrival * 60
    state.total_miles += flight.distance_miles
    # A diverted flight that reached its destination in the end has neither delay nor time in the air.
    if flight.arrival_delay_minutes is not None:
        state.arrival_delay_minutes = flight.arrival_delay_minutes
        state.delayed_flights += flight.arrival_delay_minutes >= DELAYED_MINUTES
    if flight.air_time_minutes is not None:
        state.air_time_minutes = flight.air_time_minutes
        state.total_minutes += flight.air_time_minutes
        state.minutes_by_airport[flight.destination] += flight.air_time_minutes
    _visit(state, flight.destination)
    state.position.Clear()
    state.position.airport = flight.destination
    row = tables.airports.get(flight.destination)
    if row is not None:
        state.position.lat, state.position.lon = float(row["lat"]), float(row["lon"])
        state.position.altitude_ft = int(row["alt"])


def _cancel(state: AircraftState, flight: Flight, tables: Tables) -> None:
    _schedule(state, flight, tables)
    state.cancelled_flights += 1


def _take_off(state: AircraftState, flight: Flight, tables: Tables) -> None:
    assert flight.departure is not None
    assert flight.departure_delay_minutes is not None
    _schedule(state, flight, tables)
    state.actual_departure.seconds = flight.departure * 60
    state.departure_delay_minutes = flight.departure_delay_minutes


def _schedule(state: AircraftState, flight: Flight, tables: Tables) -> None:
    """The last flight of `state` becomes `flight`, of which only the schedule is known yet."""
    for field in (
        "actual_departure", "actual_arrival", "departure_delay_minutes", "arrival_delay_minutes", "air_time_minutes",
    ):  # fmt: skip
        state.ClearField(field)
    state.carrier, state.flight_number = flight.carrier, flight.number
    state.carrier_name = tables.airlines[flight.carrier]["name"]
    state.origin, state.destination = flight.origin, flight.destination
    state.distance_miles = flight.distance_miles
    state.scheduled_departure.seconds = flight.scheduled_departure * 60
    state.scheduled_arrival.seconds = flight.scheduled_arrival * 60


def _visit(state: AircraftState, airport: str) -> None:
    if not state.recent_airports or state.recent_airports[-1] != airport:
        state.recent_airports.append(airport)
        del state.recent_airports[:-RECENT_AIRPORTS_MAX]
