"""Where the clients' tests run: each contract test on the embedded log and on a real Kafka, in both shells."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.place import Place
from tests.client.shells import Shell

KAFKA = pytest.mark.kafka
THOROUGH = {
    "test_an_ack_says_where_the_event_is",
    "test_many_events_keep_their_order",
    "test_changes_arrive_with_the_whole_message",
    "test_a_group_goes_on_where_it_was",
    "test_a_gap_is_mended_by_a_snapshot",
}
"""Both shells share all that touches the broker: the blocking one meets a real Kafka in these tests only."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pairs of broker and shell for tests that take both, else whichever a test takes."""
    brokers = [pytest.param("embedded"), pytest.param("kafka", marks=KAFKA)]
    names = set(metafunc.fixturenames)
    if {"place", "shell"} <= names:
        pairs = [("embedded", "async"), ("embedded", "blocking"), pytest.param("kafka", "async", marks=KAFKA)]
        if metafunc.function.__name__ in THOROUGH:
            pairs.append(pytest.param("kafka", "blocking", marks=KAFKA))
        metafunc.parametrize(("place", "shell"), pairs, indirect=True)
    elif "place" in names:
        metafunc.parametrize("place", brokers, indirect=True)
    elif "shell" in names:
        metafunc.parametrize("shell", ["async", "blocking"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A broker with topics of this test's own."""
    url = request.getfixturevalue("kafka").url if request.param == "kafka" else f"embedded://{tmp_path / 'log'}"
    with Place(url, f"t{uuid.uuid4().hex[:8]}") as here:
        yield here


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> Shell:
    """Makes async or blocking clients."""
    return Shell(request.param)
