"""What a request carries to say who sends it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Credential"]


class Credential(Protocol):
    """A source of the headers that authenticate a request. Made once per target, used by all of its requests."""

    async def headers(self) -> dict[str, str]:
        """The headers for a request that goes out now. HttpFailure of kind `auth` where none are to be had."""
        ...

    def invalidate(self) -> None:
        """The receiver refused these headers (401): the next ones are made anew, if that can help."""
        ...
