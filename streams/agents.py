"""What the app does about agents that raise: how often they are offered a record again, and where its letter goes."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from streams._native import Records
from streams.dead_letters.letter import bury, letter_room, write
from streams.errors import Finding, InputError, SettingsError, StreamsError, UserCodeError
from streams.options import AppSettings, Settings
from streams.sync.topics import HEADER_ROOM_BYTES
from streams.transport.chunk import Output
from streams.transport.course import Rules
from streams.transport.failure import UNREADABLE, Failure
from streams.transport.raised import kind_of, line_of

__all__ = ["Rescue", "named", "told"]

RETENTION_MS = 14 * 86_400_000
"""As that of the letters of a sync."""


def told(reason: BaseException) -> BaseException:
    """What ends a worker as it may be said: an error of ours, or of the system, as it is; else its type alone."""
    if isinstance(reason, StreamsError | OSError) or not isinstance(reason, Exception):
        return reason
    return UserCodeError("a timer, a task or a part of the app", kind_of(reason), line_of(reason))


def named(error: Exception, own: AppSettings) -> Exception:
    """What keeps a worker from starting, in our words where a user can do something about it."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return SettingsError(
            Finding(
                "app.web_port",
                f"{own.web_port}, which another process on {own.web_host} uses",
                "a free port",
                "set another one, for example in STREAMS_APP__WEB_PORT",
            )
        )
    return error


class Rescue:
    """One per app."""

    def __init__(self, app: Any, settings: Settings) -> None:
        own = settings.app
        self._app = app
        self._replication = own.replication
        self._record_bytes_max = settings.limits.record_bytes_max
        self._made: set[str] = set()
        self.stops = own.on_error == "stop"
        self.rules = Rules(own.error_retries, own.error_backoff_ms / 1000, own.error_backoff_max_ms / 1000)
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By topic: failures of its agents, and under the kernel's name for them, `dead.REASON`, the dead letters."""

    def count(self, topic: str, what: str) -> None:
        """One more of them."""
        self.counts[topic][what] += 1

    async def letter(self, records: Records, index: int, failure: Failure, refused: Mapping[str, int]) -> Output:
        """The dead letter of a record, for `{topic}.dlq`, which is made where it is missing. TransportError: later."""
        assert failure.place is not None  # it has a record
        topic, partition, _ = failure.place
        name, transport = f"{topic}.dlq", self._app.transport
        if name not in self._made:
            await asyncio.to_thread(transport.make_topic, name, topic, self._config(), self._replication)
            self._made.add(name)
        ids: dict[str, bytes] = await asyncio.to_thread(transport.log_ids, [topic])
        said = f": {failure.said}" if failure.said else ""
        detail = failure.said if failure.reason == UNREADABLE else f"agent {failure.agent} raised {failure.kind}{said}"
        error = InputError(failure.reason, detail)
        out = Records()
        room = letter_room(self._record_bytes_max + HEADER_ROOM_BYTES, refused.get(name))
        write(out, bury(records, index, topic, partition, error, ids.get(topic, b"")), room)
        return Output(name, -1, out)

    def _config(self) -> dict[str, str]:
        largest = self._record_bytes_max + HEADER_ROOM_BYTES
        return {"retention.ms": str(RETENTION_MS), "max.message.bytes": str(largest)}
