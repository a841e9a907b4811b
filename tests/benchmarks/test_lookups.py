"""The benchmark of look-ups in its small form: it runs, and what it counts is right."""

from __future__ import annotations

from benchmarks import lookups


def test_a_plain_replay_counts_the_requests() -> None:
    """A path is asked for when its time is over: after 300 s, or after 30 s where it does not exist."""
    second = ["1"] * lookups.EVENTS_PER_SECOND
    missing = [str(lookups.MISSING)] * lookups.EVENTS_PER_SECOND

    assert 1 == lookups.replayed(second * 300, 300_000, 30_000)
    assert 2 == lookups.replayed(second * 301, 300_000, 30_000)
    assert 3 == lookups.replayed(missing * 61, 300_000, 30_000)


def test_the_mix_is_the_same_every_time() -> None:
    """A few paths are most of it."""
    order = lookups.zipf(lookups.SMALL_PATHS, lookups.SMALL_LOOKUPS)
    most = max(set(order), key=order.count)

    assert order == lookups.zipf(lookups.SMALL_PATHS, lookups.SMALL_LOOKUPS)
    assert lookups.SMALL_LOOKUPS / 10 < order.count(most) < lookups.SMALL_LOOKUPS / 3


def test_look_ups_ask_as_often_as_a_plain_replay() -> None:
    """Every value is the server's, and its own count is what the times to live make of the mix."""
    run = lookups.run(2, small=True)
    cases = {case["case"]: case for case in run["cases"]}

    assert run["verified"] is True
    assert lookups.SMALL_LOOKUPS == cases["in memory"]["events"] == cases["mix"]["events"]
    assert cases["mix"]["requests"] == cases["mix"]["requests_expected"] <= lookups.SMALL_PATHS
    assert cases["mix"]["saved"] >= 0.99
    assert {"in memory", "mix", "shared, 64 at a time"} == set(cases)
