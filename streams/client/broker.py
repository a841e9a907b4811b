"""What both clients ask of a broker, Kafka or the embedded log.

Everything here blocks: an async client calls it from a thread, a blocking one directly. The two implementations look
alike: `streams.client.kafka` and `streams.client.embedded`; `streams.client.connect` says which one an address names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from streams._native import Records
from streams.client.beginning import Bounds
from streams.errors import Finding, SettingsError, TransportError
from streams.options import SecuritySettings
from streams.transport.log import PARTITIONS_MAX

__all__ = [
    "COMPRESSION",
    "DELIVERY_TIMEOUT_MS",
    "RECORD_BYTES_MAX",
    "Ack",
    "Outcome",
    "Reader",
    "ReaderOptions",
    "Run",
    "Start",
    "Writer",
    "WriterOptions",
    "check_new",
]

DELIVERY_TIMEOUT_MS = 120_000
"""What Kafka's own producer allows, retries included: longer than a broker's restart or a leader election."""
RECORD_BYTES_MAX = 1_000_000
"""A little below the 1,048,588 bytes that a topic takes by default, for what the batch adds."""
COMPRESSION = "zstd"
"""The smallest of Kafka's codecs at a speed that no producer notices."""

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
DELIVERY_TIMEOUT_MS_MAX = 2**31 - 1
"""librdkafka's; it takes 0 for ever, and an answer would never come."""
RECORD_BYTES_MAX_MAX = 900_000_000
"""Below librdkafka's 1,000,000,000 for a whole batch."""

Start = Literal["group", "earliest"]


@dataclass(frozen=True, slots=True)
class Ack:
    """Where an event is, durably."""

    topic: str
    partition: int
    offset: int


Outcome = Ack | TransportError
"""What became of one record."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of one partition. `end`: the end of the partition, when it was reached there; else -1.

    `lost`: a position is not in its log any more. Partition -1: which one's, the bounds tell.
    """

    partition: int
    records: Records
    end: int
    lost: bool = False


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How records are sent."""

    security: SecuritySettings | None = None
    delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS
    record_bytes_max: int = RECORD_BYTES_MAX
    compression: str = COMPRESSION

    def __post_init__(self) -> None:
        """SettingsError for what no broker's client takes, or takes otherwise than it says."""
        findings = []
        for name, held, most in (
            ("delivery_timeout_ms", self.delivery_timeout_ms, DELIVERY_TIMEOUT_MS_MAX),
            ("record_bytes_max", self.record_bytes_max, RECORD_BYTES_MAX_MAX),
        ):
            if not 1 <= held <= most:
                findings.append(Finding(name, str(held), f"1 to {most}"))
        if self.compression not in COMPRESSIONS:
            findings.append(Finding("compression", repr(self.compression), ", ".join(COMPRESSIONS)))
        if findings:
            raise SettingsError(*findings)


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """What is read, and from where on."""

    group: str | None = None
    start: Start = "group"
    security: SecuritySettings | None = None
    topic_timeout_ms: int = 30_000
    """How long a topic that does not exist yet is waited for: as long as a worker takes to start and create it."""


def check_new(topic: str, partitions: int) -> None:
    """TransportError for a topic that cannot be made, before a broker is asked."""
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise TransportError("a new topic: got a name that is no UTF-8, expected such text") from None
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise TransportError(f"topic {topic}: got {partitions} partitions, expected 1 to {PARTITIONS_MAX}")


class Writer(Protocol):
    """Appends records and waits until they are durable. May be called from several threads."""

    def write(self, topic: str, records: Records, partition: int = -1) -> list[Outcome]:
        """Appends in order and returns what became of each record. Partition -1: by murmur2 of the key."""
        ...

    def create_topic(self, topic: str, partitions: int) -> None:
        """Makes a topic; one that exists is left as it is. TransportError when it cannot be made."""
        ...

    def close(self) -> None:
        """Lets go of the broker; what was not acknowledged by then may be lost."""
        ...


class Reader(Protocol):
    """Reads one topic at read_committed. One thread at a time, but for `close`."""

    def fetch(self, records_max: int, timeout_ms: int) -> list[Run]:
        """The next records; waits up to `timeout_ms` for the first. Empty: nothing came."""
        ...

    def assignment(self) -> frozenset[int]:
        """The partitions that are this reader's now. A group moves them between its members."""
        ...

    def membership(self) -> tuple[str, int]:
        """Member id and generation of this reader in its group: another pair whenever partitions were dealt anew.

        Since then others may have read partitions that are this reader's again.
        """
        ...

    def ends(self) -> dict[int, int]:
        """Per assigned partition the offset after its last committed record as of now."""
        ...

    def log(self) -> bytes:
        """The id of the topic as of now; empty where the broker has none, or does not answer for now."""
        ...

    def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Where partitions begin and end as of now, whose log they are, and what the group has committed of them."""
        ...

    def seek(self, offsets: Mapping[int, int]) -> bool:
        """Reads on from other offsets; what was fetched ahead is dropped. False: not possible yet."""
        ...

    def commit(self, offsets: Mapping[int, int], log: bytes = b"") -> bool:
        """Keeps the group's offsets, and beside them the id of the log that they count in.

        False when that did not work for now, or the partitions went elsewhere.
        """
        ...

    def close(self) -> None:
        """Leaves the group and lets go of the broker."""
        ...
