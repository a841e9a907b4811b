"""The circuits of one worker: rows, who has them next, what is told and told again."""

from __future__ import annotations

import logging

import pytest

from streams.circuit.owner import Owner
from streams.clock import ManualClock
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

SETTINGS = CircuitSettings()


class Table(dict[bytes, bytes]):
    """A table that counts what is written."""

    written = 0

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.written += 1


@pytest.fixture
def clock() -> ManualClock:
    """Time stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def table() -> Table:
    """What the changelog keeps."""
    return Table()


def owner(table: Table, clock: ManualClock, generation: int = 1) -> Owner:
    """An owner of partition 0."""
    made = Owner(SETTINGS, clock)
    made.table = table
    made.assign({0}, generation)
    return made


def fold(to: Owner, reporter: str = "a", target: str = "t", partition: int = 0, **said: object) -> None:
    """A report comes in."""
    to.fold(Outcomes(target=target, reporter=reporter, **said).SerializeToString(), partition)  # type: ignore[arg-type]


def trip(to: Owner, target: str = "t", partition: int = 0) -> None:
    """Two workers' calls fail."""
    for reporter in "ab":
        fold(to, reporter, target, partition, failed=20, over=True)


def told(by: Owner) -> list[Circuit]:
    """What is to be told now."""
    _, records = by.untold()
    return [Circuit.FromString(records.value(index) or b"") for index in range(len(records))]


def pairs(circuits: list[Circuit]) -> list[tuple[str, int, int]]:
    """Targets and numbers."""
    return [(circuit.target, circuit.generation, circuit.transition) for circuit in circuits]


def test_a_change_is_told_once(table: Table, clock: ManualClock) -> None:
    """And again where it could not be; a closed circuit that never opened is not told at all."""
    mine = owner(table, clock)
    fold(mine, ok=5, target="quiet")
    assert not mine.changed.is_set()
    trip(mine)
    assert mine.changed.is_set()
    assert [("t", 1, 1)] == pairs(told(mine))
    assert not mine.changed.is_set()
    assert [] == told(mine)
    mine.tell(["t", "gone"])

    assert [("t", 1, 1)] == pairs(told(mine))
    assert ["quiet", "t"] == mine.targets


def test_rows_are_written_at_changes_and_once_a_bucket(table: Table, clock: ManualClock) -> None:
    """The first report, each change, and what time changed with the next report."""
    mine = owner(table, clock)
    for _ in range(10):
        fold(mine, ok=1)
    assert 1 == table.written
    clock.advance(SETTINGS.bucket_ms)
    for _ in range(10):
        fold(mine, ok=1)
    assert 2 == table.written
    fold(mine, set_mode="FORCED_OPEN")
    fold(mine, set_mode="AUTOMATIC")
    assert 4 == table.written
    fold(mine, waiting=True)  # its trial begins at once
    assert 5 == table.written
    clock.advance(SETTINGS.half_open_ms_max)
    mine.tick()
    fold(mine)

    assert 6 == table.written


def test_the_next_owner_goes_on_from_the_row(clock: ManualClock, table: Table) -> None:
    """On a machine with another clock: the open time goes on, numbers too, and rates are known."""
    mine = owner(table, clock)
    trip(mine)
    told(mine)
    other = ManualClock(clock.now_ms() + 2_000)
    other.advance(123_456)
    other.set_wall(clock.now_ms() + 2_000)
    next_one = owner(table, other, generation=2)
    next_one.heard("t", (1, 1))
    fold(next_one, "c", waiting=True)

    circuits = told(next_one)
    assert [("t", 2, 2)] == pairs(circuits)
    assert (Circuit.OPEN, 40) == (circuits[0].state, circuits[0].calls)
    assert SETTINGS.open_ms * 0.8 - 2_000 <= circuits[0].open_ms <= SETTINGS.open_ms * 1.2 - 2_000


def test_a_wall_clock_that_jumped_back_makes_nothing_younger(clock: ManualClock, table: Table) -> None:
    """The row's time lies in the future: it is taken as of now."""
    mine = owner(table, clock)
    trip(mine)
    before = told(mine)[0]
    clock.set_wall(1)
    next_one = owner(table, clock, generation=2)
    fold(next_one, "c")

    assert before.open_ms == told(next_one)[0].open_ms


def test_partitions_that_are_gone_are_others(clock: ManualClock, table: Table) -> None:
    """What stays is told above everything before; what went is not told any more, whatever was still to be."""
    mine = owner(table, clock)
    mine.assign({0, 1}, 1)
    trip(mine, "stays", 0)
    trip(mine, "goes", 1)
    trip(mine, "told by others", 0)
    mine.heard("told by others", (2, 5))
    mine.assign({0}, 3)
    mine.tick()

    assert ["stays"] == mine.targets
    assert [("stays", 3, 2)] == pairs(told(mine))
    fold(mine, target="told by others")
    assert [("told by others", 3, 6)] == pairs(told(mine))


def test_a_former_owners_late_word_is_told_over(clock: ManualClock, table: Table) -> None:
    """Once its own was seen; until then an older record is only history."""
    mine = owner(table, clock, generation=4)
    trip(mine)
    told(mine)
    mine.heard("t", (3, 9))
    assert [] == told(mine)
    mine.heard("t", (4, 1))
    mine.heard("t", (3, 10))

    assert [("t", 4, 2)] == pairs(told(mine))


def test_somebody_above_has_the_word(clock: ManualClock, table: Table) -> None:
    """It is the successor, as a rule; where it is not, the next report brings the circuit back above it."""
    mine = owner(table, clock)
    trip(mine)
    told(mine)
    mine.heard("t", (7, 1))
    assert [] == mine.targets
    fold(mine)

    assert [("t", 8, 2)] == pairs(told(mine))


def test_what_is_no_report_is_ignored_and_named_now_and_then(
    clock: ManualClock, table: Table, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bytes of it anywhere, no line per record, and no target more than there may be."""
    monkeypatch.setattr("streams.circuit.owner.TARGETS_MAX", 3)
    mine = owner(table, clock)
    with caplog.at_level(logging.WARNING):
        for value in (None, b"", b"secret\xff", Outcomes(target="t").SerializeToString()):
            mine.fold(value, 0)
        fold(mine, target="t" * 250)
        fold(mine, reporter="r" * 250)
        for number in range(1_500):
            mine.fold(b"", 0)
            fold(mine, target="real" if number % 2 else f"t-{number}")

    assert ["real", "t-1496", "t-1498"] == mine.targets
    assert {b"real", b"t-1496", b"t-1498"} == set(table)
    assert ["outcomes: 1 records", "outcomes: 1001 records"] == [
        " ".join(record.getMessage().split()[:3]) for record in caplog.records
    ]


def test_names_that_were_told_are_remembered_up_to_a_limit(
    clock: ManualClock, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: one entry for ever for each name that anybody invented; a circuit of ours keeps its number."""
    monkeypatch.setattr("streams.circuit.owner.KNOWN_MAX", 5)
    mine = owner(table, clock)
    mine.heard("t", (7, 1))
    fold(mine)
    for number in range(1_000):
        mine.heard(f"t-{number}", (1, 1))

    assert 5 == len(mine._known)
    assert (7, 1) == mine._known["t"]


@pytest.mark.parametrize(
    "row", [b"", b"\x00", bytes(8), bytes(8) + b"\x01", bytes(8) + b"\x01{}", bytes(8) + b"\x01[1]"]
)
def test_a_stored_row_that_is_none_costs_itself(table: Table, clock: ManualClock, row: bytes) -> None:
    """The circuit begins closed, and the next row is a whole one; the agent goes on."""
    table[b"t"] = row
    damaged = owner(table, clock)
    fold(damaged, ok=1)

    assert 1 == damaged.damaged
    assert 0 == owner(table, clock).damaged
