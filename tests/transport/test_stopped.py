"""Stopped partitions: what is still worked on, and what is not any more when they go on."""

from __future__ import annotations

from faust.types import TP

from streams.transport.stopped import NOT_FETCHED, Stop, Stops

TP0, TP1 = TP("devices", 0), TP("devices", 1)


def test_only_what_lies_behind_the_stop_is_held_back() -> None:
    """The chunk that stopped it, and those before, are finished; other partitions do not notice."""
    stops = Stops()
    stops.stop(TP0, Stop("ratio", "why", 10, 1))

    assert stops.admits(TP0, 0, 0)
    assert stops.admits(TP0, 9, 0)
    assert not stops.admits(TP0, 10, 0)
    assert stops.admits(TP1, 10, 0)
    assert TP0 in stops
    assert TP1 not in stops


def test_what_was_fetched_before_it_went_on_is_never_handed_out() -> None:
    """It is fetched again from the stop on: handed out twice it would be worked on twice."""
    stops = Stops()
    stops.stop(TP0, Stop("ratio", "why", 10, 1))

    assert Stop("ratio", "why", 10, 1) == stops.resume(TP0)
    assert not stops.admits(TP0, 12, 0)
    assert stops.admits(TP0, 9, 0)
    assert stops.admits(TP0, 10, stops.turn(TP0))
    assert stops.resume(TP0) is None

    stops.stop(TP0, Stop("ratio", "why", 20, 1))
    stops.resume(TP0)
    assert not stops.admits(TP0, 20, 1)
    assert stops.admits(TP0, 20, 2)


def test_one_that_came_stopped_goes_on_in_the_turn_of_its_position() -> None:
    """Nothing was fetched of it: its position stays, and so does the turn in which that was set."""
    stops = Stops()
    stops.stop(TP0, Stop("ratio", "why", NOT_FETCHED, 1))
    assert not stops.admits(TP0, 0, 0)
    stops.resume(TP0)

    assert 0 == stops.turn(TP0)
    assert stops.admits(TP0, 0, 0)


def test_a_rewind_forgets_all_of_it() -> None:
    """What is still stopped is read from the changelog."""
    stops = Stops()
    stops.stop(TP0, Stop("ratio", "why", 10, 1))
    stops.stop(TP1, Stop("ratio", "why", 10, 1))
    stops.resume(TP1)
    stops.forget()

    assert [] == list(stops)
    assert stops.admits(TP0, 10, 0)
    assert 0 == stops.turn(TP1)
