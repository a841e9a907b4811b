"""Clients on the embedded log: in the process that owns its directory, side by side with a worker there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping

from streams._native import Records, murmur2_partition
from streams.client.beginning import Bounds, log_of
from streams.client.broker import Ack, Outcome, ReaderOptions, Run, check_new
from streams.errors import TransportError, UnknownTopicError
from streams.transport.log import Log

__all__ = ["Reader", "Writer"]

TOPIC_POLL_S = 0.05
"""How often a topic that does not exist yet is looked for; looking is a dictionary look-up."""


class Writer:
    """Appends to the log. One write is one transaction, durable as the log's `fsync` says."""

    def __init__(self, broker: str, directory: str) -> None:
        """Opens the directory, or shares it with whoever in this process has it open."""
        self._broker = broker
        self._log = Log.shared(directory)

    def write(self, topic: str, records: Records, partition: int = -1) -> list[Outcome]:
        """Appends in order and returns what became of each record. Partition -1: by murmur2 of the key."""
        count = self._log.partitions(topic)
        if count is None:
            unknown: Outcome = UnknownTopicError(topic, self._broker)
            return [unknown] * len(records)
        split: dict[int, Records] = {}
        places: list[tuple[int, int]] = []
        for index in range(len(records)):
            key = records.key(index)
            if partition >= 0:
                where = partition
            elif key is not None:
                where = murmur2_partition(key, count)
            else:
                where = random.randrange(count)  # as Kafka's producers spread records without a key
            share = split.setdefault(where, Records())
            places.append((where, len(share)))
            share.append(key, records.value(index), records.headers(index), records.timestamp_ms(index))
        try:
            self._log.append([(topic, where, share) for where, share in split.items()])
        except TransportError as error:
            if len(records) == 1:
                return [error]
            # Nothing of the batch was written. One record may be to blame, and is no other's fault.
            return [
                outcome for index in range(len(records))
                for outcome in self.write(topic, records.slice(index, index + 1), partition)
            ]  # fmt: skip
        return [Ack(topic, where, split[where].offset(index)) for where, index in places]

    def create_topic(self, topic: str, partitions: int) -> None:
        """Makes a topic; one that exists is left as it is."""
        check_new(topic, partitions)
        if self._log.partitions(topic) is None:
            self._log.create_topic(topic, partitions)

    def close(self) -> None:
        """Lets go of the log; the last one of this process closes it."""
        self._log.close()


class Reader:
    """Reads every partition of one topic. A group only keeps offsets here: its members do not share partitions."""

    def __init__(self, broker: str, directory: str, topic: str, options: ReaderOptions) -> None:
        """Opens the directory, or shares it. UnknownTopicError when the topic does not come in time."""
        self._broker = broker
        self._topic = topic
        self._topic_timeout_ms = options.topic_timeout_ms
        self._group = options.group
        self._log = Log.shared(directory)
        try:
            count = self._wait_for_topic(broker, options.topic_timeout_ms)
            self._grouped = options.group is not None and options.start == "group"
            held = self._log.committed(options.group) if options.group and self._grouped else {}
            self._positions = {
                (topic, partition): held.get((topic, partition), self._log.start(topic, partition))
                for partition in range(count)
            }
            self._id = self.log()
        except BaseException:
            self._log.close()
            raise
        self._failed: TransportError | None = None
        self._is_lost = False  # the topic is another one, which nobody was told yet
        self._at_end: set[int] = set()  # partitions whose end was reported at their position

    def fetch(self, records_max: int, timeout_ms: int) -> list[Run]:
        """The next records; waits up to `timeout_ms` for the first. A topic that is away is waited for."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        self._follow_topic()
        runs: list[Run] = []
        if not self._is_lost:
            try:
                runs = self._read(records_max, timeout_ms)
            except TransportError:
                if self.log() == self._id:
                    raise
        # What was read while the topic was made anew is of the old one, or of both.
        if self._follow_topic() or self._is_lost:
            self._is_lost = False
            return [Run(-1, Records(), -1, lost=True)]
        return runs

    def _follow_topic(self) -> bool:
        """Whether the topic is another one than it was: it is read from its beginning then."""
        if self.log() == self._id:
            return False
        count = self._wait_for_topic(self._broker, self._topic_timeout_ms)
        self._id, self._failed, self._is_lost = self.log(), None, True
        self._positions = {(self._topic, each): self._log.start(self._topic, each) for each in range(count)}
        self._at_end.clear()
        return True

    def _read(self, records_max: int, timeout_ms: int) -> list[Run]:
        cut = [where for where, position in self._positions.items() if position < self._log.start(*where)]
        if cut:
            return [Run(partition, Records(), -1, lost=True) for _, partition in cut]
        ready = self._log.wait(self._positions, timeout_ms)
        runs = []
        for where in ready:
            # The end first: what is appended after this look is the next fetch's.
            end = self._log.end(*where)
            try:
                records = self._log.read(*where, self._positions[where], max(records_max // len(ready), 1))
            except TransportError as error:
                self._failed = error  # told next time: what the others gave is not lost
                continue
            after = records.last_offset + 1 if len(records) else end
            self._positions[where] = max(after, self._positions[where])
            self._at_end.discard(where[1])
            runs.append(Run(where[1], records, -1))
        for where, position in self._positions.items():
            if position >= self._log.end(*where) and where[1] not in self._at_end:
                self._at_end.add(where[1])
                runs.append(Run(where[1], Records(), position))
        return runs

    def assignment(self) -> frozenset[int]:
        """Every partition of the topic."""
        return frozenset(partition for _, partition in self._positions)

    def membership(self) -> tuple[str, int]:
        """Always the same: nobody else has a part."""
        return ("", -1)

    def ends(self) -> dict[int, int]:
        """Per partition the offset that the next record gets."""
        self._follow_topic()
        return {partition: self._log.end(topic, partition) for topic, partition in self._positions}

    def log(self) -> bytes:
        """The topic's id; empty while there is no such topic."""
        topic = self._log.topics().get(self._topic)
        return topic.id if topic is not None else b""

    def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        """See `Reader.bounds`."""
        self._follow_topic()
        kept = self._log.kept(self._group) if self._group and self._grouped else {}
        found = {}
        for partition in partitions:
            where = (self._topic, partition)
            if where not in self._positions:
                continue  # the topic has fewer partitions now
            offset, metadata = kept.get(where, (None, ""))
            start, end = self._log.start(*where), self._log.end(*where)
            found[partition] = Bounds(start, end, self.log(), offset, log_of(metadata), self._positions[where])
        return found

    def seek(self, offsets: Mapping[int, int]) -> bool:
        """See `Reader.seek`."""
        for partition, offset in offsets.items():
            self._positions[self._topic, partition] = offset
            self._at_end.discard(partition)
        return True

    def commit(self, offsets: Mapping[int, int], log: bytes = b"") -> bool:
        """Keeps the group's offsets in the log; False where the topic is another one now."""
        if self._group and offsets and log == self.log():
            moved = [(self._topic, partition, at, log.hex()) for partition, at in offsets.items()]
            self._log.append([], self._group, moved)
            return True
        return not offsets or not self._group

    def close(self) -> None:
        """Lets go of the log; the last one of this process closes it."""
        self._log.close()

    def _wait_for_topic(self, broker: str, timeout_ms: int) -> int:
        deadline_s = time.monotonic() + timeout_ms / 1000
        while (count := self._log.partitions(self._topic)) is None:
            if time.monotonic() >= deadline_s:
                raise UnknownTopicError(self._topic, broker)
            time.sleep(TOPIC_POLL_S)
        return count
