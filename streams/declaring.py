"""What has to hold before a worker works: its topics are there, their partitions fit, its outputs are its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streams._native import Job
from streams.errors import TransportError
from streams.ownership.registry import Registry, Wish
from streams.state.table import States
from streams.sync.agent import Sync
from streams.sync.topics import check_counts
from streams.worker import create_topics

__all__ = ["Declaring"]

LOOK_PAUSE_S = 10.0
"""Between two looks at partition counts: a key that moved to another partition meets the state of others until then."""


class Declaring:
    """Joins one app with its topics."""

    def __init__(self, app: Any, opener: Callable[[Sync], Callable[[Job, bytes], States]]) -> None:
        """`opener`: makes the keyed state of a sync."""
        self._app = app
        self._opener = opener
        self._claimed: set[str] = set()
        self._counts: dict[str, int] = {}  # partitions, as they were when they were first looked at
        self.registry = Registry(app)

    def declare(self, admin: Any, existing: Mapping[str, int]) -> Iterable[str]:
        """Creates the topics of each sync whose source exists, and claims its output; the topics to wait for.

        Runs in a thread, again until nothing is missing.
        """
        app, replication = self._app, self._app.settings.app.replication
        self._counts = dict(existing)
        waiting = [name for name in app.declared if name not in existing]
        create_topics(admin, [(name, app.declared[name], {}) for name in waiting], replication)
        # On the embedded log there is one process: only an output can have two owners, one after the other.
        if app.syncs or app.transport.open_tail is not None:
            create_topics(admin, self.registry.plans(existing), replication)
        for sync in app.syncs.values():
            partitions = existing.get(sync.topics.source)
            if partitions is None:
                waiting.append(sync.topics.source)
                continue
            check_counts(sync.topics, existing)
            plans = [
                plan for plan in sync.topics.plans(app.settings.limits.record_bytes_max) if plan.name not in existing
            ]
            create_topics(admin, [(plan.name, partitions, dict(plan.config)) for plan in plans], replication)
            waiting += [plan.name for plan in plans]
            existing = {**existing, **{plan.name: partitions for plan in plans}}
            self._claim(sync, partitions, existing)
            sync.set_up(partitions, self._opener(sync))
        if app.guarded is not None:
            missing, absent = app.guarded.declare(existing)
            create_topics(admin, missing, replication)
            waiting += [*absent, *(name for name, _, _ in missing)]
        return waiting

    def _claim(self, sync: Sync, partitions: int, existing: Mapping[str, int]) -> None:
        if sync.topics.output not in self._claimed:
            wish = Wish(sync.topics.source, sync.topics.output, sync.topics.changelog, partitions)
            sync.epoch_above = self.registry.claim(wish, existing).claim.epoch
            self._claimed.add(sync.topics.output)

    def follow(self) -> None:
        """The worker has subscribed: others' claims are heard from here on. Inside the event loop."""
        if self._claimed or self._app.transport.open_tail is not None:
            self.registry.start()

    async def watch(self) -> None:
        """Looks at partition counts until the worker stops. SettingsError: one of a sync grew, or a topic was made anew
        smaller. TransportError: another topic that is read here has other partitions than it had.

        Kafka's own clients notice after minutes, and then miss the state of the new partitions.
        """
        while not self._app.should_stop:
            await asyncio.sleep(LOOK_PAUSE_S)
            synced = [sync.topics for sync in self._app.syncs.values() if sync.topics.output in self._claimed]
            own = {name for topics in synced for name in topics.names}
            others = self._app.topics.read_here() - own
            try:
                counts = await asyncio.to_thread(self._app.transport.log_counts, [*own, *others])
            except TransportError:
                continue  # a broker that is away is others' to name
            for topics in synced:
                if topics.source in counts:
                    check_counts(topics, counts)
            for name in sorted(others & counts.keys()):
                before = self._counts.setdefault(name, counts[name])
                if counts[name] != before:
                    raise TransportError(
                        f"topic {name}: got {counts[name]} partitions, expected {before}, as when this worker started; "
                        "start it again, and it reads all of them; a table that is filled from them needs as many: "
                        "with another app.id everything is read anew",
                        topic=name,
                    )
