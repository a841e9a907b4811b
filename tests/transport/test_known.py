"""streams.transport.known: what is remembered of topics is bounded, whoever names them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import SimpleNamespace

import pytest

from streams.errors import UnknownTopicError
from streams.transport import known
from streams.transport.known import MISSED_MAX, KnownTopics
from streams.transport.replies import is_reply_topic


class Client:
    """As aiokafka's: its cluster is what it saw of the topics that it tracks."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.tracked: set[str] = set()
        self.asked = 0
        self.seen: set[str] = set()
        self.cluster = SimpleNamespace(unauthorized_topics=set(), topics=lambda: self.seen)

    def set_topics(self, topics: Collection[str]) -> None:
        """Those that are looked at from now on."""
        self.tracked = set(topics)

    async def force_metadata_update(self) -> bool:
        """Looks at them."""
        await asyncio.sleep(0)
        self.asked += 1
        self.seen = self.tracked & self.there
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience for two looks."""
    monkeypatch.setattr(known, "PATIENCE_S", 0.02)
    monkeypatch.setattr(known, "POLL_S", 0.02)


async def test_topics_that_are_not_there_are_not_kept() -> None:
    """Whoever asks an agent names a topic for the answer: the client asked for all of them, for ever."""
    client, topics = Client("there"), KnownTopics("broker")
    await topics.require("there", client)
    for number in range(10 * MISSED_MAX):
        with pytest.raises(UnknownTopicError):
            await topics.require(f"f-reply-{number}", client)

    assert {"there"} == client.tracked
    assert MISSED_MAX == len(topics._missed)
    assert client.asked < 1 + 2 * MISSED_MAX + 10 * MISSED_MAX  # nobody waits for so many


async def test_a_topic_that_nobody_sends_to_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics of answers come and go. One that is asked for at the moment is looked at, whoever else gives up."""
    client, topics = Client("first", "second"), KnownTopics("broker")
    await topics.require("first", client)
    monkeypatch.setattr(known, "FORGOTTEN_S", -2 * known.KNOWN_S)
    monkeypatch.setattr(known, "PATIENCE_S", 0.5)
    waiting = asyncio.create_task(topics.require("late", client))
    await topics.require("second", client)
    monkeypatch.setattr(known, "PATIENCE_S", 0.02)
    with pytest.raises(UnknownTopicError):
        await topics.require("gone", client)
    client.there.add("late")
    await waiting

    assert not {"first", "gone"} & client.tracked


async def test_a_topic_that_is_made_later_is_found() -> None:
    """It was missed: nobody waits for it, but whoever asks is told of it as soon as it is there."""
    client, topics = Client(), KnownTopics("broker")
    for _ in range(2):
        with pytest.raises(UnknownTopicError):
            await topics.require("late", client)
    client.there.add("late")
    await topics.require("late", client)

    assert topics.knows("late")
    assert {"late"} == client.tracked


@pytest.mark.parametrize(
    "name", ["f-reply-a/../b", "f-reply-\n", "f-reply-" + "x" * 250, "f-reply-\u00e9", None, "out"]
)
def test_what_is_no_name_of_a_topic_is_no_reply_topic(name: object) -> None:
    """aiokafka writes what the broker calls no name to the log, each time that it looks at its topics."""
    assert not is_reply_topic(name, "own", "f-reply-")
    assert is_reply_topic("f-reply-a.b_c-1", "own", "f-reply-")
    assert is_reply_topic("own", "own", "")
