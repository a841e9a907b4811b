"""What one option is: a default, a meaning, a reason, and what it accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DAY_MS", "MS_MAX", "NAME", "NUMBER", "NUMBER_MAX", "TOPIC", "WORD", "Rule", "came", "option", "shown_url"]

DAY_MS = 86_400_000
TOPIC = r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}"
"""What Kafka accepts as a topic name: none that is a place in a directory, where a source's stores have its name."""
NAME = r"[a-zA-Z0-9._-]{1,100}"
"""An id becomes part of topic names, so it has fewer letters than they may have."""
WORD = re.compile(r"[a-z][a-z_-]{0,19}")
NUMBER = re.compile(r"[-+]?[0-9][0-9._,]{0,18}[a-zA-Z%]{0,2}")
"""Refused texts that are shown, where a word or a number was wanted: a typing error. Of any other only its length is
said, since a password may stand where something else belongs."""
MS_MAX = 2**31 - 1
"""Of a time in milliseconds that names no bound of its own: what Kafka and the timers of systems take."""
NUMBER_MAX = 2**53
"""Of any other number: beyond it floats lose count, and nothing that is counted here comes near."""
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


def came(value: object, rule: Rule, kind: object = str) -> str:
    """What a refused value of an option of this type is called in an error: itself only where it is no secret."""
    if rule.secret:
        return "a secret of the wrong form"
    if rule.url and isinstance(value, str):
        return "a URL of another form" if "://" in value else f"a text of {len(value)} characters"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(came(part, rule, kind) for part in value[:LISTED_MAX]) + "]"
    plain = WORD if rule.choices or kind is bool else NUMBER if kind in (int, float) else None
    if isinstance(value, str) and value and (plain is None or not plain.fullmatch(value)):
        return f"a text of {len(value)} characters"
    return f"a table of {len(value)}" if isinstance(value, dict) else repr(value)


def shown_url(text: str) -> str:
    """A URL for people: scheme, host and port. Who logs in, path and query stay out; a directory is no secret."""
    found = LOCATION.fullmatch(text)
    if found is None:
        return text if text.startswith("embedded://") or not text or WORD.fullmatch(text) else "a URL"
    scheme, place, rest = found.group(1), found.group(2), found.group(3) or ""
    places = ",".join(server.rpartition("@")[2] for server in place.split(","))
    return f"{scheme}://{places}" + ("/..." if rest not in ("", "/") else rest)


def option(default: Any, meaning: str, reason: str = "", **rule: Any) -> Any:
    """One field of a section: its default, what it means, and the reason for its number."""
    hidden = rule.get("secret", False) or rule.get("url", False)
    return field(default=default, repr=not hidden, metadata={"rule": Rule(meaning, reason, **rule)})
