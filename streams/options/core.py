"""The sections of the main job: worker, transactions, chunks, logs, security, limits, syncs."""

from __future__ import annotations

from dataclasses import dataclass

from streams.options.rule import DAY_MS, NAME, TOPIC, option

__all__ = [
    "AppSettings",
    "ChunkSettings",
    "EmbeddedSettings",
    "LimitSettings",
    "SecuritySettings",
    "SyncSettings",
    "TransactionSettings",
]


@dataclass(frozen=True, slots=True)
class AppSettings:
    """[app]: who this worker is and whom it works with."""

    id: str = option(
        "",
        "names the application: consumer group, topics and transactions carry it",
        pattern=NAME,
        wanted="1 to 100 letters, digits, dots, dashes or underscores",
    )
    broker: str = option(
        "kafka://127.0.0.1:9092",
        "kafka://host:port[,host:port], or embedded://directory",
        pattern=r"(streams\+)?kafka://[^/,:\s@]+:\d+(,[^/,:\s@]+:\d+)*/?|embedded://\S+",
        wanted="kafka://host:port[,host:port] or embedded://directory",
        url=True,
    )
    guarantee: str = option(
        "exactly_once",
        "what a crash may do to outputs: nothing, or repeat some",
        "the promise of the house; at_least_once is for brokers without transactions",
        choices=("exactly_once", "at_least_once"),
    )
    on_error: str = option(
        "letter",
        "what an agent that raises on a record costs: the record, as a dead letter once it takes others; or the worker",
        "one bad record is not everybody's outage",
        choices=("letter", "stop"),
    )
    error_retries: int = option(
        5,
        "how often a record that an agent raises on is tried again before it may become a dead letter",
        "6 s with the pauses below: longer than a connection takes that was lost and is made anew",
        least=0,
        most=1_000,
    )
    error_backoff_ms: int = option(
        200, "pause before the first of them; it doubles", "a second try at once meets the same", least=1
    )
    error_backoff_max_ms: int = option(
        30_000,
        "the longest pause, while an agent takes no record at all",
        "a database that is back is found within this",
        least=1,
    )
    datadir: str = option(
        "./data",
        "directory for local state; with several workers each has a sub-directory",
        pattern=r"(?s).+",
        wanted="a directory",
    )
    workers: int = option(
        1, "processes on this machine", "one saturates a core; more than 64 is a typing error", least=1, most=64
    )
    instance: str = option(
        "",
        "this worker among all of the application's; default: host name and web port",
        "a restarted worker gets its partitions back without a rebalance",
        pattern=f"({NAME})?",
        wanted="letters, digits, dots, dashes or underscores",
    )
    web_host: str = option(
        "127.0.0.1",
        "address that metrics and health are served on",
        "nobody outside by default; empty would be every address",
        pattern=r"\S+",
        wanted="an address or a name of this machine; 0.0.0.0 is every one",
    )
    web_port: int = option(
        6066,
        "port of metrics and health; a fixed one: it is where a probe looks, and part of the worker's name",
        "Faust's; worker i of several serves on port + i",
        least=1,
        most=65_535,
    )
    web_names: tuple[str, ...] = option(
        (),
        "names that the web port answers to beside addresses, localhost, web_host and the machine's own",
        "a browser that was sent here under a stranger's name is refused",
    )
    progress_timeout_ms: int = option(
        60_000,
        "no progress for so long, without a declared reason, ends the worker",
        "twice the longest rebalance; then a fresh process is the better hope",
        least=1_000,
    )
    broker_session_timeout_ms: int = option(
        15_000,
        "a worker that is silent for so long loses its partitions",
        "as transaction.timeout_ms: partitions and transaction go together",
        least=1_000,
        most=1_800_000,
    )
    rebalance_timeout_ms: int = option(
        30_000,
        "time a worker has to give its partitions back",
        "half of it is for committing the open transaction",
        least=1_000,
    )
    drain_timeout_ms: int = option(
        10_000, "time a worker has to finish after SIGTERM", "supervisors send SIGKILL after 10 s or later", least=0
    )
    standby_replicas: int = option(
        0,
        "other workers that keep a warm copy of each partition's state",
        "a copy costs the memory again; restoring runs at 200,000 keys/s",
        least=0,
        most=8,
    )
    replication: int = option(
        -1,
        "replication factor of topics that are created; -1: as the broker is set",
        "the operator of the broker knows best",
        least=-1,
        most=16,
    )
    owners_topic: str = option(
        "streams.owners",
        "topic in which applications claim their outputs",
        "one for all that share a broker: they look for each other there",
        pattern=TOPIC,
        wanted="a topic name",
    )
    log_level: str = option("info", "least level that is logged", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True)
class TransactionSettings:
    """[transaction]: long enough to pay for itself, short enough for latency."""

    interval_ms: int = option(
        100,
        "a transaction is committed after so long at most, and after a quarter of it while commits are quick",
        "under full load a commit takes most of it; readers wait for both",
        least=1,
    )
    backlog_interval_ms: int = option(
        400,
        "the same while the worker is behind: while fetches are full",
        "a key's row is written once per transaction, and readers wait for the backlog anyhow",
        least=1,
    )
    records_max: int = option(
        60_000,
        "or after so many input records, whichever comes first",
        "what 400 ms bring; 100,000 gained nothing more and cost memory",
        least=1,
    )
    bytes_max: int = option(
        67_108_864,
        "or after so many bytes of records read, sent and kept; halved while transactions of the size fail",
        "60,000 records of 400 bytes with patches and rows; 15 s are enough for it at 5 MB/s",
        least=1_048_576,
    )
    timeout_ms: int = option(
        15_000,
        "the broker aborts a dead worker's transaction after so long",
        "readers at read_committed wait behind it",
        least=1_000,
        most=900_000,
    )


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """[chunk]: a run of consecutive records of one partition, handled in one native call."""

    records_max: int = option(
        8_000,
        "records in a chunk",
        "against 4,000: a twentieth less CPU; 16,000 gained nothing more",
        least=1,
        most=1_000_000,
    )
    bytes_max: int = option(
        8_388_608,
        "bytes of keys and values in a chunk; a chunk has at least one record",
        "eight times the largest record",
        least=1_024,
    )
    prefetch_bytes_max: int = option(
        67_108_864, "bytes fetched ahead per worker", "a second of work at 150,000 records of 400 bytes", least=65_536
    )


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """[embedded]: the durable local log behind embedded://directory."""

    fsync: str = option(
        "full",
        "full: a commit survives a power cut; normal: it survives a kill",
        "durable unless told otherwise",
        choices=("full", "normal"),
    )
    retention_ms: int = option(
        7 * DAY_MS,
        "records older than this go; compacted topics keep the last of each key",
        "Kafka's own default",
        least=1_000,
        most=36_500 * DAY_MS,
    )
    partitions: int = option(
        4,
        "partitions of a source topic that does not exist yet",
        "one process works on it: enough to spread keys",
        least=1,
        most=1_024,
    )


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """[security]: how both Kafka clients prove who they are. Files and commands are read again before they expire."""

    tls: bool = option(False, "encrypt connections to the broker and check its certificate and host name")
    ca_file: str = option("", "certificates to trust, PEM; default: the machine's")
    cert_file: str = option("", "client certificate, PEM")
    key_file: str = option("", "key of the client certificate, PEM")
    key_password: str = option("", "password of the key", secret=True)
    sasl_mechanism: str = option(
        "", "how to log in; empty: not at all", choices=("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
    )
    username: str = option("", "for PLAIN and SCRAM")
    password: str = option("", "for PLAIN and SCRAM; better from the environment or a file", secret=True)
    password_file: str = option("", "file that holds the password")
    token_file: str = option("", "file that holds an OAUTHBEARER token")
    token_command: str = option("", "command that prints an OAUTHBEARER token; run without a shell", secret=True)
    token_refresh_ms: int = option(
        300_000,
        "how often a token that names no expiry is read again",
        "the shortest lifetime in common use is ten minutes",
        least=1_000,
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """[limits]: where bad input stops."""

    record_bytes_max: int = option(
        1_048_576,
        "largest record taken in, compressed or not; larger ones are dead letters",
        "Kafka's own default",
        least=1_024,
        most=104_857_600,
    )
    dead_letter_ratio: float = option(
        0.9,
        "a partition stops when more than this share of its window became dead letters; 1: never for its share",
        "one bad producer among two is mended by letters, a wrong schema is not",
        least=0,
        most=1,
    )
    dead_letter_window_records: int = option(
        1_000,
        "the window: the last so many records of a partition; the share says nothing before there were so many",
        "seconds of traffic",
        least=10,
    )
    dead_letter_consecutive: int = option(
        50,
        "a partition also stops after so many dead letters in a row, full window or not; 0: never for that. What was "
        "counted is in the dead letters; `streams resume` lets it go on",
        "a quiet partition never fills its window; chance does not make fifty",
        least=0,
    )


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """[[sync]]: one differential sync, from a topic of full states to a topic of patches."""

    source: str = option("", "topic of the events", pattern=TOPIC, wanted="a topic name")
    message: str = option(
        "",
        "full name of the message type, such as acme.fleet.v1.DeviceState",
        pattern=r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*",
        wanted="the full name of a message type",
    )
    descriptors: str = option("", "file with a FileDescriptorSet (protoc --descriptor_set_out --include_imports)")
    module: str = option("", "or the generated Python module, such as acme.fleet_pb2")
    format: str = option(
        "auto",
        "how events are framed; auto looks at each record",
        choices=("auto", "plain", "confluent", "cloudevents"),
    )
    key: str = option(
        "record",
        "where the entity key is: record, subject or field:name, of a field at top level",
        pattern=r"record|subject|field:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*",
        wanted="record, subject or field:name, of a field at top level",
    )
    partitioning: str = option(
        "",
        "trusted, murmur2 or repartition; default: trusted with key = record, else murmur2",
        choices=("", "trusted", "murmur2", "repartition"),
    )
    sequence: str = option(
        "attribute",
        "where the source's sequence is: attribute, none or field:name, of a field at top level",
        pattern=r"attribute|none|field:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*",
        wanted="attribute, none or field:name, of a field at top level",
    )
    ignore: tuple[str, ...] = option((), "fields whose change alone is not worth a patch")
    output: str = option(
        "", "topic of the patches; default: {source}.patches", pattern=f"({TOPIC})?", wanted="a topic name"
    )
    state: str = option(
        "memory",
        "where the state is kept: memory, or rocksdb when it is larger than memory",
        choices=("memory", "rocksdb"),
    )
    on_replaced: str = option(
        "continue",
        "what to do when the source is another topic under its old name",
        "its offsets judge nothing then, ids and sequences go on judging: nothing is lost",
        choices=("continue", "stop"),
    )
    schema_ids: tuple[int, ...] = option((), "the only Confluent schema ids to accept; empty: every id")
    schema_indexes: str = option(
        "standard",
        "how writers put Confluent's message indexes: plain is confluent-kafka-python before 1.8, reversed is .NET "
        "from 2.10.1, none is kafkajs",
        choices=("standard", "plain", "reversed", "none"),
    )
    event_types: tuple[str, ...] = option(
        (), "the only event types to accept, besides the message's name; empty: all but names of other messages"
    )
    other_types: str = option(
        "dead_letter",
        "what becomes of a record that says it holds another type: dead_letter, or skip (and count) it",
        "in a topic of one type another one is a mistake; in a topic of many it is not",
        choices=("dead_letter", "skip"),
    )
    ids_per_key: int = option(
        8,
        "ids of a key's last events that are remembered, so that one that comes again is dropped",
        "a producer's retries come close together; each id costs 8 bytes a key, so 64 is half a kilobyte",
        least=1,
        most=64,
    )
    tombstone_retention_ms: int = option(
        14 * DAY_MS,
        "how long a deleted key is remembered",
        "twice Kafka's default retention: longer than any event can come back",
        least=1_000,
        most=36_500 * DAY_MS,
    )
    tombstones_max: int = option(
        1_000_000,
        "deleted keys that a partition remembers; beyond, the DELETE of a key that it does not know is a dead letter",
        "about 200 bytes each in memory; keys that had a state are always remembered, and were counted before",
        least=1,
    )
