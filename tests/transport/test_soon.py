"""streams.transport.soon: what is said of sends that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types.tuples import FutureMessage

from streams.errors import UnknownTopicError
from streams.transport import soon
from streams.transport.soon import SoonBuffer

COUNT = 20


async def _missing(topic: str) -> None:
    raise UnknownTopicError(topic, "broker")


async def test_sends_to_a_topic_that_is_not_there_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them was, by asyncio too: a timer that sends into the void wrote two lines each time, without a name."""
    said, unheard = list[str](), list[str]()
    monkeypatch.setattr(soon.log, "warning", lambda text, *values: said.append(text % values))  # caplog keeps the error
    app = SimpleNamespace(conf=SimpleNamespace(producer_threaded=False))
    buffer = SoonBuffer(app, lambda _: False, _missing)
    await buffer.start()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))
    message: Any = SimpleNamespace(channel=SimpleNamespace(internal=False, get_topic_name=lambda: "missing"))
    sends = [FutureMessage(message) for _ in range(COUNT)]
    for send in sends:
        buffer.put(send)
    await asyncio.wait(sends)
    are_refused = all(send.done() for send in sends)
    del send, sends
    await buffer.stop()
    gc.collect()

    assert are_refused
    assert [] == unheard
    (line,) = said
    assert line.startswith("20 sends by send_soon did not go out: topic missing does not exist")
