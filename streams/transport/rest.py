"""While an agent's body is not run: it ended without anything in hand, and would do so again at once."""

from __future__ import annotations

import asyncio
from typing import Any

from faust.types import TP

from streams.transport.course import Rules, backoff
from streams.transport.inbox import Inbox
from streams.transport.stopped import hold_back

__all__ = ["Rest"]

LOOK_S = 1.0
"""How often what has come is taken out of the channel: a queue that is full would stop everybody's events."""


class Rest:
    """One per actor."""

    def __init__(self, stream: Any, inbox: Inbox, rules: Rules) -> None:
        self._stream = stream
        self._inbox = inbox
        self._rules = rules
        self._until_s = 0.0
        self._times = 0  # in a row
        self._held: set[TP] = set()  # nothing more of them is fetched meanwhile

    def begin(self) -> None:
        """One more time, and each is longer."""
        self._times += 1
        self._until_s = asyncio.get_running_loop().time() + backoff(self._rules, self._times)

    async def wait(self) -> None:
        """Returns when the body may be run again."""
        loop = asyncio.get_running_loop()
        while not self._inbox.ended and (left_s := self._until_s - loop.time()) > 0:
            event = await self._inbox.pull(min(left_s, LOOK_S))
            if event is not None:
                self._inbox.ready.append(event)
                self._held.add(event.message.tp)
                hold_back(self._stream.app.consumer, event.message.tp)

    def release(self) -> None:
        """The body runs, and asks for events."""
        if self._held:
            held, self._held = self._held, set()
            self._stream.app.consumer.release(held)

    def over(self) -> bool:
        """The body took something. Whether it had rested before."""
        times, self._times = self._times, 0
        return times > 0
