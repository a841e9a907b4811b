"""Which snapshots are asked for, and when."""

from __future__ import annotations

from streams.client.resync import ANSWER_TIMEOUT_MS, ANSWER_TIMEOUT_MS_MAX, WANTED_KEYS_MAX, Ask, Asks
from streams.v1.resync_pb2 import Resync


def ask(key: bytes, offset: int = 0, needed: tuple[int, int] = (1, 5), partition: int = 0) -> Ask:
    """A request after a gap."""
    return Ask(key, partition, offset, Resync.GAP, 1, 2, needed)


def keys(asks: list[Ask]) -> list[bytes]:
    """Whom they are for."""
    return [one.key for one in asks]


def test_a_key_is_asked_for_once() -> None:
    """Further gaps of a key that is wanted or asked for add no request."""
    asks = Asks()
    asks.want(ask(b"a"))
    asks.want(ask(b"a", offset=1))
    due = asks.due(0)
    asks.asked(due, 0)
    asks.want(ask(b"a", offset=2))

    assert [b"a"] == keys(due)
    assert [] == asks.due(1)
    assert (1, True) == (len(asks), b"a" in asks)


def test_a_request_that_was_not_sent_stays_due() -> None:
    """What the log did not take is due again."""
    asks = Asks()
    asks.want(ask(b"a"))

    assert [b"a"] == keys(asks.due(0)) == keys(asks.due(0))


def test_an_answer_must_reach_what_was_seen() -> None:
    """A snapshot below the patch that showed the last gap is no answer to it."""
    asks = Asks()
    asks.want(ask(b"a", needed=(1, 5)))
    asks.asked(asks.due(0), 0)
    asks.want(ask(b"a", needed=(1, 9)))
    asks.answered(b"a", (1, 8))

    assert b"a" in asks

    asks.answered(b"a", (1, 9))

    assert b"a" not in asks


def test_an_answer_takes_back_what_was_not_sent_yet() -> None:
    """Another receiver's snapshot may make a request needless."""
    asks = Asks()
    asks.want(ask(b"a", needed=(1, 5)))
    asks.answered(b"a", (2, 1))

    assert [] == asks.due(0)


def test_unanswered_requests_are_repeated_ever_more_slowly() -> None:
    """After 30 s, then after twice as long each time, at most ten minutes; and no more once answered."""
    asks, now_ms, waits = Asks(), 0, []
    asks.want(ask(b"a"))
    for _ in range(8):
        asks.asked(asks.due(now_ms), now_ms)
        before = now_ms
        while not asks.due(now_ms):
            now_ms += 1_000
        waits.append(now_ms - before)

    assert [ANSWER_TIMEOUT_MS, 2 * ANSWER_TIMEOUT_MS, 4 * ANSWER_TIMEOUT_MS] == waits[:3]
    assert ANSWER_TIMEOUT_MS_MAX == waits[-1] == waits[-2]

    asks.asked(asks.due(now_ms), now_ms)
    asks.answered(b"a", (1, 5))

    assert [] == asks.due(now_ms + 10 * ANSWER_TIMEOUT_MS_MAX)


def test_requests_are_bounded_per_second() -> None:
    """A burst of one second's worth, then as time passes; a clock that goes back gives nothing."""
    asks = Asks(per_second_max=10)
    for number in range(30):
        asks.want(ask(b"%d" % number))

    sent = []
    for now_ms in (0, 0, 500, 400, 1_400):
        due = asks.due(now_ms)
        asks.asked(due, now_ms)
        sent.append(len(due))

    assert [10, 0, 5, 0, 10] == sent


def test_floor_is_the_first_gap_not_asked_for() -> None:
    """Per partition; a request in the log no longer holds offsets back."""
    asks = Asks(per_second_max=1)
    asks.want(ask(b"a", offset=7))
    asks.want(ask(b"b", offset=9))
    asks.want(ask(b"c", offset=3, partition=1))

    assert (7, 3, None) == (asks.floor(0), asks.floor(1), asks.floor(2))

    asks.asked(asks.due(0), 0)

    assert (9, 3) == (asks.floor(0), asks.floor(1))


def test_reading_must_pause_while_too_many_wait() -> None:
    """What waits to be sent is bounded by the reader's pause, not by forgetting."""
    asks = Asks(per_second_max=WANTED_KEYS_MAX)
    for number in range(WANTED_KEYS_MAX):
        asks.want(ask(b"%d" % number))

    assert asks.full

    asks.asked(asks.due(0), 0)

    assert not asks.full


def test_a_partition_that_moved_is_not_asked_for() -> None:
    """Its new reader sees its gaps itself."""
    asks = Asks()
    asks.want(ask(b"a"))
    asks.asked(asks.due(0), 0)
    asks.want(ask(b"b"))
    asks.want(ask(b"c", partition=1))
    asks.drop(0)

    assert [b"c"] == keys(asks.due(10 * ANSWER_TIMEOUT_MS))
    assert 1 == len(asks)
