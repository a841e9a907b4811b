"""The logs that a worker reads: their ids as of the last look, and what is kept beside the offsets it commits there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from streams.transport.identity import Kept, is_other, kept, offset_metadata

__all__ = ["Logs", "Where"]

Where = tuple[str, int]
"""Topic and partition."""


class Logs:
    """One worker's knowledge of its logs. Read by any thread; each value is replaced whole."""

    def __init__(self) -> None:
        self.ids: Mapping[str, bytes] = {}
        """By topic, as of the last assignment: the logs that positions and rows of this worker are of."""
        self.committed: Mapping[Where, tuple[int | None, Kept | None]] = {}
        """What was committed when it was last asked for."""
        self.anew: frozenset[Where] = frozenset()
        """Where the committed offset is of another log: reading begins at the beginning."""
        self.home = b""
        """See `identity.Kept.home`."""
        self.copied: Mapping[str, str] = {}
        """To which topic the records of another are copied whole, by the latter."""
        self._speakers: Mapping[Where, Callable[[], str]] = {}
        self._doubt = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def found(self, committed: Iterable[tuple[str, int, int | None, str]]) -> None:
        """Committed offsets, with what was beside them, were read."""
        self.committed = {(topic, number): (offset, kept(beside)) for topic, number, offset, beside in committed}

    def speak_for(self, speakers: Mapping[Where, Callable[[], str]]) -> None:
        """Who knows what to keep beside which partition's offset, from now on; elsewhere only the ids are kept."""
        self._speakers = speakers

    def metadata(self, topic: str, partition: int) -> str:
        """What to keep beside an offset that is committed now."""
        speaker = self._speakers.get((topic, partition))
        if speaker is not None:
            return speaker()
        copies = self.ids.get(self.copied.get(topic, ""), b"")
        return offset_metadata(self.ids.get(topic, b""), home=self.home, copies=copies)

    async def doubted(self, timeout_s: float) -> None:
        """Returns when somebody has reason to doubt that a log is what it was, or after this time."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(self._doubt.wait(), timeout_s)
        except TimeoutError:
            return
        finally:
            self._doubt.clear()

    def doubt(self) -> None:
        """Something was found that a log can hardly have: whoever compares is to do so now. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._doubt.set)

    def replaced(self, found: Mapping[str, bytes]) -> set[str]:
        """Topics that are another log than at the last assignment; one that is away is not replaced yet."""
        return {topic for topic, known in self.ids.items() if is_other(known, found.get(topic, b""))}
