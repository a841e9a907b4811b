"""The native core: records in one arena, the diff kernel, keyed state, and Kafka through librdkafka.

Every call that takes more than some microseconds releases the interpreter's lock. Times end in `_ms` or `_us` and are
wall time since 1970-01-01 UTC unless they are a timeout. Positions are (topic, partition, next offset).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

SCHEMA_KEY: bytes
"""Changelog key under which the field table of the rows is kept."""
PARTITION_KEY: bytes
"""Changelog key of the partition record; see `decode_partition`."""
REPAIRS_KEY: bytes
"""Key, in a store alone, of the keys whose right row is to be written again: at least once has no fence."""
ROW_FORMAT: int
"""The newest format of rows that this release reads and writes."""
RESERVED_PREFIX: bytes
"""How the keys begin that are no entity's: what lies under them is no row."""

class Records:
    """Keys, values, headers, timestamps and offsets of many records in one piece of memory. At most 4 GiB."""

    def __init__(self) -> None:
        """Empty."""

    def __len__(self) -> int: ...
    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = ...,
        timestamp_ms: int = -1,
        offset: int = -1,
    ) -> None:
        """Copies one record in. Timestamp -1: none yet; offset -1: none yet. ValueError: the memory's limit."""

    def key(self, index: int) -> bytes | None:
        """A copy of the key. IndexError past the end, as for all of a record's parts."""

    def value(self, index: int) -> bytes | None:
        """A copy of the value; None is a tombstone."""

    def headers(self, index: int) -> list[tuple[str, bytes | None]]:
        """Headers in their order; a name that is no UTF-8 is shown with replacement characters."""

    def offset(self, index: int) -> int:
        """Offset in the partition; -1 while none is assigned."""

    def timestamp_ms(self, index: int) -> int:
        """Milliseconds since 1970; -1 where the record has none."""

    @property
    def first_offset(self) -> int:
        """Offset of the first record; -1 when empty."""

    @property
    def last_offset(self) -> int:
        """Offset of the last record; -1 when empty."""

    @property
    def nbytes(self) -> int:
        """Bytes of all keys, values and headers."""

    def assign(self, first: int, timestamp_ms: int) -> None:
        """Gives the records consecutive offsets from `first` on, and the timestamp where they have none."""

    def extend(self, other: Records) -> None:
        """Appends copies of all records of `other`, offsets and timestamps kept. ValueError: the memory's limit."""

    def slice(self, start: int, stop: int) -> Records:
        """A copy of the records in [start, stop), cut to what there is."""

    def cuts(self, bytes_max: int, each_max: int, *, requests: bool = False) -> list[int]:
        """Where to cut the run so that what comes of a part stays within `bytes_max`, or the part is one record. A
        zstd value counts unpacked, at most `each_max`; a request counts `each_max`, once for each key.
        """

    def encode(self, *, checksum: bool = True) -> bytes:
        """One block: a format byte, a checksum, then LZ4. Offsets and timestamps are kept. Without `checksum`: in the
        format before.
        """

    @staticmethod
    def decode(block: bytes) -> Records:
        """The records of a block. ValueError: damaged, or of a newer format, which is named."""

def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition that the Java client's default partitioner gives a key. ValueError: no partitions."""

def wal_damage(wal: bytes, in_order: bool) -> int | None:
    """Byte of SQLite's write-ahead log at which damage cuts off acknowledged transactions; None: there is none.

    `in_order`: the machine has not lost power since it was written, so that what was written last is there with all
    before it.
    """

def xxh3_64(data: bytes) -> int:
    """XXH3-64 with seed 0: the digest of canonical messages."""

# -- the diff kernel ----------------------------------------------------------------------------------------------

FieldRow = tuple[int, int, int, int, int, str, list[int] | None]
"""Number, kind, flags, index of the child message, oneof or -1, name, values of a closed enum; see kernel/schema.py."""

class Schema:
    """A checked field table: all that diff, apply and the canonical form need to know of a message type."""

    def __init__(
        self,
        messages: Sequence[tuple[str, list[FieldRow]]],
        ignore: Sequence[str] = ...,
        extensions: bool = ...,
        fingerprint: int = ...,
    ) -> None:
        """`messages[0]` is the root. ValueError: a table that contradicts itself, or an `ignore` without a field.

        `extensions`: one of the messages may be extended, so that protobuf has to see what its unknown fields hold.
        `fingerprint`: by which patches of another descriptor are known; 0: none is.
        """

    def is_canonical(self, message: bytes) -> bool:
        """Whether these bytes are the message's canonical form."""

    def canonicalise(self, message: bytes) -> bytes | None:
        """The canonical form where it is cheap (order of map entries, width of undeclared enum values); None: parse it
        with protobuf and ask again.
        """

    def diff(
        self, old: bytes, new: bytes
    ) -> tuple[Literal["none", "ignored", "delta", "snapshot"], list[str], bytes] | None:
        """Change, paths and partial message from canonical `old` to `new`; None: `new` is not canonical.

        "snapshot" (unknown fields are part of the change) comes without paths and data: the whole message is to be
        sent.
        """

    def apply(self, state: bytes, paths: Sequence[str], data: bytes, numbers: Sequence[Sequence[int]] = ...) -> bytes:
        """Clears the paths in canonical `state` and merges `data`; canonical. ValueError: unknown path, damage.

        `numbers` are the field numbers of each path: with them the names do not matter, and a field that the type
        lacks is followed among the unknown ones.
        """

    def splice(self, state: bytes, paths: Sequence[str], data: bytes, numbers: Sequence[Sequence[int]]) -> bytes:
        """The same by the wire format alone, for bytes of another descriptor that are not canonical here, and so is the
        result not. Every field of `data` has to be named by a path, or to lead to one that is. ValueError as `apply`.
        """

    def knows(self, paths: Sequence[str], numbers: Sequence[Sequence[int]] = ...) -> bool:
        """Whether every path can be followed: by its name, or by its field numbers."""

class PatchFields(TypedDict):
    """What `decode_patch` finds; names and meaning are those of `streams.v1.Patch`."""

    key: bytes
    revision: int
    base_revision: int
    kind: int
    type: str
    paths: list[str]
    data: bytes
    digest: int
    event_id: str
    event_source: str
    event_time_us: int | None
    traceparent: str
    sequence: int
    epoch: int
    schema: int
    tracestate: str
    numbers: list[list[int]]

def encode_patch(
    *,
    key: bytes,
    revision: int,
    base_revision: int,
    kind: int,
    type: str,
    paths: Sequence[str],
    data: bytes,
    digest: int,
    event_id: str,
    event_source: str,
    event_time_us: int | None,
    traceparent: str,
    sequence: int,
    epoch: int,
    schema: int,
    tracestate: str = ...,
    numbers: Sequence[Sequence[int]] = ...,
) -> bytes:
    """One serialised `streams.v1.Patch`. ValueError: a kind that is none of 1 to 3."""

def decode_patch(patch: bytes) -> PatchFields:
    """Reads one serialised `streams.v1.Patch`. ValueError: it is none."""

def compose_patches(schema: Schema, first: bytes, second: bytes) -> bytes:
    """One patch that does what two consecutive ones of a key and epoch do. ValueError: they do not follow."""

# -- differential sync --------------------------------------------------------------------------------------------

class Job:
    """What one sync is configured with; shared by the tables of all its partitions, never changed."""

    def __init__(
        self,
        schema: Schema,
        *,
        type: str,
        fingerprint: int,
        field_table: bytes,
        source: str,
        key: str,
        sequence: str,
        format: str,
        partitions: int,
        record_bytes_max: int,
        output_bytes_max: int,
        tombstone_retention_ms: int,
        schema_ids: Sequence[int],
        message_index: Sequence[int],
        sealed: bool,
        canonicalise: Callable[[bytes], bytes | None],
        names: Sequence[str] = ...,
        event_types: Sequence[str] = ...,
        other_types: str = ...,
        schema_indexes: str = ...,
        also_indexes: Sequence[Sequence[int]] = ...,
        other_indexes: Sequence[Sequence[int]] = ...,
        ids_per_key: int = 8,
        rekeyed: bool = False,
        tombstones_max: int = 1_000_000,
    ) -> None:
        """`partitions` above 0: every key must lie where murmur2 puts it. `record_bytes_max`: of a source's value;
        `output_bytes_max`: of a record of the output and the changelog, with key and headers: what does not fit is a
        dead letter. An entity key has at most a quarter of the difference. `sealed`: no payload in dead letters.

        `ids_per_key`: ids of events that a row remembers, at most 64. `rekeyed`: the source holds copies that
        `Table.rekey` made, and says where each was. `tombstones_max`: above so many of a partition the DELETE of a key
        without a row is a dead letter.

        `canonicalise`: parse and serialise deterministically with protobuf; None where protobuf refuses them. Called
        from any thread. `names`: the messages that the loaded descriptors hold; what names another one of them is not
        ours. `also_indexes` and `other_indexes`: Confluent indexes that name the message too, or others of its file.
        ValueError: a key, sequence or format that cannot be, with what was wanted.
        """

    @property
    def tombstone_retention_ms(self) -> int:
        """How long a tombstone is kept."""

class Step:
    """What one chunk produced. Its rows stay uncommitted in the table under `mark`."""

    @property
    def patches(self) -> Records:
        """Key: the entity key. Value: one Patch."""

    @property
    def dead_letters(self) -> Records:
        """Original key, value and headers, and the `dlq-` family."""

    @property
    def mark(self) -> int:
        """Number of the layer that holds the rows; 0 where the call was stopped."""

    @property
    def taken(self) -> int:
        """Records that are done, from the first on: as a rule all. Of a call that made 64 MB the rest is another's."""

    @property
    def counts(self) -> dict[str, int]:
        """What became of the records, by name; `dead.REASON` only where there are any."""

    @property
    def stuck(self) -> list[tuple[int, int]]:
        """Of keys that have now dropped 100 events in a row a hash, keyed by a secret of this process, and the offset
        of the last event dropped: a log says neither the key nor what a list of keys could be searched for.
        """

    @property
    def fatal(self) -> str | None:
        """Why the worker must stop; nothing of the chunk was applied then."""

class Table:
    """Keyed state of one source partition, with layers of uncommitted rows. Safe to call from several threads."""

    def __init__(self, job: Job, partition: int, *, resident: bool = True) -> None:
        """`resident`: every row is here. Otherwise a store has the rows: `missing` and `load` come before `process`."""

    def process(self, records: Records, now_ms: int) -> Step:
        """Applies a chunk of events, see `Step.taken`. RuntimeError: rows were not loaded; what `canonicalise` raised
        goes up.
        """

    def snapshots(self, requests: Records, now_ms: int) -> Step:
        """Answers a chunk of `{source}.resync`: the current revision of each key again, for who asked; one answer for
        all who asked for a key. See `Step.taken`.
        """

    def take_back(self, records: Records, now_ms: int, row_bytes_max: int) -> Step:
        """For records whose rows were refused when their patches were published already (at least once): they change no
        state, and their keys are published as their rows are, above all that receivers may hold. Mark 0: there is
        nothing to publish, or the rows come to more bytes than that.
        """

    def rekey(self, records: Records) -> Step:
        """The records under their entity keys as the step's `patches`; those without one as dead letters. No state."""

    def changelog(self, after_mark: int, upto_mark: int) -> Records:
        """The last row per key of the marks in (after, upto]; value None: the row was removed."""

    def take_moved(self) -> Records:
        """What commits moved in the tombstones of a store: key, deleted-at as timestamp, a value where one was made,
        none where it is gone. Given once; only of a table that is not resident.
        """

    @property
    def tombstones(self) -> int:
        """Keys whose newest row is a tombstone, uncommitted ones and those in a store included."""

    def set_tombstones(self, count: int) -> None:
        """How many tombstones the store has that this table begins with."""

    def assigned(
        self,
        *,
        log: bytes,
        output: bytes,
        generation: int | None,
        is_group_new: bool = False,
        is_replaced: bool = False,
    ) -> Assigned:
        """What the worker knows of a partition that it was given; after restoring, before anything else.

        `log`, `output`: ids of the input's and the output's log, 16 bytes each, or none where unknown. `generation`:
        the group's, where Kafka fences no owner that is none any more (at least once); None: it does. `is_group_new`:
        the group has no committed offset here, so it may count its generations from 1 again. `is_replaced`: the log is
        another although no id says so. RuntimeError: the changelog has an older release's format, which has no place
        for a second log; the cure is named.
        """

    def stop(self, reason: str, offset: int, count: int, now_ms: int, *, before: bool = False) -> int:
        """Notes in the changelog that the partition stands still, and where it goes on; the mark of that layer.

        `before`: it is the source's own partition of this number, whose records are rekeyed.
        """

    def resume(self, now_ms: int) -> int:
        """Ends all stops, the same way.

        A request with the header `resume` does it too: of those that began at the time in it (ms) or before, all where
        the header is empty.
        """

    def upgrade(self) -> int:
        """Writes rows and record in the newest format from now on; the mark of the layer that says so."""

    def set_partial(self) -> None:
        """Rows are missing (a rebuild without the source's beginning): unknown keys get no DELETE from now on."""

    def raise_epoch(self, epoch: int) -> None:
        """Epochs are issued above this one from now on."""

    @property
    def partition_record(self) -> PartitionFields:
        """What is known of the partition now, uncommitted changes included."""

    def commit(self, upto_mark: int) -> Records:
        """Makes the rows of these marks the state. Not resident: returns what the store must write (None: delete)."""

    def drop_pending(self) -> None:
        """Forgets every uncommitted row."""

    def missing(self, records: Records, *, requests: bool = False) -> list[bytes]:
        """Keys whose rows the store must be asked for before `process` (`requests`: before `snapshots`) of these."""

    def load(self, keys: Sequence[bytes], rows: Sequence[bytes | None]) -> None:
        """Takes what the store holds for these keys; None: nothing. ValueError: a damaged row, or unequal lengths."""

    def restore(self, changelog: Records) -> None:
        """Takes changelog records in; the highest (epoch, revision, ordinal, offset) of a key wins. ValueError: damage.

        A row with a lower fence behind a higher one is passed over: its owner was none any more. The right row of such
        a key is written again with the next chunk.
        """

    def get(self, key: bytes) -> bytes | None:
        """Committed row of a key; see `decode_row`."""

    def keys(self) -> list[bytes]:
        """Keys with a committed row, tombstones included."""

    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes of memory for keys, rows, layers and the structures around them."""

class Assigned(TypedDict):
    """What came of `Table.assigned`."""

    replaced: bool
    """The rows' offsets are of another log: they judge nothing any more."""
    ordinal: int
    known: bool
    """The record held the id of a log before; otherwise this one was adopted."""
    late: bool
    """An owner of a later generation has written: every call that would write fails with RuntimeError."""

class StopFields(TypedDict):
    """Why a partition stands still."""

    reason: str
    offset: int
    since_ms: int
    count: int

class PartitionFields(TypedDict):
    """What a partition's record holds."""

    row_format: int
    logs: dict[int, bytes]
    """Ids of the input's logs by ordinal; empty where unknown."""
    ordinal: int
    last_epoch: int
    fence: int
    partial: bool
    stop: StopFields | None
    stop_before: StopFields | None
    """Of the source's own partition of this number, where the input is rekeyed."""
    origins: dict[bytes, dict[int, int]]
    """Rekeyed input: the highest offset that was copied, by log and partition of the source."""

def decode_partition(record: bytes) -> PartitionFields:
    """A partition record by the names of its parts. ValueError: damaged, or of a newer format."""

class RowFields(TypedDict):
    """What a row holds beside its message."""

    format: int
    tombstone: bool
    canonical: bool
    snapshot_next: bool
    epoch: int
    revision: int
    offset: int
    ordinal: int
    """Which log the offset is of; the partition record has the logs' ids."""
    fence: int
    """Of the owner that wrote it; rises with the generations of the group."""
    schema: int
    event_time_us: int | None
    deleted_at_ms: int | None
    sequences: dict[int, int]
    """By XXH3-64 of the source; 0 is the entity's own."""
    ids: list[int]
    """XXH3-64 of source, a zero byte and id, of the last events."""
    message: bytes

EXPIRE_MAX: int
"""Tombstones that one `process` removes at most."""

def deleted_at(row: bytes) -> int | None:
    """When the key of a row was deleted, in milliseconds; None: the row is no tombstone."""

def decode_row(row: bytes) -> RowFields:
    """A row by the names of its parts. ValueError: damaged, or of a newer format."""

# -- Kafka --------------------------------------------------------------------------------------------------------

def keep_freed_memory() -> bool:
    """Has this process keep up to 256 MB of freed memory for what comes next; False where the allocator is not glibc's.

    For worker processes: chunk after chunk needs the same memory, and each page from the system is zeroed first.
    """

class KafkaError(Exception):
    """What librdkafka said. `code` is its name for the error, for example `_TIMED_OUT` or `UNKNOWN_TOPIC_OR_PART`."""

    code: str
    retriable: bool
    """The same call may succeed later."""
    fatal: bool
    """The client is unusable and has to be made anew."""
    abortable: bool
    """The transaction has to be aborted; the producer can go on."""
    place: tuple[str, int, int] | None
    """Topic, partition and offset that it is about, where it is about one."""

class KafkaConsumer:
    """A consumer without automatic commits. A closed one raises RuntimeError; librdkafka's refusals are KafkaError."""

    def __init__(self, config: Mapping[str, str]) -> None:
        """librdkafka's configuration. KafkaError: a setting it does not take."""

    def assign(self, partitions: Sequence[tuple[str, int, int]]) -> None:
        """Adds partitions to what is fetched, from these offsets on; -2: the beginning, -1: the end."""

    def unassign(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Takes partitions away; what was fetched ahead of them is dropped."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Joins the group for these topics; `fetch` serves its rebalances."""

    def assignment(self) -> list[tuple[str, int]]:
        """What is fetched now."""

    def membership(self) -> tuple[str, int]:
        """Member id and generation in the group, another pair after every rebalance; empty and -1 without a group."""

    def commit(
        self, positions: Sequence[tuple[str, int, int] | tuple[str, int, int, str]], timeout_ms: int = 60_000
    ) -> None:
        """Commits next offsets for the group, with what is to be kept beside each, and waits."""

    def committed(self, partitions: Sequence[tuple[str, int]], timeout_ms: int) -> list[tuple[str, int, int]]:
        """Committed next offsets, stable ones at read_committed; -1: none."""

    def kept(self, partitions: Sequence[tuple[str, int]], timeout_ms: int) -> list[tuple[str, int, int, str]]:
        """As `committed`, with what is kept beside each offset; empty: nothing."""

    def watermarks(self, topic: str, partition: int, timeout_ms: int) -> tuple[int, int]:
        """First offset and next offset; at read_committed the latter is the last stable one."""

    def seek(self, positions: Sequence[tuple[str, int, int]], timeout_ms: int) -> None:
        """Fetches assigned partitions from other offsets on; what was fetched ahead of them is dropped."""

    def fetch(self, records_max: int, bytes_max: int, timeout_ms: int) -> list[tuple[str, int, Records, int]]:
        """Waits for the first record and takes what is there: (topic, partition, records, end of partition or -1).

        Several runs of one partition, in order, where one would pass `bytes_max`.
        """

    def wake(self) -> None:
        """Ends the wait of a `fetch` in another thread, or of the next one. Never blocks; nothing on a closed one."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None:
        """Hands an OAUTHBEARER token over; again before it expires."""

    def logs(self) -> list[str]:
        """What librdkafka logged since the last call."""

    def close(self) -> None:
        """Leaves the group and ends the client's threads. A second call does nothing."""

class KafkaProducer:
    """A producer, transactional where `transactional.id` is configured. Errors as with KafkaConsumer."""

    def __init__(self, config: Mapping[str, str], topics: Mapping[str, Mapping[str, str]] = ...) -> None:
        """`topics`: settings of single topics, for example `compression.type`."""

    def produce(self, topic: str, partition: int, records: Records, timeout_ms: int = 60_000) -> int:
        """Hands all records over, waiting while the queue is full; how many. Partition -1: murmur2 of the key."""

    def produce_wait(
        self, topic: str, partition: int, records: Records, timeout_ms: int = 60_000
    ) -> list[tuple[int, int, str | None]]:
        """Produces and waits: partition, offset and error code or None of each record, in their order."""

    def flush(self, timeout_ms: int) -> None:
        """Waits until nothing is in flight. KafkaError: the first record that failed since the last flush."""

    def poll(self, timeout_ms: int) -> None:
        """Serves delivery reports and log lines."""

    def in_flight(self) -> int:
        """Records that are neither acknowledged nor failed."""

    def partitions(self, topic: str, timeout_ms: int) -> int | None:
        """Partition count; None: there is no such topic."""

    def init_transactions(self, timeout_ms: int) -> None:
        """Registers the transactional id, and fences whoever had it."""

    def begin(self) -> None:
        """Opens a transaction."""

    def send_offsets(
        self,
        offsets: Sequence[tuple[str, int, int] | tuple[str, int, int, str]],
        group: str,
        generation: int,
        member: str,
        instance: str | None,
        timeout_ms: int,
    ) -> None:
        """Adds next offsets to the transaction, with what is to be kept beside each, in the name of a group member."""

    def commit(self, timeout_ms: int) -> None:
        """Ends the transaction. A retriable error leaves the outcome unknown: call again."""

    def abort(self, timeout_ms: int) -> None:
        """Ends the transaction with nothing of it done."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None:
        """Hands an OAUTHBEARER token over; again before it expires."""

    def logs(self) -> list[str]:
        """What librdkafka logged since the last call."""

    def close(self) -> None:
        """Ends the client's threads; what is in flight is dropped. A second call does nothing."""

class KafkaAdmin:
    """Topics of a cluster. Errors are KafkaError; those of single topics come in the result."""

    def __init__(self, config: Mapping[str, str]) -> None:
        """librdkafka's configuration."""

    def create_topics(
        self, topics: Sequence[tuple[str, int, int, Mapping[str, str]]], timeout_ms: int
    ) -> list[tuple[str, str | None]]:
        """(name, partitions, replication or -1, settings) each; name and error or None. One that exists is no error."""

    def delete_topics(self, names: Sequence[str], timeout_ms: int) -> list[tuple[str, str | None]]:
        """Name and error or None of each."""

    def topics(self, timeout_ms: int) -> dict[str, int]:
        """Every topic with its partition count."""

    def partitions(self, names: Sequence[str], timeout_ms: int) -> dict[str, int]:
        """The partition count of each topic; one that does not exist is left out, and not made."""

    def topic_ids(self, names: Sequence[str], timeout_ms: int) -> dict[str, bytes]:
        """The id of each topic, 16 bytes; one that does not exist, or of a broker without ids, is left out."""

    def topic_config(self, name: str, timeout_ms: int) -> dict[str, str]:
        """A topic's settings as the broker has them, defaults included."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None:
        """Hands an OAUTHBEARER token over; again before it expires."""
