"""Clients on Kafka, through the native client."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError, KafkaProducer, Records
from streams.client.beginning import Bounds, log_of
from streams.client.broker import Ack, Outcome, ReaderOptions, Run, WriterOptions, check_new
from streams.errors import BrokerUnreachableError, RecordTooLargeError, TransportError, UnknownTopicError
from streams.options import SecuritySettings
from streams.transport.credentials import Credentials

__all__ = ["Reader", "Writer"]

METADATA_PROPAGATION_MS = 3_000
"""How long a topic may be unknown to the brokers before records for it fail: a topic just created needs a second."""
ADMIN_TIMEOUT_MS = 30_000
"""One request to a broker; Kafka's own default for a request."""
COMMIT_TIMEOUT_MS = 5_000
"""How long a commit is waited for, and so a close while the broker is away. A lost commit repeats changes, no more."""
CLOSE_TIMEOUT_MS = 5_000
"""How long leaving the group is waited for; the broker finds out by itself after the session timeout."""
REPORT_WAIT_MS = 5_000
"""Added to the delivery timeout: librdkafka reports what it gave up on a little after that."""
RECONNECT_MAX_MS = 2_000
"""A broker that comes back is found again within this. The default of ten seconds outlasts most restarts."""
FETCH_BYTES_MAX = 4 << 20
"""One hand-over from the native client to Python: a few thousand patches."""
TOPIC_CHARACTERS_MAX = 249
"""Kafka's."""
TOPIC_POLL_S = 0.5
"""How often a topic that does not exist yet is looked for."""
SESSION_TIMEOUT_MS = 45_000
"""Kafka's own default: how long a receiver that died keeps its partitions."""

_LOG = logging.getLogger(__name__)
_UNKNOWN_TOPIC = {"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"}
_TOO_LARGE = {"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE"}
_UNREACHABLE = {"_MSG_TIMED_OUT", "_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_QUEUE_FULL", "REQUEST_TIMED_OUT"}
_NOT_YET = {"_STATE", "_IN_PROGRESS", "_PREV_IN_PROGRESS", "_TIMED_OUT", "_UNKNOWN_PARTITION"}
_MOVED = {"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "FENCED_INSTANCE_ID", "_ASSIGNMENT_LOST"}


class _Native(Protocol):
    """What the three native clients have in common."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None: ...


C = TypeVar("C", bound=_Native)


class Writer:
    """An idempotent producer: acks from all replicas in sync, retried without repeating or reordering."""

    def __init__(self, broker: str, servers: str, options: WriterOptions) -> None:
        """Connects in the background: an unreachable broker shows with the first write."""
        self._broker = broker
        self._options = options
        self._servers = servers
        self._link = _Link(servers, options.security)
        self._producer = self._link.open(
            KafkaProducer,
            {
                "client.id": "streams-producer",
                "acks": "all",
                "enable.idempotence": "true",
                "partitioner": "murmur2_random",
                "compression.codec": options.compression,
                "linger.ms": "5",
                "message.timeout.ms": str(options.delivery_timeout_ms),
                # librdkafka counts its own framing as well; the encoder has checked the record itself.
                "message.max.bytes": str(options.record_bytes_max + 65_536),
                "queue.buffering.max.kbytes": str(max(65_536, 2 * options.record_bytes_max // 1024)),
                "topic.metadata.propagation.max.ms": str(METADATA_PROPAGATION_MS),
            },
        )

    def write(self, topic: str, records: Records, partition: int = -1) -> list[Outcome]:
        """Produces in order and returns what became of each record. Partition -1: by murmur2 of the key."""
        self._link.refresh_token(self._producer)
        timeout_ms = self._options.delivery_timeout_ms + REPORT_WAIT_MS
        try:
            delivered = self._producer.produce_wait(topic, partition, records, timeout_ms)
        except KafkaError as error:
            failed: Outcome = _named(error, f"{self._broker}: producing to {topic}")
            return [failed] * len(records)
        _report(self._producer.logs())
        return [
            Ack(topic, at, offset) if code is None else self._failure(topic, records, index, code)
            for index, (at, offset, code) in enumerate(delivered)
        ]

    def create_topic(self, topic: str, partitions: int) -> None:
        """Makes a topic with the brokers' default replication; one that exists is left as it is."""
        check_new(topic, partitions)
        admin = _Link(self._servers, self._options.security).open(KafkaAdmin, {"client.id": "streams-admin"})
        try:
            made = admin.create_topics([(topic, partitions, -1, {})], ADMIN_TIMEOUT_MS)
        except KafkaError as error:
            raise _named(error, f"{self._broker}: creating topic {topic}") from error
        for name, problem in made:
            if problem:
                raise TransportError(f"{self._broker}: topic {name} not created: {problem}")

    def close(self) -> None:
        """Closes the client. Nothing is in flight: every write waits."""
        self._producer.close()

    def _failure(self, topic: str, records: Records, index: int, code: str) -> TransportError:
        if code in _UNKNOWN_TOPIC:
            return UnknownTopicError(topic, self._broker)
        if code == "TOPIC_EXCEPTION":
            return TransportError(
                f"{self._broker}: got a topic named {topic[:TOPIC_CHARACTERS_MAX]!r}, expected 1 to "
                f"{TOPIC_CHARACTERS_MAX} of letters, digits, dots, hyphens and underscores"
            )
        if code in _TOO_LARGE:
            one = records.slice(index, index + 1)
            return RecordTooLargeError(topic, one.nbytes, self._options.record_bytes_max)
        if code in _UNREACHABLE:
            return BrokerUnreachableError(self._broker, self._options.delivery_timeout_ms)
        return TransportError(f"{self._broker}: a record for {topic} was not taken: {code}")


class Reader:
    """Reads committed records: as a member of a group, or every partition from the start without one."""

    def __init__(self, broker: str, servers: str, topic: str, options: ReaderOptions) -> None:
        """Waits for the topic, then joins or assigns. UnknownTopicError, BrokerUnreachableError."""
        self._broker = broker
        self._topic = topic
        self._grouped = options.group is not None and options.start == "group"
        self._admin_link = _Link(servers, options.security)
        self._admin = self._admin_link.open(KafkaAdmin, {"client.id": "streams-admin"})
        count = self._wait_for_topic(options.topic_timeout_ms)
        self._link = _Link(servers, options.security)
        self._consumer = self._link.open(
            KafkaConsumer,
            {
                "client.id": "streams-receiver",
                "group.id": options.group or f"streams-receiver-{uuid.uuid4()}",
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "auto.offset.reset": "earliest",  # the receiver's places tell when this happened
                "enable.partition.eof": "true",
                "session.timeout.ms": str(SESSION_TIMEOUT_MS),
                "fetch.queue.backoff.ms": "10",  # the default of a second would pause a fast reader
                # How long the broker holds an answer without records back, and with it the news that the end is
                # reached; records are answered at once. The default is 500.
                "fetch.wait.max.ms": "100",
                "queued.max.messages.kbytes": "32768",
            },
        )
        if self._grouped:
            self._consumer.subscribe([topic])
        else:
            # Asked for one by one the beginnings also make the leaders known: reading starts half a second sooner.
            until_s = time.monotonic() + options.topic_timeout_ms / 1000
            starts = [(topic, partition, self._first(partition, until_s)) for partition in range(count)]
            self._consumer.assign(starts)

    def fetch(self, records_max: int, timeout_ms: int) -> list[Run]:
        """The next records; waits up to `timeout_ms` for the first."""
        self._link.refresh_token(self._consumer)
        try:
            fetched = self._consumer.fetch(records_max, FETCH_BYTES_MAX, timeout_ms)
        except KafkaError as error:
            if error.code == "_MAX_POLL_EXCEEDED":
                return []  # a change was worked on for minutes; the next fetch joins again, from the group's offsets
            raise _named(error, f"{self._broker}: reading {self._topic}") from error
        _report(self._consumer.logs())
        return [Run(partition, records, end) for _, partition, records, end in fetched]

    def assignment(self) -> frozenset[int]:
        """The partitions that are this reader's now."""
        return frozenset(partition for _, partition in self._consumer.assignment())

    def membership(self) -> tuple[str, int]:
        """See `Reader.membership`."""
        return self._consumer.membership() if self._grouped else ("", -1)

    def ends(self) -> dict[int, int]:
        """Per assigned partition the last stable offset as of now."""
        return {partition: self._watermarks(partition)[1] for partition in self.assignment()}

    def log(self) -> bytes:
        """The topic's id; empty where the brokers have none or do not answer for now."""
        self._admin_link.refresh_token(self._admin)
        try:
            return self._admin.topic_ids([self._topic], ADMIN_TIMEOUT_MS).get(self._topic, b"")
        except KafkaError:
            return b""

    def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        """See `Reader.bounds`."""
        wanted, log = [(self._topic, partition) for partition in partitions], self.log()
        try:
            kept = self._consumer.kept(wanted, ADMIN_TIMEOUT_MS) if self._grouped else []
        except KafkaError as error:
            raise _named(error, f"{self._broker}: committed offsets of {self._topic}") from error
        committed = {partition: (offset, metadata) for _, partition, offset, metadata in kept if offset >= 0}
        found = {}
        for _, partition in wanted:
            start, end = self._watermarks(partition)
            offset, metadata = committed.get(partition, (None, ""))
            within = offset is not None and start <= offset <= end
            position = offset if within else start  # the client begins there by itself
            found[partition] = Bounds(start, end, log, offset, log_of(metadata), position)
        return found

    def seek(self, offsets: Mapping[int, int]) -> bool:
        """See `Reader.seek`."""
        moved = [(self._topic, partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.seek(moved, ADMIN_TIMEOUT_MS)
            return True
        except KafkaError as error:
            if error.retriable or error.code in _NOT_YET:
                return False
            raise _named(error, f"{self._broker}: going to other offsets of {self._topic}") from error

    def commit(self, offsets: Mapping[int, int], log: bytes = b"") -> bool:
        """Commits the group's offsets; False when the partitions moved or the broker was away: later, or not ours."""
        if not self._grouped or not offsets:
            return True
        try:
            moved = [(self._topic, partition, offset, log.hex()) for partition, offset in offsets.items()]
            self._consumer.commit(moved, COMMIT_TIMEOUT_MS)
        except KafkaError as error:
            if error.retriable or error.code in _MOVED | _UNREACHABLE:
                return False
            raise _named(error, f"{self._broker}: committing offsets of {self._topic}") from error
        return True

    def close(self) -> None:
        """Leaves the group and closes the client, in the background where the broker does not answer in time."""
        # A commit that is under way while the broker is away holds the native close up for the session timeout.
        closing = threading.Thread(target=self._consumer.close, name="receiver-close", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_MS / 1000)

    def _watermarks(self, partition: int) -> tuple[int, int]:
        """First and last stable offset of a partition."""
        try:
            return self._consumer.watermarks(self._topic, partition, ADMIN_TIMEOUT_MS)
        except KafkaError as error:
            raise _named(error, f"{self._broker}: offsets of {self._topic}") from error

    def _first(self, partition: int, until_s: float) -> int:
        """The first offset of a partition; one that was just made may have no leader yet."""
        while True:
            try:
                return self._watermarks(partition)[0]
            except TransportError as error:
                if not error.retriable or time.monotonic() >= until_s:
                    raise
            time.sleep(TOPIC_POLL_S)

    def _wait_for_topic(self, timeout_ms: int) -> int:
        """The topic's partition count. Subscribing to a missing topic would find it minutes after its creation."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                count = self._admin.topics(min(ADMIN_TIMEOUT_MS, max(timeout_ms, 1_000))).get(self._topic, 0)
            except KafkaError:
                if time.monotonic() >= deadline_s:
                    raise BrokerUnreachableError(self._broker, timeout_ms, sent=False) from None
                count = 0
            if count:
                return count
            if time.monotonic() >= deadline_s:
                raise UnknownTopicError(self._topic, self._broker)
            time.sleep(TOPIC_POLL_S)


class _Link:
    """Address and credentials of one native client: what it is opened with, and handed anew before it expires."""

    def __init__(self, servers: str, security: SecuritySettings | None) -> None:
        self._credentials = Credentials(security) if security is not None else None
        self._config = {"bootstrap.servers": servers, "reconnect.backoff.max.ms": str(RECONNECT_MAX_MS)}
        if self._credentials is not None:
            self._config |= self._credentials.librdkafka()
        self._handed = ""

    def open(self, client: Callable[[dict[str, str]], C], config: Mapping[str, str]) -> C:
        """The native client; TransportError when it refuses its configuration."""
        try:
            opened = client(self._config | dict(config))
        except KafkaError as error:
            raise _named(error, "Kafka client") from error
        self.refresh_token(opened)
        return opened

    def refresh_token(self, client: _Native) -> None:
        """Hands an OAUTHBEARER token over, if there is a newer one than the client has."""
        if self._credentials is None or not self._credentials.uses_token:
            return
        token = self._credentials.token()
        if token.value != self._handed:
            client.set_token(token.value, token.expires_ms, token.principal)
            self._handed = token.value


def _report(lines: list[str]) -> None:
    """What the native client has to say goes to Python's logging: a refused login shows nowhere else."""
    for line in lines:
        _LOG.warning("%s", line)


def _named(error: KafkaError, where: str) -> TransportError:
    return TransportError(f"{where}: {error}", retriable=error.retriable, fatal=error.fatal)
