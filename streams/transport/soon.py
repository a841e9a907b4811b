"""Sends by `send_soon`, which a function that cannot wait makes: table writes among them.

Faust's queue of them is one task: what publishing one raised, a topic that does not exist for example, ended it and the
worker with it, and nobody was told what became of the send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from faust.transport.producer import ProducerBuffer
from typing_extensions import override

from streams.errors import StreamsError
from streams.transport.raised import kind_of

__all__ = ["SoonBuffer"]

log = logging.getLogger(__name__)

ASKED_S = 4.0
"""How long a flush waits for what is known of a topic: longer than a topic that does not exist is asked for."""


class SoonBuffer(ProducerBuffer):
    """Faust's queue; a send that cannot be published fails alone, and a topic that has to be asked for holds up its own
    sends, not those behind them. As many wait as the events in hand have made: an agent waits for its sends.
    """

    def __init__(
        self, app: Any, knows: Callable[[str], bool], require: Callable[[str], Awaitable[None]], **options: Any
    ) -> None:
        """`knows`: whether a topic exists, as far as was asked lately; `require`: asks, raises where there is none."""
        super().__init__(**options)
        self.app = app
        self._knows = knows
        self._require = require
        self._held: dict[str, list[Any]] = {}  # by topic, in their order, while it is asked for
        self._asking: set[asyncio.Task[None]] = set()

    @override
    def put(self, fut: Any) -> None:
        channel = fut.message.channel
        topic = channel.get_topic_name()
        if topic in self._held:
            self._held[topic].append(fut)
        elif channel.internal or not self.started or self._knows(topic):  # an internal topic is made before
            super().put(fut)
        else:
            self._held[topic] = [fut]
            asking = asyncio.get_running_loop().create_task(self._ask(topic), name="send-soon")
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _ask(self, topic: str) -> None:
        error: Exception | None = None
        try:
            await self._require(topic)
        except Exception as caught:  # noqa: BLE001 - whatever it is, it is what became of the sends
            error = caught
        finally:
            held = self._held.pop(topic)
        for fut in held:
            if error is None:
                super().put(fut)
            else:
                _refuse(fut, error)
                fut.cancelled() or fut.exception()  # it is said below, once for all of them
        if error is not None:
            said = error if isinstance(error, StreamsError) else f"topic {topic}: {kind_of(error)}"
            log.warning("%s by send_soon did not go out: %s", f"{len(held)} sends" if held[1:] else "a send", said)

    @override
    async def _send_pending(self, fut: Any) -> None:
        try:
            await super()._send_pending(fut)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sends behind it go on
            _refuse(fut, error)

    @override
    async def flush(self) -> None:
        if self._asking:
            await asyncio.wait(set(self._asking), timeout=ASKED_S)
        await super().flush()

    @override
    async def on_stop(self) -> None:
        for asking in self._asking:
            asking.cancel()
        self._asking.clear()
        await super().on_stop()


def _refuse(fut: Any, error: Exception) -> None:
    if not fut.done():
        fut.set_exception(error)
