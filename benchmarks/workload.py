"""The canonical workload: what every benchmark of the main job reads, and what must come out of it.

1,000,000 events of 20,000 devices from seed 7: one or two of a device's 24 fields change per event, besides
`last_seen_us`; about one event in twenty repeats the device's last one byte for byte. Each record is a CloudEvent in
the Protobuf format around a `streams.demo.v1.DeviceState`; its key is the device id.

    python benchmarks/workload.py                                      # generate, replay, print what is expected
    python benchmarks/workload.py --broker kafka://127.0.0.1:9092      # and fill the topic `devices`

Generating takes under a minute, the replay likewise; both are kept in `.cache/workload/` of the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streams._native import KafkaAdmin, KafkaProducer, Records, xxh3_64
from streams.demo.v1.device_pb2 import DeviceState, Geo
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "workload"
# Names the folders of the cache; higher when the same workload is written with other bytes.
FORMAT = 2
# One block is decoded at a time; 10,000 records of half a kilobyte are some 5 MB.
BLOCK_RECORDS = 10_000

HEADERS: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+protobuf")]
TYPE_URL = "type.googleapis.com/streams.demo.v1.DeviceState"
_LENGTH = struct.Struct(">I")
_PATCH_HEAD = struct.Struct(">QQIQ")

Event = tuple[bytes, bytes, list[tuple[str, bytes | None]]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Which events: their number, the number of devices, and the seed of everything random."""

    events: int
    devices: int
    seed: int = 7

    @property
    def folder(self) -> Path:
        """Where this workload is kept once generated."""
        return CACHE / f"{self.events}-{self.devices}-{self.seed}-v{FORMAT}"


CANONICAL = Workload(1_000_000, 20_000)
# For a look at a change on a busy machine, and for tests; figures of it compare with nothing.
SMALL = Workload(50_000, 1_000)


@dataclass(slots=True)
class Expected:
    """What a plain replay makes of a workload."""

    events: int = 0
    duplicates: int = 0
    patches: int = 0
    keys: int = 0
    event_bytes: int = 0
    # Of the patches' `data` alone, before compression.
    data_bytes: int = 0
    # Sum over all patches of a hash of key, revisions, kind, paths, digest and data; the order does not matter.
    hash: int = 0
    # Per key the last revision and the canonical encoding of its state.
    last: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    def figures(self) -> dict[str, int]:
        """Everything but the states."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "last"}


def events(workload: Workload) -> Iterator[Event]:
    """Each event as (key, value, headers); the same for the same workload, always.

    Records get their timestamps when they are sent: with the devices' own of 2023, retention would remove the outputs.
    """
    random_ = random.Random(workload.seed)
    devices = [_device(random_, number) for number in range(workload.devices)]
    envelopes = [_envelope(device) for device in devices]
    sequences = [0] * workload.devices
    last: list[bytes | None] = [None] * workload.devices
    for _ in range(workload.events):
        number = random_.randrange(workload.devices)
        device = devices[number]
        value = last[number]
        if value is None or random_.random() >= 0.05:
            sequences[number] += 1
            _change(random_, device)
            envelope = envelopes[number]
            envelope.id = f"{random_.getrandbits(128):032x}"
            envelope.attributes["sequence"].ce_string = str(sequences[number])
            time = envelope.attributes["time"].ce_timestamp
            time.seconds, time.nanos = device.last_seen_us // 1_000_000, device.last_seen_us % 1_000_000 * 1000
            envelope.proto_data.value = device.SerializeToString(deterministic=True)
            value = last[number] = envelope.SerializeToString(deterministic=True)
        yield device.device_id.encode(), value, HEADERS


def blocks(workload: Workload) -> Iterator[Records]:
    """The events in order, from the cache; generated first where they are not there yet."""
    path = workload.folder / "events"
    if not path.exists():
        _keep(path, _pack(events(workload)))
    yield from _read(path)


def expected(workload: Workload) -> Expected:
    """What must come out, from the cache; replayed first where it is not there yet."""
    figures, states = workload.folder / "expected.json", workload.folder / "states"
    if not figures.exists():
        result = replay(blocks(workload))
        rows: Iterable[Event] = (
            (key, state, [("revision", str(revision).encode())]) for key, (revision, state) in result.last.items()
        )
        _keep(states, _pack(rows))
        _keep(figures, [json.dumps(result.figures()).encode()])
    result = Expected(**json.loads(figures.read_bytes()))
    for block in _read(states):
        for index in range(len(block)):
            revision = block.headers(index)[0][1] or b""
            result.last[block.key(index) or b""] = int(revision), block.value(index) or b""
    return result


def replay(chunks: Iterable[Records]) -> Expected:
    """The job in plain Python on Protobuf's own messages: no part of the product but the digest function."""
    result = Expected()
    held: dict[bytes, tuple[int, DeviceState, int]] = {}
    for chunk in chunks:
        for index in range(len(chunk)):
            value = chunk.value(index) or b""
            event = CloudEvent.FromString(value)
            key = event.attributes["subject"].ce_string.encode()
            sequence = int(event.attributes["sequence"].ce_string)
            result.events += 1
            result.event_bytes += len(value)
            before = held.get(key)
            if before is not None and sequence <= before[0]:
                result.duplicates += 1
                continue
            state = DeviceState.FromString(event.proto_data.value)
            kind, paths, part = _difference(before[1] if before else None, state)
            revision = before[2] if before else 0
            if paths:
                data, encoded = (each.SerializeToString(deterministic=True) for each in (part, state))
                base = revision if kind == Patch.DELTA else 0
                revision += 1
                result.patches += 1
                result.data_bytes += len(data)
                result.hash = (
                    result.hash + _patch_hash(key, revision, base, kind, paths, xxh3_64(encoded), data)
                ) % 2**64
                result.last[key] = revision, encoded
            held[key] = sequence, state, revision
    result.keys = len(held)
    return result


class Check:
    """Holds the patches that a run put out, read at read_committed, against the plain replay."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.patches = 0
        self.bytes = 0
        self.broken = 0
        self._hash = 0
        self._last: dict[bytes, tuple[int, int, int]] = {}

    def add(self, records: Records) -> None:
        """Take the next records of one partition, in their order."""
        for index in range(len(records)):
            value = records.value(index) or b""
            patch = Patch.FromString(value)
            self.patches += 1
            self.bytes += len(value)
            epoch, revision, _ = self._last.get(patch.key, (patch.epoch, 0, 0))
            base = 0 if patch.kind == Patch.SNAPSHOT else revision
            wanted = (records.key(index), epoch, revision + 1, base)
            self.broken += (patch.key, patch.epoch, patch.revision, patch.base_revision) != wanted
            self._last[patch.key] = patch.epoch, patch.revision, patch.digest
            hash_ = _patch_hash(
                patch.key, patch.revision, patch.base_revision, patch.kind, patch.mask.paths, patch.digest, patch.data
            )
            self._hash = (self._hash + hash_) % 2**64

    def findings(self) -> list[str]:
        """What is wrong, one line each; empty: every patch is the replay's, once, in order."""
        wanted = self.expected
        found = []
        if self.patches != wanted.patches:
            found.append(f"{self.patches} patches, the replay has {wanted.patches}")
        if self.broken:
            found.append(f"{self.broken} patches do not follow the one before them of their key")
        ends = {key: (revision, xxh3_64(state)) for key, (revision, state) in wanted.last.items()}
        came = {key: (revision, digest) for key, (_, revision, digest) in self._last.items()}
        wrong = sum(ends.get(key) != came.get(key) for key in ends.keys() | came.keys())
        if wrong:
            found.append(f"{wrong} keys end at another revision or digest than the replay's")
        if self._hash != wanted.hash:
            found.append("the hash over all patches is not the replay's: some patch has other paths or data")
        return found


def fill(workload: Workload, bootstrap: str, topic: str, partitions: int, timeout_ms: int = 30_000) -> int:
    """Create `topic` and put the workload there, keys partitioned as the Java client does; answers the records sent."""
    admin = KafkaAdmin({"bootstrap.servers": bootstrap})
    for name, error in admin.create_topics([(topic, partitions, 1, {"retention.ms": "-1"})], timeout_ms):
        if error is not None:
            raise SystemExit(f"cannot create topic {name}: {error}")
    producer = KafkaProducer({"bootstrap.servers": bootstrap, "enable.idempotence": "true", "linger.ms": "20"})
    sent = 0
    for block in blocks(workload):
        sent += producer.produce(topic, -1, block)
    producer.flush(timeout_ms)
    return sent


def _device(random_: random.Random, number: int) -> DeviceState:
    """A device at its beginning. The order of the random calls is part of the workload."""
    device = DeviceState(
        device_id=f"dev-{number:06d}",
        tenant=f"t{number % 97}",
        model=f"Sensor X{number % 7}",
        firmware=f"3.{number % 20}.1",
        serial=f"{random_.getrandbits(64):016x}",
        region=f"eu-west-{number % 3}",
        owner_email=f"user{number}@example.com",
        status="ok",
        uptime_s=random_.randrange(10**6),
        rx_bytes=random_.randrange(10**9),
        tx_bytes=random_.randrange(10**9),
        rssi=-60,
        cpu=random_.random(),
        mem=random_.random(),
        temp_c=20 + random_.random() * 20,
        battery=random_.random(),
        online=True,
        last_seen_us=1_700_000_000_000_000,
        errors=0,
        tags=["a", f"b{number % 5}", f"rack-{number % 40}"],
        slots=[1, 2, 3, number % 100],
    )
    device.geo.lat = random_.random() * 90
    device.geo.lon = random_.random() * 90
    device.geo.accuracy = 3
    for label in range(4):
        device.labels[f"label{label}"] = f"value-{random_.randrange(100)}"
    return device


def _envelope(device: DeviceState) -> CloudEvent:
    envelope = CloudEvent(source="/benchmark", spec_version="1.0", type=DeviceState.DESCRIPTOR.full_name)
    envelope.attributes["subject"].ce_string = device.device_id
    envelope.proto_data.type_url = TYPE_URL
    return envelope


def _change(random_: random.Random, device: DeviceState) -> None:
    """What one event changes. The order of the random calls is part of the workload."""
    device.last_seen_us += random_.randrange(10**6)
    choice = random_.randrange(6)
    if choice == 0:
        device.cpu = random_.random()
    elif choice == 1:
        device.temp_c = 20 + random_.random() * 20
        device.rssi = -random_.randrange(90)
    elif choice == 2:
        device.rx_bytes += random_.randrange(10**5)
    elif choice == 3:
        device.geo.lat += 0.001
    elif choice == 4:
        # The value is drawn before the label, as Python evaluates the right side of an assignment first.
        value = f"value-{random_.randrange(100)}"
        device.labels[f"label{random_.randrange(4)}"] = value
    else:
        device.status = random_.choice(["ok", "warn", "fail"])


_FIELDS = [(each.name, each.message_type is None and not each.is_repeated) for each in DeviceState.DESCRIPTOR.fields]
_GEO_FIELDS = [each.name for each in Geo.DESCRIPTOR.fields]


def _difference(old: DeviceState | None, new: DeviceState) -> tuple[int, list[str], DeviceState]:
    """Kind, paths and partial message of the patch from `old` to `new`, by the definition of a patch."""
    if old is None:
        return Patch.SNAPSHOT, ["*"], new
    paths, part = [], DeviceState()
    for name, scalar in _FIELDS:
        value, before = getattr(new, name), getattr(old, name)
        if value == before:
            continue
        if scalar:
            paths.append(name)
            setattr(part, name, value)
        elif name == "geo" and old.HasField("geo") and new.HasField("geo"):
            for inner in _GEO_FIELDS:
                if getattr(value, inner) != getattr(before, inner):
                    paths.append(f"geo.{inner}")
                    setattr(part.geo, inner, getattr(value, inner))
        else:
            paths.append(name)
            getattr(part, name).MergeFrom(value)
    return Patch.DELTA, paths, part


def _patch_hash(key: bytes, revision: int, base: int, kind: int, paths: Iterable[str], digest: int, data: bytes) -> int:
    parts = (_PATCH_HEAD.pack(revision, base, kind, digest), key, ",".join(sorted(paths)).encode(), data)
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(_LENGTH.pack(len(part)) + part)
    return int.from_bytes(hashed.digest(), "big")


def _pack(source: Iterable[Event]) -> Iterator[bytes]:
    block = Records()
    for key, value, headers in source:
        block.append(key, value, headers)
        if len(block) == BLOCK_RECORDS:
            yield _framed(block)
            block = Records()
    if len(block):
        yield _framed(block)


def _framed(block: Records) -> bytes:
    encoded = block.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _read(path: Path) -> Iterator[Records]:
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            yield Records.decode(file.read(_LENGTH.unpack(head)[0]))


def _keep(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of the cache so that it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.writelines(parts)
    shutil.move(file.name, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, generate, and fill a topic where one is asked for; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python benchmarks/workload.py", description="The canonical workload.")
    parser.add_argument("--small", action="store_true", help="50,000 events of 1,000 devices")
    parser.add_argument("--broker", help="kafka://host:port; without it nothing is sent")
    parser.add_argument("--topic", default="devices", help="topic to create and fill (default: devices)")
    parser.add_argument("--partitions", type=int, default=4, help="its partitions (default: 4)")
    options = parser.parse_args(arguments)
    workload = SMALL if options.small else CANONICAL
    figures: dict[str, object] = dict(expected(workload).figures())
    if options.broker:
        figures["sent"] = fill(workload, options.broker.removeprefix("kafka://"), options.topic, options.partitions)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
