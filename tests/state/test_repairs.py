"""At least once, rows in a store: what a frozen owner wrote is put right, also by a process that did not read of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams._native import PARTITION_KEY, REPAIRS_KEY, Job, Records, Step, Table, decode_partition, decode_row
from streams.state.rocks import Store
from streams.state.table import PartitionState
from streams.v1.patch_pb2 import Patch
from tests.sync.test_core import LOG, NOW, OUTPUT, chunk, device, kinds, make_job, patches
from tests.sync.test_owner import states


class Log:
    """The changelog's bounds, as a state asks for them."""

    marker_offsets = 0

    def __init__(self, rows: Records) -> None:
        self._rows = rows

    def read_log(self, *_: object) -> dict[tuple[str, int], int]:
        raise AssertionError("the test hands the rows over by itself")

    def log_end(self, topic: str, partition: int) -> int:
        return len(self._rows)

    def log_start(self, topic: str, partition: int) -> int:
        return 0

    open_end = log_end


class Members:
    """Owners of one partition, one after the other, and their changelog. The state under test has a store."""

    def __init__(self, job: Job, path: Path) -> None:
        self.job = job
        self.path = path
        self.changelog = Records()
        self.state: PartitionState | None = None

    def owner(self, generation: int) -> Table:
        """Another member, whose rows are in memory: it takes the partition over."""
        table = Table(self.job, 0)
        table.restore(self.changelog)
        table.assigned(log=LOG, output=OUTPUT, generation=generation)
        return table

    def write(self, table: Table, step: Step) -> Step:
        """A member's chunk is committed."""
        self.keep(table.changelog(step.mark - 1, step.mark))
        table.commit(step.mark)
        return step

    def keep(self, rows: Records) -> None:
        """These rows are in the changelog."""
        rows.assign(len(self.changelog), -1)
        self.changelog.extend(rows)

    def start(self, generation: int | None = None, *, upto: int | None = None) -> PartitionState:
        """The member with the store is killed and starts again; restores, and has the partition assigned to it."""
        if self.state is not None:
            self.state.close()
        self.state = state = PartitionState(
            self.job, 0, "changelog", Store(self.path), Log(self.changelog), fenced=False
        )
        end = len(self.changelog) if upto is None else upto
        state.restore(self.changelog.slice(state.restore_from(), end))
        state.restored_to(end)
        if generation is not None:
            state.table.assigned(log=LOG, output=OUTPUT, generation=generation)
        return state

    def work(self, step: Step) -> Step:
        """A chunk of it is committed."""
        assert self.state is not None
        rows = self.state.changelog(step.mark - 1, step.mark)
        if rows is not None:
            self.keep(rows.records)
        self.state.acknowledged()
        self.state.commit(step.mark)
        return step


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    """Nobody has written yet."""
    members = Members(make_job(), tmp_path / "0")
    yield members
    if members.state is not None:
        members.state.close()


@pytest.mark.parametrize("kills", [0, 1, 2])
@pytest.mark.parametrize("seen", ["nothing", "the frozen owner's", "all before"])
def test_a_kill_between_restore_and_repair_loses_no_repair(members: Members, kills: int, seen: str) -> None:
    """The store's offset is behind the frozen owner's rows by then: nobody reads them a second time."""
    frozen = members.owner(4)
    members.write(frozen, frozen.process(chunk(*states(1.0)), NOW))
    if seen != "nothing":
        members.start()
    heir = members.owner(5)
    members.write(heir, heir.process(chunk(*states(2.0), (b"e", device(), []), first=1), NOW + 1))
    if seen == "all before":
        members.start()
    late = members.write(frozen, frozen.process(chunk(*states(7.0, 8.0, 9.0), first=1), NOW + 2))

    for generation in range(6, 6 + kills):
        assert members.start(generation).restore_from() == len(members.changelog)
    state = members.start(9)
    step = members.work(state.process(chunk(), NOW + 9))

    assert 1 == step.counts["repaired"]
    (right,) = patches(step)
    assert (Patch.SNAPSHOT, 1, device(battery=2.0)) == (right.kind, right.revision, right.data)
    assert right.epoch > patches(late)[-1].epoch
    assert 0 == members.start(10).process(chunk(), NOW + 10).counts["repaired"]


def test_a_row_that_was_corrected_is_published_after_a_kill(members: Members) -> None:
    """The frozen owner's came first, and the store has it; the next owner had not read it."""
    first = members.owner(4)
    members.write(first, first.process(chunk(*states(1.0)), NOW))
    heir = members.owner(5)
    members.write(first, first.process(chunk(*states(7.0, 8.0, 9.0), first=1), NOW))
    members.start()
    members.write(heir, heir.process(chunk(*states(2.0), first=1), NOW + 1))

    members.start(6)
    state = members.start(7)
    step = members.work(state.process(chunk(), NOW + 9))

    assert [(Patch.SNAPSHOT, 0, 1)] == kinds(step)
    assert device(battery=2.0) == decode_row(state.row(b"d") or b"")["message"]


def test_a_frozen_owners_record_of_the_partition_is_put_right_after_a_kill(members: Members) -> None:
    """Compaction would keep it alone; until it is written again in this generation too, nothing else changes it."""
    frozen = members.owner(4)
    members.write(frozen, frozen.process(chunk(*states(1.0)), NOW))
    heir = members.owner(5)
    members.write(heir, heir.process(chunk(*states(2.0), first=1), NOW + 1))
    members.start(5)
    mark = frozen.stop("dead-letters", 7, 3, NOW)
    members.keep(frozen.changelog(mark - 1, mark))

    members.start(5)
    state = members.start(5)
    members.work(state.process(chunk(), NOW + 9))

    written = members.changelog.slice(len(members.changelog) - 1, len(members.changelog))
    assert PARTITION_KEY == written.key(0)
    record = decode_partition(written.value(0) or b"")
    assert (5, None) == (record["fence"], record["stop"])
    assert state.store is not None
    assert [None] == state.store.multi_get([REPAIRS_KEY])


def test_a_frozen_owners_record_counts_where_compaction_left_no_other(members: Members) -> None:
    """Else the rows would be those of a release that had no record, and the logs unknown."""
    frozen = members.owner(4)
    members.write(frozen, frozen.process(chunk(*states(1.0)), NOW))
    heir = members.owner(5)
    members.write(heir, heir.process(chunk(*states(2.0), first=1), NOW + 1))
    mark = frozen.stop("dead-letters", 7, 3, NOW)
    members.keep(frozen.changelog(mark - 1, mark))
    last = {members.changelog.key(at): at for at in range(len(members.changelog))}
    compacted = Records()
    for at in sorted(last.values()):
        compacted.append(members.changelog.key(at), members.changelog.value(at))
    members.changelog = Records()
    members.keep(compacted)

    table = members.owner(6)

    assert (6, {0: LOG}) == (table.partition_record["fence"], table.partition_record["logs"])


def test_repairs_that_one_call_does_not_reach_survive_its_commit(members: Members) -> None:
    """A thousand rows are written again at most: the rest is owed by the next process."""
    keys = [f"k-{at}".encode() for at in range(1_500)]
    frozen = members.owner(4)
    members.write(frozen, frozen.process(chunk(*[(key, device(battery=1.0), []) for key in keys]), NOW))
    heir = members.owner(5)
    again = [(key, device(battery=2.0), []) for key in keys]
    members.write(heir, heir.process(chunk(*again, first=1_500), NOW + 1))
    members.write(frozen, frozen.process(chunk(*[(key, device(battery=7.0), []) for key in keys], first=1_500), NOW))

    repaired = []
    for generation in range(6, 9):
        step = members.start(generation).process(chunk(), NOW + generation)
        repaired.append(members.work(step).counts["repaired"])

    assert [1_000, 500, 0] == repaired
