"""Records under their entity keys: nothing else about them changes, and nothing of the table does."""

from __future__ import annotations

from streams._native import Job, Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.envelope import message_index
from streams.kernel.messages import descriptor_of
from streams.kernel.schema import MessageSchema

NOW_MS = 1_700_000_000_000


def job(key: str) -> Job:
    """A job that takes the key from there."""
    schema = MessageSchema(DeviceState)
    return Job(
        schema.native,
        type=schema.full_name,
        fingerprint=schema.fingerprint,
        field_table=schema.field_table_bytes,
        source="devices",
        key=key,
        sequence="attribute",
        format="auto",
        partitions=0,
        record_bytes_max=1_000_000,
        output_bytes_max=1_000_000 + 65_536,
        tombstone_retention_ms=1_000_000,
        schema_ids=[],
        message_index=message_index(descriptor_of(DeviceState)),
        sealed=False,
        canonicalise=schema.through_upb,
    )


def test_only_the_key_changes() -> None:
    """Value, headers and timestamp are those that came."""
    value = DeviceState(device_id="d-1", battery=0.5).SerializeToString()
    records = Records()
    records.append(b"a shipment's key", value, [("traceparent", b"00-1"), ("none", None)], NOW_MS, 41)
    step = Table(job("field:device_id"), 2).rekey(records)

    assert (1, 0, 0) == (len(step.patches), len(step.dead_letters), step.mark)
    assert (b"d-1", value, NOW_MS) == (step.patches.key(0), step.patches.value(0), step.patches.timestamp_ms(0))
    assert [("traceparent", b"00-1"), ("none", None)] == step.patches.headers(0)
    assert 1 == step.counts["rekeyed"]
    assert 0 == step.counts["events"]


def test_what_has_no_key_is_a_dead_letter() -> None:
    """With the place it came from; a DELETE by subject has its key in the envelope."""
    records = Records()
    records.append(b"k", DeviceState(battery=1.0).SerializeToString(), offset=7)
    records.append(b"k", None, offset=8)
    records.append(b"k", b"\xff", offset=9)
    by_field = Table(job("field:device_id"), 2).rekey(records)
    deletes = Records()
    deletes.append(None, None, [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_subject", b"d-1")])
    by_subject = Table(job("subject"), 2).rekey(deletes)

    letters = [dict(by_field.dead_letters.headers(i)) for i in range(3)]
    assert [b"missing-key", b"missing-key", b"undecodable"] == [letter["dlq-reason"] for letter in letters]
    assert {b"devices"} == {letter["dlq-origin-topic"] for letter in letters}
    assert {b"2"} == {letter["dlq-origin-partition"] for letter in letters}
    assert [b"7", b"8", b"9"] == [letter["dlq-origin-offset"] for letter in letters]
    assert 0 == len(by_field.patches)
    assert (b"d-1", None) == (by_subject.patches.key(0), by_subject.patches.value(0))


def test_the_table_stays_as_it_was() -> None:
    """Neither rows nor marks: what is processed next to it has its own."""
    table = Table(job("field:device_id"), 0)
    records = Records()
    records.append(None, DeviceState(device_id="d-1").SerializeToString(), offset=0)
    first = table.process(records, NOW_MS)
    table.rekey(records)

    assert len(table.changelog(0, first.mark)) == 3
    assert 0 == len(table.changelog(first.mark, first.mark + 1))
    table.commit(first.mark)
    assert [b"d-1"] == table.keys()
    assert first.mark + 1 == table.process(records, NOW_MS).mark
