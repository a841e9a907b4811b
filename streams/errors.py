"""Every error that streams raises on purpose.

    StreamsError                     exit 1   anything below; catch this to catch us
    ├── SettingsError                exit 2   settings that are wrong, missing or unknown; all of them at once
    ├── PartitionMismatchError       exit 2   records of one key lie on another partition than its key says
    ├── SchemaError                  exit 2   the message type does not fit what is stored, or cannot be loaded
    ├── TransportError               exit 1   the broker or the embedded log refused or lost something
    │   ├── LogBusyError             exit 1   another process holds the embedded log's directory
    │   ├── LogFullError             exit 1   no room for a write to the embedded log
    │   ├── LogDamagedError          exit 1   the embedded log is not what was written
    │   ├── LogFormatError           exit 1   a newer release wrote the embedded log
    │   ├── LogReplacedError         exit 1   a topic is another one under its old name, and a person has to decide
    │   ├── UnknownTopicError        exit 1   the topic does not exist
    │   ├── RecordTooLargeError      exit 1   one record is larger than its topic takes
    │   └── BrokerUnreachableError   exit 1   nothing was acknowledged within the delivery timeout
    ├── StateError                   exit 1   a table, its store or its changelog cannot be trusted
    ├── InputError                   exit 1   one record that cannot be processed; becomes a dead letter
    ├── LookupFailedError            exit 1   a look-up got no answer and holds none that is young enough
    ├── UserCodeError            exit 1   an agent, a timer or a task of the app raised, and that ends the worker
    ├── ChunkClosed              exit 1   a send for a chunk that its agent has finished
    ├── ChunkAskError            exit 1   an agent of chunks asks another agent, and would wait for ever
    ├── SendsTooLargeError           exit 1   what an agent sends for the records in hand exceeds one transaction
    ├── UnreadableRecordError        exit 1   a record of single events that its topic's codec cannot read
    ├── HeldError                    exit 1   code that blocks held the event loop for far too long
    ├── StallError                   exit 1   no progress for `progress_timeout_ms` and no declared reason
    ├── HttpFailure                  exit 1   a request that got no usable answer, by kind; never its URL
    ├── PatchError                   exit 1   a patch that is damaged or does not fit
    │   └── GapError                 exit 1   revisions are missing between the held state and the patch
    └── FindingsError                exit 3   a check (doctor, verify) ran to its end and found something

A message says what came, what was wanted, where, and the cure. No message carries a payload. Values stay attributes,
the cause stays `__cause__`. An exception that is not in this tree is a bug of ours, or comes from user code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_FINDINGS",
    "EXIT_INTERRUPTED",
    "EXIT_SETTINGS",
    "BrokerUnreachableError",
    "ChunkAskError",
    "ChunkClosed",
    "FailureKind",
    "Finding",
    "FindingsError",
    "GapError",
    "HeldError",
    "HttpFailure",
    "InputError",
    "LogBusyError",
    "LogDamagedError",
    "LogFormatError",
    "LogFullError",
    "LogReplacedError",
    "LookupFailedError",
    "PartitionMismatchError",
    "PatchError",
    "RecordTooLargeError",
    "SchemaError",
    "SendsTooLargeError",
    "SettingsError",
    "StallError",
    "StateError",
    "StreamsError",
    "TransportError",
    "UnknownTopicError",
    "UnreadableRecordError",
    "UserCodeError",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_FINDINGS = 3
EXIT_INTERRUPTED = 130
"""128 + SIGINT, what a shell reports for a program that Ctrl-C ended."""


class StreamsError(Exception):
    """Root of the tree. `exit_code` is what a command that fails with it returns to the shell."""

    exit_code = EXIT_FAILED


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where it is, what came, what was wanted, what to do about it.

    `setting` is a dotted name (`app.broker`) for settings, else the thing that was looked at (`topic devices`).
    """

    setting: str
    came: str
    wanted: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"; {self.cure}" if self.cure else ""
        return f"{self.setting}: got {self.came}, expected {self.wanted}{cure}"


class SettingsError(StreamsError):
    """Settings that cannot be used. `findings` lists every one of them, so that one run shows all there is to mend."""

    exit_code = EXIT_SETTINGS

    def __init__(self, *findings: Finding) -> None:
        self.findings: tuple[Finding, ...] = findings
        super().__init__(_listed("setting", findings))


class FindingsError(StreamsError):
    """A check ran to its end and found something. `findings` lists it all."""

    exit_code = EXIT_FINDINGS

    def __init__(self, *findings: Finding) -> None:
        self.findings: tuple[Finding, ...] = findings
        super().__init__(_listed("finding", findings))


class TransportError(StreamsError):
    """The broker or the embedded log refused or lost something.

    `retriable`: the same call may succeed later. `fatal`: this client is unusable and has to be made anew, as after
    fencing by another worker. `code` is the broker's own name for the error, `topic` the one that refused a record;
    both are empty where there is none.
    """

    def __init__(
        self, message: str, *, retriable: bool = False, fatal: bool = False, code: str = "", topic: str = ""
    ) -> None:
        self.retriable = retriable
        self.fatal = fatal
        self.code = code
        self.topic = topic
        super().__init__(message)


class LogBusyError(TransportError):
    """Another process holds the embedded log: it is made for one process at a time."""

    def __init__(self, directory: str, holder: str) -> None:
        self.directory = directory
        self.holder = holder
        super().__init__(
            f"embedded log {directory} is held by {holder}; expected no other process: stop that one, "
            "or give this one another directory, or use a Kafka broker for several processes",
            retriable=True,
        )


class LogFullError(TransportError):
    """The disk, or the log's own `bytes_max`, has no room. Nothing of the write is there; the log stays usable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"embedded log {path}: no room left, nothing of this write is there; free disk space, raise the log's "
            "size limit, or shorten a topic's retention",
            retriable=True,
        )


class LogDamagedError(TransportError):
    """The file is not what the log wrote: a failing disk, or another program wrote to it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(
            f"embedded log {path} is damaged ({what}); restore its directory from a backup, or move it away and start "
            "with an empty one",
            fatal=True,
        )


class LogFormatError(TransportError):
    """A newer release wrote this log."""

    def __init__(self, path: Path, came: int, newest: int) -> None:
        self.path = path
        self.came = came
        super().__init__(
            f"embedded log {path} has format {came}, the newest this release reads is {newest}; upgrade this process",
            fatal=True,
        )


class LogReplacedError(TransportError):
    """A topic is another one than the offsets and rows that are kept speak of, and only a person knows what counts.

    A topic that was deleted and made anew, a cluster that was mirrored or restored.
    """

    def __init__(self, topic: str, partition: int, why: str) -> None:
        self.topic = topic
        self.partition = partition
        super().__init__(
            f"{topic} partition {partition} is another log than before (deleted and made anew, or of a mirrored or "
            f"restored cluster), {why}; stop all workers, then `streams state replaced {topic} --from beginning` reads "
            "it whole (known ids and sequences are dropped), `--from committed` goes on at the committed offsets",
            fatal=True,
        )


class UnknownTopicError(TransportError):
    """The topic does not exist, and nobody here is to create it by writing to it."""

    def __init__(self, topic: str, broker: str) -> None:
        self.broker = broker
        super().__init__(
            f"topic {topic} does not exist on {broker}; create it, or start the worker that owns it, or check the name",
            topic=topic,
        )


class RecordTooLargeError(TransportError):
    """One record is larger than its topic takes. It was not sent; `index` says which of a batch, all of it unsent."""

    def __init__(self, topic: str, size: int, record_bytes_max: int, *, index: int | None = None) -> None:
        self.size = size
        self.record_bytes_max = record_bytes_max
        self.index = index
        which = "record" if index is None else f"record {index} of a batch"
        super().__init__(
            f"{which} for {topic} has {size} bytes with key and headers, expected {record_bytes_max} at most; make the "
            "message smaller, or raise record_bytes_max here and max.message.bytes of the topic",
            code="MSG_SIZE_TOO_LARGE",  # as Kafka calls it, whichever log refused it
            topic=topic,
        )


class BrokerUnreachableError(TransportError):
    """Nothing was acknowledged within the delivery timeout, and the records may or may not have arrived; or, with
    `sent` false, a question to the broker had no answer.
    """

    def __init__(self, broker: str, timeout_ms: int, *, sent: bool = True) -> None:
        self.broker = broker
        self.timeout_ms = timeout_ms
        super().__init__(
            f"{broker} acknowledged nothing for {timeout_ms} ms; check the address, the network, the login and that "
            "enough replicas are in sync; what was being sent may or may not have arrived"
            if sent
            else f"{broker} answered nothing for {timeout_ms} ms; check the address, the network and the login, and "
            "that the broker runs",
            retriable=True,
        )


class StateError(StreamsError):
    """A table, its local store or its changelog cannot be trusted. `table` and `partition` say which (-1: all)."""

    def __init__(self, message: str, *, table: str = "", partition: int = -1) -> None:
        self.table = table
        self.partition = partition
        super().__init__(message)


class InputError(StreamsError):
    """One record that cannot be processed; it becomes a dead letter, its neighbours go on.

    `reason` is the code in the dead letter's `dlq-reason` header and in metrics; `detail` never holds payload.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class LookupFailedError(StreamsError):
    """A look-up got no answer, and none that is young enough is cached.

    `reason` is a code: circuit-open, busy, throttled, status-503, timeout, ... `retry_s`: asking sooner asks nobody.
    The path is not named: it may hold an entity's key.
    """

    def __init__(self, target: str, reason: str, retry_s: float) -> None:
        self.target = target
        self.reason = reason
        self.retry_s = retry_s
        super().__init__(
            f"look-up at target {target}: {reason}, expected an answer or a cached one younger than lookup.ttl_ms + "
            f"lookup.stale_ms_max; look at GET /circuits and at the target, or ask again in {retry_s:.1f} s"
        )


class PartitionMismatchError(StreamsError):
    """A record lies on another partition than murmur2 of its entity key says: one key would have two owners."""

    exit_code = EXIT_SETTINGS

    def __init__(self, topic: str, partition: int, offset: int, wanted: int) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.wanted = wanted
        super().__init__(
            f"{topic} partition {partition} offset {offset}: the entity key belongs on partition {wanted} "
            "(murmur2, as the Java client); have the producer partition by the entity key, or set "
            'partitioning = "repartition" in its [[sync]]'
        )


class SchemaError(StreamsError):
    """A message type that cannot be loaded, or that does not fit what is stored under the same name.

    `came` and `wanted` name both sides, for example the two types of a field number.
    """

    exit_code = EXIT_SETTINGS

    def __init__(self, message: str, *, type: str = "", came: str = "", wanted: str = "") -> None:
        self.type = type
        self.came = came
        self.wanted = wanted
        super().__init__(message)


class UserCodeError(StreamsError):
    """An agent, a timer or a task of the app raised, and that ends the worker.

    `kind` is the type of what it raised. Its text is left out: it may hold what the record holds.
    """

    def __init__(
        self, part: str, kind: str, where: str, topic: str = "", partition: int = -1, offset: int = -1
    ) -> None:
        self.part = part
        self.kind = kind
        self.topic = topic
        self.partition = partition
        self.offset = offset
        place = f" at {topic} partition {partition} offset {offset}" if topic else ""
        cure = "; mend it, or set app.on_error = letter and it is retried, then a dead letter" if topic else ""
        super().__init__(f"{part} raised {kind}{where}{place}, which ends the worker{cure}")


class UnreadableRecordError(StreamsError):
    """A record of a topic of single events that the topic's codec cannot read. `kind`: the type of the codec's error;
    its text is left out, it may hold what the record holds.
    """

    def __init__(self, topic: str, partition: int, offset: int, kind: str) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.kind = kind
        super().__init__(
            f"{topic} partition {partition} offset {offset} cannot be read ({kind}), expected what value_type and "
            "value_serializer of its app.topic(...) say; mend its producer, or the topic's types"
        )


class ChunkClosed(StreamsError):  # noqa: N818 - the name is part of the surface
    """A send for a chunk that its agent has finished: the chunk's transaction is gone, and the record with it."""

    def __init__(self, agent: str, topic: str, partition: int, offset: int) -> None:
        self.agent = agent
        self.topic = topic
        self.partition = partition
        self.offset = offset
        super().__init__(
            f"agent {agent} has finished the chunk of {topic} partition {partition} up to offset {offset}, and a task "
            "that it started sends for it now; await the task before asking for the next chunk, or start it with "
            "context=contextvars.Context(), so that it sends by itself, at least once"
        )


class SendsTooLargeError(StreamsError):
    """An agent sends more for the records that it has in hand than one transaction holds."""

    def __init__(self, agent: str, topic: str, partition: int, offset: int, records: int, bytes_max: int) -> None:
        self.agent = agent
        self.topic = topic
        self.partition = partition
        self.offset = offset
        super().__init__(
            f"agent {agent} sends more than {bytes_max} bytes for {records} records of {topic} partition {partition} "
            f"up to offset {offset}, which is what one transaction holds; send less for a record, or raise "
            "transaction.bytes_max"
        )


class ChunkAskError(StreamsError):
    """An agent of chunks asks another agent: its question leaves with its chunk, which would wait for the answer."""

    def __init__(self, agent: str, asked: str) -> None:
        self.agent = agent
        self.asked = asked
        super().__init__(
            f"agent {agent} works on a chunk and asks agent {asked}: the question leaves with the chunk, "
            "so the answer would never come; use cast() and let the other agent send its result to a topic, or ask "
            "from an ordinary agent, a timer or a task"
        )


class StallError(StreamsError):
    """No progress for `timeout_ms` although there was work and nothing declared a reason for waiting."""

    def __init__(self, topic: str, partition: int, timeout_ms: int, lag: int, waiting_on: str) -> None:
        self.topic = topic
        self.partition = partition
        self.timeout_ms = timeout_ms
        self.lag = lag
        self.waiting_on = waiting_on
        super().__init__(
            f"{topic} partition {partition}: no progress for {timeout_ms} ms with {lag} records waiting "
            f"(last step: {waiting_on}); the worker ends so that its supervisor starts a fresh one"
        )


class HeldError(StreamsError):
    """Code that blocks held the event loop for `timeout_ms`: nothing else of the worker could go on."""

    def __init__(self, place: str, timeout_ms: int) -> None:
        self.place = place
        self.timeout_ms = timeout_ms
        super().__init__(
            f"{place} has held the event loop for {timeout_ms} ms, nothing else went on meanwhile: the worker ends; "
            "let it await, or move what blocks into asyncio.to_thread"
        )


FailureKind = Literal["dns", "connect", "tls", "timeout", "reset", "protocol", "too-large", "refused-address", "auth"]
"""How a request can fail without a usable answer: no address, nobody listens, no trust, too slow, broken off, no HTTP,
an answer too long, an address that is not allowed, no credential to be had."""


class HttpFailure(StreamsError):  # noqa: N818 - it is an outcome to be counted, more than an error
    """A request that got no usable answer. `kind` is for counting and deciding, `detail` for people.

    `status` is that of the answer's head where one had come before its body failed, else 0. `detail` holds no URL, no
    header and nothing that the peer wrote: each of them may carry a secret or an entity key.
    """

    def __init__(self, kind: FailureKind, detail: str, *, status: int = 0) -> None:
        self.kind = kind
        self.detail = detail
        self.status = status
        super().__init__(f"{kind}: {detail}")


class PatchError(StreamsError):
    """A patch that is damaged, or whose paths or data do not fit the type it names."""


class GapError(PatchError):
    """Revisions are missing between the state that is held and the patch; the cure is a snapshot of the key."""

    def __init__(self, held: tuple[int, int], base: tuple[int, int]) -> None:
        self.held = held
        self.base = base
        super().__init__(
            f"held epoch {held[0]} revision {held[1]}, patch applies to epoch {base[0]} revision {base[1]}; "
            "ask for a snapshot of the key"
        )


def _listed(noun: str, findings: Sequence[Finding]) -> str:
    """One line for one finding; a count and a line each for several."""
    if len(findings) == 1:
        return str(findings[0])
    return "\n".join([f"{len(findings)} {noun}s:", *(f"  {finding}" for finding in findings)])
