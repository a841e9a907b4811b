"""The letter for a record whose own transaction a topic refuses: what comes of it is larger than that topic takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streams._native import Records
from streams.dead_letters.letter import bury, write
from streams.errors import InputError
from streams.transport.chunk import Chunk

__all__ = ["buried"]

LogIds = Callable[[Iterable[str]], dict[str, bytes]]


def buried(chunk: Chunk, letter_bytes_max: int, log_ids: LogIds) -> tuple[Records, dict[str, int]]:
    """The letter of the chunk's one record, and what is counted of it. The record changes no state. Blocks."""
    detail = (
        f"what comes of the record is larger than topic {chunk.refused} takes; raise max.message.bytes there "
        "(`streams doctor` names what is too small), then replay it"
    )
    letters = Records()
    error = InputError("record-too-large", detail)
    topic_id = log_ids([chunk.topic]).get(chunk.topic, b"")
    letter = bury(chunk.records, 0, chunk.topic, chunk.partition, error, topic_id=topic_id)
    write(letters, letter, letter_bytes_max)
    return letters, {"events": 1, "dead.record-too-large": 1}
