"""Single lanes, case by case: what leaves when, what is dropped, and where progress stands meanwhile."""

from __future__ import annotations

import gc
import tracemalloc

from streams._native import Records
from streams.delivery.conflate import Conflater
from streams.delivery.lane import Batch, Lanes
from streams.kernel.rule import DELETE, DELTA, SNAPSHOT
from tests.delivery.owner import DAMAGED, REQUESTER, SCHEMA, Owner, Receiver, records

A, B, C = b"a", b"b", b"c"
CONFLATER = Conflater(SCHEMA.native)


class Place:
    """An owner, the lanes of a target, and how far they have read."""

    def __init__(self, *, bytes_max: int = 1 << 30) -> None:
        self.owner = Owner()
        self.lanes = Lanes(CONFLATER.compose, CONFLATER.head, requester=REQUESTER, bytes_max=bytes_max)
        self.lanes.assign(0, 0)
        self.uptime_s = 0

    def change(self, *keys: bytes) -> None:
        """Devices change, one after the other, and the lanes read of it."""
        for key in keys:
            self.uptime_s += 1
            self.owner.change(key, uptime_s=self.uptime_s)
        self.read()

    def read(self) -> None:
        """The lanes take what is new in the log."""
        self.lanes.take(0, records(self.owner.log(0)))

    def cut(self, now_ms: int = 0, records_max: int = 100, bytes_max: int = 1 << 20) -> Batch:
        """The next request, which must be there."""
        batch = self.lanes.cut(now_ms, records_max, bytes_max)
        assert batch is not None
        return batch

    @property
    def progress(self) -> int:
        """Of the only partition, as a count of records below it."""
        return sum(each.offset < self.lanes.progress(0) for each in self.owner.log(0))


def shape(batch: Batch | None) -> list[tuple[bytes, list[tuple[int, int, int]]]] | None:
    """Per entry its key, and of each patch kind, base revision and revision."""
    if batch is None:
        return None
    return [
        (entry.key, [(head.kind, head.base_revision, head.revision) for head in map(CONFLATER.head, entry.patches)])
        for entry in batch.entries
    ]


# -- order --------------------------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    """Keys leave in the order of their first patches, and take along what has come since."""
    place = Place()
    place.change(B, A, B, C)

    expected = [
        (B, [(SNAPSHOT, 0, 1), (DELTA, 1, 2)]),
        (A, [(SNAPSHOT, 0, 1)]),
        (C, [(SNAPSHOT, 0, 1)]),
    ]
    batch = place.cut()
    assert expected == shape(batch)
    assert (4, 0, [0, 1, 4]) == (batch.records, place.lanes.pending_records, [entry.first for entry in batch.entries])
    assert (0, 0, 2) == (batch.entries[0].partition, batch.entries[0].first, batch.entries[0].last)


def test_a_key_in_flight_waits_and_the_others_go_on() -> None:
    """What comes of a key in flight stays behind it until that is settled."""
    place = Place()
    place.change(A)
    first = place.cut()
    place.change(A, B)
    second = place.cut()
    assert [(B, [(SNAPSHOT, 0, 1)])] == shape(second)
    assert place.lanes.cut(0, 100, 1 << 20) is None
    place.lanes.delivered(first)

    assert [(A, [(DELTA, 1, 2)])] == shape(place.cut())


def test_progress_is_behind_the_lowest_unfinished() -> None:
    """A later request that is done first does not move progress; the first one moves it over both."""
    place = Place()
    place.change(A)
    first = place.cut()
    place.change(B)
    second = place.cut()
    place.lanes.delivered(second)
    between = place.progress
    place.lanes.delivered(first)

    assert (0, 2) == (between, place.progress)


def test_put_back_is_in_front() -> None:
    """What was not taken leaves next, in its old order, and before what is newer of its keys."""
    place = Place()
    place.change(A, B)
    batch = place.cut()
    place.change(C, B)
    place.lanes.put_back(batch)

    expected = [(A, [(SNAPSHOT, 0, 1)]), (B, [(SNAPSHOT, 0, 1), (DELTA, 1, 2)]), (C, [(SNAPSHOT, 0, 1)])]
    assert expected == shape(place.cut())
    place.lanes.put_back(batch)
    place.lanes.delivered(batch)
    assert 0 == place.progress, "the old request is void"


def test_limits_of_a_request() -> None:
    """A request keeps its limits; a busy key is divided; a patch that is too large goes by itself."""
    place = Place()
    place.change(A, A, A, B)
    size = place.lanes._parts[0].nbytes
    batches = [place.cut(records_max=2)]
    assert [(A, [(SNAPSHOT, 0, 1), (DELTA, 1, 2)])] == shape(batches[0])
    assert [(B, [(SNAPSHOT, 0, 1)])] == shape(place.cut(records_max=2)), "the rest of it waits behind it"
    place.lanes.delivered(batches[0])
    batches.append(place.cut(bytes_max=1))
    assert [(A, [(DELTA, 2, 3)])] == shape(batches[1])
    assert size == place.lanes._parts[0].nbytes + batches[0].nbytes
    assert (0, 0) == (batches[0].entries[0].first, place.lanes.pending_records)
    assert [1, 2] == [batch.entries[0].last for batch in batches]


def test_a_request_of_one_key() -> None:
    """Where the URL names the key: all that waits of it, and of no other."""
    place = Place()
    place.change(A, B, A)
    batches = [place.lanes.cut(0, 100, 1 << 20, keys_max=1) for _ in range(3)]

    assert [[(A, [(SNAPSHOT, 0, 1), (DELTA, 1, 2)])], [(B, [(SNAPSHOT, 0, 1)])], None] == [*map(shape, batches)]


def test_a_key_of_two_partitions_has_two_lanes() -> None:
    """Whoever wrote them, their offsets are not mixed up."""
    place = Place()
    place.change(A)
    place.lanes.assign(1, 0)
    place.lanes.take(1, records(place.owner.log(0)))
    batch = place.cut()
    place.lanes.release(1)
    place.lanes.delivered(batch)

    assert [0, 1] == [entry.partition for entry in batch.entries]
    assert 1 == place.progress


def test_split_in_halves_down_to_a_key() -> None:
    """Halves by keys, in flight both; one key is not divided further."""
    place = Place()
    place.change(A, B, C, A)
    batch = place.cut()
    left, right = place.lanes.split(batch)
    place.lanes.delivered(batch)
    assert 0 == place.progress, "the whole is void"
    assert ([A], [B, C]) == tuple([entry.key for entry in half.entries] for half in (left, right))
    assert [left] == place.lanes.split(left)
    assert (2, 2) == (left.records, right.records)
    place.lanes.delivered(left)
    place.lanes.put_back(right)
    assert 1 == place.progress

    assert [B, C] == [entry.key for entry in place.cut().entries]


# -- what comes in ------------------------------------------------------------------------------------------------


def test_what_is_not_for_this_target_is_passed_over() -> None:
    """Snapshots for others, records without a value, and what was taken before: nothing waits, progress passes."""
    place = Place()
    place.change(A)
    place.lanes.delivered(place.cut())
    place.owner.answer(A, b"other")
    place.read()
    place.read()
    place.lanes.take(0, Records())
    empty = Records()
    empty.append(A, None, (), 0, 7)
    place.lanes.take(0, empty)
    place.lanes.take(5, records(place.owner.log(0)))

    assert (2, 8, 0) == (place.progress, place.lanes.progress(0), place.lanes.pending_records)
    assert [] == place.lanes.take_arrived()


def test_records_below_the_start_are_done() -> None:
    """A chunk that begins before this target's progress gives only what is above it."""
    place = Place()
    for _ in range(3):
        place.owner.change(A)
    place.lanes.take(0, records(place.owner.log(0)), start=1)

    assert [(A, [(DELTA, 1, 2), (DELTA, 2, 3)])] == shape(place.cut())


def test_headers_of_others_do_not_matter() -> None:
    """Trace context and correlation are nobody's request."""
    place = Place()
    chunk = Records()
    chunk.append(A, place.owner.change(A), [("traceparent", b"00-1-2-3"), ("correlation-id", None)], 0, 0)
    place.lanes.take(0, chunk)

    assert [(A, [(SNAPSHOT, 0, 1)])] == shape(place.cut())


# -- conflating ---------------------------------------------------------------------------------------------------


def test_conflating_makes_one_of_what_waits() -> None:
    """What is pending when it begins, and what comes then; the one patch stands for all of its records."""
    place = Place()
    place.change(A, B, A)
    before = place.lanes.pending_bytes
    place.lanes.conflating = True
    assert (2, True) == (place.lanes.pending_records, place.lanes.pending_bytes < before)
    place.change(A, B, A, C)
    place.lanes.conflating = False
    batch = place.cut()

    assert [(A, [(SNAPSHOT, 0, 4)]), (B, [(SNAPSHOT, 0, 2)]), (C, [(SNAPSHOT, 0, 1)])] == shape(batch)
    assert [0, 1, 8] == [entry.first for entry in batch.entries]
    assert [6, 5, 8] == [entry.last for entry in batch.entries]
    assert 0 == place.progress
    place.lanes.delivered(batch)
    assert (7, 0) == (place.progress, place.lanes.pending_bytes)


def test_conflating_behind_what_is_in_flight() -> None:
    """A patch on its way is not touched; put back, it is composed with what came after it."""
    place = Place()
    place.change(A)
    place.lanes.delivered(place.cut())
    place.change(A)
    batch = place.cut()
    place.lanes.conflating = True
    place.change(A, A, A)
    assert (1, [(A, [(DELTA, 1, 2)])]) == (place.lanes.pending_records, shape(batch))
    place.lanes.put_back(batch)

    assert [(A, [(DELTA, 1, 5)])] == shape(place.cut())
    assert 1 == place.progress


def test_progress_over_a_composed_patch() -> None:
    """One patch over many records holds progress at the first of them, whatever is done in between."""
    place = Place()
    place.lanes.conflating = True
    place.change(A, B, A, B, A)
    whole = place.cut(records_max=1)
    other = place.cut()
    place.lanes.delivered(other)
    assert ([B], 0) == ([entry.key for entry in other.entries], place.progress)
    place.lanes.delivered(whole)

    assert 5 == place.progress


def test_a_delete_conflates() -> None:
    """What comes before it is forgotten; what comes after starts anew."""
    place = Place()
    place.lanes.conflating = True
    place.change(A, B)
    place.owner.delete(A)
    place.owner.delete(B)
    place.change(B)

    assert [(A, [(DELETE, 0, 2)]), (B, [(SNAPSHOT, 0, 3)])] == shape(place.cut())


def test_a_missing_patch_makes_the_key_absent() -> None:
    """Where one is missing between two, both go: only a snapshot helps, and progress waits until it is asked for."""
    place = Place()
    place.lanes.conflating = True
    place.change(B, A)
    place.owner.change(A, lost=True)
    place.change(A, A)
    assert ([(A, 0)], 1, 1) == (list(place.lanes.wanted()), place.lanes.waiting_keys, place.lanes.pending_records)
    place.lanes.delivered(place.cut())
    assert 1 == place.progress
    place.lanes.await_snapshot([A])
    assert ([], 1, 4) == (list(place.lanes.wanted()), place.lanes.waiting_keys, place.progress)
    place.owner.answer(A)
    place.change(A)

    assert [(A, (1_000, 4))] == place.lanes.take_arrived()
    assert [(A, [(SNAPSHOT, 0, 5)])] == shape(place.cut())


def test_a_missing_patch_behind_one_in_flight() -> None:
    """The one in flight is as good as it was; put back, it is not needed any more."""
    place = Place()
    place.change(A)
    batch = place.cut()
    place.lanes.conflating = True
    place.change(A)
    place.owner.change(A, lost=True)
    place.change(A)
    assert [(A, 0)] == list(place.lanes.wanted())
    place.lanes.put_back(batch)
    assert (None, 0) == (place.lanes.cut(0, 9, 999), place.progress)
    place.lanes.await_snapshot([A])

    assert 3 == place.progress


def test_a_damaged_patch_is_left_to_the_receiver() -> None:
    """It is sent in its place: the answer to it is what dead-letters it."""
    place = Place()
    place.lanes.conflating = True
    place.change(A)
    place.owner.change(A, damaged=True)
    place.change(A, A)
    batch = place.cut()

    assert (3, DAMAGED) == (batch.records, batch.entries[0].patches[1])
    last = CONFLATER.head(batch.entries[0].patches[2])
    assert (2, 4) == (last.base_revision, last.revision)


# -- keys that rest -----------------------------------------------------------------------------------------------


def test_a_resting_key_stops_nobody() -> None:
    """It leaves when it is due, alone, as one patch with what has come meanwhile; the others never waited."""
    place = Place()
    place.change(A, B)
    place.lanes.put_back(place.cut(records_max=1), not_before_ms=50, alone=True)
    place.change(A, A)
    assert (50, [(B, [(SNAPSHOT, 0, 1)])]) == (place.lanes.next_ms, shape(place.cut(now_ms=49)))
    assert place.lanes.cut(49, 100, 1 << 20) is None
    place.change(C)

    assert [(A, [(SNAPSHOT, 0, 3)])] == shape(place.cut(now_ms=50))
    assert place.lanes.next_ms is None
    assert [(C, [(SNAPSHOT, 0, 1)])] == shape(place.cut(now_ms=50))


def test_sick_keys_leave_one_at_a_time_and_in_turn() -> None:
    """Many sick keys take a part of one connection; without others they need not take turns."""
    place = Place()
    place.change(A, B)
    place.lanes.put_back(place.cut(), alone=True)
    place.change(C)
    sick = place.cut()
    others = place.cut()
    assert 1 == place.lanes.resting_keys
    assert ([A], [C]) == ([entry.key for entry in sick.entries], [entry.key for entry in others.entries])
    assert place.lanes.cut(0, 100, 1 << 20) is None, "the other sick key waits for the first one"
    place.lanes.put_back(sick, not_before_ms=9, alone=True)
    place.change(b"d")
    turns = [place.cut(), place.cut()]

    assert [[B], [b"d"]] == [[entry.key for entry in batch.entries] for batch in turns]
    place.lanes.delivered(turns[0])
    sick = place.cut(now_ms=9)
    place.lanes.put_back(sick, alone=True)
    place.change(C, b"e")
    turns = [place.cut(now_ms=9), place.cut(now_ms=9)]
    assert [[b"e"], [A]] == [[entry.key for entry in batch.entries] for batch in turns]


def test_put_back_to_wait_together() -> None:
    """Keys that rest without being sick leave together again when they are due."""
    place = Place()
    place.change(A, B)
    place.lanes.put_back(place.cut(), not_before_ms=5)
    assert (None, 2) == (place.lanes.cut(4, 100, 1 << 20), place.lanes.resting_keys)

    assert [A, B] == [entry.key for entry in place.cut(now_ms=5).entries]


def test_since_when_a_key_fails() -> None:
    """From its first failure to its next success, whatever happens between."""
    place = Place()
    place.change(A)
    batch = place.cut()
    since = [place.lanes.key_failed(A, 10)]
    place.lanes.put_back(batch, not_before_ms=20, alone=True)
    batch = place.cut(now_ms=20)
    since.append(place.lanes.key_failed(A, 20))
    place.lanes.put_back(batch)
    batch = place.cut(now_ms=30)
    since.append(place.lanes.key_failed(A, 30))
    place.lanes.delivered(batch)
    place.change(A)
    since += [place.lanes.key_failed(A, 40), place.lanes.key_failed(B, 50)]

    assert [10, 10, 10, 40, 50] == since


# -- absent keys --------------------------------------------------------------------------------------------------


def test_stale_keys_are_kept_and_the_others_delivered() -> None:
    """A 409 settles all but the keys it names; those stay in flight until their requests are durable."""
    place = Place()
    place.change(A, B, C)
    batch = place.cut()
    kept = place.lanes.keep(batch, {B})
    assert ([B], 1) == ([entry.key for entry in kept.entries], place.progress)
    place.change(B)
    place.lanes.await_snapshot(kept.entries)
    assert (4, 0, 1) == (place.progress, place.lanes.pending_records, place.lanes.waiting_keys)
    place.change(B, B)
    assert (6, None) == (place.progress, place.lanes.cut(0, 100, 1 << 20))
    place.owner.answer(B)
    place.change(B)

    assert ([(B, (1_000, 4))], 0) == (place.lanes.take_arrived(), place.lanes.waiting_keys)
    assert [(B, [(SNAPSHOT, 0, 4), (DELTA, 4, 5)])] == shape(place.cut())


def test_dropping_what_is_in_flight() -> None:
    """A refused key is out of the way before its snapshot is asked for; progress waits for the request."""
    place = Place()
    place.change(A, B)
    batch = place.cut()
    place.change(A, B)
    place.owner.answer(B)
    place.read()
    assert {A: 0} == place.lanes.drop(batch.entries), "the snapshot of the other one is there"
    assert {} == place.lanes.drop(batch.entries)
    place.change(A)
    assert ([(A, 0)], 0, 1) == (list(place.lanes.wanted()), place.progress, place.lanes.pending_records)
    place.lanes.await_snapshot([A])

    assert (4, [(B, [(SNAPSHOT, 0, 2)])]) == (place.progress, shape(place.cut()))


def test_a_key_that_is_asked_for_is_not_wanted_again() -> None:
    """Refused once more while its request is durable, it only waits."""
    place = Place()
    place.change(A)
    batch = place.cut()
    place.change(A)
    place.lanes.drop_pending()
    place.lanes.await_snapshot([A])

    assert {} == place.lanes.drop(batch.entries)
    assert (2, 1) == (place.progress, place.lanes.waiting_keys)


def test_a_delete_is_an_answer() -> None:
    """A device that is gone needs no snapshot."""
    place = Place()
    place.change(A)
    place.lanes.await_snapshot(place.cut().entries)
    place.change(A)
    place.owner.delete(A)
    place.read()

    assert [(A, [(DELETE, 2, 3)])] == shape(place.cut())
    assert [(A, (1_000, 3))] == place.lanes.take_arrived()


def test_a_snapshot_for_others_is_no_answer() -> None:
    """Other requesters' snapshots are passed over, also by a key that waits: its own comes."""
    place = Place()
    place.change(A)
    place.lanes.await_snapshot(place.cut().entries)
    place.owner.answer(A, b"other")
    place.read()

    assert (None, 1, 2) == (place.lanes.cut(0, 100, 1 << 20), place.lanes.waiting_keys, place.progress)


def test_a_snapshot_for_everybody_is_an_answer() -> None:
    """Several asked for the key at once: the owner answered all of them with one record."""
    place = Place()
    place.change(A)
    place.lanes.await_snapshot(place.cut().entries)
    place.owner.answer(A, b"*")
    place.read()

    assert [(A, [(SNAPSHOT, 0, 1)])] == shape(place.cut())
    assert (0, [(A, (1_000, 1))]) == (place.lanes.waiting_keys, place.lanes.take_arrived())


def test_a_snapshot_that_is_behind_ends_the_wait_before_it_begins() -> None:
    """A key whose snapshot has come in behind the refused patch goes on with it, without what lay between."""
    place = Place()
    place.change(A)
    batch = place.cut()
    place.change(A)
    place.owner.answer(A)
    place.change(A)
    place.lanes.await_snapshot(batch.entries)

    assert (0, 2, 2) == (place.lanes.waiting_keys, place.progress, place.lanes.pending_records)
    assert [(A, [(SNAPSHOT, 0, 2), (DELTA, 2, 3)])] == shape(place.cut())


def test_a_snapshot_nobody_waits_for_is_sent_and_told() -> None:
    """Such as a replayed dead letter asks for."""
    place = Place()
    place.change(A)
    place.lanes.delivered(place.cut())
    place.owner.answer(A)
    place.read()

    assert [(A, [(SNAPSHOT, 0, 1)])] == shape(place.cut())
    assert [(A, (1_000, 1))] == place.lanes.take_arrived()
    assert [] == place.lanes.take_arrived()


def test_dropping_what_is_pending() -> None:
    """Progress stays before the first dropped record of each key until its snapshot is asked for."""
    place = Place()
    place.change(A, B, A)
    assert {A: 0, B: 0} == place.lanes.drop_pending()
    place.change(A, B)
    assert (0, 0, 2) == (place.progress, place.lanes.pending_records, place.lanes.waiting_keys)
    assert {} == place.lanes.drop_pending()
    place.lanes.await_snapshot([A])
    assert 1 == place.progress
    place.lanes.await_snapshot([B])

    assert 5 == place.progress


def test_a_snapshot_comes_before_it_is_asked_for() -> None:
    """It covers what was dropped, and the late request drops nothing."""
    place = Place()
    place.change(A, A)
    place.lanes.drop_pending()
    place.owner.answer(A)
    place.read()
    assert ([], 2) == (list(place.lanes.wanted()), place.progress)
    batch = place.cut()
    place.lanes.await_snapshot([A])
    place.change(A)
    assert 0 == place.lanes.waiting_keys
    place.lanes.delivered(batch)

    assert [(A, [(DELTA, 2, 3)])] == shape(place.cut())


def test_a_snapshot_waits_for_the_older_request_in_flight() -> None:
    """Its key is on its way still: the snapshot leaves after that is settled, never beside it."""
    place = Place()
    place.change(A)
    batch = place.cut()
    place.change(A)
    assert {A: 0} == place.lanes.drop_pending()
    place.lanes.await_snapshot([A])
    place.owner.answer(A)
    place.read()
    assert (None, 1) == (place.lanes.cut(0, 100, 1 << 20), place.lanes.pending_records)
    place.lanes.delivered(batch)

    assert [(A, [(SNAPSHOT, 0, 2)])] == shape(place.cut())


def test_what_an_absent_key_had_in_flight_is_not_sent_again() -> None:
    """Put back, it is covered by the snapshot; progress is held where the lowest of its records is."""
    place = Place()
    place.change(A, B)
    batch = place.cut()
    place.change(A)
    place.lanes.drop_pending()
    place.lanes.put_back(batch)
    assert [(B, [(SNAPSHOT, 0, 1)])] == shape(place.cut())
    assert ([(A, 0)], 0) == (list(place.lanes.wanted()), place.progress)
    place.lanes.await_snapshot([A])

    assert 1 == place.progress


def test_put_back_of_a_key_that_was_asked_for() -> None:
    """Its request is durable already: nothing holds progress."""
    place = Place()
    place.change(A)
    batch = place.cut()
    place.change(A)
    place.lanes.drop_pending()
    place.lanes.await_snapshot([A])
    assert 0 == place.progress
    place.lanes.put_back(batch)

    assert ([], 1, 2) == (list(place.lanes.wanted()), place.lanes.waiting_keys, place.progress)


# -- partitions come and go ---------------------------------------------------------------------------------------


def test_what_is_in_flight_of_a_released_partition_is_void() -> None:
    """Whatever becomes of it, it changes nothing of the partition's next time here."""
    for outcome in ("delivered", "put_back", "await", "keep", "split"):
        place = Place()
        place.change(A, B)
        batch = place.cut()
        place.change(A)
        place.lanes.release(0)
        place.lanes.assign(0, 0)
        place.read()
        if outcome == "delivered":
            place.lanes.delivered(batch)
        elif outcome == "put_back":
            place.lanes.put_back(batch)
        elif outcome == "await":
            place.lanes.await_snapshot(batch.entries)
        elif outcome == "keep":
            assert () == place.lanes.keep(batch, {A, B}).entries
        else:
            assert [batch] == place.lanes.split(batch)

        assert (0, 3, 0) == (place.progress, place.lanes.pending_records, place.lanes.waiting_keys)
        assert [(A, [(SNAPSHOT, 0, 1), (DELTA, 1, 2)]), (B, [(SNAPSHOT, 0, 1)])] == shape(place.cut())
        assert place.lanes.cut(0, 100, 1 << 20) is None


def test_a_release_forgets_everything() -> None:
    """Pending, resting, absent: all of it is the next worker's."""
    place = Place()
    place.change(A, B, C)
    place.lanes.put_back(place.cut(records_max=1), not_before_ms=9, alone=True)
    place.lanes.await_snapshot(place.cut(records_max=1).entries)
    place.lanes.release(0)

    assert not place.lanes._queue.ready, "memory too"
    assert (0, 0, 0, None) == (
        place.lanes.pending_records, place.lanes.pending_bytes, place.lanes.waiting_keys, place.lanes.next_ms
    )  # fmt: skip
    assert place.lanes.cut(100, 100, 1 << 20) is None
    place.lanes.release(0)


# -- memory -------------------------------------------------------------------------------------------------------


def test_full() -> None:
    """Reading stops at the limit, and goes on when conflating or a delivery has made room."""
    place = Place(bytes_max=10_000)
    while not place.lanes.full:
        place.change(A)
    assert place.lanes.pending_bytes >= 10_000
    place.lanes.conflating = True
    assert not place.lanes.full
    place.lanes.conflating = False
    while not place.lanes.full:
        place.change(B)
    place.lanes.delivered(place.cut(records_max=1_000))

    assert not place.lanes.full


def test_pending_bytes_are_memory() -> None:
    """What is counted is about what is used, by pending patches and by absent keys."""
    owner = Owner()
    for number in range(4_000):
        owner.change(b"device-%06d" % (number % 3_000), uptime_s=number, status="up", firmware="f" * 60)
    chunk = records(owner.log(0))
    found = []
    for drop in (False, True):
        gc.collect()
        tracemalloc.start()
        lanes = Lanes(CONFLATER.compose, CONFLATER.head, requester=REQUESTER, bytes_max=1 << 30)
        lanes.assign(0, 0)
        lanes.take(0, chunk)
        if drop:
            lanes.drop_pending()
            gc.collect()
        found.append(lanes.pending_bytes / tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()

    assert all(0.7 < ratio < 1.4 for ratio in found), found


def test_an_outage_takes_memory_by_keys_and_a_receiver_is_level_after_it() -> None:
    """Thousands of patches of a few keys while the target is away: one patch of each is what it gets."""
    place, receiver = Place(), Receiver()
    place.lanes.conflating = True
    held = []
    for _ in range(20):
        place.change(*([A, B, C] * 20))
        held.append(place.lanes.pending_bytes)
    batch = place.cut()
    for entry in batch.entries:
        assert receiver.apply(entry.key, entry.patches)
    place.lanes.delivered(batch)

    assert (3, 1_200) == (batch.records, place.progress)
    assert max(held) < held[0] * 1.1
    assert place.owner.states == {key: receiver.held.state(key) for key in (A, B, C)}
