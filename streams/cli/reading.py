"""Reading a whole topic, as far as it is committed now: beside a running worker, on either transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError, Records
from streams.client.broker import ReaderOptions
from streams.client.connect import open_reader
from streams.errors import Finding, SettingsError, TransportError
from streams.options import Settings
from streams.transport.credentials import Credentials
from streams.transport.log import Log

__all__ = ["embedded_directory", "ends", "last_timestamps", "latest", "log_ids", "native", "read_all"]


class _Native(Protocol):
    """What the native clients have in common."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None: ...


C = TypeVar("C", bound=_Native)

FETCH_RECORDS_MAX = 10_000
FETCH_BYTES_MAX = 4 << 20
FETCH_TIMEOUT_MS = 1_000
LOOK_TIMEOUT_MS = 10_000
TAIL_OFFSETS = 10
"""So many of the last offsets hold at least one record, not only the marks of transactions."""
SILENT_FETCHES_MAX = 30
"""Half a minute without an answer: a broker that is up answers within one."""
WITHOUT_IDS = ("_UNSUPPORTED_FEATURE", "UNSUPPORTED_VERSION")
"""What a broker before 2.8 says of topic ids."""
TOPIC_TIMEOUT_MS = 3_000
"""A topic that is looked at exists; one just made needs a moment to be known to every broker."""


def embedded_directory(settings: Settings) -> Path | None:
    """The directory of the embedded log; None where the broker is Kafka."""
    scheme, _, place = settings.app.broker.partition("://")
    return Path(place) if scheme == "embedded" else None


def native(client: Callable[[dict[str, str]], C], settings: Settings, config: Mapping[str, str] | None = None) -> C:
    """A native Kafka client for the broker of the settings, logged in as they say."""
    credentials = Credentials(settings.security)
    servers = settings.app.broker.partition("://")[2].rstrip("/")
    try:
        opened = client({"bootstrap.servers": servers, **credentials.librdkafka(), **(config or {})})
    except KafkaError as error:
        cure = "check ca_file, cert_file, key_file and key_password"
        raise SettingsError(Finding("security", str(error), "files and a login that the client takes", cure)) from None
    if credentials.uses_token:
        token = credentials.token()
        opened.set_token(token.value, token.expires_ms, token.principal)
    return opened


def read_all(settings: Settings, topic: str) -> Iterator[tuple[int, Records]]:
    """Everything committed in a topic, as (partition, records), each partition in order.

    Neither group nor worker is disturbed; the embedded log is opened for reading only. TransportError: there is no such
    topic, or the broker does not answer.
    """
    directory = embedded_directory(settings)
    if directory is None:
        yield from _read_kafka(settings, topic)
    else:
        yield from _read_log(directory, topic)


def latest(settings: Settings, topic: str) -> dict[tuple[int, bytes], bytes]:
    """The last value of each key of a compacted topic, with the partition where it is; deleted keys are left out."""
    found: dict[tuple[int, bytes], bytes] = {}
    for partition, records in read_all(settings, topic):
        for index in range(len(records)):
            key, value = records.key(index), records.value(index)
            if key is None:
                continue
            if value is None:
                found.pop((partition, key), None)
            else:
                found[partition, key] = value
    return found


def ends(settings: Settings, *topics: str) -> dict[str, dict[int, int]]:
    """The next offset of each partition of topics, as far as is committed; a topic that there is none of has none."""
    directory = embedded_directory(settings)
    if directory is not None:
        with Log(directory, readonly=True) as log:
            return {
                topic: {partition: log.end(topic, partition) for partition in range(log.partitions(topic) or 0)}
                for topic in topics
            }
    counts = native(KafkaAdmin, settings).topics(LOOK_TIMEOUT_MS)
    consumer = native(KafkaConsumer, settings, {"group.id": "streams-look"})
    try:
        return {
            topic: {
                partition: consumer.watermarks(topic, partition, LOOK_TIMEOUT_MS)[1]
                for partition in range(counts.get(topic, 0))
            }
            for topic in topics
        }
    finally:
        consumer.close()


def log_ids(settings: Settings, *topics: str) -> dict[str, bytes]:
    """Which log of its name each topic is, in 16 bytes; without those that are not there or whose log has no id."""
    directory = embedded_directory(settings)
    if directory is None:
        try:
            return native(KafkaAdmin, settings).topic_ids(list(topics), LOOK_TIMEOUT_MS)
        except KafkaError as error:
            if error.code in WITHOUT_IDS:
                return {}
            raise
    with Log(directory, readonly=True) as log:
        return {name: topic.id for name, topic in log.topics().items() if name in topics and topic.id}


def last_timestamps(settings: Settings, topic: str, partitions: int) -> list[int]:
    """Timestamps in ms of the last records of each partition; none of empty ones."""
    directory = embedded_directory(settings)
    if directory is not None:
        with Log(directory, readonly=True) as log:
            ends = [(partition, log.end(topic, partition)) for partition in range(partitions)]
            tails = [log.read(topic, partition, max(0, end - TAIL_OFFSETS)) for partition, end in ends]
        return [records.timestamp_ms(index) for records in tails for index in range(len(records))]
    consumer = native(KafkaConsumer, settings, {"group.id": "streams-look", "enable.partition.eof": "true"})
    try:
        marks = {partition: consumer.watermarks(topic, partition, LOOK_TIMEOUT_MS) for partition in range(partitions)}
        waiting = {partition for partition, (low, high) in marks.items() if high > low}
        consumer.assign([(topic, at, max(marks[at][0], marks[at][1] - TAIL_OFFSETS)) for at in waiting])
        stamps: list[int] = []
        for _ in range(SILENT_FETCHES_MAX):
            if not waiting:
                break
            for _, partition, records, end in consumer.fetch(FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_TIMEOUT_MS):
                stamps += [records.timestamp_ms(index) for index in range(len(records))]
                if end >= 0:
                    waiting.discard(partition)
        return stamps
    finally:
        consumer.close()


def _read_kafka(settings: Settings, topic: str) -> Iterator[tuple[int, Records]]:
    options = ReaderOptions(start="earliest", security=settings.security, topic_timeout_ms=TOPIC_TIMEOUT_MS)
    reader = open_reader(settings.app.broker, topic, options)
    try:
        ends = reader.ends()
        waiting, silent = set(ends), 0
        while waiting:
            runs = reader.fetch(FETCH_RECORDS_MAX, FETCH_TIMEOUT_MS)
            silent = 0 if runs else silent + 1
            if silent > SILENT_FETCHES_MAX:
                raise TransportError(
                    f"{settings.app.broker}: {topic} partitions {sorted(waiting)} were silent for "
                    f"{silent * FETCH_TIMEOUT_MS // 1000} s before their end, expected records; is a broker down?",
                    retriable=True,
                )
            for run in runs:
                if len(run.records):
                    yield run.partition, run.records
                # An end that was reported before the last records were visible is not the end as of now.
                reached = max(run.end, run.records.last_offset + 1)
                if reached >= ends.get(run.partition, 0):
                    waiting.discard(run.partition)
    finally:
        reader.close()


def _read_log(directory: Path, topic: str) -> Iterator[tuple[int, Records]]:
    with Log(directory, readonly=True) as log:
        count = log.partitions(topic)
        if count is None:
            raise TransportError(f"embedded log {directory}: no topic {topic}, expected one that a worker has made")
        for partition in range(count):
            offset, end = log.start(topic, partition), log.end(topic, partition)
            while offset < end:
                records = log.read(topic, partition, offset, FETCH_RECORDS_MAX)
                if not len(records):
                    break
                yield partition, records
                offset = records.last_offset + 1
