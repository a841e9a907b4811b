"""The two implementations that tests here run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.site import Site


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A site on each transport."""
    kafka = request.param == "kafka"
    return Site(request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log", tmp_path)


@pytest.fixture
def kafka_site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """For what only Kafka has."""
    return Site(request.getfixturevalue("kafka").url, tmp_path)
