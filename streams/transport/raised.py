"""What is said of an exception of user code: its type and its place, never its text, which may hold a record's."""

from __future__ import annotations

import traceback
from pathlib import Path

__all__ = ["kind_of", "line_of"]

KIND_CHARS_MAX = 200
"""Of the name of an error's type: those of the libraries have 60 at most."""


def kind_of(error: BaseException) -> str:
    """The type of an error, by its full name."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name[:KIND_CHARS_MAX]


def line_of(error: BaseException) -> str:
    """The innermost line of code outside of libraries, in parentheses; its values are not shown."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name})" if own else ""
