"""What one option is: a default, a meaning, a reason, and what it accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DAY_MS", "NAME", "PLAIN", "TOPIC", "Rule", "came", "option", "shown_url"]

DAY_MS = 86_400_000
TOPIC = r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}"
"""What Kafka accepts as a topic name: none that is a place in a directory, where a source's stores have its name."""
NAME = r"[a-zA-Z0-9._-]{1,100}"
"""An id becomes part of topic names, so it has fewer letters than they may have."""
PLAIN = re.compile(r"(?!.*://)[\w .,:/+-]{0,40}")
"""A refused text that is shown: no sign that only credentials, addresses or data have."""
LISTED_MAX = 8
"""Entries of a refused list that are shown."""
LOCATION = re.compile(r"((?:streams\+)?(?:https?|kafka|rediss?))://([^/?#\s]*)([/?#]\S*)?")


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
    url: bool = False
    """A URL: its user, path and query may hold secrets, so that only where it leads is shown."""


def came(value: object, rule: Rule) -> str:
    """What a refused value is called in an error: itself only where it is short and plain, since a password or a URL
    may stand where something else belongs.
    """
    if rule.secret:
        return "a secret of the wrong form"
    if rule.url and isinstance(value, str):
        return "a URL of another form" if "://" in value else f"a text of {len(value)} characters"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(came(part, rule) for part in value[:LISTED_MAX]) + "]"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return f"a text of {len(value)} characters"
    return f"a table of {len(value)}" if isinstance(value, dict) else repr(value)


def shown_url(text: str) -> str:
    """A URL for people: scheme, host and port. Who logs in, path and query stay out; a directory is no secret."""
    found = LOCATION.fullmatch(text)
    if found is None:
        return text if text.startswith("embedded://") or not text else "a URL"
    scheme, place, rest = found.group(1), found.group(2), found.group(3) or ""
    places = ",".join(server.rpartition("@")[2] for server in place.split(","))
    return f"{scheme}://{places}" + ("/..." if rest not in ("", "/") else rest)


def option(default: Any, meaning: str, reason: str = "", **rule: Any) -> Any:
    """One field of a section: its default, what it means, and the reason for its number."""
    hidden = rule.get("secret", False) or rule.get("url", False)
    return field(default=default, repr=not hidden, metadata={"rule": Rule(meaning, reason, **rule)})
