"""How large a transaction may be after others failed, and how long a failed one waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.transport.allowance import (
    GROWS_AFTER,
    HALVED_ABOVE_BYTES,
    PAUSE_MAX_S,
    Allowance,
    after_failure,
    after_success,
    fault_of,
    pause_s,
)

MOST = Allowance(60_000, 64 << 20)
MB = 1 << 20


@pytest.mark.parametrize(
    ("code", "size", "took_s", "fault"),
    [
        ("MSG_SIZE_TOO_LARGE", 100, 0.1, "size"),
        ("RECORD_LIST_TOO_LARGE", 100, 0.1, "size"),
        ("_TIMED_OUT", HALVED_ABOVE_BYTES + 1, 0.1, "time"),
        ("_TIMED_OUT", HALVED_ABOVE_BYTES, 15.0, "other"),
        ("_FENCED", HALVED_ABOVE_BYTES + 1, 14.0, "time"),
        ("_FENCED", HALVED_ABOVE_BYTES + 1, 1.0, "other"),
        ("_TRANSPORT", 100, 1.0, "other"),
        ("", 100, 1.0, "other"),
    ],
)
def test_whose_fault_a_failed_transaction_is(code: str, size: int, took_s: float, fault: str) -> None:
    """A size is refused at once and by name; time runs out of large ones alone: a small one waits for the broker."""
    assert fault == fault_of(code, size=size, took_s=took_s, timeout_s=15.0)


def test_a_refused_transaction_is_cut_down_to_the_record() -> None:
    """Six failures lead from a full transaction to one record; the bytes are not what was refused."""
    now, failed = MOST, MOST.records
    for _ in range(6):
        now = after_failure(now, "size", records=failed, size=MB)
        failed = now.records

    assert Allowance(1, MOST.bytes) == now
    assert Allowance(1, MOST.bytes) == after_failure(now, "size", records=1, size=MB)


def test_one_that_runs_out_of_time_is_halved_by_bytes() -> None:
    """From what it held, not from what it might have held."""
    assert Allowance(60_000, 20 * MB) == after_failure(MOST, "time", records=130, size=40 * MB)
    assert Allowance(60_000, 32 * MB) == after_failure(MOST, "time", records=1, size=100 * MB)
    assert MOST == after_failure(MOST, "other", records=130, size=40 * MB)


def test_it_grows_again_when_some_have_succeeded() -> None:
    """Doubled after eight in a row, up to the most; not while a refused record is still to come."""
    now = Allowance(1_000, 8 * MB)
    for _ in range(GROWS_AFTER):
        assert (1_000, 8 * MB) == now[:2]
        now = after_success(now, MOST)
    assert Allowance(2_000, 16 * MB) == now

    for _ in range(100):
        now = after_success(now, MOST)
    assert MOST == now
    assert (1, MOST.bytes) == after_success(Allowance(1, MOST.bytes, 7), MOST, suspects=True)[:2]


@given(st.lists(st.tuples(st.sampled_from(["ok", "size", "time", "other"]), st.integers(1, 200 * MB)), max_size=60))
def test_it_stays_between_one_record_and_the_most(steps: list[tuple[str, int]]) -> None:
    """Whatever happens, the next transaction may hold something and never more than is set."""
    now = MOST
    for what, size in steps:
        if what == "ok":
            now = after_success(now, MOST)
        else:
            now = after_failure(now, what, records=max(1, min(now.records, size)), size=size)  # type: ignore[arg-type]
        assert 1 <= now.records <= MOST.records
        assert 1 <= now.bytes <= MOST.bytes


def test_the_pause_grows_and_ends_at_half_a_minute() -> None:
    """At once after the first failure, then longer and longer with jitter, and never longer than the longest."""
    assert 0 == pause_s(1, 0.5)
    assert (0.25, 0.5) == (pause_s(2, 0.0), pytest.approx(pause_s(2, 1.0)))
    assert [pause_s(failures, 0.0) for failures in (3, 4, 5)] == [0.5, 1.0, 2.0]
    assert pause_s(1_000_000, 1.0) == pytest.approx(PAUSE_MAX_S)
