"""streams.loop_watch: what is said of a loop that is held, and when it ends the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from streams import loop_watch
from streams.errors import HeldError
from streams.loop_watch import HELD_TIMEOUTS_MAX, LoopWatch

TICK_S = 0.02
HELD_TICKS = 2
TIMEOUT_MS = 40
LIMIT_S = TIMEOUT_MS * HELD_TIMEOUTS_MAX / 1_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch in a hurry."""
    monkeypatch.setattr(loop_watch, "TICK_S", TICK_S)
    monkeypatch.setattr(loop_watch, "HELD_TICKS", HELD_TICKS)


async def watched(hold_s: float, expected: Iterator[bool], timeout_ms: int = TIMEOUT_MS) -> list[HeldError]:
    """What became of a loop that is held for so long."""
    told: list[HeldError] = []
    watch = LoopWatch(timeout_ms, told.append, lambda: next(expected))
    try:
        await asyncio.sleep(5 * TICK_S)
        time.sleep(hold_s)  # noqa: ASYNC251 - this is what holds it
        await asyncio.sleep(5 * TICK_S)
    finally:
        watch.close()
    return told


def once_only() -> Iterator[bool]:
    """Partitions are there, and on their way to another member from then on."""
    yield True
    while True:
        yield False


def never() -> Iterator[bool]:
    """A worker that starts."""
    while True:
        yield False


async def test_a_loop_that_never_turned_is_not_said_to_turn_again(caplog: pytest.LogCaptureFixture) -> None:
    """It was, behind what had ended the worker. Partitions that were moved meanwhile kept it from its end."""
    told = await watched(2 * LIMIT_S, once_only())

    assert 1 == len(told)
    assert "test_loop_watch.py" in str(told[0])
    assert "has held the event loop" in caplog.text
    assert "turns again" not in caplog.text


async def test_a_loop_that_turns_again_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    """At the start it may be held for longer than later."""
    assert [] == await watched(2 * LIMIT_S, never())
    assert "the event loop turns again" in caplog.text


async def test_a_log_that_stands_still_does_not_hold_up_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes to a pipe that nobody reads holds the log's lock with the loop: the watch waited for it, too."""
    told: list[HeldError] = []
    watch = LoopWatch(TIMEOUT_MS, told.append, lambda: True)
    await asyncio.sleep(5 * TICK_S)
    caplog.handler.acquire()
    try:
        time.sleep(2 * LIMIT_S)  # noqa: ASYNC251 - this is what holds it
        assert 1 == len(told)
    finally:
        caplog.handler.release()
        watch.close()
