"""What an agent raised, as it may be said and written, and what the app does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from streams._native import Records
from streams.transport.chunk import Output
from streams.transport.course import Rules
from streams.transport.work import Place

__all__ = ["RAISED", "UNREADABLE", "Failure", "Rescue"]

RAISED = "agent-raised"
UNREADABLE = "undecodable"
"""Why a record is a dead letter."""


class Failure(NamedTuple):
    """What an agent raised, and on what. Never its text: it may hold what the record holds."""

    agent: str
    kind: str
    place: Place | None
    said: str
    """The text of an error of ours, which holds no payload; else nothing."""
    where: str
    """The line of code, without values."""
    is_certain: bool = False
    """It will never be taken, whatever becomes of others: what it sends is too large, or nobody can read it."""
    reason: str = RAISED
    """Of its letter."""


class Rescue(Protocol):
    """What the app does about agents that raise."""

    rules: Rules
    stops: bool
    """Whether an agent that raises ends the worker."""

    async def letter(self, records: Records, index: int, failure: Failure, refused: Mapping[str, int]) -> Output:
        """The dead letter of a record, for its topic, which exists. StreamsError: not now.

        `refused`: what topics took no record of this size of before.
        """
        ...

    def count(self, topic: str, what: str) -> None:
        """One more failure, or letter, of this topic's agents."""
        ...
