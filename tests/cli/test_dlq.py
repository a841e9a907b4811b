"""`streams dlq` on what a worker leaves behind: topics filled by the native core, on both transports."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from streams._native import KafkaAdmin, Records, Table, decode_row, xxh3_64
from streams.cli import run
from streams.cli.reading import read_all
from streams.cli.replaying import Letters, Sender
from streams.client.broker import Ack, WriterOptions
from streams.client.connect import open_writer
from streams.dead_letters.letter import Letter, write
from streams.dead_letters.replay import Filter
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import TransportError
from streams.kernel.schema import MessageSchema
from streams.options import AppSettings, Settings
from streams.settings import sync_settings
from streams.sync.agent import make_job
from streams.sync.topics import SyncTopics
from streams.transport.log import Log
from streams.v1.resync_pb2 import Resync
from tests.protos import compile_set

NOW_MS = time.time_ns() // 1_000_000  # a broker removes what is older than its retention, also in a test
HOUR_MS = 3_600_000
TYPE = {"message": "streams.demo.v1.DeviceState", "module": "streams.demo.v1.device_pb2"}
P = 1
"""Everything is in one of two partitions."""
SOURCE_BYTES_MAX = 2_000


class Shop:
    """An application's topics on one broker. It refuses sequences that are none, until `mend` makes it ignore them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.source = f"devices-{uuid.uuid4().hex[:8]}"
        self.topics = SyncTopics.of("fleet", self.source, "")
        self.settings = Settings(app=AppSettings(id="fleet", broker=url))
        self.folder = folder
        self.config = folder / "streams.toml"
        self.url = url
        self.table = self._table("attribute")
        self._read = 0
        self._create_source()
        writer = open_writer(url, WriterOptions())
        topics = self.topics
        for name in (topics.output, topics.changelog, topics.resync, topics.dead_letters):
            writer.create_topic(name, 2)
        writer.close()

    def _create_source(self) -> None:
        scheme, _, place = self.url.partition("://")
        if scheme == "embedded":
            with Log(place) as log:
                log.create_topic(self.source, 2, record_bytes_max=SOURCE_BYTES_MAX)
        else:
            made = [(self.source, 2, -1, {"max.message.bytes": str(SOURCE_BYTES_MAX)})]
            assert [(self.source, None)] == KafkaAdmin({"bootstrap.servers": place}).create_topics(made, 30_000)

    def _table(self, sequence: str) -> Table:
        self.config.write_text(
            f'[app]\nid = "fleet"\nbroker = "{self.url}"\n\n[[sync]]\nsource = "{self.source}"\n'
            f'sequence = "{sequence}"\n' + "".join(f'{name} = "{value}"\n' for name, value in TYPE.items())
        )
        spec = sync_settings(source=self.source, sequence=sequence, **TYPE)
        return Table(make_job(MessageSchema(DeviceState), spec, self.source, partitions=0, record_bytes_max=1 << 20), P)

    def mend(self) -> None:
        """The next release: what died of its sequence is an event from now on."""
        mended = self._table("none")
        mended.restore(self._all(self.topics.changelog))
        self.table = mended

    def events(self, *events: tuple[str, float, bool]) -> None:
        """Sends states (key, battery, whether it will die) and works them off."""
        records = Records()
        for number, (key, battery, dies) in enumerate(events):
            headers = {
                "ce_specversion": "1.0", "ce_id": f"{key}-{battery}", "ce_source": "/test",
                "ce_sequence": "none" if dies else str(number), "ce_subject": "a person",
            }  # fmt: skip
            value = DeviceState(device_id=key, battery=battery).SerializeToString()
            records.append(key.encode(), value, [(name, text.encode()) for name, text in headers.items()], NOW_MS)
        self.write((self.source, records))
        self.work()

    def work(self) -> dict[str, int]:
        """Works off what is new in the source, as a worker does; what it counted."""
        events = self._all(self.source)
        events = events.slice(self._read, len(events))
        self._read += len(events)
        step = self.table.process(events, NOW_MS)
        rows = self.table.changelog(step.mark - 1, step.mark)
        self.table.commit(step.mark)
        topics = self.topics
        self.write(
            (topics.changelog, rows), (topics.output, step.patches), (topics.dead_letters, step.dead_letters)
        )  # fmt: skip
        return {name: count for name, count in step.counts.items() if count}

    def letters(self, *letters: Letter) -> None:
        """Writes letters by hand."""
        records = Records()
        for letter in letters:
            write(records, letter, 1 << 20)
        self.write((self.topics.dead_letters, records))

    def write(self, *batches: tuple[str, Records]) -> None:
        """Writes batches that must all be taken."""
        writer = open_writer(self.url, WriterOptions())
        for topic, records in batches:
            assert all(isinstance(outcome, Ack) for outcome in writer.write(topic, records, P)), topic
        writer.close()

    def _all(self, topic: str) -> Records:
        found = Records()
        for partition, records in read_all(self.settings, topic):
            assert partition == P
            found.extend(records)
        return found

    def read(self, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
        """Key, value and headers of every record."""
        found = self._all(topic)
        return [(found.key(at), found.value(at), dict(found.headers(at))) for at in range(len(found))]

    def battery(self, key: str) -> float:
        """What the stored state of a key says."""
        row = self.table.get(key.encode())
        assert row is not None
        return DeviceState.FromString(decode_row(row)["message"]).battery

    def dlq(self, name: str, *arguments: str) -> int:
        """Runs `streams dlq NAME SOURCE ...`; the exit code."""
        return run(["dlq", name, self.source, *arguments, "--config", str(self.config)])


def letter(shop: Shop, **changes: Any) -> Letter:
    """A letter of the source's first record."""
    fields: dict[str, Any] = {
        "topic": shop.source, "partition": P, "offset": 0, "timestamp_ms": NOW_MS, "reason": "undecodable",
        "error": "field 4", "key": b"d-9", "value": b"secret",
    }  # fmt: skip
    return Letter(**(fields | changes))


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    """An application on each transport that has not yet seen anything."""
    kafka = request.param == "kafka"
    return Shop(tmp_path, request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log")


@pytest.fixture
def local(tmp_path: Path) -> Shop:
    """One on the embedded log: for what is the same on any transport."""
    return Shop(tmp_path, f"embedded://{tmp_path}/log")


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The columns of what was printed, and on standard error its lines: (place, reason, key, state)."""
    found = [line.split(maxsplit=6) for line in capsys.readouterr().out.splitlines()]
    return [[columns[0], columns[2], columns[3], columns[6]] for columns in found]


def test_a_monday_event_does_not_overwrite_fridays_state(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Said beforehand, sent all the same, dropped and counted by the core, and listed afterwards."""
    shop.events(("d-1", 0.1, True), ("d-1", 0.5, False), ("d-2", 0.2, True))
    shop.mend()
    dry = shop.dlq("replay", "--keys")
    planned = lines(capsys)
    before = shop.read(shop.source)
    code = shop.dlq("replay", "--keys", "--yes")
    done = lines(capsys)
    counts = shop.work()
    left, listed = shop.dlq("list"), lines(capsys)
    afterwards = shop.dlq("list", "--done", "--keys"), lines(capsys)

    assert [0, 0, 0, 0] == [dry, code, left, afterwards[0]]
    assert [["1:0", "bad-sequence", "d-1", "superseded"], ["1:1", "bad-sequence", "d-2", "applies"]] == planned
    assert 3 == len(before)
    assert ["superseded", "replayed"] == [line[3] for line in done]
    assert (1, 1, 2) == (counts["dropped.superseded"], counts["patches"], counts["events"])
    assert (0.5, pytest.approx(0.2)) == (shop.battery("d-1"), shop.battery("d-2"))
    assert [] == listed
    assert ["superseded", "replayed, applied"] == [line[3] for line in afterwards[1]]


def test_a_replayed_record_is_itself_again(shop: Shop) -> None:
    """Key, value, id and headers as they were, to the partition it died in, with its origin and one replay counted."""
    shop.events(("d-1", 0.1, True))
    shop.mend()
    assert 0 == shop.dlq("replay", "--yes")
    (first, again) = shop.read(shop.source)

    assert first[:2] == again[:2]
    assert first[2] == {name: value for name, value in again[2].items() if not name.startswith("dlq-")}
    assert {
        "dlq-origin-topic": shop.source.encode(), "dlq-origin-partition": b"1", "dlq-origin-offset": b"0",
        "dlq-origin-timestamp": str(NOW_MS).encode(), "dlq-format": b"1", "dlq-replay-count": b"1",
    } == {name: value for name, value in again[2].items() if name.startswith("dlq-")}  # fmt: skip
    assert 1 == shop.work()["patches"]


def test_a_targets_letter_asks_for_a_snapshot(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of its bytes is sent: the request names the target and is answered for it alone."""
    shop.events(("d-1", 0.5, False))
    dead = {"topic": shop.topics.output, "reason": "delivery-permanent", "target": "billing"}
    shop.letters(letter(shop, key=b"d-1", **dead), letter(shop, key=None, **dead))
    code = shop.dlq("replay", "--target", "billing", "--yes", "--keys")
    done = lines(capsys)
    (request,) = shop.read(shop.topics.resync)

    assert 0 == code
    assert [["delivery-permanent@billing", "d-1", "asked"], "no-key"] == [done[1][1:], done[0][3][7:13]]
    assert (b"d-1", "fleet/billing") == (request[0], Resync.FromString(request[1] or b"").requester)
    assert 1 == len(shop.read(shop.source))


def test_what_is_dropped_is_gone_for_good(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what the filter chose, only with --yes; it is neither listed nor replayed, and says so with --done."""
    shop.events(*((f"d-{number}", 0.1, True) for number in range(5)))
    shop.mend()
    dry = shop.dlq("drop", "--offset", "1:1-3"), [line[3] for line in lines(capsys)]
    before = shop.dlq("list"), len(lines(capsys))
    done = shop.dlq("drop", "--offset", "1:1-2", "--offset", "1:4", "--yes"), [line[3] for line in lines(capsys)]
    left = shop.dlq("list"), [line[0] for line in lines(capsys)]
    replayed = shop.dlq("replay", "--yes"), [line[0] for line in lines(capsys)]
    afterwards = shop.dlq("list", "--done"), [(line[0], line[3]) for line in lines(capsys)]

    assert (0, ["would be dropped"] * 3) == dry
    assert (0, 5) == before
    assert (0, ["dropped"] * 3) == done
    assert (0, ["1:0", "1:3"]) == left == replayed
    assert [("1:1", "dropped"), ("1:3", "replayed, not processed yet")] == afterwards[1][1:4:2]
    assert 7 == len(shop.read(shop.source))


def test_a_replay_that_was_killed_goes_on(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost, what was marked is not sent again, and of what was not at most one parcel is."""
    shop.events(*((f"d-{number}", 0.1, True) for number in range(12)))
    shop.mend()
    command = [sys.executable, "-m", "streams.cli", "dlq", "replay", shop.source, "--config", str(shop.config)]
    with subprocess.Popen([*command, "--per-second", "2", "--yes"], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        first = killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    between = shop.dlq("list"), len(lines(capsys))
    rest = shop.dlq("replay", "--per-second", "1000", "--yes"), len(lines(capsys))
    again = shop.dlq("replay", "--yes"), lines(capsys)
    counts = shop.work()

    assert "replayed" in first
    assert 0 < between[1] < 12
    assert rest == between
    assert (0, []) == again
    assert 12 == counts["patches"]
    assert counts.get("dropped.superseded", 0) <= 2


def test_a_replay_of_a_replay(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A second death has one family with the first origin; so often replayed, a letter stays until more is allowed."""
    shop.events(("d-1", 0.1, True))
    command = [shop.source, "--id", "fleet", "--broker", shop.url]  # without the message type nothing is foretold
    counted = []
    for _ in range(2):
        assert 0 == run(["dlq", "replay", *command, "--replays-max", "2", "--yes"])
        counted.append(shop.work())
    told = capsys.readouterr()
    capped = run(["dlq", "replay", *command, "--replays-max", "2", "--yes"]), lines(capsys)
    shop.mend()
    allowed = shop.dlq("replay", "--replays-max", "3", "--yes"), [line[3] for line in lines(capsys)]
    applied = shop.work()

    assert [{"events": 1, "dead.bad-sequence": 1}] * 2 == [
        {name: counts[name] for name in ("events", "dead.bad-sequence")} for counts in counted
    ]
    assert "superseded letters are not told apart" in told.err
    families = [headers for _, _, headers in shop.read(shop.topics.dead_letters) if "dlq-reason" in headers]
    assert [(b"0", None), (b"0", b"1"), (b"0", b"2")] == [
        (family["dlq-origin-offset"], family.get("dlq-replay-count")) for family in families
    ]
    assert capped[1][0][3].startswith("stays, replayed-often")
    assert (0, ["replayed"]) == allowed
    assert 1 == applied["patches"]


def test_what_would_die_again_stays(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Unmended letters in a row would stop the partition; so would those that cannot go anywhere."""
    local.events(("d-1", 0.1, True))
    local.letters(
        letter(local, value=None, length=9, sha256="00"),
        letter(local, offset=99),
        letter(local, topic="others"),
        letter(local, value=b"\xff"),
    )
    code = local.dlq("replay", "--yes")

    assert 0 == code
    assert ["dies:bad-sequence", "stub", "elsewhere", "elsewhere", "dies:undecodable"] == [
        line[3].split(", ")[1].partition(": ")[0] for line in lines(capsys)
    ]
    assert 1 == len(local.read(local.source))


def test_what_is_another_syncs_type_dies_again(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """The forecast knows the messages that a worker has loaded; a sync whose files are elsewhere hinders none."""
    local.events(("d-1", 0.1, True))
    descriptors = compile_set(local.folder / "more.binpb", "several_more.proto")
    with local.config.open("a") as config:
        for source, path in (("orders", descriptors), ("elsewhere", local.folder / "nothing")):
            config.write(f'\n[[sync]]\nsource = "{source}"\nmessage = "acme.more.Order"\ndescriptors = "{path}"\n')
    local.letters(letter(local, value=DeviceState().SerializeToString(), headers=(("ce_type", b"acme.more.Order"),)))

    assert 0 == local.dlq("list")
    assert "dies:wrong-type" in lines(capsys)[-1][3]


def test_what_died_before_its_key_was_known_has_no_order(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Its offset says nothing among those of the rekeyed topic: it goes back only on demand."""
    local.letters(letter(local, value=DeviceState(device_id="d-1").SerializeToString()))
    local.events(("d-1", 0.5, False))
    local.config.write_text(local.config.read_text() + 'key = "field:device_id"\npartitioning = "repartition"\n')
    planned = local.dlq("replay"), lines(capsys)
    sent = local.dlq("replay", "--unordered", "--yes"), lines(capsys)

    assert planned[1][0][3].startswith("stays, unordered")
    assert "replayed" == sent[1][0][3]


def test_filters_choose(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """By reason, target, time, key and place, on their own and together."""
    local.events(("d-1", 0.1, True), ("d-2", 0.1, False))
    local.letters(
        letter(local, key=b"d-2", timestamp_ms=NOW_MS - HOUR_MS),
        letter(local, key=b"d-3", target="billing", reason="delivery-exhausted"),
    )
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((NOW_MS - HOUR_MS // 2) / 1000))
    chosen = {}
    for arguments in (
        "--reason bad-sequence --reason undecodable", "--target billing", f"--until {hour_ago}", f"--since {hour_ago}",
        "--key d-2", "--key 642d33 --hex", "--offset 1:1-2", "--offset 0:1", "--key d-2 --reason bad-sequence",
    ):  # fmt: skip
        assert 0 == local.dlq("list", *arguments.split())
        chosen[arguments.replace(hour_ago, "then")] = [int(line[0].partition(":")[2]) for line in lines(capsys)]

    assert {
        "--reason bad-sequence --reason undecodable": [0, 1], "--target billing": [2], "--until then": [1],
        "--since then": [0, 2], "--key d-2": [1], "--key 642d33 --hex": [2], "--offset 1:1-2": [1, 2],
        "--offset 0:1": [], "--key d-2 --reason bad-sequence": [],
    } == chosen  # fmt: skip


def test_keys_and_payloads_are_shown_on_demand_only(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Hashes and sizes otherwise; a header that may name somebody has no value, and no terminal is told what to do."""
    local.events(("d-1\x1b[31m", 0.1, True))
    codes = [local.dlq("list"), local.dlq("show", "1:0")]
    shy = capsys.readouterr().out
    codes += [local.dlq("list", "--keys"), local.dlq("show", "1:0", "--keys")]
    open_ = capsys.readouterr().out
    file = local.folder / "value.bin"
    codes.append(local.dlq("show", "1:0", "--payload", str(file)))
    shown = json.loads(shy.partition("\n")[2])

    assert [0] * 5 == codes
    assert f"{xxh3_64(b'd-1' + bytes([27]) + b'[31m'):016x}" in shy
    assert "d-1" not in shy.replace('"value": "d-1\\u001b[31m-0.1"', "")
    assert "a person" not in shy
    assert ("bad-sequence", local.source, 0) == (shown["reason"], shown["origin"]["topic"], shown["origin"]["offset"])
    assert {"name": "ce_source", "bytes": 5, "value": "/test"} in shown["headers"]
    assert {"name": "ce_subject", "bytes": 8} in shown["headers"]
    assert "a person" in open_
    assert "d-1\\x1b[31m" in open_
    assert "\x1b" not in shy + open_
    assert local.read(local.source)[0][1] == file.read_bytes()


def test_a_record_too_large_for_its_topic_stays(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """With its origin beside it a record of maximum size no longer fits: its neighbours go, and it says why."""
    noise = random.Random(7).randbytes(2 * SOURCE_BYTES_MAX).hex()
    shop.events(*((f"d-{number}", 0.1, False) for number in range(3)))
    values = [DeviceState(device_id=f"n-{number}", status=noise if number == 1 else "").SerializeToString()
              for number in range(3)]  # fmt: skip
    shop.letters(*(letter(shop, offset=at, key=f"n-{at}".encode(), value=value) for at, value in enumerate(values)))
    code = shop.dlq("replay", "--yes", "--keys")
    done = {line[2]: line[3] for line in lines(capsys)}
    left = shop.dlq("list", "--keys"), [line[2] for line in lines(capsys)]

    assert 0 == code
    assert {"n-0": "replayed", "n-2": "replayed"} == {key: state for key, state in done.items() if key != "n-1"}
    assert done["n-1"].startswith("stays, too-large")
    assert (0, ["n-1"]) == left
    assert 2 == shop.work()["patches"]


def test_letters_whose_topic_was_made_anew_meanwhile_are_not_marked(local: Shop) -> None:
    """Their offsets are other letters' by then: nothing is sent or noted, and it is said what to do."""
    local.letters(letter(local), letter(local, offset=1))
    found = Letters(local.settings, local.source, replays_max=5)
    cases = [case for batch in found.cases(Filter()) for case in batch]
    with Log(local.folder / "log") as log:
        log.delete_topic(local.topics.dead_letters)
        log.create_topic(local.topics.dead_letters, 2)
    local.letters(letter(local, key=b"another"))
    sender = Sender(local.settings, found, 100)
    with pytest.raises(TransportError, match=r"made anew.*streams dlq list"):
        list(sender.replay(cases))
    with pytest.raises(TransportError, match="made anew"):
        sender.mark([case.entry for case in cases], "dropped")
    sender.close()

    assert [b"another"] == [key for key, _, _ in local.read(local.topics.dead_letters)]
    assert [] == local.read(local.source)


def test_a_missing_topic_and_a_missing_letter_fail(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 with the topic's name; wrong places and times are usage."""
    codes = [
        run(["dlq", "list", "nothing", "--config", str(local.config)]),
        local.dlq("show", "1:5"),
        local.dlq("show", "five"),
        local.dlq("list", "--since", "yesterday"),
        local.dlq("list", "--key", "zz", "--hex"),
    ]
    told = capsys.readouterr()

    assert [1, 1, 2, 2, 2] == codes
    assert "nothing.dlq" in told.err
    assert "" == told.out


def test_records_that_are_no_letters_are_counted(local: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """What anybody wrote there does no harm; what a newer release wrote is refused by name."""
    records = Records()
    records.append(b"k", b"v")
    records.append(None, b"0-999", [("dlq-done", b"dropped"), ("dlq-format", b"1")])
    local.write((local.topics.dead_letters, records))
    local.letters(letter(local))
    first = local.dlq("list"), capsys.readouterr()
    newer = Records()
    newer.append(None, b"0", [("dlq-done", b"dropped"), ("dlq-format", b"2")])
    local.write((local.topics.dead_letters, newer))
    second = local.dlq("list"), capsys.readouterr()

    assert (0, 1) == (first[0], first[1].out.count("\n"))
    assert "2 records" in first[1].err
    assert 1 == second[0]
    assert "upgrade" in second[1].err
