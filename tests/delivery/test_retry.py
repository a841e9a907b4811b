"""What the end of an attempt means, how long to wait, and when the budget is used up."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.retry import (
    OWN,
    RETRY_AFTER_MS_MAX,
    Budget,
    Verdict,
    classify,
    full_jitter_ms,
    policy,
    retry_after_ms,
)
from streams.errors import FailureKind
from streams.http import HttpClient, HttpFailure
from streams.options import DeliverySettings, TargetSettings
from tests.zoo import Zoo

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "ok"),
        (202, "ok"),
        (204, "ok"),
        (301, "transient"),
        (304, "transient"),
        (307, "transient"),
        (400, "permanent"),
        (401, "auth"),
        (403, "auth"),
        (404, "permanent"),
        (408, "transient"),
        (409, "stale"),
        (410, "gone"),
        (413, "permanent"),
        (422, "permanent"),
        (425, "transient"),
        (429, "throttled"),
        (500, "transient"),
        (501, "transient"),
        (503, "transient"),
        (599, "transient"),
        (101, "transient"),
        (999, "transient"),
    ],
)
def test_a_status_has_a_class(status: int, kind: str) -> None:
    """Statuses that HTTP does not have, or that are no answer, say nothing about what was sent."""
    assert (kind, str(status), 0) == (
        (verdict := classify(status)).kind,
        verdict.code,
        verdict.retry_after_ms,
    )


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_a_failure_without_an_answer_is_never_permanent(kind: FailureKind) -> None:
    """It is the target's or the network's: it must not make dead letters."""
    assert Verdict("auth" if kind == "auth" else "transient", kind) == classify(kind, {}, NOW_S, 0)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("0", 0),
        ("7", 7_000),
        (" 7 ", 7_000),
        ("007", 7_000),
        ("300", 300_000),
        ("301", 300_000),
        ("9" * 5_000, 300_000),
        ("-7", 0),
        ("+7", 0),
        ("7.5", 0),
        ("٧", 0),
        ("", 0),
        ("soon", 0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30_000),
        ("Sunday, 22-Nov-26 12:00:30 GMT", 30_000),
        ("Sun Nov 22 12:00:30 2026", 30_000),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30_000),
        ("Sun, 22 Nov 2026 13:00:30 +0100", 30_000),
        ("Sun, 22 Nov 2026 11:59:30 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300_000),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ("Sun, 00 Nov 2026 12:00:30 GMT", 0),
    ],
)
def test_retry_after(value: str, ms: int) -> None:
    """Seconds and all three date formats of HTTP, capped; what is neither is no wish."""
    assert ms == retry_after_ms(value, NOW_S)


@given(st.text() | st.text("0123456789 ,:GMTSunov-+", max_size=40), st.integers(0, 4_000_000_000))
def test_retry_after_never_raises(value: str, now_s: int) -> None:
    """Whatever a receiver writes, the wait is between nothing and the cap."""
    assert 0 <= retry_after_ms(value, now_s) <= RETRY_AFTER_MS_MAX


@given(st.integers(0, 290))
def test_a_date_means_what_its_seconds_mean(seconds: int) -> None:
    """A date so many seconds ahead is those seconds."""
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)

    assert retry_after_ms(str(seconds), NOW_S) == retry_after_ms(date, NOW_S)


def test_retry_after_counts_where_waiting_helps() -> None:
    """503 and 429 are waited out as they wish, a redirect too; a 404's wish is nobody's."""
    headers = {"retry-after": "7"}

    assert Verdict("transient", "503", 7_000) == classify(503, headers, NOW_S)
    assert Verdict("throttled", "429", 7_000) == classify(429, headers, NOW_S)
    assert Verdict("throttled", "429", 2_000) == classify(429, headers, NOW_S, 2_000)
    assert Verdict("transient", "301", 7_000) == classify(301, headers, NOW_S)
    assert Verdict("permanent", "404") == classify(404, headers, NOW_S)
    assert Verdict("ok", "200") == classify(200, headers, NOW_S)


@given(st.integers(0, 10_000), st.integers(1, 1_000), st.integers(1, 100_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_within_its_bound(attempt: int, base_ms: int, most_ms: int, chance: float) -> None:
    """Nothing less than nothing, nothing above the bound of this attempt or the cap."""
    bound = min(base_ms * 2 ** min(max(attempt - 1, 0), 40), most_ms)

    assert 0 <= full_jitter_ms(base_ms, most_ms, attempt, chance) <= bound


def test_pauses_double_up_to_the_cap() -> None:
    """The first is up to the base, each further one up to twice that."""
    bounds = [full_jitter_ms(100, 1_000, attempt, math.nextafter(1, 0)) for attempt in range(1, 7)]

    assert [99, 199, 399, 799, 999, 999] == bounds


def test_jitter_is_full() -> None:
    """Evenly spread chances give evenly spread pauses, from nothing to the bound: nothing of them is fixed."""
    pauses = [full_jitter_ms(1_000, 20_000, 3, chance / 1_000) for chance in range(1_000)]

    assert [4 * chance for chance in range(1_000)] == pauses


def test_a_budget_is_used_up_by_half() -> None:
    """Fifty failures in a row of a hundred tokens end retries; first attempts go on and are still counted."""
    budget = Budget(100, 0.1)

    assert [True] * 49 + [False] * 71 == [budget.failure() for _ in range(120)]
    assert 0 == budget.tokens


def test_successes_fill_a_budget() -> None:
    """Ten give a token back, up to what it began with."""
    budget = Budget(10, 0.125)
    for _ in range(20):
        budget.failure()
    for _ in range(48):
        budget.success()

    assert 6 == budget.tokens
    assert not budget.failure()
    for _ in range(1_000):
        budget.success()

    assert 10 == budget.tokens
    assert budget.failure()


@given(st.floats(1, 1_000), st.floats(0.001, 1), st.lists(st.booleans(), max_size=200))
def test_a_budget_stays_within_its_bounds(tokens: float, ratio: float, ends: list[bool]) -> None:
    """And allows a retry exactly while more than half is left."""
    budget = Budget(tokens, ratio)
    for success in ends:
        if success:
            budget.success()
        else:
            assert budget.failure() == (budget.tokens > tokens / 2)

        assert 0 <= budget.tokens <= tokens


async def test_the_zoo_is_classed() -> None:
    """Each target of the zoo, over a real socket, ends in the class that it should."""
    wanted = {
        "ok": "ok", "slow": "ok", "redirect": "transient", "status-404": "permanent", "stale": "stale",
        "stale-json": "stale", "gone": "gone", "throttled-seconds": "throttled", "throttled-date": "throttled",
        "throttled-absurd": "throttled", "throttled-absurd-date": "throttled", "unavailable": "transient",
        "errors-100": "transient", "hang": "transient", "hang-after-headers": "transient", "drip": "transient",
        "reset": "transient", "reset-mid-body": "transient", "endless-body": "transient", "garbage": "transient",
        "endless-header": "transient", "bad-chunk": "transient",
    }  # fmt: skip
    asked = {
        "throttled-seconds": 30, "throttled-date": 30, "throttled-absurd": 300, "throttled-absurd-date": 300,
        "unavailable": 30,
    }  # fmt: skip
    found: dict[str, str] = {}
    async with Zoo() as zoo, HttpClient(allow_private=True) as client:
        for name in wanted:
            # What hangs needs little time, and what does not may need much on a busy machine.
            timeout_ms = 500 if name in ("hang", "hang-after-headers", "drip", "bad-chunk") else 30_000
            try:
                answer = await client.request("POST", zoo.url(name), body=b"x", timeout_ms=timeout_ms)
            except HttpFailure as failure:
                verdict = classify(failure.kind)
            else:
                verdict = classify(answer.status, answer.headers, datetime.now(UTC).timestamp())
            found[name] = verdict.kind

            assert asked.get(name, 0) - 10 <= verdict.retry_after_ms / 1_000 <= asked.get(name, 0)

    assert wanted == found


@pytest.mark.parametrize("name", OWN)
def test_a_target_may_have_a_policy_of_its_own(name: str) -> None:
    """One number of its own leaves the others those of all targets."""
    shared = DeliverySettings(attempts_max=7, backoff_ms=11, key_retry_ms_max=5_000)
    own = policy(shared, TargetSettings(**{name: 3}))

    assert 3 == getattr(own, name)
    assert shared == replace(own, **{name: getattr(shared, name)})
    assert shared == policy(shared, TargetSettings())
