"""The dead-letter limit of a partition."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters.limit import Limit, Verdict


def test_a_row_of_bad_records_stops_a_quiet_partition() -> None:
    """Fifty bad records in a row are enough, one at a time or in chunks; one good record begins the count anew."""
    limit = Limit()
    assert not any(limit.observe(1, 1).stop for _ in range(49))
    assert limit.observe(1, 1) == Verdict(True, "consecutive", 50, 50)
    limit.reset()
    assert not limit.observe(49, 49).stop
    assert not limit.observe(2, 1).stop
    assert not limit.observe(49, 49).stop
    assert limit.observe(1, 1).stop


def test_a_share_of_bad_records_stops_a_busy_partition() -> None:
    """More than one in ten of the last thousand stops; one in ten, or an unfilled window, does not."""
    limit = Limit()
    assert not any(limit.observe(10, 1).stop for _ in range(200))
    assert not limit.observe(0, 0).stop
    limit.reset()
    assert not any(limit.observe(10, 5).stop for _ in range(99))
    assert limit.observe(10, 5) == Verdict(True, "ratio", 500, 1_000)
    assert Limit().observe(4_000, 401).stop
    assert not Limit().observe(4_000, 400).stop


def test_old_records_are_forgotten() -> None:
    """A bad hour long ago does not add to a good one now, nor good history excuse a bad present."""
    limit = Limit()
    limit.observe(999, 99)
    assert limit.observe(1_000, 0) == Verdict(False, "", 0, 1_000)
    for _ in range(100):
        limit.observe(1_000, 0)
    assert [limit.observe(100, 50).stop for _ in range(3)] == [False, False, True]


def test_settings() -> None:
    """Ratio, window and row are the caller's; impossible counts are refused."""
    assert not Limit(0.9, 100, 1_000).observe(100, 90).stop
    assert Limit(0.9, 100, 1_000).observe(100, 91).stop
    assert not Limit(1.0, 10, 1_000).observe(100, 100).stop
    with pytest.raises(ValueError, match="got 3 dead of 2 records"):
        Limit().observe(2, 3)


@given(chunks=st.lists(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=40))
def test_window_against_all_counts(chunks: list[tuple[int, int]]) -> None:
    """The window is the shortest run of latest chunks that makes up its size, whatever came before."""
    limit = Limit(0.3, 500, 1 << 30)
    for end in range(1, len(chunks) + 1):
        seen = dead = 0
        for events, bad in reversed(chunks[:end]):
            if seen >= 500:
                break
            seen, dead = seen + events, dead + bad
        verdict = limit.observe(*chunks[end - 1])
        assert (verdict.seen, verdict.dead) == (seen, dead)
        assert verdict.stop == (seen >= 500 and dead > 0.3 * seen)


def test_memory_is_bounded(seed: int) -> None:
    """However long the partition lives, only the window's chunks are kept."""
    chance = random.Random(seed)
    limit = Limit()
    for _ in range(5_000):
        limit.observe(chance.randrange(0, 3), 0)
        limit.observe(0, 0)
    assert len(limit._chunks) <= 1_000
