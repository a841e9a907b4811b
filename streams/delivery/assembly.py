"""Puts the parts of each target together: lanes, sender, route, and one feed for all targets of a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message

from streams.dead_letters.limit import Limit
from streams.delivery.agent import Deliveries, Delivering
from streams.delivery.attempt import Attempts, Means
from streams.delivery.body import JsonForm, protobuf_body
from streams.delivery.conflate import Conflater
from streams.delivery.dictionary import Dictionaries
from streams.delivery.feed import Feed
from streams.delivery.http import Sender
from streams.delivery.lane import Lanes
from streams.delivery.retry import policy
from streams.delivery.route import Route
from streams.delivery.signature import signing_key
from streams.delivery.stale import StaleKeys
from streams.delivery.target import Target
from streams.http import HttpClient
from streams.identity.credential import Credentials
from streams.identity.mtls import TlsFiles, tls_files
from streams.kernel.schema import MessageSchema
from streams.options import CircuitSettings, TargetSettings
from streams.transport.follow import Follower
from streams.transport.tail import Positions

__all__ = ["Order", "Workshop"]


@dataclass(frozen=True, slots=True)
class Order:
    """One target as it was asked for: its completed settings, and the class of its patches' messages."""

    settings: TargetSettings
    message: type[Message]


@dataclass(slots=True)
class Workshop:
    """Makes the targets of one worker. `clients` are to be closed when they have stopped."""

    app_id: str
    means: Means
    circuit: CircuitSettings
    dictionaries: Dictionaries
    open_follower: Callable[[Positions], Follower]
    log_start: Callable[[str, int], int]
    log_ids: Callable[[Iterable[str]], dict[str, bytes]]
    clients: list[HttpClient] = field(default_factory=list)
    senders: list[Sender] = field(default_factory=list)
    certificates: list[TlsFiles] = field(default_factory=list)

    def deliveries(self, app: Any, orders: Sequence[Order], progress_topic: str) -> Deliveries:
        """All targets, ready to be started. Raises SettingsError where a secret or a message type cannot be used."""
        credentials = Credentials(self.means.clock)
        parts = [self._route(order, credentials) for order in orders]
        takers: dict[str, list[Route]] = {}
        for route, _ in parts:
            takers.setdefault(route.target.topic, []).append(route)
        feeds: Mapping[str, Feed] = {
            topic: Feed(topic, routes, self.open_follower, self.log_start) for topic, routes in takers.items()
        }
        delivering = [
            Delivering(route, stale, feeds[route.target.topic], f"{self.app_id}-{route.target.source}-changelog")
            for route, stale in parts
        ]
        return Deliveries(app, delivering, self.means.outbox, progress_topic)

    async def prepare(self) -> None:
        """Reads every file once, so that a wrong one is told at start. SettingsError."""
        for each in self.certificates:
            await each.context()
        for sender in self.senders:
            await sender.prepare()

    def _route(self, order: Order, credentials: Credentials) -> tuple[Route, StaleKeys]:
        settings = order.settings
        means = replace(self.means, settings=policy(self.means.settings, settings))
        target = Target.of(settings, self.circuit, self.app_id)
        conflater = Conflater(MessageSchema(order.message).native)
        lanes = Lanes(
            conflater.compose,
            conflater.head,
            requester=target.requester.encode(),
            bytes_max=means.settings.pending_bytes_max,
        )
        tls = tls_files(settings, means.clock)
        client = HttpClient(connections_max=target.concurrency, allow_private=settings.allow_private, tls=tls)
        sender = Sender(
            target,
            client,
            JsonForm(order.message).body if target.format == "json" else protobuf_body,
            credential=credentials.of(settings, client),
            signing_key=signing_key(settings, means.clock),
            dictionaries=self.dictionaries,
            clock=means.clock,
        )
        self.clients.append(client)
        self.senders.append(sender)
        self.certificates += [tls] if tls is not None else []
        stale = StaleKeys(
            target,
            lanes,
            means.outbox,
            lambda: means.board.state(target.name),
            lambda: self.log_ids([target.topic]).get(target.topic, b""),
            means.clock,
        )
        attempts = Attempts(target, lanes, sender, stale, Limit(), means)
        return Route(target, lanes, attempts, stale, means.board, means.clock), stale
