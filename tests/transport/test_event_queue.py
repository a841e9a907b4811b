"""The queue of an agent's events has room for so many bytes, and for one event of any size."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP, ConsumerMessage
from mode.utils.queues import FlowControlEvent

from streams.transport.event_queue import EventQueue


class Event:
    """What a topic's channel puts: an event with its message."""

    def __init__(self, size: int) -> None:
        made: Any = ConsumerMessage
        self.message = made("t", 0, 0, 0.0, 0, [], b"", b"", None, 0, size, TP("t", 0))


@pytest.fixture
async def queue(monkeypatch: pytest.MonkeyPatch) -> EventQueue:
    """One that holds 1,000 bytes, or 100 events."""
    monkeypatch.setattr("streams.transport.event_queue.BYTES_MAX", 1_000)
    flow = FlowControlEvent()
    flow.resume()
    return EventQueue(100, flow_control=flow, clear_on_resume=True)


async def test_it_is_full_by_bytes(queue: EventQueue) -> None:
    """Whoever puts waits until somebody has taken; a large event alone is let in."""
    large = Event(5_000)
    await queue.put(large)
    assert queue.full()
    waiting = asyncio.create_task(queue.put(Event(400)))
    await asyncio.sleep(0)
    assert 1 == queue.qsize()

    assert large is await queue.get()
    await waiting
    queue.put_nowait(Event(400))
    assert not queue.full()
    queue.put_nowait(Event(400))
    assert queue.full()


async def test_it_is_full_by_number(queue: EventQueue) -> None:
    """Small ones count as before, and what a local channel holds has no size."""
    for number in range(100):
        queue.put_nowait(number)
    assert queue.full()


async def test_what_is_cleared_is_no_more_counted(queue: EventQueue) -> None:
    """Partitions moved: the queue is empty, and has all its room."""
    queue.put_nowait(Event(5_000))
    queue.clear()
    assert not queue.full()
    queue.put_nowait(Event(900))
    assert not queue.full()


async def test_nobody_waits_for_an_agent_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its partition is fetched no more, what is on its way comes in, in its order; once half is taken it goes on."""
    monkeypatch.setattr("streams.transport.event_queue.BYTES_MAX", 1_000)
    monkeypatch.setattr("streams.transport.event_queue.STILL_S", 0.05)
    flow, held, released = FlowControlEvent(), list[TP](), list[TP]()
    flow.resume()
    queue = EventQueue(100, flow_control=flow, clear_on_resume=True, hold=held.append, release=released.extend)
    events = [Event(400) for _ in range(6)]
    for event in events:
        await asyncio.wait_for(queue.put(event), 5)
    held_then, taken = held[:], []
    for _ in range(4):
        assert not released
        taken.append(await queue.get())
    taken += [await queue.get() for _ in range(2)]

    assert [TP("t", 0)] * 3 == held_then
    assert [TP("t", 0)] == released
    assert events == taken


async def test_a_local_channel_that_is_full_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts there is its owner."""
    monkeypatch.setattr("streams.transport.event_queue.STILL_S", 0.05)
    flow = FlowControlEvent()
    flow.resume()
    queue = EventQueue(1, flow_control=flow)
    await queue.put(1)
    second = asyncio.create_task(queue.put(2))
    await asyncio.sleep(0.2)
    assert not second.done()
    assert [1, 2] == [await queue.get(), await queue.get()]
