"""How long a transaction is gathered, and when it is committed."""

from __future__ import annotations

from typing import Any

import pytest

from streams.transport.pipeline import due_in, interval

WAITING: dict[str, Any] = {
    "records": 5, "age_s": 0.01, "interval_s": 0.1, "backlog_s": 0.4, "records_max": 10, "behind": False,
    "draining": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("commit_s", "gathered_s"),
    [(0.0, 0.025), (0.01, 0.025), (0.02, 0.03), (0.06, 0.09), (0.08, 0.1), (9.0, 0.1)],
)
def test_a_transaction_is_gathered_for_as_long_as_commits_are_worth(commit_s: float, gathered_s: float) -> None:
    """A quarter of the longest interval at least, the longest at most, in between with the commits."""
    assert gathered_s == pytest.approx(interval(0.1, commit_s))


def test_what_is_due() -> None:
    """Full, old enough, or to be written out; else it is known how long that takes."""
    assert due_in(**WAITING) == pytest.approx(0.09)
    assert due_in(**{**WAITING, "records": 10}) == 0
    assert due_in(**{**WAITING, "age_s": 0.1}) == 0
    assert due_in(**{**WAITING, "draining": True}) == 0


def test_a_worker_that_is_behind_gathers_longer() -> None:
    """Until the transaction is full or the longer time is over; it looks again each interval whether it still is."""
    behind = {**WAITING, "behind": True}

    assert due_in(**behind) == pytest.approx(0.1)
    assert due_in(**{**behind, "age_s": 0.35}) == pytest.approx(0.05)
    assert due_in(**{**behind, "age_s": 0.4}) == 0
    assert due_in(**{**behind, "records": 10}) == 0
    assert due_in(**{**behind, "backlog_s": 0.05, "age_s": 0.05}) == pytest.approx(0.05), "never shorter"
