"""The comparison with other systems: its check, the order of its runs, its small form on a real Kafka."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

import benchmarks.workload as workloads
from benchmarks.compare import __main__ as command
from benchmarks.compare import environment, replay
from benchmarks.compare.peers.difference import make_patch, read
from benchmarks.compare.run import RunError, run
from benchmarks.compare.sitting import SLOW_EVENTS, TRIAL, Line, Sitting, Turn, keeper, resumed, table
from benchmarks.compare.systems import SMALL as SMALL_SYSTEMS
from benchmarks.compare.systems import SYSTEMS, System
from benchmarks.workload import CANONICAL, Workload, blocks, events
from streams._native import KafkaAdmin, Records
from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.patch_pb2 import Patch
from tests.broker import Broker

TINY = Workload(2000, 50)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout's own cache stays as it is."""
    monkeypatch.setattr(workloads, "CACHE", tmp_path / "workload")
    monkeypatch.setattr(environment, "CACHE", tmp_path)
    return tmp_path


# -- on Kafka ---------------------------------------------------------------------------------------------------------


def test_the_small_form_runs_ours_and_the_hand_written_loop(kafka: Broker) -> None:
    """Both put out what their replay does; a line has what the README's table is made from."""
    lines = command.small(kafka.url)

    assert list(SMALL_SYSTEMS) == [line["id"] for line in lines]
    assert [None, None] == [line.get("findings") for line in lines]
    for line in lines:
        assert line["verified"] is True
        assert {"commit", "conditions", "system", "events_per_second", "cpu_us_per_event"} <= line.keys()
        assert line["events_per_second"] > 0


def test_a_system_that_fails_says_why_and_leaves_nothing(kafka: Broker, cache: Path) -> None:
    """The end of what it said is in the error; its topics and its folder are gone."""
    program = "import os, sys; os.write(1, b'first\\n'); sys.exit('no such thing')"
    system = System("broken", "broken", "none", "none", lambda: [sys.executable, "-c", program])

    with pytest.raises(RunError, match="ended with 1 before it said 'done':\nno such thing"):
        run(system, kafka.url, TINY)

    assert [] == [
        name for name in KafkaAdmin({"bootstrap.servers": kafka.bootstrap}).topics(10_000) if "broken" in name
    ]
    assert [] == list(cache.glob("compare-*"))


# -- what must come out -----------------------------------------------------------------------------------------------


def plain_patches(workload: Workload) -> Records:
    """The patches that the programs in Python make."""
    held: dict[str, tuple[int, DeviceState]] = {}
    patches = Records()
    for block in blocks(workload):
        for index in range(len(block)):
            key, sequence, data = read(block.value(index) or b"")
            base, old = held.get(key, (0, None))
            if sequence > base:
                new = DeviceState.FromString(data)
                patches.append(key.encode(), make_patch(key, sequence, base, old, new).SerializeToString())
                held[key] = sequence, new
    return patches


def findings(patches: Records) -> list[str]:
    """What the check finds in a system's output."""
    check = replay.Check(replay.expected(TINY))
    check.add(patches)
    return check.findings()


@pytest.mark.usefixtures("cache")
def test_the_programs_and_the_replay_agree() -> None:
    """Two ways to compare devices, one result; a second look reads it from the workload's folder."""
    assert [] == findings(plain_patches(TINY))
    assert replay.expected(TINY) == replay.replay(blocks(TINY))


@pytest.mark.usefixtures("cache")
def test_the_check_finds_what_is_wrong() -> None:
    """A lost, doubled, reordered or altered patch each has its line."""
    patches = plain_patches(TINY)
    half = len(patches) // 2
    altered = Records()
    for index in range(len(patches)):
        patch = Patch.FromString(patches.value(index) or b"")
        if index == half:
            patch.mask.paths.append("tenant")
        altered.append(patches.key(index), patch.SerializeToString())

    assert any("the replay has" in line for line in findings(patches.slice(0, len(patches) - 1)))
    assert any("do not follow" in line for line in findings(joined(patches, patches.slice(half, half + 1))))
    reordered = joined(patches.slice(half, len(patches)), patches.slice(0, half))
    assert any("do not follow" in line for line in findings(reordered))
    assert ["the hash over all patches is not the replay's: some patch has other fields or data"] == findings(altered)


def joined(*parts: Records) -> Records:
    """One after the other."""
    whole = Records()
    for part in parts:
        whole.extend(part)
    return whole


def test_fewer_events_are_the_first_of_more() -> None:
    """What a slow system gets is the beginning of what the others get."""
    assert list(events(TINY)) == list(islice(events(replace(TINY, events=3000)), TINY.events))


# -- which runs -------------------------------------------------------------------------------------------------------


def sitting_of(*systems: str, whole: tuple[str, ...] = ()) -> Sitting:
    """A new one."""
    return Sitting({"commit": "1234567"}, systems, CANONICAL, rounds=3, whole=whole)


def line(turn: Turn, rate: int, **more: object) -> Line:
    """The result of a turn."""
    return {
        "id": turn.system, "system": turn.system.upper(), "round": turn.round, "events_per_second": rate,
        "cpu_us_per_event": 1e6 / rate, "verified": True, **more,
    }  # fmt: skip


def test_each_round_has_every_system_and_begins_with_another() -> None:
    """A trial on the first events, then rounds in turn."""
    sitting, made = sitting_of("a", "b", "c", "d"), []
    for turn in sitting.turns():
        sitting.add(line(turn, 20_000))
        made.append(turn)

    assert ["abcd", "bcda", "cdab", "dabc"] == [
        "".join(turn.system for turn in made if turn.round == number) for number in range(4)
    ]
    assert {SLOW_EVENTS} == {turn.workload.events for turn in made if turn.round == TRIAL}
    assert {CANONICAL} == {turn.workload for turn in made if turn.round != TRIAL}
    assert sitting.is_complete


def test_a_slow_system_gets_the_first_events_only() -> None:
    """Below 10,000 a second in the trial; not where the trial says nothing about it."""
    sitting = sitting_of("quick", "slow", "warming", whole=("warming",))
    rates = {"quick": 10_000, "slow": 9_999, "warming": 9_999}
    for turn in sitting.turns():
        sitting.add(line(turn, rates[turn.system]))

    assert {"quick": CANONICAL.events, "slow": SLOW_EVENTS, "warming": CANONICAL.events} == {
        name: sitting.workload_for(name, 1).events for name in sitting.systems
    }


def test_a_system_that_failed_is_left_out_until_the_sitting_is_resumed(tmp_path: Path) -> None:
    """The others go on; what they did is not done again."""
    sitting, path = sitting_of("a", "b"), tmp_path / "sitting.jsonl"
    keep = keeper(path, sitting)
    for turn in sitting.turns():
        result = line(turn, 20_000) if turn.system == "a" else {**line(turn, 1), "verified": False, "failed": "x"}
        sitting.add(result)
        keep(result)

    assert [("b", TRIAL)] == [(each["id"], each["round"]) for each in sitting.lines if "failed" in each]
    assert {"b"} == {turn.system for turn in resumed(path, sitting_of("a", "b")).turns()}


def test_an_interrupted_sitting_goes_on(tmp_path: Path) -> None:
    """At the run that was not finished; under other conditions or when it is complete, a new one begins."""
    sitting, path = sitting_of("a", "b"), tmp_path / "sitting.jsonl"
    keep = keeper(path, sitting)
    for turn in islice(sitting.turns(), 3):
        sitting.add(line(turn, 20_000))
        keep(sitting.lines[-1])
    other = replace(sitting_of("a", "b"), conditions={"commit": "7654321"})

    assert sitting.lines == resumed(path, sitting_of("a", "b")).lines
    assert next(sitting.turns()) == next(resumed(path, sitting_of("a", "b")).turns())
    assert [] == resumed(path, other).lines
    assert [] == resumed(path, sitting_of("a")).lines
    for turn in sitting.turns():
        sitting.add(line(turn, 20_000))
    keeper(path, sitting)
    assert [] == resumed(path, sitting_of("a", "b")).lines
    assert [] == resumed(tmp_path / "none.jsonl", sitting_of("a", "b")).lines


def test_the_table_has_medians_of_what_counts() -> None:
    """Not the trial, not what was wrong; the first system against the others."""
    sitting = sitting_of("ours", "theirs")
    for turn in sitting.turns():
        rate = {"ours": 200_000, "theirs": 20_000}[turn.system] + turn.round
        sitting.add(line(turn, rate, **({"verified": False} if turn.round == 3 else {})))

    assert ["| OURS | 200,002 |  | 5.0 |", "| THEIRS | 20,002 | 10.0 times | 50.0 |"] == table(sitting.lines)[2:]


def test_only_complete_runs_are_kept_and_ours_are_first(tmp_path: Path) -> None:
    """As the README's table wants them."""
    sitting = sitting_of("patchstream", "quix")
    for turn in sitting.turns():
        sitting.add({**line(turn, 20_000), "verified": turn.round != 2})
    command.save(sitting, tmp_path / "kept.jsonl")

    kept = [json.loads(text) for text in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert [("patchstream", 1), ("patchstream", 3), ("quix", 1), ("quix", 3)] == [
        (each["id"], each["round"]) for each in kept
    ]


def test_every_system_is_there_once() -> None:
    """Names on the command line and in the table are one system's; ours is the first."""
    assert len(SYSTEMS) == len({system.id for system in SYSTEMS}) == len({system.title for system in SYSTEMS})
    assert SYSTEMS[0].ours
    assert set(SMALL_SYSTEMS) <= {system.id for system in SYSTEMS}
