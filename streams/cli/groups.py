"""Where a group goes on in a topic: looked at and moved from outside, on either transport."""

from __future__ import annotations

import time
from typing import NamedTuple

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError
from streams.cli import reading
from streams.cli.reading import native
from streams.errors import TransportError
from streams.options import Settings
from streams.transport.identity import Bounds, Kept, kept
from streams.transport.log import Log

__all__ = ["Place", "ids", "move", "places"]

TIMEOUT_MS = 30_000
GRACE_S = 5.0
"""On top of the session's timeout: the broker looks once in a while."""
POLL_S = 0.5


class Place(NamedTuple):
    """One partition of a topic, and what the group has committed there."""

    partition: int
    bounds: Bounds
    offset: int | None
    beside: Kept | None


def ids(settings: Settings, topics: list[str]) -> dict[str, bytes]:
    """The id of each topic that exists; empty where there is none to be had."""
    directory = reading.embedded_directory(settings)
    if directory is not None:
        with Log(directory, readonly=True) as log:
            there = log.topics()
        return {topic: there[topic].id for topic in topics if topic in there}
    try:
        return native(KafkaAdmin, settings).topic_ids(topics, TIMEOUT_MS)
    except KafkaError as error:
        raise TransportError(f"ids of {', '.join(topics)}: {error}", retriable=error.retriable) from error


def places(settings: Settings, topic: str) -> list[Place]:
    """Every partition of a topic as it is now; empty where there is no such topic. Nobody is disturbed."""
    directory, group = reading.embedded_directory(settings), settings.app.id
    if directory is not None:
        with Log(directory, readonly=True) as log:
            held = log.kept(group)
            return [
                _place(number, log.start(topic, number), log.end(topic, number), *held.get((topic, number), (-1, "")))
                for number in range(log.partitions(topic) or 0)
            ]
    consumer = native(KafkaConsumer, settings, {"group.id": group, "isolation.level": "read_uncommitted"})
    try:
        count = native(KafkaAdmin, settings).topics(TIMEOUT_MS).get(topic, 0)
        where = [(topic, number) for number in range(count)]
        committed = consumer.kept(where, TIMEOUT_MS) if where else []
        return [
            _place(number, *consumer.watermarks(topic, number, TIMEOUT_MS), offset, beside)
            for _, number, offset, beside in committed
        ]
    except KafkaError as error:
        raise TransportError(f"group {group}, {topic}: {error}", retriable=error.retriable) from error
    finally:
        consumer.close()


def _place(partition: int, start: int, end: int, offset: int, beside: str) -> Place:
    return Place(partition, Bounds(start, end), offset if offset >= 0 else None, kept(beside))


def move(settings: Settings, topic: str, offsets: list[tuple[int, int, str]]) -> None:
    """Commits (partition, offset, what to keep beside it) for the group; refused while a worker is in it."""
    wanted = [(topic, *each) for each in offsets]
    directory, group = reading.embedded_directory(settings), settings.app.id
    if directory is not None:
        with Log(directory) as log:
            log.reset_offsets(group, wanted)
        return
    consumer = native(KafkaConsumer, settings, {"group.id": group})
    # A worker that was stopped is a member until its session has timed out: it might have come back.
    deadline_s = time.monotonic() + settings.app.broker_session_timeout_ms / 1000 + GRACE_S
    try:
        while not _committed(consumer, wanted):
            if time.monotonic() > deadline_s:
                raise TransportError(
                    f"group {group}: got members that stay, expected none; stop all of its workers", retriable=True
                )
            time.sleep(POLL_S)
    except KafkaError as error:
        raise TransportError(f"group {group}: offsets of {topic} not moved: {error}", retriable=True) from error
    finally:
        consumer.close()


def _committed(consumer: KafkaConsumer, offsets: list[tuple[str, int, int, str]]) -> bool:
    """Commits for a group from outside; False while it has members."""
    try:
        consumer.commit(offsets)
    except KafkaError as error:
        if error.code == "UNKNOWN_MEMBER_ID":
            return False
        raise
    return True
