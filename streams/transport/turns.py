"""The order in which chunks that changed the same keyed state are committed."""

from __future__ import annotations

from collections import defaultdict, deque

from streams.transport.chunk import Chunk, Participant

__all__ = ["Turns"]


class Turns:
    """Chunks by whose state they changed, until they may be committed.

    A mark contains the lower ones, so the chunks of one participant are committed in the order of their marks: a chunk
    of `{source}.resync` waits for one of the source that a second, slower agent has not finished.
    """

    def __init__(self) -> None:
        self._turns: defaultdict[Participant, deque[Chunk]] = defaultdict(deque)

    def clear(self) -> None:
        """Nothing that was finished before is committed any more."""
        self._turns.clear()

    def enter(self, share: Chunk) -> None:
        """An agent changed state with its share of a chunk: the chunk has its turn from now on."""
        chunk = share.whole or share
        for participant, _ in share.marks:
            if chunk not in self._turns[participant]:
                self._turns[participant].append(chunk)

    def ready(self, chunk: Chunk) -> list[Chunk]:
        """What may be committed now that the chunk is complete."""
        if not chunk.marks:
            return [chunk]
        turn = self._turns[chunk.marks[0][0]]
        ready = []
        while turn and turn[0].complete:
            ready.append(turn.popleft())
        return ready
