"""How far one target has taken one partition. Pure: offsets in, one offset out.

Records are finished in any order; what may be written down is only the offset behind which everything is finished.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Progress"]


class Progress:
    """The unfinished records of one target and partition, and how far reading has come.

    A record is begun when it comes in and done when nobody needs it again. Every call takes the same short time; memory
    is that of the unfinished records: one that stays unfinished for an hour costs nothing but that a crash repeats the
    hour. It is an OrderedDict because a dict finds its first key slowly once many before it are gone.
    """

    __slots__ = ("_unfinished", "reached")

    def __init__(self, begin: int) -> None:
        """Everything below `begin` was done by whoever had the partition before."""
        self.reached = begin
        """The next offset to be read: every record below it has come in, or was passed over."""
        self._unfinished: OrderedDict[int, None] = OrderedDict()

    def begin(self, offset: int) -> None:
        """A record came in. ValueError: it is below `reached`, so that it came before or was passed over."""
        if offset < self.reached:
            raise ValueError(f"progress: offset {offset} came after {self.reached - 1}, expected ascending offsets")
        self._unfinished[offset] = None
        self.reached = offset + 1

    def done(self, offset: int) -> None:
        """A record that was begun is finished. KeyError: it was not begun, or was done before."""
        del self._unfinished[offset]

    def passed(self, next_offset: int) -> None:
        """Reading has come to `next_offset`: what lay between was nobody's, or not for this target."""
        self.reached = max(self.reached, next_offset)

    @property
    def offset(self) -> int:
        """Every record below this one is done."""
        return next(iter(self._unfinished)) if self._unfinished else self.reached

    def __len__(self) -> int:
        """Unfinished records."""
        return len(self._unfinished)
