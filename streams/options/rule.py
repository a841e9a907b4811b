"""What one option is: a default, a meaning, a reason, and what it accepts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DAY_MS", "NAME", "TOPIC", "Rule", "option"]

DAY_MS = 86_400_000
TOPIC = r"[a-zA-Z0-9._-]{1,249}"
"""What Kafka accepts as a topic name."""
NAME = r"[a-zA-Z0-9._-]{1,100}"
"""An id becomes part of topic names, so it has fewer letters than they may have."""


@dataclass(frozen=True)
class Rule:
    """What one option accepts, and why its default is what it is."""

    meaning: str
    reason: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    wanted: str = ""
    secret: bool = False


def option(default: Any, meaning: str, reason: str = "", **rule: Any) -> Any:
    """One field of a section: its default, what it means, and the reason for its number."""
    secret = rule.get("secret", False)
    return field(default=default, repr=not secret, metadata={"rule": Rule(meaning, reason, **rule)})
