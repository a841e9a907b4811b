"""The native sync core against a model in plain Python: random events, replays, requests, commits, aborts, crashes,
rewinds, clocks that go back, and logs that are replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams._native import PARTITION_KEY, RESERVED_PREFIX, SCHEMA_KEY, Job, Records, Step, Table, decode_row, xxh3_64
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.patch import apply_patch
from streams.kernel.schema import MessageSchema
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync

NOW = 1_700_000_000_000
SCHEMA = MessageSchema(DeviceState, ["last_seen_us"])
JOB = Job(
    SCHEMA.native,
    type=SCHEMA.full_name,
    fingerprint=SCHEMA.fingerprint,
    field_table=SCHEMA.field_table_bytes,
    source="devices",
    key="record",
    sequence="attribute",
    format="auto",
    partitions=0,
    record_bytes_max=100_000,
    output_bytes_max=100_000 + 65_536,
    tombstone_retention_ms=1 << 40,
    schema_ids=[],
    message_index=[1],
    sealed=False,
    canonicalise=SCHEMA.through_upb,
)
OUTPUT = b"o" * 16
UNKNOWN = 255  # ordinal of a log that no record knows
KEYS = [b"a", b"b", b"c"]
SOURCES = [f"/{number}" for number in range(10)]


@dataclass(frozen=True)
class Event:
    """What a producer sends. `state` None: DELETE. `id` empty: a plain record, without source and sequence."""

    key: bytes
    state: DeviceState | None
    id: str
    source: str
    sequence: int | None
    mangled: bool
    origin: tuple[int, int] | None = None
    """Where it died first, if it is a dead letter that is replayed: ordinal of the log, and offset."""


@dataclass
class Row:
    """What the model keeps of a key; `state` None: a tombstone, at revision 0 one that nothing came before."""

    state: DeviceState | None
    revision: int
    offset: int
    ordinal: int
    sequences: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)  # oldest first


def log_id(ordinal: int) -> bytes:
    """Identity of a log."""
    return bytes([ordinal + 1 & 255 or 251]) * 16


def position(event: Event, offset: int, ordinal: int) -> tuple[int, int] | None:
    """The log and offset that an event is judged by; None: its log is not known any more."""
    if event.origin is None or (event.origin[0] == ordinal and event.origin[1] >= offset):
        return ordinal, offset
    return event.origin if event.origin[0] != UNKNOWN else None


def note(row: Row, event: Event, place: tuple[int, int] | None) -> None:
    """Remembers where an event came from: eight sources, of which a ninth evicts none, and the last eight ids."""
    if place is not None:
        row.ordinal, row.offset = place
    if not event.id:
        return
    row.ids = [*row.ids, f"{event.source} {event.id}"][-8:]
    if event.sequence is not None and (event.source in row.sequences or len(row.sequences) < 8):
        row.sequences[event.source] = event.sequence


def published(state: DeviceState) -> bytes:
    """A state without what is ignored."""
    shown = DeviceState()
    shown.CopyFrom(state)
    shown.ClearField("last_seen_us")
    return shown.SerializeToString(deterministic=True)


def judge(row: Row, event: Event, place: tuple[int, int] | None, is_replayed: bool) -> str:
    """Why an event adds nothing to a row; empty: it does."""
    if place is not None and place[0] == row.ordinal and place[1] <= row.offset:
        return "dropped.superseded" if is_replayed else "dropped.offset"
    if is_replayed and place is not None and place[0] < row.ordinal:
        return "dropped.superseded"
    if place is None and not event.id:
        return "dropped.superseded"
    if event.id and f"{event.source} {event.id}" in row.ids:
        return "dropped.id"
    last = row.sequences.get(event.source) if event.id else None
    if last is not None and event.sequence is not None and event.sequence <= last:
        return "dropped.superseded" if is_replayed else "dropped.sequence"
    return ""


def apply_event(rows: dict[bytes, Row], event: Event, offset: int, ordinal: int) -> str:
    """The job, by its definition: the counter that an event raises, or the kind of its patch."""
    row, place = rows.get(event.key), position(event, offset, ordinal)
    if row is not None and (dropped := judge(row, event, place, place != (ordinal, offset))):
        return dropped
    if event.state is None:
        row = rows.setdefault(event.key, Row(None, 0, -1, ordinal))
        was_live, row.state = row.state is not None, None
        row.revision += was_live
        note(row, event, place)
        return "deletes" if was_live else "delete-unknown"
    if row is None or row.state is None:
        row = rows[event.key] = row or Row(None, 0, -1, ordinal)
        outcome = "snapshots"
    elif event.state.SerializeToString(deterministic=True) == row.state.SerializeToString(deterministic=True):
        outcome = "unchanged"
    elif published(event.state) == published(row.state):
        outcome = "ignored"
    else:
        outcome = "changes"
    if outcome in ("snapshots", "changes"):
        row.state = event.state
        row.revision += 1
    note(row, event, place)
    return outcome


def append(records: Records, event: Event, offset: int) -> None:
    """The event as its producer frames it: plain, binary or structured, canonical or not."""
    data = None if event.state is None else event.state.SerializeToString(deterministic=not event.mangled)
    if data is not None and event.mangled:
        data = DeviceState(status="overwritten").SerializeToString() + data
    headers: list[tuple[str, bytes | None]] = []
    if event.origin is not None:
        log, at = event.origin
        headers += [("dlq-origin-topic", b"devices"), ("dlq-origin-partition", b"0")]
        headers += [("dlq-origin-offset", str(at).encode()), ("dlq-origin-topic-id", log_id(log).hex().encode())]
    if not event.id:
        records.append(event.key, data, headers, -1, offset)
        return
    if offset % 2 or data is None:  # only a record without a value is a DELETE
        headers += [("ce_specversion", b"1.0"), ("ce_id", event.id.encode())]
        headers.append(("ce_source", event.source.encode()))
        if event.sequence is not None:
            headers.append(("ce_sequence", str(event.sequence).encode()))
        records.append(event.key, data, headers, -1, offset)
        return
    envelope = CloudEvent(id=event.id, source=event.source, spec_version="1.0", type="t")
    if event.sequence is not None:
        envelope.attributes["sequence"].ce_string = str(event.sequence)
    envelope.binary_data = data
    headers.append(("content-type", b"application/cloudevents+protobuf"))
    records.append(event.key, envelope.SerializeToString(), headers, -1, offset)


states = st.builds(
    DeviceState,
    device_id=st.just("device with a name that takes some bytes"),
    status=st.sampled_from(["ok", "warn"]),
    battery=st.sampled_from([0.0, 0.5, -0.0, float("nan")]),
    last_seen_us=st.integers(0, 2),
    labels=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2"])),
)
events = st.builds(
    Event,
    key=st.sampled_from(KEYS),
    state=st.one_of(st.none(), states, states, states),
    id=st.sampled_from(["", "1", "2", "3", "4", "5"]),
    source=st.sampled_from(SOURCES),
    sequence=st.one_of(st.none(), st.integers(0, 5)),
    mangled=st.booleans(),
)


@dataclass
class Pending:
    """An uncommitted chunk."""

    mark: int
    rows: dict[bytes, Row]
    position: int
    patches: list[Patch]
    changelog: Records
    answers: list[Patch] = field(default_factory=list)
    """About keys without a row."""


class SyncMachine(RuleBasedStateMachine):
    """One partition: a log of events, a table, the model's committed rows, and chunks that are not committed yet."""

    resident = True

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Event] = []
        self.ordinal = 0
        self.past: list[list[Event]] = []  # of each log before, what was processed
        self.now_ms = NOW
        self.store: dict[bytes, bytes] = {}
        self.changelog = Records()
        self.committed: dict[bytes, Row] = {}
        self.position = 0
        self.pending: list[Pending] = []
        self.received: dict[bytes, tuple[int, DeviceState | None]] = {}
        self.seen: dict[bytes, tuple[int, int]] = {}
        self.start()

    def start(self) -> None:
        """A process begins: its table comes from the changelog, or from the store."""
        self.table = Table(JOB, 0, resident=self.resident)
        if self.resident:
            self.table.restore(self.changelog)
        else:
            kept = [SCHEMA_KEY, PARTITION_KEY]
            self.table.load(kept, [self.store.get(key) for key in kept])
        self.table.assigned(log=log_id(self.ordinal), output=OUTPUT, generation=None)

    @property
    def newest(self) -> dict[bytes, Row]:
        """The model's rows, uncommitted ones included."""
        return self.pending[-1].rows if self.pending else self.committed

    @property
    def next(self) -> int:
        """The next offset to be processed."""
        return self.pending[-1].position if self.pending else self.position

    @rule(new=st.lists(events, min_size=1, max_size=12))
    def produce(self, new: list[Event]) -> None:
        """Producers append events."""
        self.log.extend(new)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def produce_again(self, data: st.DataObject) -> None:
        """A producer retries: the same event once more, at another offset."""
        self.log.append(data.draw(st.sampled_from(self.log)))

    @precondition(lambda self: self.next < len(self.log))
    @rule(count=st.integers(1, 20))
    def process(self, count: int) -> None:
        """The next chunk."""
        self.step(self.next, min(self.next + count, len(self.log)))

    @precondition(lambda self: self.next > 0)
    @rule(back=st.integers(1, 20))
    def rewind(self, back: int) -> None:
        """A consumer went back: events are read that were applied before."""
        self.step(max(self.next - back, 0), self.next)

    def step(self, start: int, stop: int) -> None:
        """Processes log[start:stop] in the table and in the model, and compares all that comes out."""
        chunk = Records()
        for offset in range(start, stop):
            append(chunk, self.log[offset], offset)
        self.load(chunk)
        step = self.table.process(chunk, self.now_ms)
        rows = copy.deepcopy(self.newest)
        outcomes = [apply_event(rows, self.log[offset], offset, self.ordinal) for offset in range(start, stop)]
        patches = [Patch.FromString(step.patches.value(at) or b"") for at in range(len(step.patches))]

        dropped = ("dropped.offset", "dropped.id", "dropped.sequence", "dropped.superseded")
        for name in (*dropped, "delete-unknown", "unchanged", "ignored"):
            assert outcomes.count(name) == step.counts[name], name
        assert 0 == len(step.dead_letters)
        revised = [outcome for outcome in outcomes if outcome in ("snapshots", "deletes", "changes")]
        allowed = {"snapshots": {Patch.SNAPSHOT}, "deletes": {Patch.DELETE}, "changes": {Patch.DELTA, Patch.SNAPSHOT}}
        assert len(revised) == len(patches)
        assert all(patch.kind in allowed[outcome] for outcome, patch in zip(revised, patches, strict=True))
        log = self.table.changelog(step.mark - 1, step.mark)
        self.pending.append(Pending(step.mark, rows, max(stop, self.next), patches, log))
        for at in range(len(log)):
            self.check_row(log.key(at) or b"", log.value(at), rows)

    def load(self, chunk: Records, *, requests: bool = False) -> None:
        """Gives a table over a store the rows of a chunk."""
        if not self.resident:
            keys = self.table.missing(chunk, requests=requests)
            self.table.load(keys, [self.store.get(key) for key in keys])

    @staticmethod
    def check_row(key: bytes, value: bytes | None, rows: dict[bytes, Row]) -> None:
        """A row of the table is the model's."""
        if key.startswith(RESERVED_PREFIX):
            assert key != SCHEMA_KEY or b"S" + SCHEMA.field_table_bytes == value
            return
        row, found = rows[key], dict(decode_row(value or b""))
        expected: dict[str, Any] = {
            "revision": row.revision,
            "offset": row.offset,
            "ordinal": row.ordinal,
            "tombstone": row.state is None,
            "sequences": {xxh3_64(source.encode()): last for source, last in row.sequences.items()},
            "ids": [xxh3_64(id_.replace(" ", "\0").encode()) for id_ in reversed(row.ids)],
            "message": b"" if row.state is None else row.state.SerializeToString(deterministic=True),
            "canonical": True,
        }
        assert expected == {name: found[name] for name in expected}

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """The oldest uncommitted chunks, as many as one transaction held, are committed."""
        count = data.draw(st.integers(1, len(self.pending)))
        done, self.pending = self.pending[:count], self.pending[count:]
        whole = self.table.changelog(done[0].mark - 1, done[-1].mark)
        last = {
            chunk.changelog.key(at): chunk.changelog.value(at) for chunk in done for at in range(len(chunk.changelog))
        }
        assert last == {whole.key(at): whole.value(at) for at in range(len(whole))}
        assert len(whole) == len(last)
        self.changelog.extend(whole)
        written = self.table.commit(done[-1].mark)
        if self.resident:
            assert 0 == len(written)
        for at in range(len(written)):
            self.store[written.key(at) or b""] = written.value(at) or b""
        self.committed, self.position = done[-1].rows, done[-1].position
        for chunk in done:
            for patch in chunk.patches:
                self.receive(patch)
            self.answered(chunk)

    def receive(self, patch: Patch) -> None:
        """A receiver by the book: no gaps, nothing twice, every digest right, and nothing below what was answered."""
        assert self.seen.get(patch.key, (0, 0)) < (patch.epoch, patch.revision)
        self.seen[patch.key] = patch.epoch, patch.revision
        revision, held = self.received.get(patch.key, (0, None))
        assert revision + 1 == patch.revision
        assert patch.base_revision == (0 if patch.kind == Patch.SNAPSHOT else revision)
        state = apply_patch(held or DeviceState(), patch)
        if state is not None:
            assert patch.digest == xxh3_64(state.SerializeToString(deterministic=True))
        self.received[patch.key] = patch.revision, state

    def answered(self, chunk: Pending) -> None:
        """A receiver takes the DELETE of a key without a row as it takes any other."""
        for patch in chunk.answers:
            assert self.seen.get(patch.key, (0, 0)) < (patch.epoch, patch.revision)
            self.seen[patch.key] = patch.epoch, patch.revision

    @rule(by_ms=st.integers(-5_000, 1_000))
    def set_clock(self, by_ms: int) -> None:
        """The owner's clock goes on, or back."""
        self.now_ms += by_ms

    @precondition(lambda self: self.log or any(self.past))
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """Somebody sends a dead letter again: of this log, of one before, or of one that nobody knows."""
        ordinal = data.draw(st.sampled_from([*range(self.ordinal + 1), UNKNOWN]))
        log = data.draw(st.sampled_from([log for log in [*self.past, self.log] if log]))
        at = data.draw(st.integers(0, len(log) - 1))
        self.log.append(replace(log[at], origin=(ordinal, at)))

    @precondition(lambda self: self.committed)
    @rule()
    def replace_log(self) -> None:
        """The source is deleted and made anew: what was not processed is lost, offsets begin again at 0."""
        self.pending = []
        self.past.append(self.log[: self.position])
        self.ordinal += 1
        self.log, self.position = [], 0
        self.start()
        self.step(0, 0)  # the record of the new log is durable with the first call, whatever is in it
        self.commit_all()

    def commit_all(self) -> None:
        """Everything that is pending is committed."""
        done, self.pending = self.pending, []
        self.changelog.extend(self.table.changelog(0, done[-1].mark))
        for at in range(len(written := self.table.commit(done[-1].mark))):
            self.store[written.key(at) or b""] = written.value(at) or b""
        self.committed, self.position = done[-1].rows, done[-1].position
        for chunk in done:
            for patch in chunk.patches:
                self.receive(patch)
            self.answered(chunk)

    @rule()
    def abort(self) -> None:
        """The transaction is aborted: everything uncommitted goes, the input rewinds."""
        self.table.drop_pending()
        self.pending = []

    @rule()
    def crash(self) -> None:
        """A new process."""
        self.pending = []
        self.start()

    @rule(fits=st.booleans())
    def ask(self, fits: bool) -> None:
        """Snapshots on demand repeat the newest rows and change none; of keys without a row only where it fits."""
        requests = Records()
        for key in KEYS:
            requests.append(key, Resync(requester="r", topic_id=OUTPUT, partition=int(not fits)).SerializeToString())
        self.load(requests, requests=True)
        step = self.table.snapshots(requests, self.now_ms)
        changelog = self.table.changelog(step.mark - 1, step.mark)
        assert {PARTITION_KEY} >= {changelog.key(at) for at in range(len(changelog))}
        patches = dict(self.answer(step, at) for at in range(len(step.patches)))
        answers = []
        for key in KEYS:
            patch, row = patches.get(key), self.newest.get(key)
            if row is None or not row.revision:
                assert (patch is not None) == fits
                answers += [patch] if patch is not None else []
                continue
            assert patch is not None
            assert (row.revision, Patch.DELETE if row.state is None else Patch.SNAPSHOT) == (patch.revision, patch.kind)
            assert patch.data == (b"" if row.state is None else row.state.SerializeToString(deterministic=True))
        self.pending.append(Pending(step.mark, self.newest, self.next, [], changelog, answers))

    @staticmethod
    def answer(step: Step, at: int) -> tuple[bytes, Patch]:
        """A key, and the patch that answers for it."""
        return step.patches.key(at) or b"", Patch.FromString(step.patches.value(at) or b"")

    @invariant()
    def committed_rows_are_the_models(self) -> None:
        """Whatever is uncommitted, the committed rows stand."""
        get: Callable[[bytes], bytes | None] = self.table.get if self.resident else self.store.get
        for key in KEYS:
            value = get(key)
            assert (value is None) == (key not in self.committed)
            if value is not None:
                self.check_row(key, value, self.committed)
        if self.resident:
            assert len(self.committed) == len(self.table)

    def teardown(self) -> None:
        """Everything is processed and committed in the end, and equals a plain replay of the log."""
        self.abort()
        if self.position < len(self.log):
            self.step(self.position, len(self.log))
            self.pending[-1].position = len(self.log)
        if self.pending:
            self.commit_all()
        self.committed_rows_are_the_models()
        plain: dict[bytes, Row] = {}
        for ordinal, log in enumerate([*self.past, self.log]):
            for offset, event in enumerate(log):
                apply_event(plain, event, offset, ordinal)
        assert plain == self.committed
        shown = {key: row.state for key, row in plain.items() if row.revision}
        assert shown == {key: held for key, (_, held) in self.received.items()}


class StoreMachine(SyncMachine):
    """The same over a store: the table holds only what the chunks in work need."""

    resident = False


TestResident = SyncMachine.TestCase
TestOverAStore = StoreMachine.TestCase
