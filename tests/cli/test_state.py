"""`streams state` on what a worker leaves behind: topics filled by the native core, on both transports."""

from __future__ import annotations

import json
import math
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from streams._native import Records, Table, decode_row
from streams.cli import run
from streams.cli.reading import latest, read_all
from streams.cli.state import shown_message
from streams.client.broker import Ack, WriterOptions
from streams.client.connect import open_writer
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import AppSettings, Settings
from streams.settings import sync_settings
from streams.sync.agent import make_job
from streams.sync.topics import SyncTopics
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.protos import message_class

NOW_MS = time.time_ns() // 1_000_000  # a broker removes what is older than its retention, also in a test
TYPE = {"message": "streams.demo.v1.DeviceState", "module": "streams.demo.v1.device_pb2"}


class Left:
    """An application's topics on one broker, written as a worker writes them: state, changelog, patches."""

    def __init__(self, folder: Path, url: str) -> None:
        self.source = f"devices-{uuid.uuid4().hex[:8]}"
        self.config = folder / "streams.toml"
        self.config.write_text(
            f'[app]\nid = "fleet"\nbroker = "{url}"\ndatadir = "{folder}/data"\n\n[[sync]]\nsource = "{self.source}"\n'
            + "".join(f'{name} = "{value}"\n' for name, value in TYPE.items())
        )
        self.settings = Settings(app=AppSettings(id="fleet", broker=url))
        self.topics = SyncTopics.of("fleet", self.source, "")
        self._url = url
        spec = sync_settings(source=self.source, **TYPE)
        job = make_job(MessageSchema(DeviceState), spec, self.source, partitions=0, record_bytes_max=1 << 20)
        self._table = Table(job, 1)
        self._offset = 0
        self._unwritten: list[tuple[str, Records]] = []

    def event(self, key: bytes, state: DeviceState | None, *, patches: bool = True) -> None:
        """Works one event off and writes what came out; without `patches` as if they had been lost."""
        records = Records()
        value = None if state is None else state.SerializeToString()
        records.append(key, value, [], NOW_MS, self._offset)
        self._offset += 1
        step = self._table.process(records, NOW_MS)
        rows = self._table.changelog(step.mark - 1, step.mark)
        self._table.commit(step.mark)
        self._unwritten += [(self.topics.changelog, rows), (self.topics.output, step.patches if patches else Records())]

    def overwrite(self, key: bytes, row: bytes) -> None:
        """Writes a row by hand."""
        records = Records()
        records.append(key, row)
        self._unwritten.append((self.topics.changelog, records))

    def put(self, topic: str, key: bytes, value: bytes, partition: int) -> None:
        """Writes one record at once."""
        self.write()
        records = Records()
        records.append(key, value)
        writer = open_writer(self._url, WriterOptions())
        assert all(isinstance(outcome, Ack) for outcome in writer.write(topic, records, partition))
        writer.close()

    def row(self, key: bytes) -> bytes:
        """The stored row of a key."""
        found = self._table.get(key)
        assert found is not None
        return found

    def streams(self, *arguments: str) -> int:
        """Runs `streams state` here; the exit code."""
        self.write()
        return run(["state", *arguments, "--config", str(self.config)])

    def write(self) -> None:
        """Writes what came out since the last time, by one writer: opening one on Kafka takes a second."""
        if not self._unwritten:
            return
        writer = open_writer(self._url, WriterOptions())
        for name in (self.topics.output, self.topics.changelog, self.topics.resync, self.source):
            writer.create_topic(name, 2)
        for topic, records in self._unwritten:
            assert all(isinstance(outcome, Ack) for outcome in writer.write(topic, records, 1))
        writer.close()
        self._unwritten.clear()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    """What a worker left on each transport: three keys, one of them deleted."""
    kafka = request.param == "kafka"
    there = Left(tmp_path, request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log")
    there.event(b"d-1", DeviceState(device_id="d-1", battery=0.5))
    there.event(b"d-1", DeviceState(device_id="d-1", battery=0.25, tags=["a"]))
    there.event(b"d-2", DeviceState(device_id="d-2"))
    there.event(b"d-3", DeviceState(device_id="d-3"))
    there.event(b"d-3", None)
    there.write()
    return there


def test_get_prints_the_row(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """Message, revision, offset and partition, as one JSON object; a deleted key has no message."""
    codes = [left.streams("get", left.source, "d-1"), left.streams("get", left.source, "642d33", "--hex")]
    live, dead = (json.loads(text + "}") for text in capsys.readouterr().out.split("\n}\n")[:2])

    assert [0, 0] == codes
    assert {"device_id": "d-1", "battery": 0.25, "tags": ["a"]} == live["message"]
    assert (2, 1, 1) == (live["revision"], live["offset"], live["partition"])
    assert (None, 2) == (dead["message"], dead["revision"])
    assert dead["deleted_at"] is not None


def test_get_without_the_type_prints_bytes(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing names the message type the stored bytes are printed."""
    code = run(["state", "get", left.source, "d-2", "--id", "fleet", "--broker", left.settings.app.broker])

    assert 0 == code
    assert DeviceState(device_id="d-2").SerializeToString().hex() == json.loads(capsys.readouterr().out)["message_hex"]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        pytest.param({"at": {"seconds": 5}}, {"id": "x", "at": "1970-01-01T00:00:05Z"}, id="in Protobuf's JSON"),
        pytest.param({"at": {"seconds": 2**60}}, {"id": "x", "at": {"seconds": str(2**60)}}, id="no time"),
        pytest.param(
            {"extra": {"a": math.nan}},
            {"id": "x", "extra": {"fields": {"a": {"number_value": "NaN"}}}},
            id="NaN in a Struct",
        ),
    ],
)
def test_what_protobufs_json_cannot_say_is_shown_field_by_field(fields: Any, wanted: object) -> None:
    """Any row can be looked at."""
    kind = message_class("streams.golden.v1.Everything")
    assert {"message": wanted} == shown_message(kind, kind(id="x", **fields).SerializeToString())


def test_text_that_is_none_is_shown_as_bytes() -> None:
    """Before proto3 a string holds any bytes."""
    assert {"message_hex": "0a01ff"} == shown_message(message_class("streams.golden.v1.Everything"), b"\x0a\x01\xff")


def test_get_of_an_unknown_key_fails(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """No row is exit code 1 with the topic's name; so is no changelog."""
    codes = [left.streams("get", left.source, "d-9"), left.streams("get", "nothing", "d-1")]
    told = capsys.readouterr().err

    assert [1, 1] == codes
    assert f"{left.topics.changelog}: no row of this key" in told
    assert "fleet-nothing-changelog" in told


def test_verify_finds_nothing_where_nothing_is_wrong(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """All patches applied give the stored rows, the deleted one included."""
    code = left.streams("verify", left.source)
    output = capsys.readouterr()

    assert (0, "3 rows: 3 equal, 0 moved on meanwhile\n") == (code, output.out), output.err


def test_verify_names_each_kind_of_damage(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """Lost patches, another state and a damaged row are findings with their cures; exit code 3, and no payload."""
    left.event(b"lost", DeviceState(device_id="lost"), patches=False)
    left.event(b"gap", DeviceState(device_id="gap"))
    left.event(b"gap", DeviceState(device_id="gap", battery=1), patches=False)
    left.event(b"gap", DeviceState(device_id="gap", battery=1, cpu=1))
    left.overwrite(b"d-1", left.row(b"d-1").replace(b"d-1", b"d-X"))
    left.overwrite(b"d-2", b"\x01\x02")
    code = left.streams("verify", left.source)
    told = capsys.readouterr().err

    assert 3 == code, told
    assert "1 damaged rows" in told, told
    assert "2 keys whose patches stop before the stored revision" in told, told
    assert "1 keys whose patches lead to another state" in told, told
    assert "d-X" not in told


def test_verify_names_another_writer_and_keys_that_live_twice(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """Patches of an epoch that the state never had are no progress; a key with two live rows is named."""
    newer = Patch(key=b"d-1", epoch=1 << 50, revision=1, kind=Patch.SNAPSHOT, type=TYPE["message"])
    newer.mask.paths.append("*")
    left.put(left.topics.output, b"d-1", newer.SerializeToString(), 1)
    left.put(left.topics.changelog, b"d-2", left.row(b"d-2"), 0)
    left.put(left.topics.changelog, b"d-3", left.row(b"d-3"), 0)
    code = left.streams("verify", left.source)
    output = capsys.readouterr()

    assert 3 == code, output
    assert "1 keys whose patches are of a newer epoch than their rows" in output.err, output.err
    assert "`streams doctor` names the other one" in output.err
    assert "1 keys with live rows in more than one partition" in output.err, output.err
    assert "0 moved on meanwhile" in output.out


def test_snapshots_are_asked_for_where_the_key_is(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """One request for one key, one for each with --all, on the partition that has the row."""
    commands = [("snapshot", "d-1"), ("snapshot", "--all"), ("reset-sequence", "d-2"), ("snapshot", "d-9")]
    codes = [left.streams(name, left.source, key) for name, key in commands]
    asked = [
        (partition, records.key(index), [name for name, _ in records.headers(index)])
        for partition, records in read_all(left.settings, left.topics.resync)
        for index in range(len(records))
        if Resync.OPERATOR == Resync.FromString(records.value(index) or b"").reason
    ]

    assert [0, 0, 0, 1] == codes, capsys.readouterr().err
    assert (1, b"d-1", []) == asked[0]
    assert {b"d-1", b"d-2", b"d-3"} == {key for _, key, _ in asked[1:4]}
    assert (1, b"d-2", ["reset-sequence"]) == asked[4]
    assert len(asked) == 5


def test_rebuild_says_first_and_does_then(left: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Local stores go; with --from-source the rows go too, and the group is back at the start."""
    for store in (tmp_path / "data" / "state" / left.source, tmp_path / "data" / "1" / "state" / left.source):
        store.mkdir(parents=True)
        (store / "LOCK").touch()
    code = left.streams("rebuild", left.source, "--from-source")
    said = capsys.readouterr().out
    before = latest(left.settings, left.topics.changelog)
    done = left.streams("rebuild", left.source, "--from-source", "--yes")

    assert [0, 0] == [code, done], capsys.readouterr().err
    assert 4 == said.count("would")
    assert before
    assert {} == latest(left.settings, left.topics.changelog)
    assert [] == list((tmp_path / "data").rglob("LOCK"))


def test_upgrade_has_nothing_to_do_yet(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """There is one format; a newer one is refused by name."""
    first = left.streams("upgrade", left.source)
    told = capsys.readouterr().out
    left.overwrite(b"d-1", b"\x03" + left.row(b"d-1")[1:])
    second = left.streams("upgrade", left.source)

    assert [0, 1] == [first, second]
    assert "format 2, the newest" in told
    assert "format 3" in capsys.readouterr().err
    assert decode_row(left.row(b"d-1"))["format"] == 2


@pytest.mark.parametrize("source", ["", ".", "..", "../log", "/etc"])
def test_rebuild_of_a_path_removes_nothing(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Stores lie under the name of their source: one that leads elsewhere is no name."""
    (tmp_path / "state" / "devices").mkdir(parents=True)
    arguments = ["--id", "fleet", "--broker", f"embedded://{tmp_path}/log", "--set", f"app.datadir={tmp_path}"]
    code = run(["state", "rebuild", source, *arguments, "--yes"])

    assert 2 == code
    assert "SOURCE: got a path, expected the name of a topic" in capsys.readouterr().err
    assert (tmp_path / "state" / "devices").is_dir()
