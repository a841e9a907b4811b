"""Identity and order: what a key remembers of its events, for how long, and what a stranger can do with that."""

from __future__ import annotations

import pytest

from streams._native import Records, Step, Table, decode_row
from streams.v1.patch_pb2 import Patch
from tests.sync.test_core import (
    NOW,
    RETENTION_MS,
    Event,
    binary,
    chunk,
    counted,
    device,
    kinds,
    make_job,
    make_table,
    patches,
)

HUGE = 2**64 - 1


def after_restart(table: Table, **changes: object) -> Table:
    """The same partition in a new process; everything pending is committed first."""
    changelog = table.changelog(0, 1 << 60)
    again = make_table(**changes)
    again.restore(changelog)
    return again


def run(*events: Event, **changes: object) -> Step:
    """The events of one key in one chunk, in a new table."""
    return make_table(**changes).process(chunk(*events), NOW)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ids", [1, 8, 64])
def test_as_many_ids_are_remembered_as_are_asked_for(ids: int, restarted: bool) -> None:
    """The one before them is forgotten; a DELETE in between changes nothing about it."""
    changes: dict[str, object] = {"ids_per_key": ids, "tombstone_retention_ms": 1 << 40}
    table = make_table(**changes)
    events = [binary(b"d", None if at == 1 else device(battery=float(at)), str(at)) for at in range(ids + 1)]
    table.process(chunk(*events), NOW)
    if restarted:
        table = after_restart(table, **changes)

    dropped = [
        table.process(chunk(events[at], first=200), NOW).counts["dropped.id"] for at in (ids, (ids + 1) // 2, 1, 0)
    ]

    assert [1, 1, 1, 0] == dropped


@pytest.mark.parametrize("ids", [0, 65])
def test_ids_have_a_bound(ids: int) -> None:
    """Each costs 8 bytes a key."""
    with pytest.raises(ValueError, match=f"ids_per_key: came {ids}, wanted 1 to 64"):
        make_job(ids_per_key=ids)


def test_a_row_keeps_fewer_ids_when_it_is_told_to() -> None:
    """With the next event of its key; more than before are kept from then on."""
    table = make_table(ids_per_key=64)
    table.process(chunk(*[binary(b"d", device(battery=float(at)), str(at)) for at in range(30)]), NOW)
    fewer = after_restart(table, ids_per_key=2)

    step = fewer.process(chunk(binary(b"d", device(), "x"), first=40), NOW)
    fewer.commit(step.mark)

    assert 2 == len(decode_row(fewer.get(b"d") or b"")["ids"])


def test_a_ninth_source_evicts_none() -> None:
    """It is judged by id and offset, and counted; the first one's late event is dropped all the same."""
    events = [binary(b"d", device(battery=float(at)), f"x{at}", f"/s{at}", 1_000) for at in range(9)]
    late = [binary(b"d", device(battery=50.0 + at), "late", f"/s{at}", 1) for at in range(9)]
    again = [binary(b"d", device(battery=99.0), "x8", "/s8", 1_000)]

    step = run(*events, *late, *again)

    assert (8, 1) == (step.counts["dropped.sequence"], step.counts["dropped.id"])
    assert 2 == step.counts["sequences-unkept"]
    assert 10 == step.counts["patches"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_delete_that_overtakes_its_create_wins(restarted: bool) -> None:
    """It leaves a tombstone although nothing was there; what is newer still creates the entity, from revision 1."""
    table = make_table()
    first = table.process(chunk(binary(b"d", None, "del", sequence=2)), NOW)
    if restarted:
        table = after_restart(table)

    late = table.process(chunk(binary(b"d", device(), "create", sequence=1), first=1), NOW)
    repeated = table.process(chunk(binary(b"d", None, "del", sequence=2), first=2), NOW)
    new = table.process(chunk(binary(b"d", device(), "again", sequence=3), first=3), NOW)

    assert (1, 0) == (first.counts["delete-unknown"], len(first.patches))
    assert (1, 1) == (late.counts["dropped.sequence"], repeated.counts["dropped.id"])
    assert [(Patch.SNAPSHOT, 0, 1)] == kinds(new)


@pytest.mark.parametrize(
    ("events", "dropped"),
    [
        pytest.param(
            [
                binary(b"d", device(), "a", sequence=4),
                binary(b"d", None, "b", sequence=5),
                binary(b"d", None, "c", sequence=10),
                binary(b"d", device(), "d", sequence=7),
            ],
            "dropped.sequence",
            id="a DELETE of what is deleted moves on",
        ),
        pytest.param(
            [
                binary(b"d", device(), "a", sequence=50),
                binary(b"d", None, "b"),
                binary(b"d", device(), "c", sequence=3),
            ],
            "dropped.sequence",
            id="a DELETE without a sequence",
        ),
        pytest.param(
            [binary(b"d", device(), "a", sequence=50), (b"d", None, []), binary(b"d", device(), "c", sequence=3)],
            "dropped.sequence",
            id="a plain DELETE",
        ),
        pytest.param(
            [
                binary(b"d", device(), "a", "/b", 50),
                binary(b"d", None, "b", "/a", 1),
                binary(b"d", device(), "c", "/b", 3),
            ],
            "dropped.sequence",
            id="a DELETE by another source",
        ),
        pytest.param(
            [binary(b"d", device(), "a"), binary(b"d", None, "b"), binary(b"d", device(), "a")],
            "dropped.id",
            id="an id from before the DELETE",
        ),
    ],
)
def test_nothing_older_comes_back_after_a_delete(events: list[Event], dropped: str) -> None:
    """A tombstone keeps ids and sequences."""
    step = run(*events)

    assert 1 == step.counts[dropped]
    assert (Patch.DELETE, 1, 2) == kinds(step)[-1]


def test_a_tombstone_remembers_for_its_retention_and_no_longer() -> None:
    """Counted from the last DELETE."""
    table = make_table()
    table.process(chunk(binary(b"d", None, "a", sequence=9)), NOW)
    table.commit(table.process(chunk(binary(b"d", None, "b", sequence=10), first=1), NOW + RETENTION_MS - 1).mark)

    early = table.process(chunk(binary(b"d", device(), "c", sequence=9), first=2), NOW + RETENTION_MS)
    late = table.process(chunk(binary(b"d", device(), "c", sequence=9), first=3), NOW + 2 * RETENTION_MS - 1)

    assert (1, 1) == (early.counts["dropped.sequence"], late.counts["patches"])


class TestFieldSequence:
    """With `sequence = "field:uptime_s"` the sequence is the entity's, whoever sends it."""

    def test_it_outlives_a_delete_and_a_change_of_source(self) -> None:
        """A DELETE has no message to take it from."""
        events = [
            (b"d", device(uptime_s=50), []),
            (b"d", None, []),
            binary(b"d", device(uptime_s=3), "x", "/another"),
            binary(b"d", device(uptime_s=51), "y", "/third"),
        ]

        step = run(*events, sequence="field:uptime_s")

        assert [(Patch.SNAPSHOT, 0, 1), (Patch.DELETE, 1, 2), (Patch.SNAPSHOT, 0, 3)] == kinds(step)
        assert 1 == step.counts["dropped.sequence"]

    def test_the_attribute_of_a_delete_is_the_entitys(self) -> None:
        """Late, it deletes nothing; in time, nothing older comes after it."""
        late = run((b"d", device(uptime_s=50), []), binary(b"d", None, "x", sequence=49), sequence="field:uptime_s")
        first = run(binary(b"d", None, "x", sequence=49), (b"d", device(uptime_s=48), []), sequence="field:uptime_s")

        assert [1, 1] == [step.counts["dropped.sequence"] for step in (late, first)]
        assert {"events": 1, "dead.bad-sequence": 1} == counted(
            run(binary(b"d", None, "x", sequence="-1"), sequence="field:uptime_s")
        )


class TestStrangers:
    """What the sequence 2^64-1 of somebody else does: bounded, counted, and mended by a request."""

    def test_it_silences_its_own_source_alone(self) -> None:
        """Others are judged by their own sequences; eight such sources take their sequences' places, nothing else."""
        strangers = [binary(b"d", device(battery=9.0), f"x{at}", f"/stranger{at}", HUGE) for at in range(20)]
        ours = [binary(b"d", device(battery=float(at)), str(at), "/ours", at) for at in range(3)]

        step = run(ours[0], *strangers, *ours[1:])

        assert 0 == step.counts["dropped.sequence"]
        assert 20 - 7 == step.counts["sequences-unkept"]
        assert device(battery=2.0) == decode_row(self.row(step, ours, strangers))["message"]

    @staticmethod
    def row(step: Step, ours: list[Event], strangers: list[Event]) -> bytes:
        """The row after it."""
        table = make_table()
        table.commit(table.process(chunk(ours[0], *strangers, *ours[1:]), NOW).mark)
        return table.get(b"d") or b""

    def test_a_key_that_it_silences_is_counted_named_and_reset(self) -> None:
        """Under the name of the source itself, or where the sequence is the entity's."""
        table = make_table()
        table.process(chunk(binary(b"d", device(), "x", "/ours", HUGE)), NOW)
        events = [binary(b"d", device(battery=float(at)), str(at), "/ours", at) for at in range(100)]

        silenced = table.process(chunk(*events, first=1), NOW)
        table.snapshots(chunk((b"d", None, [("reset-sequence", b"")])), NOW)
        mended = table.process(chunk(binary(b"d", device(battery=1.0), "y", "/ours", 100), first=200), NOW)

        assert (100, 1, 1) == (silenced.counts["dropped.sequence"], len(silenced.stuck), mended.counts["patches"])


class TestRekeyed:
    """Copies of a source under their entity keys say where their record was."""

    LOG, OTHER = b"l" * 16, b"p" * 16

    def copies(self, log: bytes, *offsets: int, partition: int = 2, forged: bool = False) -> Records:
        """What the first step makes of source records."""
        table = Table(make_job(key="field:device_id"), partition)
        table.assigned(log=log, output=b"", generation=None)
        source = Records()
        for offset in offsets:
            headers = [("rekey-origin", b"0" * 32 + b"/2/999999")] if forged else []
            source.append(None, device(battery=float(offset)), headers, 1_000, offset)
        return table.rekey(source).patches

    def copied(self, table: Table, copies: Records, first: int) -> Step:
        """The second step, at offsets of the topic between."""
        copies.assign(first, -1)
        records = Records()
        for at in range(len(copies)):
            records.append(copies.key(at), copies.value(at), copies.headers(at), 1_000, first + at)
        step = table.process(records, NOW)
        table.commit(step.mark)
        return step

    def test_copies_made_again_are_dropped(self) -> None:
        """The group's offsets were lost, or two workers copied at once: nothing is published twice."""
        table = make_table(rekeyed=True)
        self.copied(table, self.copies(self.LOG, 0, 1, 2), 0)

        again = self.copied(table, self.copies(self.LOG, 0, 1, 2, 3), 3)
        elsewhere = self.copied(table, self.copies(self.LOG, 0, partition=1), 7)

        assert (3, 1) == (again.counts["dropped.origin"], again.counts["patches"])
        assert {"events": 1, "patches": 1, "deltas": 1, "rows": 1} == counted(elsewhere)
        assert {self.LOG: {2: 3, 1: 0}} == table.partition_record["origins"]

    def test_an_abort_takes_the_origins_back(self) -> None:
        """The same copies are applied with the next try; a restart knows the committed ones."""
        table = make_table(rekeyed=True)
        copies = self.copies(self.LOG, 0, 1)
        table.process(copies, NOW)
        table.drop_pending()
        step = table.process(copies, NOW)
        again = make_table(rekeyed=True)
        again.restore(table.changelog(0, step.mark))

        assert (2, 2) == (step.counts["patches"], self.copied(again, copies, 9).counts["dropped.origin"])

    def test_a_source_made_anew_begins_anew(self) -> None:
        """Its offsets are of another log."""
        table = make_table(rekeyed=True)
        self.copied(table, self.copies(self.LOG, 5, 6), 0)

        anew = self.copied(table, self.copies(self.OTHER, 0, 1), 2)
        late = self.copied(table, self.copies(self.LOG, 6), 4)

        assert (0, 2) == (anew.counts["dropped.origin"], anew.counts["patches"])
        assert 1 == late.counts["dropped.origin"]

    def test_nobody_else_says_where_a_copy_came_from(self) -> None:
        """A producer's header of that name is left out; where the log has no id, or nothing was copied, none counts."""
        forged = self.copies(self.LOG, 1, forged=True)
        nameless = self.copies(b"", 1, forged=True)
        plain = make_table()
        records = Records()
        for offset in (3, 4):
            records.append(b"d", device(battery=float(offset)), [("rekey-origin", b"0" * 32 + b"/0/9")], 1_000, offset)

        assert [("rekey-origin", self.LOG.hex().encode() + b"/2/1")] == forged.headers(0)
        assert [] == nameless.headers(0)
        assert 2 == plain.process(records, NOW).counts["patches"]

    @pytest.mark.parametrize(
        "origin", [b"", b"x", b"//", b"00/1/2", b"0" * 32 + b"/-1/2", b"0" * 32 + b"/1/99999999999999999999"]
    )
    def test_an_origin_that_is_none_judges_nothing(self, origin: bytes) -> None:
        """Only our own step writes there."""
        records = Records()
        records.append(b"d", device(), [("rekey-origin", origin)], 1_000, 0)

        assert 1 == make_table(rekeyed=True).process(records, NOW).counts["patches"]

    def test_a_letter_replayed_between_the_steps_is_no_copy(self) -> None:
        """It has its origin in the topic between, by whose offset it is judged."""
        table = make_table(rekeyed=True)
        copies = self.copies(self.LOG, 5)
        self.copied(table, copies, 10)
        family = [("dlq-origin-topic", b"devices"), ("dlq-origin-partition", b"0"), ("dlq-origin-offset", b"11")]
        records = Records()
        records.append(b"d", device(battery=7.0), [*copies.headers(0), *family], 1_000, 20)

        assert 1 == table.process(records, NOW).counts["patches"]


def test_what_is_remembered_of_deleted_keys_ends_for_all_of_them_at_once() -> None:
    """A call removes a thousand tombstones at most; those whose turn it is not yet judge nothing either."""
    table, keys = make_table(), [b"d%d" % at for at in range(1_200)]
    for sequence, value in ((50, device()), (51, None)):
        events = [binary(key, value, str(sequence), sequence=sequence) for key in keys]
        table.commit(table.process(chunk(*events, first=sequence * 2_000), NOW).mark)

    anew = [binary(key, device(), "new", sequence=1) for key in keys]
    early = table.process(chunk(*anew[:5], first=200_000), NOW + RETENTION_MS - 1)
    table.drop_pending()
    step = table.process(chunk(*anew, first=200_000), NOW + RETENTION_MS)

    assert 5 == early.counts["dropped.sequence"]
    assert (1_000, 1_200) == (step.counts["expired"], step.counts["patches"])
    assert {(Patch.SNAPSHOT, 0, 1)} == set(kinds(step))
    assert {NOW + RETENTION_MS} == {patch.epoch for patch in patches(step)}


def test_a_delete_of_a_key_whose_time_is_over_begins_anew() -> None:
    """It knows nothing of the sequences before; what is newer than it creates the entity in a higher epoch."""
    table = make_table()
    first = table.process(chunk(binary(b"d", device(), "a", sequence=50), binary(b"d", None, "b", sequence=51)), NOW)
    table.commit(first.mark)

    late = NOW + RETENTION_MS
    again = table.process(
        chunk(binary(b"d", None, "c", sequence=1), binary(b"d", device(), "d", sequence=2), first=9), late
    )

    assert [(Patch.SNAPSHOT, 0, 1)] == kinds(again)
    assert patches(again)[0].epoch > patches(first)[0].epoch
