"""What a run with faults must have left behind, against a plain replay of what is in the source topic.

Every (epoch, revision) of every key once and in order, each with the right base; the patches of the replay, no other;
applied by stock Protobuf calls they give the replay's states; the changelog holds the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.workload import Check, Expected, replay
from streams._native import RESERVED_PREFIX, KafkaAdmin, Records, decode_row, xxh3_64
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.patch import apply_patch
from streams.transport.tail import read_to_end
from streams.v1.patch_pb2 import Patch

TIMEOUT_MS = 30_000
RESYNC = "resync-for"


@dataclass
class Findings:
    """What is wrong, and how often; the first few of each kind with their place."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        """Notes one thing that is wrong."""
        self.counts[kind] += 1
        if self.counts[kind] <= 3:
            self.examples.append(f"{kind}: {where}")

    def __str__(self) -> str:
        return f"{dict(self.counts)}\n" + "\n".join(self.examples)


def partitions_of(bootstrap: str, topic: str) -> int:
    """Partition count of a topic that exists."""
    return KafkaAdmin({"bootstrap.servers": bootstrap}).topics(TIMEOUT_MS)[topic]


def read(bootstrap: str, topic: str) -> dict[int, list[Records]]:
    """Everything committed in a topic, by partition, in order."""
    found: dict[int, list[Records]] = {number: [] for number in range(partitions_of(bootstrap, topic))}
    read_to_end(
        {"bootstrap.servers": bootstrap},
        {(topic, number): 0 for number in found},
        lambda _, partition, records: found[partition].append(records),
        lambda: True,
        "faults-check",
    )
    return found


def rows(batches: list[Records]) -> Iterator[tuple[Records, int]]:
    """Each record as its batch and its place there."""
    return ((records, index) for records in batches for index in range(len(records)))


@dataclass
class Held:
    """What a receiver holds of one key."""

    epoch: int
    revision: int
    message: DeviceState


class Receiver:
    """Follows the patches of one run; `strict` refuses a revision that comes twice."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.findings = Findings()
        self.held: dict[bytes, Held] = {}
        self.repeats = 0

    def take(self, partition: int, batches: list[Records], check: Check) -> None:
        """The patches of one partition, in their order."""
        for records, index in rows(batches):
            patch = Patch.FromString(records.value(index) or b"")
            where = f"{partition}/{records.offset(index)} {patch.key.decode()} {patch.base_revision}->{patch.revision}"
            if RESYNC in dict(records.headers(index)):
                continue
            if self._apply(patch, where):
                single = Records()
                single.append(records.key(index), records.value(index))
                check.add(single)

    def _apply(self, patch: Patch, where: str) -> bool:
        """Applies what comes next; False for what was there before."""
        held = self.held.get(patch.key)
        if held is not None and (patch.epoch, patch.revision) <= (held.epoch, held.revision):
            self.repeats += 1
            if self.strict:
                self.findings.add("a revision came again", f"{where}, held {held.revision}")
            return False
        expected_revision = 1 if held is None or held.epoch != patch.epoch else held.revision + 1
        if patch.revision != expected_revision:
            self.findings.add("a revision is missing", f"{where}, expected {expected_revision}")
        if held is not None and held.epoch != patch.epoch:
            self.findings.add("a key began anew", where)
        if patch.base_revision != (0 if patch.kind == Patch.SNAPSHOT else patch.revision - 1):
            self.findings.add("wrong base revision", where)
        message = apply_patch(held.message if held is not None else DeviceState(), patch)
        assert message is not None, f"{where}: nothing is deleted in these runs"
        if patch.digest != xxh3_64(message.SerializeToString(deterministic=True)):
            self.findings.add("wrong digest", where)
        self.held[patch.key] = Held(patch.epoch, patch.revision, message)
        return True


@dataclass
class Result:
    """What was found, with the figures that say how much was looked at."""

    findings: Findings
    expected: Expected
    repeats: int

    def __str__(self) -> str:
        figures = f"{self.expected.events} events, {self.expected.patches} patches, {self.expected.keys} keys"
        return f"{figures}, {self.repeats} repeats\n{self.findings}"


def check(
    bootstrap: str, app_id: str, source: str, *, strict: bool = True, earlier: Mapping[int, list[Records]] | None = None
) -> Result:
    """Compares patches and changelog with the replay. Not `strict`: revisions may come again (at_least_once).

    `earlier`: what was in the source before it was made anew.
    """
    sent = read(bootstrap, source)
    expected = replay(
        records for part, batches in sent.items() for records in [*(earlier or {}).get(part, []), *batches]
    )
    receiver, against = Receiver(strict=strict), Check(expected)
    for partition, batches in read(bootstrap, f"{source}.patches").items():
        receiver.take(partition, batches, against)
    findings = receiver.findings
    for text in against.findings():
        findings.add("not the replay's", text)
    for key, (revision, encoded) in expected.last.items():
        held = receiver.held.get(key)
        if held is None or held.message.SerializeToString(deterministic=True) != encoded:
            findings.add("a receiver's state is not the replay's", f"{key.decode()}, replay at {revision}")
    stored = changelog(bootstrap, f"{app_id}-{source}-changelog")
    for key in stored.keys() | expected.last.keys():
        if stored.get(key) != expected.last.get(key):
            findings.add("the changelog is not the replay's", key.decode())
    return Result(findings, expected, receiver.repeats)


def changelog(bootstrap: str, topic: str) -> dict[bytes, tuple[int, bytes]]:
    """Last row of each key: revision and message, the highest of its order as a restore takes it."""
    best: dict[bytes, tuple[tuple[int, int, int, int], bytes]] = {}
    for batches in read(bootstrap, topic).values():
        for records, index in rows(batches):
            key, value = records.key(index) or b"", records.value(index)
            if key.startswith(RESERVED_PREFIX) or value is None:
                continue
            row = decode_row(value)
            if not row["revision"]:  # a DELETE of what was never there: nothing was published
                continue
            order = (row["epoch"], row["revision"], row["ordinal"], row["offset"])
            if key not in best or order >= best[key][0]:
                best[key] = order, row["message"]
    return {key: (order[1], message) for key, (order, message) in best.items()}
