"""The two transports that delivery is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.site import Site


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A site on each transport."""
    kafka = request.param == "kafka"
    return Site(request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log", tmp_path)
