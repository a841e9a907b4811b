"""Which topics exist, as far as was asked lately: a send to one that does not is refused, by name and soon.

aiokafka waits for a topic for as long as a request may take, twenty minutes with Faust's settings; a transaction that
holds a record for one fails for all that is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from streams.errors import TransportError, UnknownTopicError

__all__ = ["KnownTopics"]

PATIENCE_S = 3.0
"""A topic just made, or made by the broker because it was asked for, is known everywhere within a second or two."""
POLL_S = 0.25
KNOWN_S = 30.0
"""How long a topic that exists is not asked for again: one that is deleted is missed soon, and the question is rare."""
MISSED_S = 60.0
"""So long after a topic was not there nobody waits for it again: it is looked for, once for each that asks."""


class KnownTopics:
    """Asks through aiokafka's client, so that a broker that makes topics by itself makes them."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._known: dict[str, float] = {}
        self._missed: dict[str, float] = {}

    def knows(self, topic: str) -> bool:
        """Whether it exists, as far as was asked lately."""
        return self._known.get(topic, 0.0) > asyncio.get_running_loop().time()

    async def unsendable(self, topics: Iterable[str], client: Any) -> TransportError | None:
        """Why nothing can be sent to one of these topics; None: they exist."""
        for topic in topics:
            try:
                await self.require(topic, client)
            except TransportError as error:
                return error
        return None

    async def require(self, topic: str, client: Any) -> None:
        """Returns once the topic exists; UnknownTopicError: it does not. While no broker answers nobody can tell."""
        loop = asyncio.get_running_loop()
        if self.knows(topic):
            return
        patience_s = 0.0 if self._missed.get(topic, 0.0) > loop.time() else PATIENCE_S
        client.add_topic(topic)
        until_s: float | None = None
        while True:
            answered = await client.force_metadata_update()
            now_s = loop.time()
            if answered and topic in client.cluster.unauthorized_topics:
                raise TransportError(f"topic {topic}: this user may not look at it; give it the right to write there")
            if answered and topic in client.cluster.topics():
                self._known[topic] = now_s + KNOWN_S
                self._missed.pop(topic, None)
                return
            until_s = (until_s or now_s + patience_s) if answered else None
            if until_s is not None and now_s >= until_s:
                self._missed[topic] = now_s + MISSED_S
                raise UnknownTopicError(topic, self._broker)
            await asyncio.sleep(POLL_S)
