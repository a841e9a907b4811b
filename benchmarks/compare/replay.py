"""What must come out of the plain job, and the check of what a system put out.

The replay shares no code with any of the programs: it compares what Protobuf lists as set before and after.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.workload import Workload, blocks
from streams._native import Records
from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch

_HEAD = struct.Struct(">QQI")


@dataclass(slots=True)
class Plain:
    """What a plain replay of the plain job makes of a workload."""

    events: int = 0
    patches: int = 0
    keys: int = 0
    # Sum over all patches of a hash of key, revisions, fields and data; the order does not matter.
    hash: int = 0


def expected(workload: Workload) -> Plain:
    """What must come out, from the workload's folder; replayed first where it is not there yet."""
    path = workload.folder / "compare.json"
    if not path.exists():
        result = replay(blocks(workload))
        with tempfile.NamedTemporaryFile("w", dir=workload.folder, delete=False) as file:
            json.dump(asdict(result), file)
        Path(file.name).replace(path)
    return Plain(**json.loads(path.read_bytes()))


def replay(chunks: Iterable[Records]) -> Plain:
    """The job by its definition, on Protobuf's own messages."""
    result = Plain()
    held: dict[str, tuple[int, DeviceState]] = {}
    nothing = 0, DeviceState()
    for chunk in chunks:
        for index in range(len(chunk)):
            event = CloudEvent.FromString(chunk.value(index) or b"")
            key = event.attributes["subject"].ce_string
            sequence = int(event.attributes["sequence"].ce_string)
            base, old = held.get(key, nothing)
            result.events += 1
            if sequence <= base:
                continue
            new = DeviceState.FromString(event.proto_data.value)
            before = {field.name: value for field, value in old.ListFields()}
            after = {field.name: value for field, value in new.ListFields()}
            same = {name for name in before.keys() & after.keys() if before[name] == after[name]}
            held[key] = sequence, DeviceState.FromString(event.proto_data.value)
            for name in same:
                new.ClearField(name)
            result.patches += 1
            changed = (before.keys() | after.keys()) - same
            result.hash = (result.hash + _hash(key.encode(), sequence, base, changed, new)) % 2**64
    result.keys = len(held)
    return result


class Check:
    """Holds what a system put out, read at read_committed, against the replay."""

    def __init__(self, wanted: Plain) -> None:
        self.wanted = wanted
        self.patches = 0
        self.broken = 0
        self._hash = 0
        self._last: dict[bytes, int] = {}

    def add(self, records: Records) -> None:
        """Take the next records of one partition, in their order."""
        for index in range(len(records)):
            patch = Patch.FromString(records.value(index) or b"")
            self.patches += 1
            base = self._last.get(patch.key, 0)
            self.broken += (
                records.key(index) != patch.key or patch.base_revision != base or patch.revision <= patch.base_revision
            )
            self._last[patch.key] = patch.revision
            data = DeviceState.FromString(patch.data)
            hash_ = _hash(patch.key, patch.revision, patch.base_revision, patch.mask.paths, data)
            self._hash = (self._hash + hash_) % 2**64

    def findings(self) -> list[str]:
        """What is wrong, one line each; empty: every patch is the replay's, once, in order."""
        found = []
        if self.patches != self.wanted.patches:
            found.append(f"{self.patches} patches, the replay has {self.wanted.patches}")
        if len(self._last) != self.wanted.keys:
            found.append(f"{len(self._last)} keys, the replay has {self.wanted.keys}")
        if self.broken:
            found.append(f"{self.broken} patches do not follow the one before them of their key")
        if self._hash != self.wanted.hash:
            found.append("the hash over all patches is not the replay's: some patch has other fields or data")
        return found


def _hash(key: bytes, revision: int, base: int, paths: Iterable[str], data: DeviceState) -> int:
    names = ",".join(sorted(paths)).encode()
    content = data.SerializeToString(deterministic=True)
    hashed = hashlib.blake2b(_HEAD.pack(revision, base, len(key)) + key + names + b"\0" + content, digest_size=8)
    return int.from_bytes(hashed.digest(), "big")
