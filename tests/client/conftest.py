"""Where the clients' tests run: each contract test once on the embedded log, once on a real Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.place import Place
from tests.client.shells import Shell


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A broker with topics of this test's own."""
    url = request.getfixturevalue("kafka").url if request.param == "kafka" else f"embedded://{tmp_path / 'log'}"
    with Place(url, f"t{uuid.uuid4().hex[:8]}") as here:
        yield here


@pytest.fixture(params=["async", "blocking"])
def shell(request: pytest.FixtureRequest) -> Shell:
    """Both shells of the clients, one after the other."""
    return Shell(request.param)
