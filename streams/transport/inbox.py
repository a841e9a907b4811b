"""The events that come to an agent, in their order: out of its stream's channel, or from behind one that waited."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Inbox"]


class Inbox:
    """One per actor. `stream`: whose channel it empties, and who knows which events are still this worker's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.ready: deque[Any] = deque()
        """Events that come before those of the channel."""
        self.ended = False
        """The channel ended; nothing comes any more."""
        self._waits = False

    @property
    def over(self) -> bool:
        """Whether nothing comes any more, or nothing is to be begun."""
        return self.ended or bool(self._stream.channel.queue._errors)

    async def next(self, timeout_s: float | None) -> Any:
        """The next event; None: there was none in time, or there is something else to do, or there is none any more."""
        return self.ready.popleft() if self.ready else await self.pull(timeout_s)

    async def pull(self, timeout_s: float | None) -> Any:
        """As `next`, of the channel alone."""
        self._waits = True  # from here on nobody looks around before there is an event
        try:
            return await self._pull(timeout_s)
        finally:
            self._waits = False

    async def _pull(self, timeout_s: float | None) -> Any:
        queue = self._stream.channel.queue
        await asyncio.sleep(0)  # an agent that never waits must not keep the loop from everybody else
        loop = asyncio.get_running_loop()
        until_s = None if timeout_s is None else loop.time() + timeout_s
        while True:
            try:
                if until_s is None:
                    event = await queue.get()
                else:
                    event = await asyncio.wait_for(queue.get(), max(0.0, until_s - loop.time()))
            except TimeoutError:
                return None
            except StopAsyncIteration:
                self.ended = True
                return None
            if event is self:
                return None
            if isinstance(event, Inbox):  # the actors of an agent empty one queue
                event.wake()
                await asyncio.sleep(0)  # whoever waits next has it before this one asks again
            elif self._stream.accept(event):
                return event

    def wake(self) -> None:
        """Whoever waits for an event here is to look around: this inbox stands in the place of one.

        Not by a time to wait: that costs a task for each event.
        """
        queue = self._stream.channel.queue
        if self._waits and not queue.full():  # a full one has something for whoever waits
            queue.put_nowait(self)
