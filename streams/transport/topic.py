"""Topics of single events: a record that its codec cannot read costs itself, as one that its agent raises on.

Faust acknowledges such a record first and throws the error into every stream of the topic afterwards: it ended the
worker, again at each start, or was lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import faust
from faust.agents.models import ReqRepResponse
from faust.exceptions import DecodeError
from typing_extensions import override

from streams.transport.chunk import ChunkSchema

__all__ = ["Topic", "Unreadable"]


class Unreadable(NamedTuple):
    """The value of an event whose record cannot be read; no agent sees it. `kind` is the type of the codec's error."""

    kind: str


class Topic(faust.Topic):
    """Faust's. Of an internal topic, such as a table's changelog, its reader decides as before."""

    @override
    def _compile_decode(self) -> None:
        super()._compile_decode()
        if not self.internal and not isinstance(self.schema, ChunkSchema):
            self.decode = self._reading(self.decode)  # type: ignore[assignment,method-assign]

    def _reading(self, decode: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def read(message: Any, *, propagate: bool = False) -> Any:
            try:
                return await decode(message, propagate=True)
            except DecodeError as error:
                # Among the answers to agents' questions it is nobody's: their reader passes what is none.
                is_answer = self.value_type is ReqRepResponse
                value = None if is_answer else Unreadable(type(error.__cause__ or error).__qualname__)
                return self.app.create_event(None, value, message.headers, message)

        return read
