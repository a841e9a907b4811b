"""The benchmark of circuits in its small form: when there was reason to open is computed, the rest is counted."""

from __future__ import annotations

import pytest

from benchmarks import circuits
from benchmarks.circuits import Answer, crossing
from streams.options import CircuitSettings
from tests.broker import Broker


@pytest.mark.parametrize(
    ("answers", "at_s"),
    [
        ("a- b- " * 10 + "ax bx " * 10, 40.0),  # half of all, and half of each
        ("a- " * 40 + "ax bx " * 15, None),  # the sum is well
        ("b- " * 10 + "ax " * 30, None),  # one has trouble of its own
        ("ax bx " * 9, None),  # too few
        ("ax bx " * 10, 20.0),
        ("ax " * 20, 20.0),  # there is no other
    ],
)
def test_when_there_was_reason_to_open(answers: str, at_s: float | None) -> None:
    """An answer a second: `ax` is a failure told to worker a."""
    seen = [Answer(float(number), said[0], said[1] == "x") for number, said in enumerate(answers.split(), 1)]

    assert at_s == crossing(seen, CircuitSettings())


def test_trip_and_trickle(kafka: Broker) -> None:
    """Every worker learns of every trip, and after it; a quiet target gets everything when it is back."""
    found = circuits.run(kafka.url, 1, None, small=True)

    assert found["verified"] is True
    trip, trickle = found["cases"]
    assert 0 <= trip["seconds_to_first"]["minimum"] <= trip["seconds_to_last"]["minimum"]
    assert 0 == trickle["dead_letters"]
    assert 0 < trickle["keys_behind_when_back"] <= circuits.TRICKLE_KEYS
