"""Reading the dead letters of a source, and doing something about them: what `streams dlq` does, without its words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from streams._native import Records
from streams.cli import reading
from streams.cli.judging import DIES, SUPERSEDED, Judge
from streams.cli.sources import sync_of, topics_of
from streams.client.broker import Ack, Outcome, WriterOptions
from streams.client.connect import open_writer
from streams.dead_letters.letter import Letter, read, replayed
from streams.dead_letters.replay import (
    MARK_OFFSETS_MAX,
    WAYS,
    Decision,
    Done,
    Entry,
    Filter,
    Marks,
    Rules,
    decide,
    is_mark,
    mark,
    parcels,
)
from streams.errors import InputError, RecordTooLargeError, SchemaError, TransportError
from streams.kernel.messages import load_message
from streams.options import Settings, SyncSettings
from streams.sync.topics import SyncTopics
from streams.v1.resync_pb2 import Resync

__all__ = ["Case", "Letters", "Sender"]

BATCH_LETTERS_MAX = 10_000
"""Letters that are judged together: one pass over the changelog for each so many."""
BATCH_BYTES_MAX = 64 << 20
"""And their bytes at most, so that large records do not fill the memory."""
PARCEL_RECORDS = 100
"""Sent together: few enough that a crash repeats little, and that a worker gets them between live events."""


@dataclass(frozen=True, slots=True)
class Case:
    """A letter with all that is known of it.

    `key` is the entity key, else the record's. `decision`: what a replay does. `forecast`: what would become of it, a
    word of `judging`; empty where that cannot be known. `done`: what was done about it.
    """

    entry: Entry
    key: bytes | None
    decision: Decision
    forecast: str
    done: Done | None

    @property
    def way(self) -> Done:
        """What its mark will say once its replay is acknowledged."""
        if self.decision.act == "ask":
            return "asked"
        return "superseded" if self.forecast == SUPERSEDED else "replayed"


class LetterLog:
    """Which log a dead-letter topic was when its letters were read: in another one their offsets are others'."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._id = self._now()

    def _now(self) -> bytes:
        return reading.log_ids(self._settings, self._topic).get(self._topic, b"")

    def check(self) -> None:
        """TransportError where the topic was made anew meanwhile."""
        now = self._now()
        if now != self._id:
            raise TransportError(
                f"{self._topic} was made anew since its letters were read: what is done about them cannot be noted "
                "there, another letter would bear it; look at `streams dlq list` and start again"
            )


class Letters:
    """The dead letters of one source, as of now."""

    def __init__(self, settings: Settings, source: str, *, replays_max: int, unordered: bool = False) -> None:
        """Looks at the topics and reads the marks. TransportError: there is no dead-letter topic."""
        self._settings = settings
        self.log = LetterLog(settings, f"{source}.dlq")
        sync = sync_of(settings, source)
        self.topics = topics_of(settings, source)
        self.unreadable = 0
        """Records of the topic that are neither letters nor marks."""
        self._marks = Marks()
        for partition, records in reading.read_all(settings, self.topics.dead_letters):
            for index in range(len(records)):
                if is_mark(records, index):
                    self._take_mark(partition, records, index)
        origins = [topic for topic in (source, self.topics.rekey) if topic]
        ends = reading.ends(settings, *origins, self.topics.resync)
        self._rules = Rules(
            {topic: ends[topic] for topic in origins},
            len(ends[self.topics.resync]),
            before_rekey=source if self.topics.rekey else "",
            unordered=unordered,
            replays_max=replays_max,
            logs=reading.log_ids(settings, *origins),
        )
        self._judge = _judge(settings, sync, self.topics, ends[self.topics.input])

    @property
    def forecasts(self) -> bool:
        """Whether it can be said beforehand what would become of a letter: the message type has to be known for it."""
        return self._judge is not None

    def _take_mark(self, partition: int, records: Records, index: int) -> None:
        try:
            self._marks.take(partition, records, index)
        except InputError as error:
            if error.reason != "bad-mark":
                raise
            self.unreadable += 1

    def entries(self) -> Iterator[Entry]:
        """Every letter in the order of its partition. InputError `newer-letter`: a newer release wrote it."""
        for partition, records in reading.read_all(self._settings, self.topics.dead_letters):
            for index in range(len(records)):
                if is_mark(records, index):
                    continue
                try:
                    letter = read(records, index)
                except InputError as error:
                    if error.reason != "bad-letter":
                        raise
                    self.unreadable += 1
                else:
                    yield Entry(partition, records.offset(index), letter)

    def cases(self, wanted: Filter, *, done: bool = False, forecast: bool = True) -> Iterator[list[Case]]:
        """The wanted letters with nothing done about them yet, or those with something, in batches of bounded size."""
        for batch in self._batches(done):
            letters = [entry.letter for entry in batch]
            keys = self._judge.keys(letters) if self._judge else [None] * len(letters)
            keys = [key or letter.key for key, letter in zip(keys, letters, strict=True)]
            chosen = [(entry, key) for entry, key in zip(batch, keys, strict=True) if wanted.takes(entry, key)]
            forecasts = [""] * len(chosen)
            if forecast and self._judge and chosen:
                forecasts = self._judge.forecasts([entry.letter for entry, _ in chosen], [key for _, key in chosen])
            yield [
                Case(entry, key, self._decision(entry.letter, word), word, self._done(entry))
                for (entry, key), word in zip(chosen, forecasts, strict=True)
            ]

    def _batches(self, done: bool) -> Iterator[list[Entry]]:
        batch: list[Entry] = []
        size = 0
        for entry in self.entries():
            if (self._done(entry) is not None) != done:
                continue
            batch.append(entry)
            size += len(entry.letter.value or b"")
            if len(batch) >= BATCH_LETTERS_MAX or size >= BATCH_BYTES_MAX:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _done(self, entry: Entry) -> Done | None:
        return self._marks.done(entry.partition, entry.offset)

    def _decision(self, letter: Letter, forecast: str) -> Decision:
        """As the rules say; but what would die again stays: fifty such records in a row would stop its partition."""
        decision = decide(letter, self._rules)
        if decision.act == "resend" and forecast.startswith(DIES):
            return Decision("refuse", forecast, "it would be a dead letter again; mend its cause first")
        return decision


def _judge(settings: Settings, sync: SyncSettings, topics: SyncTopics, ends: dict[int, int]) -> Judge | None:
    """None where nothing names the message type."""
    if not sync.message:
        return None
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for other in settings.sync:
        with suppress(SchemaError):  # its files are where its worker runs
            _kind(other)
    return Judge(settings, sync, topics, _kind(sync), ends)


def _kind(sync: SyncSettings) -> type[Message]:
    """A sync's message. A worker knows those of all its syncs, and tells by them what is of another type."""
    return load_message(sync.message, descriptors=sync.descriptors or None, module=sync.module or None)


class Sender:
    """Writes replayed records, requests for snapshots and marks, at an even rate."""

    def __init__(self, settings: Settings, letters: Letters, per_second: int) -> None:
        self._log = letters.log
        self._app_id = settings.app.id
        self._topics = letters.topics
        self._per_second = per_second
        options = WriterOptions(security=settings.security, record_bytes_max=settings.limits.record_bytes_max)
        self._writer = open_writer(settings.app.broker, options)
        self._sent = 0
        self._started_s = time.monotonic()

    def close(self) -> None:
        """Lets go of the broker."""
        self._writer.close()

    def replay(self, cases: Iterable[Case]) -> Iterator[tuple[Case, TransportError | None]]:
        """Sends each on its way and marks it; with its error where its topic does not take it, being too large now.

        What was acknowledged is marked before anything else is sent. TransportError: the log refused something else.
        """
        for parcel in parcels(((case.entry, case) for case in cases), min(PARCEL_RECORDS, self._per_second)):
            time.sleep(max(0.0, self._started_s + self._sent / self._per_second - time.monotonic()))
            self._log.check()
            sent = [case for _, case in parcel]
            self._sent += len(sent)
            written = self._written(sent)
            acked = [case for case, result in zip(sent, written, strict=True) if isinstance(result, Ack)]
            for way in WAYS:
                self.mark([case.entry for case in acked if case.way == way], way)
            for case, result in zip(sent, written, strict=True):
                if isinstance(result, Ack):
                    yield case, None
                elif isinstance(result, RecordTooLargeError):
                    yield case, result
                else:
                    raise result

    def mark(self, entries: Sequence[Entry], done: Done) -> None:
        """Says of letters, durably, that this was done about them. TransportError: they are not there any more."""
        if entries:
            self._log.check()
        for partition in sorted({entry.partition for entry in entries}):
            offsets = [entry.offset for entry in entries if entry.partition == partition]
            for first in range(0, len(offsets), MARK_OFFSETS_MAX):
                records = Records()
                mark(records, done, offsets[first : first + MARK_OFFSETS_MAX])
                for result in self._writer.write(self._topics.dead_letters, records, partition):
                    if isinstance(result, TransportError):
                        raise result

    def _written(self, cases: Sequence[Case]) -> list[Outcome]:
        """What became of each. A broker refuses a whole batch for one record: each of it gets a try of its own."""
        written = self._ask(cases) if cases[0].decision.act == "ask" else self._resend(cases)
        for index, case in enumerate(cases):
            if len(cases) > 1 and isinstance(written[index], RecordTooLargeError):
                written[index] = self._written([case])[0]
        return written

    def _resend(self, cases: Sequence[Case]) -> list[Outcome]:
        records = Records()
        for case in cases:
            replayed(records, case.entry.letter)
        origin = cases[0].entry.letter
        return self._writer.write(origin.topic, records, origin.partition)

    def _ask(self, cases: Sequence[Case]) -> list[Outcome]:
        """One request for each; of several for one target and key the owner answers one."""
        records = Records()
        for case in cases:
            letter = case.entry.letter
            request = Resync(requester=f"{self._app_id}/{letter.target}", reason=Resync.OPERATOR)
            records.append(letter.key, request.SerializeToString())
        return self._writer.write(self._topics.resync, records, cases[0].entry.letter.partition)
