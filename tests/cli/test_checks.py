"""streams.cli.checks: what the doctor judges, by table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from streams.cli.checks import Facts, Stopped, TopicFacts, findings
from streams.options import AppSettings, Settings
from streams.settings import sync_settings

SYNC = sync_settings(source="devices", message="acme.Device", module="acme_pb2")
SETTINGS = Settings(app=AppSettings(id="fleet"), sync=(SYNC,))
ROOM = {"max.message.bytes": "1114112"}
WEEK = {"retention.ms": "604800000"}
SOUND = {
    "devices": TopicFacts(4, {"max.message.bytes": "1048588", **WEEK}),
    "devices.patches": TopicFacts(4, {**ROOM, **WEEK}),
    "devices.resync": TopicFacts(4, WEEK),
    "devices.dlq": TopicFacts(4, {**ROOM, "retention.ms": "1209600000"}),
    "fleet-devices-changelog": TopicFacts(4, {**ROOM, "cleanup.policy": "compact", "retention.ms": "-1"}),
}
FACTS = Facts(SOUND, now_ms=1_700_000_000_000, disk_free_bytes=1 << 40, newest_ms={"devices": 1_700_000_000_000})


def broken(**topics: TopicFacts | None) -> Facts:
    """Sound facts with some topics changed or gone; `_` stands for `.` or `-`."""
    named = {name.replace(".", "_").replace("-", "_"): name for name in SOUND}
    changed: dict[str, TopicFacts] = dict(SOUND)
    for key, topic in topics.items():
        changed.pop(named[key])
        if topic is not None:
            changed[named[key]] = topic
    return dataclasses.replace(FACTS, topics=changed)


def test_what_is_sound_is_left_alone() -> None:
    """Topics as a worker makes them, fresh clocks and room on the disk give no finding."""
    assert [] == list(findings(SETTINGS, FACTS))


@pytest.mark.parametrize(
    ("facts", "place", "told"),
    [
        (broken(devices=None), "topic devices", "create it"),
        (broken(devices_dlq=None), "topic devices.dlq", "first worker"),
        (broken(devices_patches=TopicFacts(3, ROOM)), "topic devices.patches", "3 partitions"),
        (broken(fleet_devices_changelog=TopicFacts(4, {**ROOM, "cleanup.policy": "delete"})),
         "topic fleet-devices-changelog", "cleanup.policy=delete"),
        (broken(devices_dlq=TopicFacts(4, {"max.message.bytes": "1048588"})), "topic devices.dlq", "1114112"),
        (broken(devices=TopicFacts(4, {"retention.ms": "-1"})), "sync devices: tombstone_retention_ms", "for ever"),
        (broken(devices_dlq=TopicFacts(4, {**ROOM, "retention.ms": "1", "message.timestamp.type": "CreateTime"})),
         "topic devices.dlq", "CreateTime"),
        (dataclasses.replace(FACTS, disk_free_bytes=1 << 20), "disk of ./data", "1 MiB free"),
        (dataclasses.replace(FACTS, newest_ms={"devices": 1_700_000_100_000}), "clock, seen in devices",
         "100000 ms ahead"),
        (dataclasses.replace(FACTS, others={"devices.patches": ["shop"]}), "output devices.patches", "fleet and shop"),
        (dataclasses.replace(FACTS, split_keys={"devices": [b"d-1"]}), "devices: changelog", "more than one partition"),
        (dataclasses.replace(FACTS, stops={"devices": [Stopped("devices", 3, FACTS.now_ms - 1_000, 50)]}),
         "devices partition 3", "the first records behind it go in 604799000 ms"),
        (dataclasses.replace(FACTS, stops={"devices": [Stopped("devices", 3, FACTS.now_ms - 604_800_001, 50)]}),
         "devices partition 3", "gone unread"),
        (dataclasses.replace(FACTS, schema_changes={"devices": ["field 3 was int32, is string"]}),
         "sync devices: message", "field 3"),
    ],
)  # fmt: skip
def test_each_fault_is_found_with_its_cure(facts: Facts, place: str, told: str) -> None:
    """One fault gives one finding that names the place, what was found, and what to do."""
    (found,) = findings(SETTINGS, facts)

    assert place == found.setting
    assert told in str(found)
    assert found.cure


def test_a_topic_without_numbers_is_not_judged() -> None:
    """A broker that does not say a number is not accused of it."""
    silent: Mapping[str, TopicFacts] = {name: TopicFacts(4) for name in SOUND}

    assert [] == list(findings(SETTINGS, dataclasses.replace(FACTS, topics=silent)))


def test_what_a_worker_waits_for_is_a_finding() -> None:
    """Each of its reasons, under the port it answered on."""
    (found,) = findings(SETTINGS, dataclasses.replace(FACTS, waiting={"broker": "unreachable"}))

    assert ("worker on port 6066", "broker: unreachable") == (found.setting, found.came)
