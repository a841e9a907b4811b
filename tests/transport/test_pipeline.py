"""How long a transaction is gathered, and when it is committed."""

from __future__ import annotations

import pytest

from streams.transport.pipeline import interval, is_due


@pytest.mark.parametrize(
    ("commit_s", "gathered_s"),
    [(0.0, 0.025), (0.01, 0.025), (0.02, 0.03), (0.06, 0.09), (0.08, 0.1), (9.0, 0.1)],
)
def test_a_transaction_is_gathered_for_as_long_as_commits_are_worth(commit_s: float, gathered_s: float) -> None:
    """A quarter of the longest interval at least, the longest at most, in between with the commits."""
    assert gathered_s == pytest.approx(interval(0.1, commit_s))


def test_what_is_due() -> None:
    """Full, old enough, or to be written out; else not."""
    waiting = {"records": 5, "age_s": 0.01, "interval_s": 0.1, "records_max": 10, "draining": False}

    assert not is_due(**waiting)
    assert is_due(**{**waiting, "records": 10})
    assert is_due(**{**waiting, "age_s": 0.1})
    assert is_due(**{**waiting, "draining": True})
