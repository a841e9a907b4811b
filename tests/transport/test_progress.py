"""The stall rule: time runs for a topic that has work, does not move, and has no reason to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.progress import Held, Holds, Place, Progressing, Stalled, Waiting, Watch

TIMEOUT_S = 60.0


def place(
    topic: str = "devices",
    partition: int = 0,
    *,
    done: int | None = 0,
    fetched: int = 0,
    reported: int = 0,
    end: int = 10,
) -> Place:
    """A partition with ten records to go, unless told otherwise."""
    return Place(topic, partition, done, fetched, reported, end)


def test_the_lag_ends_where_the_end_was_reported() -> None:
    """Markers behind the last record are no work; what was fetched and is not done is."""
    assert 10 == place().lag
    assert 0 == place(done=8, fetched=8, reported=10).lag
    assert 5 == place(done=5, fetched=8, reported=10).lag
    assert 2 == place(done=8, fetched=8, reported=8, end=10).lag
    assert 0 == place(done=None, fetched=-2, reported=10).lag
    assert 10 == place(done=None, fetched=-2).lag
    assert 0 == place(done=12, fetched=12, reported=0, end=10).lag


def test_a_topic_that_stands_still_with_work_is_stalled() -> None:
    """After the timeout, not before, and the partition with the most records is named."""
    watch = Watch(TIMEOUT_S)
    places = [place(partition=0), place(partition=1, end=30), place(partition=2)]

    assert Progressing() == watch.observe(0, places, {"devices": 7}, {})
    assert Progressing() == watch.observe(TIMEOUT_S - 1, places, {"devices": 7}, {})
    assert Stalled("devices", 1, 30) == watch.observe(TIMEOUT_S, places, {"devices": 7}, {})


def test_any_step_starts_the_time_anew() -> None:
    """A slow agent is no stalled one."""
    watch = Watch(TIMEOUT_S)

    for step in range(10):
        assert Progressing() == watch.observe(step * (TIMEOUT_S - 1), [place()], {"devices": step}, {})


def test_a_busy_topic_does_not_hide_a_stalled_one() -> None:
    """Each topic has a time of its own."""
    watch = Watch(TIMEOUT_S)
    for second in range(0, 70, 10):
        verdict = watch.observe(second, [place("busy"), place("stuck")], {"busy": second, "stuck": 0}, {})

    assert Stalled("stuck", 0, 10) == verdict


def test_time_does_not_run_without_work() -> None:
    """A topic that was idle for hours has the whole timeout for the first record that comes."""
    watch = Watch(TIMEOUT_S)
    watch.observe(0, [place(done=10, fetched=10, reported=10)], {}, {})

    assert Progressing() == watch.observe(9_000, [place()], {}, {})
    assert Progressing() == watch.observe(9_000 + TIMEOUT_S - 1, [place()], {}, {})
    assert Stalled("devices", 0, 10) == watch.observe(9_000 + TIMEOUT_S, [place()], {}, {})


def test_a_declared_reason_stops_the_time() -> None:
    """While it lasts the worker waits; afterwards the time starts anew."""
    watch = Watch(TIMEOUT_S)
    watch.observe(0, [place()], {}, {})

    assert Waiting({"broker": "unreachable"}) == watch.observe(500, [place()], {}, {"broker": "unreachable"})
    assert Progressing() == watch.observe(510, [place()], {}, {})
    assert Progressing() == watch.observe(510 + TIMEOUT_S - 1, [place()], {}, {})
    assert Stalled("devices", 0, 10) == watch.observe(510 + TIMEOUT_S, [place()], {}, {})


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans(), st.booleans(), st.booleans())))
def test_a_stall_needs_a_whole_timeout_of_standing_still(history: list[tuple[float, bool, bool, bool]]) -> None:
    """Whatever happened: a stall is said only after a timeout of work, no step and no reason, and then always."""
    watch = Watch(TIMEOUT_S)
    now_s, step, still_since = 0.0, 0, None
    for passed_s, moved, has_work, has_reason in history:
        now_s += passed_s
        step += moved
        places = [place()] if has_work else [place(done=10, fetched=10, reported=10)]
        verdict = watch.observe(now_s, places, {"devices": step}, {"broker": "gone"} if has_reason else {})
        if moved or not has_work or has_reason or still_since is None:
            still_since = now_s if has_work and not has_reason else None

        stalled = still_since is not None and now_s - still_since >= TIMEOUT_S
        assert stalled == isinstance(verdict, Stalled)


def test_a_transaction_that_hangs_is_told_from_one_under_way() -> None:
    """The stable offset has to stand still for the whole time, before records that are there."""
    holds = Holds(TIMEOUT_S)
    where = ("devices", 3)

    assert [] == holds.observe(0, {where: (10, 15)})
    assert [] == holds.observe(TIMEOUT_S - 1, {where: (10, 20)})
    assert [Held("devices", 3, 10, 15, TIMEOUT_S)] == holds.observe(TIMEOUT_S, {where: (10, 25)})
    assert [] == holds.observe(TIMEOUT_S + 1, {where: (12, 25)})
    assert [] == holds.observe(2 * TIMEOUT_S, {where: (25, 25)})
    assert [] == holds.observe(3 * TIMEOUT_S, {where: (25, 30)})
