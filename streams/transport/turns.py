"""The order in which chunks that changed the same keyed state are committed."""

from __future__ import annotations

from collections import defaultdict, deque

from streams.transport.chunk import Chunk, Participant

__all__ = ["Turns"]


class Turns:
    """Marks of each participant in the order in which they were taken, until their chunks may be committed.

    A mark contains the lower ones, so chunks are committed in the order of their marks: a chunk of `{source}.resync`
    waits for one of the source that a second, slower agent has not finished.
    """

    def __init__(self) -> None:
        self._marks: defaultdict[Participant, deque[int]] = defaultdict(deque)
        self._chunks: dict[tuple[Participant, int], Chunk] = {}

    def clear(self) -> None:
        """Nothing that was finished before is committed any more."""
        self._marks.clear()
        self._chunks.clear()

    def took(self, participant: Participant, mark: int) -> None:
        """A mark was taken: its chunk, whatever is finished first, comes before those of later marks."""
        if mark not in self._marks[participant]:
            self._marks[participant].append(mark)

    def enter(self, chunk: Chunk) -> None:
        """An agent has finished the chunk, and changed what it changed."""
        for participant, mark in chunk.marks:
            self.took(participant, mark)
            self._chunks[participant, mark] = chunk

    def ready(self, chunk: Chunk) -> list[Chunk]:
        """What may be committed now that the chunk is complete."""
        if not chunk.marks:
            return [chunk]
        participant = chunk.marks[0][0]
        marks, ready = self._marks[participant], []
        while marks and (first := self._chunks.get((participant, marks[0]))) is not None and first.complete:
            for where, mark in first.marks:
                if self._chunks.pop((where, mark), None) is not None:
                    self._marks[where].remove(mark)
            ready.append(first)
        return ready
