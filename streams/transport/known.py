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
MISSED_MAX = 10
"""While so many are missed nobody waits for another: whoever names one after the other, in questions that he wants
answered for example, would have an agent wait for each."""
FORGOTTEN_S = 3_600.0
"""Nobody has sent to a topic for so long: longer than a send may be under way. Topics of answers come and go."""


class KnownTopics:
    """Asks through aiokafka's client, so that a broker that makes topics by itself makes them."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._known: dict[str, float] = {}
        self._missed: dict[str, float] = {}
        self._asked: list[str] = []  # at the moment, one for each that asks

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
        if self.knows(topic):
            return
        self._asked.append(topic)
        self._track(client)
        try:
            await self._ask(topic, client)
        finally:
            self._asked.remove(topic)
            self._track(client)

    async def _ask(self, topic: str, client: Any) -> None:
        loop = asyncio.get_running_loop()
        is_waited_for = topic not in self._missed and len(self._missed) < MISSED_MAX
        patience_s = PATIENCE_S if is_waited_for else 0.0
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
                self._known.pop(topic, None)
                if is_waited_for or topic in self._missed:
                    self._missed[topic] = now_s + MISSED_S
                raise UnknownTopicError(topic, self._broker)
            await asyncio.sleep(POLL_S)

    def _track(self, client: Any) -> None:
        """The client looks at each of its topics again and again, for ever: let them be those that matter."""
        now_s = asyncio.get_running_loop().time()
        self._known = {topic: until_s for topic, until_s in self._known.items() if until_s > now_s - FORGOTTEN_S}
        self._missed = {topic: until_s for topic, until_s in self._missed.items() if until_s > now_s}
        if topics := {*self._known, *self._asked}:  # none at all would be those of the whole cluster
            client.set_topics(topics)
