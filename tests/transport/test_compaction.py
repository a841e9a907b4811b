"""Compaction's decisions, without a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams._native import Records
from streams.transport.compaction import Compaction

records_of_a_block = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.sampled_from([b"1", None])), min_size=1, max_size=4
)


@given(blocks=st.lists(records_of_a_block, min_size=1, max_size=10), keys_max=st.integers(1, 6))
def test_passes_of_bounded_memory_end_where_one_does(
    blocks: list[list[tuple[bytes, bytes | None]]], keys_max: int
) -> None:
    """With room for few keys it takes more passes; each leaves every key once below its target, and loses none."""
    log: list[Records] = []
    last: dict[bytes, int] = {}
    end = 0
    for block in blocks:
        records = Records()
        for key, value in block:
            records.append(key, value, (), 1, end)
            last[key] = end
            end += 1
        log.append(records)
    cleaned = 0
    while cleaned < end:
        one_pass = Compaction(cleaned, end - 1, 1_000, 10_000, keys_max=keys_max)
        for records in log:
            if records.last_offset >= cleaned and not one_pass.learn(records):
                break
        assert one_pass.target > cleaned, "every pass gets on"
        log = [
            kept
            for records in log
            if len(kept := one_pass.keep(records, 0) if records.last_offset < one_pass.target else records)
        ]
        cleaned = one_pass.target
        below = [r.key(i) for r in log for i in range(len(r)) if r.offset(i) < cleaned]
        assert len(below) == len(set(below)) == one_pass.kept
        assert {r.offset(i) for r in log for i in range(len(r))} >= set(last.values())
    assert sorted(r.offset(i) for r in log for i in range(len(r))) == sorted(last.values())


def test_tombstones_wait_for_their_readers() -> None:
    """A tombstone stays for its time after the append, and the pass says when to come again."""
    records = Records()
    for offset, key in enumerate([b"a", b"b", b"c"]):
        records.append(key, None, (), 1, offset)
    early = Compaction(0, 2, now_ms=5_999, delete_retention_ms=5_000)
    early.learn(records)
    assert early.keep(records, 1_000) is records
    assert early.tombstones_due_ms == 6_000
    late = Compaction(0, 2, now_ms=6_000, delete_retention_ms=5_000)
    late.learn(records)
    kept = late.keep(records, 1_000)
    assert [kept.offset(i) for i in range(len(kept))] == [2], "the newest record marks the end and stays"
    assert late.tombstones_due_ms is None
