"""What a kept offset means in the log that is there now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.transport.identity import (
    Bounds,
    Kept,
    Source,
    changelog_fault,
    is_other,
    judge_source,
    kept,
    offset_metadata,
)

A, B, C = (bytes([letter]) * 16 for letter in b"abc")
HERE = Bounds(10, 100)
ids = st.sampled_from([b"", A, B])
numbers = st.integers(0, 1 << 63)


@given(st.builds(Kept, ids, ids, numbers, numbers, numbers, st.booleans(), st.booleans()))
def test_metadata_comes_back(given: Kept) -> None:
    """What is written beside an offset is read again, and takes a twentieth of what brokers take."""
    written = offset_metadata(
        given.source, given.changelog, given.begin, given.end, given.epoch,
        partial=given.partial, replaced=given.replaced,
    )  # fmt: skip

    assert given == kept(written)
    assert len(written.encode()) < 200


@given(st.text(max_size=60) | st.text(max_size=60).map("streams1;".__add__))
def test_what_others_write_there_is_nothing(text: str) -> None:
    """Foreign, damaged or empty metadata never raises."""
    found = kept(text)

    assert found is None or text.startswith("streams1;")


def test_a_later_release_may_add_fields() -> None:
    """Fields that this release does not know are not a reason to forget the others."""
    assert Kept(A, B, 1, 2, 3) == kept(offset_metadata(A, B, 1, 2, 3) + ";later")


@pytest.mark.parametrize(
    ("offset", "beside", "recorded", "found", "expected"),
    [
        (None, None, A, B, Source.COUNTS),
        (50, Kept(A), A, A, Source.COUNTS),
        (50, None, b"", A, Source.COUNTS),
        (50, None, A, A, Source.COUNTS),
        (50, Kept(A), b"", A, Source.COUNTS),
        (50, Kept(B), A, B, Source.COUNTS),
        (50, Kept(A), A, b"", Source.COUNTS),
        (50, Kept(A), A, B, Source.CAME_ALONG),
        (50, None, A, B, Source.CAME_ALONG),
        (50, Kept(b""), A, B, Source.CAME_ALONG),
        (101, Kept(A), A, B, Source.ANEW),
        (9, Kept(A), A, B, Source.ANEW),
        (101, None, b"", b"", Source.ANEW),
        (101, None, b"", A, Source.ANEW),
        (101, Kept(b""), b"", b"", Source.ANEW),
        (101, Kept(A), A, A, Source.OUTSIDE),
        (9, Kept(A), A, A, Source.OUTSIDE),
        (9, None, b"", b"", Source.OUTSIDE),
    ],
)
def test_an_offset_counts_in_its_log(
    offset: int | None, beside: Kept | None, recorded: bytes, found: bytes, expected: Source
) -> None:
    """Another log, or an offset that cannot be of this one, is never gone on from in silence."""
    assert expected == judge_source(offset, beside, recorded, found, HERE)


@pytest.mark.parametrize(
    ("beside", "has_record", "found", "bounds", "expected"),
    [
        (Kept(A, B, 0, 7), True, B, Bounds(0, 7), None),
        (Kept(A, B, 0, 7), True, B, Bounds(0, 99), None),
        (Kept(A, B, 5, 7), True, B, Bounds(5, 7), None),
        (Kept(A), True, B, Bounds(0, 0), None),
        (None, True, B, Bounds(5, 7), None),
        (None, False, B, Bounds(0, 7), None),
        (None, False, B, Bounds(0, 0), None),
        (Kept(A, B, 0, 7), True, C, Bounds(0, 7), "another one"),
        (Kept(A, B, 0, 7), True, B, Bounds(0, 6), "ends at offset 6, 7 were committed"),
        (Kept(A, B, 0, 7), True, B, Bounds(7, 7), "begins at offset 7"),
        (Kept(A, B, 0, 7), False, b"", Bounds(0, 3), "ends at offset 3"),
        (None, False, B, Bounds(7, 7), "begins at offset 7"),
    ],
)
def test_a_changelog_holds_what_was_committed_to_it(
    beside: Kept | None, has_record: bool, found: bytes, bounds: Bounds, expected: str | None
) -> None:
    """One that is another, was cut or emptied is named; without anything to compare it is taken as it is."""
    fault = changelog_fault(beside, has_record, found, bounds)

    assert fault is None if expected is None else fault is not None and expected in fault


def test_only_two_known_ids_can_differ() -> None:
    """A broker without ids says nothing."""
    assert [True, False, False, False] == [is_other(A, B), is_other(A, A), is_other(A, b""), is_other(b"", B)]


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (Kept(A, B), Source.ANEW),
        (Kept(A, home=B), Source.ANEW),
        (Kept(A, A), Source.CAME_ALONG),
        (Kept(A), Source.CAME_ALONG),
        (None, Source.CAME_ALONG),
    ],
)
def test_what_was_committed_at_home_was_not_translated(beside: Kept | None, expected: Source) -> None:
    """A worker that had not seen the new log yet committed there: the offset is of the old one, and nobody is asked."""
    assert expected == judge_source(50, beside, A, b"C" * 16, HERE, [B])
