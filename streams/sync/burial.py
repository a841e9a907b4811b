"""The letter for a record whose own transaction a topic refuses: what comes of it is larger than that topic takes.

What was refused is known by topic and size (see `transport.failing`). A letter that was refused itself is written
smaller, down to a stub that says where the record lies and why.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable

from streams._native import Records
from streams.dead_letters.letter import bury, fitted, letter_room, write
from streams.errors import InputError, RecordTooLargeError
from streams.transport.chunk import Chunk

__all__ = ["buried", "refusing", "send_letters"]

log = logging.getLogger(__name__)

LogIds = Callable[[Iterable[str]], dict[str, bytes]]


def refusing(chunk: Chunk, topics: Collection[str]) -> str:
    """The one of these topics that refused what came of the chunk's one record; empty where none did.

    Another agent's topic may have refused what that one sent: its own business.
    """
    return next((topic for topic in chunk.refused if topic in topics), "")


def buried(chunk: Chunk, refuser: str, log_ids: LogIds) -> tuple[Records, dict[str, int]]:
    """The letter of the chunk's one record, and what is counted of it. The record changes no state. Blocks."""
    detail = (
        f"what comes of the record is larger than topic {refuser} takes; raise max.message.bytes there "
        "(`streams doctor` names what is too small), then replay it"
    )
    letters = Records()
    error = InputError("record-too-large", detail)
    topic_id = log_ids([chunk.topic]).get(chunk.topic, b"")
    write(letters, bury(chunk.records, 0, chunk.topic, chunk.partition, error, topic_id=topic_id), sys.maxsize)
    return letters, {"events": 1, "dead.record-too-large": 1}


def send_letters(chunk: Chunk, topic: str, letters: Records, letter_bytes_max: int) -> int:
    """Has a chunk's letters join it, each as small as their topic takes it; how many it takes in no size.

    Such a one is named in the log: the record itself stays in its topic for as long as that keeps it.
    """
    room = letter_room(letter_bytes_max, chunk.refused.get(topic))
    try:
        chunk.send_records(topic, chunk.partition, fitted(letters, room))
    except RecordTooLargeError:
        log.error(
            "%s partition %d offset %d: no dead letter of it fits topic %s, not even one without value, headers and "
            "key; raise max.message.bytes there to 4096 at least",
            chunk.topic, chunk.partition, chunk.last, topic,
        )  # fmt: skip
        return len(letters)
    return 0
