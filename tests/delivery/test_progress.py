"""Progress: only behind the lowest unfinished record, at the same price whatever is unfinished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.progress import Progress


def test_nothing_begun_is_where_reading_is() -> None:
    """Without unfinished records progress is how far reading has come."""
    progress = Progress(7)
    before = progress.offset
    progress.passed(12)

    assert (7, 12) == (before, progress.offset)


def test_the_lowest_unfinished_record_holds() -> None:
    """Whatever is done above it, progress stays at the lowest unfinished record."""
    progress = Progress(0)
    for offset in (0, 1, 5, 6):
        progress.begin(offset)
    held = []
    for offset in (6, 1, 0, 5):
        progress.done(offset)
        held.append(progress.offset)

    assert [0, 0, 5, 7] == held


def test_passing_does_not_go_back() -> None:
    """A chunk that was read before changes nothing."""
    progress = Progress(10)
    progress.passed(3)

    assert (10, 10) == (progress.offset, progress.reached)


def test_a_record_begins_once() -> None:
    """A record that came before, or was passed over, is a mistake of the caller."""
    progress = Progress(0)
    progress.begin(4)
    with pytest.raises(ValueError, match="offset 4 came after 4"):
        progress.begin(4)
    progress.passed(9)
    with pytest.raises(ValueError, match="offset 8 came after 8"):
        progress.begin(8)


def test_a_record_ends_once() -> None:
    """Done twice, one of the two was somebody else's record."""
    progress = Progress(0)
    progress.begin(0)
    progress.done(0)
    with pytest.raises(KeyError):
        progress.done(0)


def test_memory_is_that_of_the_unfinished() -> None:
    """One stuck record and many that are done: one is held."""
    progress = Progress(0)
    for offset in range(10_000):
        progress.begin(offset)
        if offset:
            progress.done(offset)

    assert (1, 0, 10_000) == (len(progress), progress.offset, progress.reached)


@given(st.data())
def test_progress_never_passes_an_unfinished_record(data: st.DataObject) -> None:
    """Against a plain set: progress is its lowest member, or where reading is when it is empty."""
    progress, unfinished, reached = Progress(0), set[int](), 0
    for step in data.draw(st.lists(st.sampled_from(["begin", "done", "passed"]), max_size=60)):
        if step == "begin":
            offset = reached + data.draw(st.integers(0, 3))
            progress.begin(offset)
            unfinished.add(offset)
            reached = offset + 1
        elif step == "passed":
            reached += data.draw(st.integers(0, 3))
            progress.passed(reached)
        elif unfinished:
            offset = data.draw(st.sampled_from(sorted(unfinished)))
            progress.done(offset)
            unfinished.remove(offset)

        assert (min(unfinished, default=reached), reached) == (progress.offset, progress.reached)
        assert len(unfinished) == len(progress)
