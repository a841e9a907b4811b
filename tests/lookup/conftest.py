"""What the tests of look-ups share: a registry, a clock, a Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from streams.clock import ManualClock
from tests.lookup.registry import Registry
from tests.redis_server import RedisServer


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A server to look things up at."""
    async with Registry() as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A real Redis of the test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()
