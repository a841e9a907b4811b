"""Who owns a partition and of which log: offsets of a replaced log, epochs, requests, fences, stops, old rows."""

from __future__ import annotations

import pytest

from streams._native import PARTITION_KEY, Job, Records, Step, Table, decode_partition, decode_row
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.sync.test_core import LOG, NOW, OUTPUT, Event, binary, chunk, counted, dead, device, kinds, make_job, patches

OTHER = b"p" * 16
# What commit ed30627 wrote for a device with battery 1.0 (offset 4, sequence 5 of /s, id 1) and for a deleted one.
OLD_ROWS = {
    b"d": "010001010068e5cf8b01000001000000000000000400000000000000fae67f7f72f4ad000000000000000080"
    "f065f8697f7a02b40500000000000000c000c81b6bcae9f80a01648101000000000000f03f",
    b"gone": "010100000068e5cf8b01000002000000000000000600000000000000fae67f7f72f4ad0000000000000000800068e5cf8b010000",
}


class Life:
    """A partition through restarts: what is committed is in its changelog, and the next process begins with that."""

    def __init__(self, job: Job | None = None, *, resident: bool = True) -> None:
        self.job = job or make_job()
        self.resident = resident
        self.changelog = Records()
        self.table = Table(self.job, 0)

    def start(
        self, log: bytes = LOG, generation: int | None = None, changelog: Records | None = None
    ) -> dict[str, object]:
        """A new process, and what it learnt of its partition."""
        self.table = Table(self.job, 0)
        self.table.restore(self.changelog if changelog is None else changelog)
        return dict(self.table.assigned(log=log, output=OUTPUT, generation=generation))

    def commit(self, mark: int) -> None:
        """Everything up to a mark becomes the state, and goes to the changelog."""
        self.changelog.extend(self.table.changelog(0, mark))
        self.table.commit(mark)

    def events(self, *events: Event, first: int, now_ms: int = NOW) -> Step:
        """A chunk, committed."""
        step = self.table.process(chunk(*events, first=first), now_ms)
        self.commit(step.mark)
        return step

    def ask(self, *keys: bytes, now_ms: int = NOW, requester: str = "billing", **place: object) -> Step:
        """Requests for snapshots, by a receiver that has seen a patch of this output, committed."""
        asked = Resync(requester=requester, **({"topic_id": OUTPUT, "partition": 0} | place))  # type: ignore[arg-type]
        step = self.table.snapshots(chunk(*[(key, asked.SerializeToString(), []) for key in keys]), now_ms)
        self.commit(step.mark)
        return step

    @property
    def record(self) -> object:
        """The last record of the partition in the changelog."""
        found = [
            self.changelog.value(at) for at in range(len(self.changelog)) if self.changelog.key(at) == PARTITION_KEY
        ]
        return decode_partition(found[-1] or b"")


def states(*batteries: float) -> list[Event]:
    """Plain records of one device, without id and sequence."""
    return [(b"d", device(battery=battery), []) for battery in batteries]


def letter(value: bytes | None, offset: int, log: bytes | None, headers: Event | None = None) -> Event:
    """A dead letter of the device that is replayed."""
    family: list[tuple[str, bytes | None]] = [("dlq-origin-topic", b"devices"), ("dlq-origin-partition", b"0")]
    family.append(("dlq-origin-offset", str(offset).encode()))
    if log is not None:
        family.append(("dlq-origin-topic-id", log.hex().encode()))
    return b"d", value, [*(headers[2] if headers else []), *family]


class TestReplacedLog:
    """An offset counts in one log."""

    def test_a_topic_made_anew_loses_nothing(self) -> None:
        """Its offsets begin again and judge nothing of the rows before; from then on they do."""
        life = Life()
        life.start()
        life.events(*states(1.0, 2.0, 3.0), first=0)

        assigned = life.start(OTHER)
        again = life.events(*states(4.0, 5.0), first=0)
        rewind = life.events(*states(4.0, 5.0), first=0)

        assert {"replaced": True, "ordinal": 1, "known": True, "late": False} == assigned
        assert (2, 2) == (again.counts["patches"], rewind.counts["dropped.offset"])
        assert {"logs": {0: LOG, 1: OTHER}, "ordinal": 1}.items() <= dict(life.record).items()  # type: ignore[call-overload]
        row = decode_row(life.table.get(b"d") or b"")
        assert (1, 1, 5) == (row["ordinal"], row["offset"], row["revision"])

    def test_ids_and_sequences_go_on_judging(self) -> None:
        """A producer that sends its last events again into the new topic changes nothing."""
        life = Life()
        life.start()
        events = [binary(b"d", device(battery=float(at)), str(at), sequence=at) for at in range(3)]
        life.events(*events, first=100)
        life.start(OTHER)

        again = life.events(*events, binary(b"d", device(), "x", sequence=2), first=0)

        assert {"events": 4, "dropped.id": 3, "dropped.sequence": 1} == counted(again)

    def test_a_source_that_comes_back_is_judged_by_its_own_offsets(self) -> None:
        """A fail-over and back: the first log has its id and its offsets."""
        life = Life()
        life.start()
        life.events(*states(1.0, 2.0), first=0)
        life.start(OTHER)
        life.events((b"e", device(), []), first=0)
        assigned = life.start()

        again = life.events(*states(1.0, 2.0, 3.0), first=0)

        assert (True, 2) == (assigned["replaced"], assigned["ordinal"])
        assert (2, 1) == (again.counts["dropped.offset"], again.counts["patches"])

    def test_an_id_that_was_not_known_is_adopted(self) -> None:
        """A broker that begins to give ids has replaced nothing, and one that stops giving them neither."""
        life = Life()
        first, named, silent = life.start(b""), life.start(LOG), None
        life.events(*states(1.0), first=0)
        silent = life.start(b"")

        assert [(False, 0, False), (False, 0, False), (False, 0, True)] == [
            (came["replaced"], came["ordinal"], came["known"]) for came in (first, named, silent)
        ]
        forced = life.table.assigned(log=b"", output=OUTPUT, generation=None, is_replaced=True)
        assert (True, 1) == (forced["replaced"], forced["ordinal"])
        assert 1 == life.events(*states(2.0), first=0).counts["patches"]

    def test_an_abort_takes_nothing_of_the_assignment_back(self) -> None:
        """Nor does a call that fails."""
        life = Life()
        life.start()
        life.events(*states(1.0), first=5)
        life.start(OTHER)
        life.table.process(chunk(*states(2.0)), NOW)
        life.table.drop_pending()

        assert 1 == life.events(*states(2.0), first=0).counts["patches"]
        assert OTHER == dict(life.record)["logs"][1]  # type: ignore[call-overload]

    def test_an_id_of_the_wrong_length_is_refused(self) -> None:
        """16 bytes, or none."""
        with pytest.raises(ValueError, match="log: came 3 bytes, wanted 16"):
            Life().table.assigned(log=b"abc", output=b"", generation=None)


class TestLetters:
    """A replayed dead letter counts in the log it was in."""

    def test_letters_name_the_log_they_were_in(self) -> None:
        """Also after a second death; where no id is known there is none."""
        life = Life()
        life.start()
        first = life.events((b"d", b"\x08", []), first=7)
        (named,) = dead(first)
        life.start(OTHER)
        again = life.events(letter(b"\x08", 7, LOG), first=0)
        nameless = Life().table.process(chunk((b"d", b"\x08", [])), NOW)

        assert LOG.hex() == named["dlq-origin-topic-id"]
        assert (LOG.hex(), "7") == (dead(again)[0]["dlq-origin-topic-id"], dead(again)[0]["dlq-origin-offset"])
        assert "dlq-origin-topic-id" not in dead(nameless)[0]

    @pytest.mark.parametrize(
        ("replayed", "outcome"),
        [
            pytest.param(letter(device(battery=9.0), 4, OTHER), "dropped.superseded", id="this log, before the row"),
            pytest.param(letter(device(battery=9.0), 6, OTHER), "patches", id="this log, after the row"),
            pytest.param(letter(device(battery=9.0), 99, LOG), "dropped.superseded", id="the log before"),
            pytest.param(letter(device(battery=9.0), 99, b"?" * 16), "dropped.superseded", id="an unknown log"),
            pytest.param(letter(device(battery=9.0), 99, None), "dropped.superseded", id="no id, after a replacement"),
            pytest.param(letter(device(battery=9.0), 99, b""), "dropped.superseded", id="no id in the header"),
            pytest.param(
                letter(device(battery=9.0), 99, b"?" * 16, binary(b"d", b"", "new", sequence=9)), "patches", id="newer"
            ),
            pytest.param(
                letter(device(battery=9.0), 99, b"?" * 16, binary(b"d", b"", "new", sequence=3)),
                "dropped.superseded",
                id="an older sequence",
            ),
        ],
    )
    def test_a_letter_never_puts_an_older_state_over_a_newer_one(self, replayed: Event, outcome: str) -> None:
        """By the offset in a log that is known, else by id and sequence, else not at all."""
        life = Life()
        life.start()
        life.events(binary(b"d", device(battery=1.0), "1", sequence=3), first=50)
        life.start(OTHER)
        life.events((b"d", device(battery=2.0), []), first=5)

        step = life.events(replayed, first=20)

        assert 1 == step.counts[outcome]
        assert (outcome == "patches") == bool(len(step.patches))

    def test_a_letter_of_an_unknown_log_moves_no_offset(self) -> None:
        """What follows in this log is judged as before."""
        life = Life()
        life.start()
        life.events((b"d", device(battery=2.0), []), first=5)
        replayed = letter(device(battery=9.0), 99, b"?" * 16, binary(b"d", b"", "new"))

        life.events(replayed, first=20)

        assert 5 == decode_row(life.table.get(b"d") or b"")["offset"]
        assert 1 == life.events(replayed, first=20).counts["dropped.id"]


class TestEpochs:
    """A clock that never goes back."""

    def test_answers_about_unknown_keys_share_an_epoch(self) -> None:
        """A burst does not push the clock ahead; what is created after a restart is above every answer."""
        life = Life()
        life.start()
        keys = [f"dev-{at}".encode() for at in range(500)]
        answers = life.ask(*keys)
        life.start()

        created = life.events((keys[7], device(), []), first=0, now_ms=NOW - 60_000)

        assert {(Patch.DELETE, NOW)} == {(patch.kind, patch.epoch) for patch in patches(answers)}
        assert [(1, NOW + 1)] == [(patch.revision, patch.epoch) for patch in patches(created)]

    def test_an_epoch_that_the_offsets_or_the_output_hold_counts_too(self) -> None:
        """Whoever knows of a higher one says so; it is durable with the next epoch that is issued."""
        life = Life()
        life.start()
        life.table.raise_epoch(NOW + 5_000)

        (first,) = patches(life.events(*states(1.0), first=0))
        life.start()

        assert NOW + 5_001 == first.epoch
        assert NOW + 5_001 == life.table.partition_record["last_epoch"]

    def test_an_aborted_answer_leaves_the_clock_where_it_was_or_ahead(self) -> None:
        """Never behind."""
        life = Life()
        life.start()
        asked = Resync(requester="r", topic_id=OUTPUT).SerializeToString()
        life.table.snapshots(chunk((b"u", asked, [])), NOW)
        life.table.drop_pending()

        (created,) = patches(life.events((b"u", device(), []), first=0))

        assert created.epoch == NOW + 1


class TestRequests:
    """Only the owner of a key says that it is gone."""

    @pytest.mark.parametrize(
        "place",
        [
            pytest.param({"topic_id": b""}, id="no place"),
            pytest.param({"topic_id": OTHER}, id="another output"),
            pytest.param({"partition": 1}, id="another partition"),
            pytest.param({"partition": -1}, id="no partition there is"),
        ],
    )
    def test_a_request_that_does_not_fit_deletes_nothing(self, place: dict[str, object]) -> None:
        """A key that is known is answered all the same."""
        life = Life()
        life.start()
        life.events(*states(1.0), first=0)

        answers = life.ask(b"d", b"unknown", **place)

        assert [(Patch.SNAPSHOT, 0, 1)] == kinds(answers)
        assert 1 == answers.counts["requests.unknown"]

    @pytest.mark.parametrize("topic_id", [b"", b"\0" * 16])
    def test_where_a_broker_gives_no_ids_a_request_must_name_an_offset(self, topic_id: bytes) -> None:
        """One without is anybody's: the key may well live in another partition."""
        table = Table(make_job(), 0)
        asked = Resync(requester="billing", topic_id=topic_id, partition=0)

        assert 0 == len(table.snapshots(chunk((b"u", asked.SerializeToString(), [])), NOW).patches)

    def test_where_rows_are_missing_no_unknown_key_is_deleted(self) -> None:
        """A rebuild without the source's beginning does not know them; it stays so after a restart."""
        life = Life()
        life.start()
        life.table.set_partial()
        life.events(*states(1.0), first=0)
        life.start()

        answers = life.ask(b"d", b"unknown")

        assert [(Patch.SNAPSHOT, 0, 1)] == kinds(answers)
        assert life.table.partition_record["partial"]

    def test_a_request_for_everybody_is_answered_once(self) -> None:
        """Whoever else asks for that key in the chunk reads the same answer."""
        life = Life()
        life.start()
        life.events(*states(1.0), first=0)
        asked = [Resync(requester=name).SerializeToString() for name in ("*", "billing", "*")]

        answers = life.table.snapshots(chunk(*[(b"d", value, []) for value in asked]), NOW)

        assert (1, [("resync-for", b"*")]) == (len(answers.patches), answers.patches.headers(0))

    def test_a_tombstone_that_nothing_was_published_for_is_an_unknown_key(self) -> None:
        """Its answer is below what is created later."""
        life = Life()
        life.start()
        life.events(binary(b"u", None, "gone", sequence=3), first=0)

        answers = life.ask(b"u")
        (created,) = patches(life.events(binary(b"u", device(), "new", sequence=4), first=1))

        assert [(Patch.DELETE, 0, 1)] == kinds(answers)
        assert created.epoch > patches(answers)[0].epoch


class TestFence:
    """At least once: an owner that was none any more has written behind the next one."""

    def zombie(self, life: Life) -> tuple[Table, Records]:
        """One event, then an owner that froze: its table, and the changelog as it was."""
        life.start(generation=4)
        life.events(*states(1.0), first=0)
        before = Records()
        before.extend(life.changelog)
        return life.table, before

    @pytest.mark.parametrize("ahead", [0, 2])
    def test_rows_behind_a_higher_fence_are_passed_over_and_put_right(self, ahead: int) -> None:
        """Whether the frozen owner was behind, or ahead: receivers then get what is right above what it published."""
        life = Life()
        frozen, _ = self.zombie(life)
        life.start(generation=5)
        life.events(*states(2.0, 3.0), (b"e", device(), []), first=1)
        life.commit(0)
        late = frozen.process(chunk(*states(*([7.0] if not ahead else [7.0, 8.0, 9.0, 10.0])), first=1), NOW + 9)
        life.changelog.extend(frozen.changelog(1, late.mark))

        life.start(generation=6)
        held = decode_row(life.table.get(b"d") or b"")
        step = life.events(first=4)
        last = {life.changelog.key(at): life.changelog.value(at) for at in range(len(life.changelog))}

        assert (3, device(battery=3.0)) == (held["revision"], held["message"])
        assert 1 == step.counts["repaired"]
        assert device(battery=3.0) == decode_row(last[b"d"] or b"")["message"], "compaction keeps the last"
        if not ahead:
            assert [] == patches(step)
        else:
            (right,) = patches(step)
            assert (Patch.SNAPSHOT, 1, device(battery=3.0)) == (right.kind, right.revision, right.data)
            assert right.epoch > patches(late)[-1].epoch
        assert 0 == life.events(first=4).counts["repaired"]

    def test_a_repair_that_became_too_large_is_no_partitions_end(self) -> None:
        """Somebody lowered record_bytes_max: the call failed, at every start. The row is right, no patch says so."""
        life = Life()
        frozen, _ = self.zombie(life)
        life.start(generation=5)
        wide = device(battery=3.0, status="x" * 1_000)
        life.events((b"d", wide, []), first=1)
        late = frozen.process(chunk(*states(7.0, 8.0), first=1), NOW + 9)
        life.changelog.extend(frozen.changelog(1, late.mark))

        life.job = make_job(record_bytes_max=500, output_bytes_max=1_000)
        life.start(generation=6)
        step = life.events((b"e", b"", []), first=4)
        row = decode_row(life.table.get(b"d") or b"")

        assert (1, 1) == (step.counts["repaired"], step.counts["requests.too-large"])
        assert [b"e"] == [patch.key for patch in patches(step)]
        assert (1, wide) == (row["revision"], row["message"])
        assert row["epoch"] > patches(late)[-1].epoch
        life.job = make_job()
        life.start(generation=7)
        assert [(Patch.SNAPSHOT, 0, 1)] == kinds(life.ask(b"d"))

    def test_a_removal_behind_a_higher_fence_removes_nothing(self) -> None:
        """Its record has the fence in a header."""
        life = Life(make_job(tombstone_retention_ms=1_000))
        life.start(generation=1)
        life.events(*states(1.0), (b"d", None, []), first=0)
        frozen = life.table
        life.start(generation=2)
        life.events(*states(2.0), first=2)
        gone = frozen.process(Records(), NOW + 5_000)
        life.changelog.extend(frozen.changelog(gone.mark - 1, gone.mark))
        assert 1 == gone.counts["expired"]

        life.start(generation=3)

        assert device(battery=2.0) == decode_row(life.table.get(b"d") or b"")["message"]
        assert 1 == life.events(first=3).counts["repaired"]

    def test_an_abort_puts_the_repair_off(self) -> None:
        """It is done with the next call."""
        life = Life()
        frozen, _ = self.zombie(life)
        life.start(generation=5)
        life.events(*states(2.0), first=1)
        life.changelog.extend(frozen.changelog(1, frozen.process(chunk(*states(7.0), first=1), NOW).mark))
        life.start(generation=6)

        first = life.table.process(Records(), NOW).counts["repaired"]
        life.table.drop_pending()

        assert (1, 1) == (first, life.events(first=2).counts["repaired"])

    def test_a_group_that_counts_anew_has_a_higher_fence_all_the_same(self) -> None:
        """Its generations begin at 1 when it expired; without that, a lower one is an owner that comes too late."""
        life = Life()
        fences = []
        for generation, is_group_new in [(7, False), (9, False), (1, True), (2, False), (2, False), (3, True)]:
            life.start(generation=generation)
            life.table.assigned(log=LOG, output=OUTPUT, generation=generation, is_group_new=is_group_new)
            life.events(*states(float(len(fences))), first=len(fences))
            fences.append(life.table.partition_record["fence"])
        late = life.start(generation=1)

        assert [7, 9, 10, 11, 11, 12] == fences
        assert late["late"]
        with pytest.raises(RuntimeError, match="another worker owns the partition"):
            life.table.process(chunk(*states(9.0), first=50), NOW)

    def test_a_rebuild_forgets_rows_and_origins_but_neither_fence_nor_epochs(self) -> None:
        """It writes a removal for every key, without a fence; the rows before it may still be there."""
        life = Life()
        life.start(generation=5)
        life.events(*states(1.0), first=0)
        life.start(generation=1)
        life.table.assigned(log=LOG, output=OUTPUT, generation=1, is_group_new=True)
        life.events(*states(2.0), first=1, now_ms=NOW + 50)
        for key in {life.changelog.key(at) for at in range(len(life.changelog))}:
            life.changelog.append(key, None)

        assigned = life.start(OTHER, generation=2)
        (again,) = patches(life.events(*states(3.0), first=0, now_ms=NOW - 9_000))

        assert {"replaced": False, "ordinal": 0, "known": False, "late": False} == assigned
        assert (1, NOW + 1) == (again.revision, again.epoch)
        assert (7, {0: OTHER}) == (life.table.partition_record["fence"], life.table.partition_record["logs"])

    def test_kafka_fences_what_comes_after(self) -> None:
        """From at least once to exactly once: one step up, and no more."""
        life = Life()
        fences = []
        for generation in (3, None, None, 2):
            life.start(generation=generation)
            life.events(*states(float(len(fences))), first=len(fences))
            fences.append(life.table.partition_record["fence"])

        assert [3, 4, 4, 6] == fences


class TestStops:
    """A stop is a record of the partition's changelog."""

    def test_a_stop_outlives_a_restart_until_somebody_resumes(self) -> None:
        """By a call, or by a request."""
        life = Life()
        life.start()
        life.commit(life.table.stop("dead-letters", 41, 7, NOW))
        life.start()
        stop = life.table.partition_record["stop"]
        asked = life.table.snapshots(chunk((None, None, [("resume", b"")]), (None, None, [("resume", b"")])), NOW)
        life.commit(asked.mark)
        life.start()

        assert {"reason": "dead-letters", "offset": 41, "since_ms": NOW, "count": 7} == stop
        assert 1 == asked.counts["resumes"]
        assert life.table.partition_record["stop"] is None

    def test_an_aborted_stop_is_none(self) -> None:
        """And an aborted resume neither."""
        life = Life()
        life.start()
        life.table.stop("dead-letters", 1, 2, NOW)
        life.table.drop_pending()
        assert life.table.partition_record["stop"] is None
        life.commit(life.table.stop("dead-letters", 1, 2, NOW))
        life.table.resume(NOW)
        life.table.drop_pending()
        assert life.table.partition_record["stop"] is not None


class TestOldRows:
    """A changelog that an older release began stays one that it reads, until it is upgraded."""

    def old(self) -> Records:
        """Its rows."""
        records = Records()
        for key, row in OLD_ROWS.items():
            records.append(key, bytes.fromhex(row))
        return records

    def test_it_goes_on_in_its_format(self) -> None:
        """No row, no record that the other release would refuse; offsets judge as they did."""
        life = Life(make_job(tombstone_retention_ms=1 << 40))
        assigned = life.start(generation=3, changelog=self.old())
        step = life.events(binary(b"d", device(battery=2.0), "2", sequence=6), (b"new", device(), []), first=4)
        later = life.events(binary(b"d", device(battery=2.0), "3", sequence=5), *states(3.0), first=5)
        life.commit(life.table.stop("dead-letters", 1, 2, NOW))

        assert (False, 0, False) == (assigned["replaced"], assigned["ordinal"], assigned["known"])
        assert (1, 1) == (step.counts["dropped.offset"], step.counts["patches"])
        assert (1, 1) == (later.counts["dropped.sequence"], later.counts["patches"])
        keys = [life.changelog.key(at) or b"" for at in range(len(life.changelog))]
        assert PARTITION_KEY not in keys
        formats = {(life.changelog.value(at) or b"")[0] for at, key in enumerate(keys) if key in (b"d", b"new")}
        assert {1} == formats

    def test_a_replaced_source_needs_the_upgrade(self) -> None:
        """Which is named; there is no room for a second log."""
        life = Life()
        life.start(changelog=self.old())

        with pytest.raises(RuntimeError, match="run `streams state upgrade devices`"):
            life.table.assigned(log=OTHER, output=OUTPUT, generation=None)

    def test_upgraded_it_has_a_record_and_new_rows(self) -> None:
        """Old rows are of its first log; the next log is told from it."""
        life = Life(make_job(tombstone_retention_ms=1 << 40))
        life.changelog = self.old()
        life.start(generation=3)
        life.commit(life.table.upgrade())
        life.start(generation=4)
        dropped = life.events(*states(9.0), first=4)
        life.start(OTHER, generation=5)
        step = life.events(*states(2.0), first=0)

        assert 1 == dropped.counts["dropped.offset"]
        assert 1 == step.counts["patches"]
        row = decode_row(life.table.get(b"d") or b"")
        assert (2, 1, 0, 5) == (row["format"], row["ordinal"], row["offset"], row["fence"])
        assert 1 == decode_row(life.table.get(b"gone") or b"")["format"]


class TestTakenBack:
    """At least once patches are out before their rows, which the changelog may refuse."""

    def test_receivers_get_the_row_above_what_was_published(self) -> None:
        """A key that lives as its row is, one that has none as deleted; and what was pending before stays."""
        life = Life()
        life.start(generation=1)
        life.events(*states(1.0), first=0)
        before = life.table.process(chunk((b"e", device(), []), first=1), NOW)
        refused = chunk(*states(7.0), (b"new", device(), []), first=2)

        step = life.table.take_back(refused, NOW + 1, 10_000)
        life.commit(step.mark)

        (right, gone) = patches(step)
        assert (Patch.SNAPSHOT, 1, device(battery=1.0)) == (right.kind, right.revision, right.data)
        assert (b"new", Patch.DELETE) == (gone.key, gone.kind)
        assert (2, before.mark + 1) == (step.counts["repaired"], step.mark)
        assert right.epoch == decode_row(life.table.get(b"d") or b"")["epoch"] > NOW
        assert life.table.get(b"e") is not None
        assert life.table.get(b"new") is None
        assert [(Patch.DELTA, 1, 2)] == kinds(life.events(*states(2.0), first=4))

    @pytest.mark.parametrize("room", [10, 10_000])
    def test_where_nothing_was_published_or_the_row_has_no_room_nothing_changes(self, room: int) -> None:
        """A row that the changelog would refuse again must not keep its partition."""
        life = Life()
        life.start()
        life.events(*states(1.0), first=0)
        row = life.table.get(b"d")

        step = life.table.take_back(chunk(*states(7.0 if room == 10 else 1.0), first=1), NOW, room)

        assert (0, []) == (step.mark, patches(step))
        assert row == life.table.get(b"d")
        assert [(Patch.DELTA, 1, 2)] == kinds(life.events(*states(2.0), first=2))
