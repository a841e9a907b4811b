"""The native Kafka clients of one worker: opened with its settings, handed its tokens, their logs heard.

The one path by which they come to be: one that is opened beside it would know no token, or keep its first for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from streams._native import KafkaAdmin, KafkaError
from streams.errors import StreamsError
from streams.transport.credentials import Credentials
from streams.transport.security import Token

__all__ = ["NativeClients", "batch_bytes_max"]

log = logging.getLogger(__name__)

LOOK_TIMEOUT_MS = 5_000
BATCH_SHARE = 90
"""Per cent of its topic's limit that a batch has before compression; the rest is for what its format adds."""
LINES_MAX = 20
"""Different lines that one client has logged at one look; a broker that is away repeats a few for every connection."""


class _Native(Protocol):
    """What the native clients have in common."""

    def set_token(self, token: str, expires_ms: int, principal: str) -> None: ...


C = TypeVar("C", bound=_Native)


class _Open:
    """One client and the token that it has."""

    __slots__ = ("client", "handed")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.handed = ""


class NativeClients:
    """Opens clients and looks after those that are open. Thread-safe; every method may block for a token."""

    def __init__(self, config: Mapping[str, str], credentials: Credentials) -> None:
        """`config`: what every client needs, how it logs in included."""
        self._config = dict(config)
        self._credentials = credentials
        self._lock = threading.Lock()
        self._open: list[_Open] = []

    def open(self, client: Callable[[dict[str, str]], C], config: Mapping[str, str] | None = None) -> C:
        """A client with these settings beside the common ones.

        KafkaError as the client has it; TransportError, SettingsError: there is no valid token to be had.
        """
        opened = _Open(client({**self._config, **(config or {})}))
        try:
            self._hand(opened, self._credentials.token)
        except BaseException:
            if hasattr(opened.client, "close"):
                opened.client.close()
            raise
        if hasattr(opened.client, "close"):  # one for administration is made for a moment
            with self._lock:
                self._open.append(opened)
        return opened.client  # type: ignore[no-any-return]

    def hand_token(self, client: _Native) -> None:
        """Gives a client the current token, where one is needed."""
        self._hand(_Open(client), self._credentials.token)

    def tend(self) -> None:
        """Hands every open client a token before its last one expires, and says what they logged; called now and then.

        TransportError, SettingsError, KafkaError: there is no token to be had now. What was closed is forgotten.
        """
        with self._lock:
            held = list(self._open)
        closed = []
        for opened in held:
            try:
                _say(opened.client.logs())
                self._hand(opened, self._credentials.fresh_token)
            except RuntimeError:  # closed meanwhile
                closed.append(opened)
        with self._lock:
            self._open = [opened for opened in self._open if opened not in closed]

    def _hand(self, opened: _Open, read: Callable[[], Token]) -> None:
        if not self._credentials.uses_token:
            return
        token = read()
        if token.value != opened.handed:
            opened.client.set_token(token.value, token.expires_ms, token.principal)
            opened.handed = token.value


def batch_bytes_max(clients: NativeClients, topic: str) -> int | None:
    """Bytes of records that a topic surely takes in one batch; None: nobody says, or this user may not look. Blocks."""
    try:
        found = clients.open(KafkaAdmin).topic_config(topic, LOOK_TIMEOUT_MS)
        return int(found["max.message.bytes"]) * BATCH_SHARE // 100
    except (KafkaError, StreamsError, KeyError, ValueError):
        return None


def _say(lines: list[str]) -> None:
    """What a client has to say, each line once: a refused login shows nowhere else."""
    different = list(dict.fromkeys(lines))
    for line in different[:LINES_MAX]:
        log.warning("%s", line)
    if len(lines) > min(len(different), LINES_MAX):
        log.warning("librdkafka: %d more lines of this kind", len(lines) - min(len(different), LINES_MAX))
