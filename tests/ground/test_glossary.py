"""docs/glossary.md: one name, one meaning; nothing public goes without an entry."""

from __future__ import annotations

import re
from pathlib import Path

import streams
from streams import errors

TEXT = (Path(streams.__file__).parents[1] / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = [line.split(" | ")[0] for line in TEXT.splitlines() if line.startswith("| **")]


def test_a_word_is_explained_once() -> None:
    """A second entry would be a second meaning."""
    words = [word.lower() for entry in ENTRIES for word in re.findall(r"\*\*(.+?)\*\*", entry)]

    assert [] == sorted({word for word in words if words.count(word) > 1})


def test_every_public_name_has_an_entry() -> None:
    """Errors have their own tree, which says all of itself."""
    named = {name for entry in ENTRIES for name in re.findall(r"`(\w+)`", entry)}
    wanted = {name for name in streams.__all__ if not hasattr(errors, name)} - {"__version__"}

    assert set() == wanted - named
