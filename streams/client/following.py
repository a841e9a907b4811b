"""What the async and the blocking receiver have in common: everything but the waiting."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic

from streams.client.beginning import LogReplaced
from streams.client.broker import Reader, ReaderOptions, Start, Writer, WriterOptions
from streams.client.change import Counts, M
from streams.client.connect import open_reader, open_writer
from streams.client.event import raw_bytes
from streams.client.follow import Follower, OnGap
from streams.client.kept import Kept
from streams.client.step import Result, Step, perform, settle
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError, TransportError
from streams.kernel.schema import MessageSchema
from streams.options import SecuritySettings

__all__ = ["ASK_TIMEOUT_MS", "FETCH_TIMEOUT_MS", "Following", "too_late"]

FETCH_TIMEOUT_MS = 200
"""How long one look for new records waits, and so how long a close may take."""
ASK_TIMEOUT_MS = 10_000
"""How long a request for a snapshot may take to be acknowledged: reading pauses meanwhile."""

_LOG = logging.getLogger(__name__)

Encoded = bytes
Key = bytes | str


class Following(Generic[M]):
    """Arguments, held messages and counts of a receiver. Made by `Receiver` and `BlockingReceiver` only."""

    def __init__(
        self,
        broker: str,
        topic: str,
        message_class: type[M],
        *,
        group: str | None = None,
        start: Start = "group",
        on_gap: OnGap = "snapshot",
        resync_topic: str | None = None,
        security: SecuritySettings | None = None,
        snapshots_per_second_max: float = 500,
        topic_timeout_ms: int = 30_000,
        datadir: str | Path | None = None,
        on_replaced: Callable[[LogReplaced], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Nothing is opened before the `with`. SettingsError when the arguments do not go together.

        `broker`: `kafka://host:port[,host:port]`, or `embedded://directory` in the process that owns the directory.
        `message_class`: the generated class of the entity's messages.
        `group`: members of a Kafka group share the topic's partitions and go on where the group's offsets are (the
        embedded log only keeps the offsets). Without a group, or with `start` "earliest", every partition is read from
        its beginning and nothing is committed.
        `on_gap`: "snapshot" asks the owner on `resync_topic` (default: `devices.resync` for `devices.patches`), at most
        `snapshots_per_second_max` times a second; "wait" only waits for what others ask for.
        `topic_timeout_ms`: how long a topic that does not exist yet is waited for.
        `datadir`: where what is held is kept, so that a restart holds what it held; one receiver at a time. Without it
        a member of a group begins with nothing: `is_stale` says so of every key that it has not seen since, and a key
        that is asked for with `get` is fetched from its owner.
        `on_replaced`: told of a partition whose position means nothing any more (the topic was made anew, or retention
        removed what was not read); also logged, and counted in `counts.logs_replaced`.
        """
        if not hasattr(message_class, "DESCRIPTOR"):
            raise SettingsError(Finding("message_class", type(message_class).__name__, "a generated message class"))
        self._follower = Follower(
            topic,
            message_class,
            group=group,
            start=start,
            keeps=datadir is not None,
            on_gap=on_gap,
            resync_topic=resync_topic,
            snapshots_per_second_max=snapshots_per_second_max,
        )
        if datadir is not None and not str(datadir):
            raise SettingsError(Finding("datadir", "nothing", "a directory", "leave it out to keep nothing"))
        self._broker = broker
        self._topic = topic
        self._options = ReaderOptions(group, start, security, topic_timeout_ms)
        self._clock = clock
        self._datadir = Path(datadir) if datadir is not None else None
        self._schema = MessageSchema(message_class)
        self._on_replaced = on_replaced
        self._opened: Reader | None = None
        self._kept: Kept | None = None
        self._writer: Writer | None = None
        self._process = 0  # id of the process that opened it

    def get(self, key: Key) -> M | None:
        """The message held of a key, as of the last change handed out; None: no such key, or deleted.

        A stale key's message is its last proven one. Parsed anew with every call. A key that may be stale is asked for.
        """
        self._follower.held.use(_bytes(key))
        return self._follower.held.get(_bytes(key))

    def bytes(self, key: Key) -> Encoded | None:
        """The canonical bytes held of a key, fields that the message class lacks included."""
        return self._follower.held.state(_bytes(key))

    def revision(self, key: Key) -> tuple[int, int] | None:
        """(epoch, revision) held of a key, after a DELETE that one's; None when nothing is held."""
        return self._follower.held.revision(_bytes(key))

    def states(self) -> Iterator[tuple[Encoded, M]]:
        """Every key with its message, deleted ones left out; each message is parsed when it is reached."""
        return self._follower.held.states()

    def is_stale(self, key: Key) -> bool:
        """Whether what is held of a key may be older than what its owner has: it waits for a snapshot, or this receiver
        began in the middle, or lost its place, and has not seen the key since."""
        places = self._follower.places
        return not places.assignment or bool(places.unknown()) or self._follower.held.is_stale(_bytes(key))

    @property
    def stale_keys(self) -> int:
        """Keys whose patch could not be applied, those held whose partition lost its place, and unknown ones that were
        asked for."""
        return self._follower.stale_keys

    @property
    def partial(self) -> frozenset[int]:
        """Partitions that were begun in the middle: keys may exist in them that nothing is held of."""
        return self._follower.held.rows.partial

    @property
    def counts(self) -> Counts:
        """What became of the patches read so far; goes on counting."""
        return self._follower.held.counts

    @property
    def requester(self) -> str:
        """This receiver's name on its requests: the group's, or one of its own."""
        return self._follower.requester

    def __len__(self) -> int:
        """Keys with a message."""
        return len(self._follower.held)

    @property
    def _reader(self) -> Reader:
        self._check_process()
        if self._opened is None:
            raise self._not_open()
        return self._opened

    def _check_process(self) -> None:
        """A fork has no part in its parent's connections: what it asked them would never be answered."""
        if self._process and self._process != os.getpid():
            raise TransportError(f"the receiver of {self._topic} was opened before a fork; open one in each process")

    def _not_open(self) -> TransportError:
        return TransportError(f"the receiver of {self._topic} is not open; use it inside `with`, and not after")

    def _open(self) -> None:
        """Blocks until the topic exists and reading has begun."""
        if self._process:
            raise TransportError(f"this receiver of {self._topic} was open before; make another one")
        if self._datadir is not None and self._kept is None:
            group, schema = self._options.group, self._schema
            self._kept = Kept(self._datadir, self._topic, group, schema.full_name, schema.fingerprint)
        self._opened = open_reader(self._broker, self._topic, self._options)
        self._process = os.getpid()

    def _perform(self, step: Step) -> Result:
        """One step's blocking calls."""
        names = self._follower.resync_topic, self._follower.requester
        return perform(step, self._reader, self._asking, self._kept, *names)

    def _absorb(self, result: Result) -> None:
        """Takes in what came of a step, and tells of places that were lost."""
        self._follower.absorb(result, self._now_ms())
        while self._follower.places.lost:
            lost = self._follower.places.lost.popleft()
            _LOG.warning("%s", lost)
            if self._on_replaced is not None:
                self._on_replaced(lost)
        if result.error is not None and not self._follower.has_records:
            raise result.error

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)

    def _asking(self) -> Writer:
        """The writer of requests, opened with the first one."""
        if self._writer is None:
            options = WriterOptions(self._options.security, delivery_timeout_ms=ASK_TIMEOUT_MS)
            self._writer = open_writer(self._broker, options)
        return self._writer

    def _close(self) -> None:
        """Commits what was taken and lets go of the broker."""
        if self._process and self._process != os.getpid():
            return  # its parent's
        reader, self._opened = self._opened, None
        writer, self._writer = self._writer, None
        kept, self._kept = self._kept, None
        try:
            if reader is not None:
                settle(self._follower.settle(), reader, kept)
        finally:
            if kept is not None:
                kept.close()
            if reader is not None:
                reader.close()
            if writer is not None:
                writer.close()


def _bytes(key: Key) -> bytes:
    return key if isinstance(key, bytes) else raw_bytes("key", key)


def too_late(topic: str, timeout_ms: int, *, is_assigned: bool) -> TimeoutError:
    """The end was not reached in time; a member of a group may have nothing to reach."""
    if is_assigned:
        return TimeoutError(f"{topic}: its end was not reached within {timeout_ms} ms")
    return TimeoutError(
        f"{topic}: no partition came to this receiver within {timeout_ms} ms; the group may have as many members as "
        "the topic has partitions, or one that died may still hold them for its session"
    )
