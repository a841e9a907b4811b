"""Health of a worker: /livez by progress, /readyz by assignment and restored state, and the stall rule.

Faust's own page says OK whatever happens.
"""

from __future__ import annotations

import asyncio
from typing import Any

from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import StallError, TransportError
from streams.transport.failing import TRANSACTION
from streams.transport.progress import Held, Holds, Place, Progressing, Stalled, Verdict, Waiting, Watch

__all__ = ["Health"]

LOOKS_PER_TIMEOUT = 4
LOOK_PAUSE_MAX_S = 5.0
"""Between two looks: often enough to end within a quarter of the timeout, rare enough to cost the broker nothing."""
TRANSACTION_MAX_S = 60.0
"""A transaction that takes longer hangs: the longest time-out that clients have unless told otherwise."""
SERVICE_UNAVAILABLE = 503
FOLLOWS = ("broker", "restore", TRANSACTION)
"""Reasons that follow from a topic that was deleted."""


class Health:
    """Looks at the worker's partitions now and then, and remembers what it saw."""

    def __init__(self, app: Any, timeout_ms: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._app = app
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._watch = Watch(timeout_ms / 1000)
        self._unreachable: dict[str, str] = {}
        self.assigned = False
        """Whether partitions are assigned and their state is restored; the app says so."""
        self._holds = Holds(TRANSACTION_MAX_S)
        self.held: list[Held] = []
        """Where other producers' transactions hang, as of the last look."""
        self.places: tuple[Place, ...] = ()
        """The assigned partitions at the last look."""
        self.verdict: Verdict = Progressing()
        """What the last look came to."""

    def mount(self) -> None:
        """Adds /livez and /readyz to the worker's web server."""

        async def livez(view: Any, request: Any) -> Any:
            stalled = isinstance(self.verdict, Stalled)
            return view.json(self.report(), status=SERVICE_UNAVAILABLE if stalled else 200)

        async def readyz(view: Any, request: Any) -> Any:
            reasons = self.reasons()
            said = {
                "ready": not reasons,
                "reasons": {**reasons, **self.held_back()},
                "replaced": dict(self._app.log_watch.notes),
                "partitions": len(self.places),
            }
            return view.json(said, status=SERVICE_UNAVAILABLE if reasons else 200)

        self._app.page("/livez")(livez)
        self._app.page("/readyz")(readyz)

    def reasons(self) -> dict[str, str]:
        """Why this worker is not ready, by what it waits for; empty: it is ready."""
        reasons = self._declared()
        if not self.assigned:
            reasons.setdefault("assignment", "waiting for partitions")
        elif not self._app.consumer.is_member():
            reasons.setdefault("group", "not in the group at the moment: others may have its partitions")
        return reasons

    def _declared(self) -> dict[str, str]:
        """Of a topic that was deleted that alone: what a client says of it names another, or the broker."""
        reasons = {**self._unreachable, **self._app.transport.reasons}
        return {name: said for name, said in reasons.items() if "deleted" not in reasons or name not in FOLLOWS}

    def held_back(self) -> dict[str, str]:
        """Partitions that stand still for a reason of their own; the worker is ready all the same.

        Another producer's hanging transaction holds them back, or they are stopped until somebody lets them go on.
        """
        stopped = {f"stopped {tp.topic}/{tp.partition}": stop.reason for tp, stop in self._app.consumer.stops}
        return stopped | {
            f"transaction {held.topic}/{held.partition}": (
                f"{held.records} records from offset {held.offset} on wait for an open transaction since "
                f"{held.for_s:.0f} s; find its producer, or abort it with kafka-transactions.sh"
            )
            for held in self.held
        }

    def report(self) -> dict[str, Any]:
        """How it goes: progressing, waiting (and for what) or stalled (and where), and the records still to do."""
        verdict = self.verdict
        said: dict[str, Any] = {"progress": type(verdict).__name__.lower(), "lag": sum(p.lag for p in self.places)}
        if isinstance(verdict, Waiting):
            said["reasons"] = dict(verdict.reasons)
        if isinstance(verdict, Stalled):
            said |= {"topic": verdict.topic, "partition": verdict.partition}
        return said

    async def watch(self) -> None:
        """Looks until the worker stops. StallError ends it where a topic stands still without a reason."""
        pause_s = min(LOOK_PAUSE_MAX_S, self._timeout_ms / 1000 / LOOKS_PER_TIMEOUT)
        while not self._app.should_stop:
            await asyncio.sleep(pause_s)
            if not self.assigned:
                # What moves then is the group; each topic has the whole timeout again afterwards.
                self._watch = Watch(self._watch.timeout_s)
                self.verdict, self.places = Waiting(self.reasons()), ()
                continue
            await self.look()
            if isinstance(self.verdict, Stalled):
                raise self._stall(self.verdict)

    async def look(self) -> None:
        """Asks for the ends of the assigned partitions and judges what moved since the last look."""
        consumer, transport = self._app.consumer, self._app.transport
        watched = [tp for tp in consumer.assignment() if self._is_watched(tp)]
        before, self._unreachable = self._unreachable, {}
        try:
            ends = await asyncio.to_thread(lambda: {tp: transport.log_end(*tp) for tp in watched})
            open_ends = await asyncio.to_thread(lambda: {tp: transport.open_end(*tp) for tp in watched})
            if not watched:  # without a partition of its own a worker is ready, but not without a broker
                await asyncio.to_thread(transport.log_counts, [self._app.settings.app.owners_topic])
        except TransportError as error:
            consumer.logs.doubt()
            self._unreachable = before or {"broker": f"unreachable: {error}"}
            ends = open_ends = {}
        now_s = self._clock.monotonic_s()
        self.held = self._holds.observe(now_s, {tp: (end, open_ends[tp]) for tp, end in ends.items()})
        places = []
        for tp, end in ends.items():
            done, fetched = consumer.pace.done.get(tp), await consumer.position(tp)
            places.append(Place(tp.topic, tp.partition, done, fetched, consumer.highwater(tp), end))
        self.places = tuple(places)
        reasons = self._declared()
        # One that is stopped, or that an agent does not take, is not expected to move, and hides no other that is.
        moving = [place for place in places if not self._stands(place)]
        verdict = self._watch.observe(now_s, moving, consumer.pace.steps(), consumer.waits.beside(reasons))
        self.verdict = Waiting(reasons) if reasons and isinstance(verdict, Progressing) else verdict

    def _stands(self, place: Place) -> bool:
        where = (place.topic, place.partition)
        return where in self._app.consumer.stops or self._app.consumer.waits.hold(*where)

    def _is_watched(self, tp: Any) -> bool:
        """Changelogs of Faust's tables have Faust's recovery; a topic without acknowledgements has no progress."""
        topics = self._app.topics
        if tp.topic in self._app.tables.changelog_topics:
            return False
        return bool(topics.is_chunked(tp.topic) or topics.acks_enabled_for(tp.topic))

    def _stall(self, stalled: Stalled) -> StallError:
        place = next(p for p in self.places if (p.topic, p.partition) == (stalled.topic, stalled.partition))
        last_step = self._app.consumer.pace.last_step(place.topic, place.partition, place.fetched)
        return StallError(stalled.topic, stalled.partition, self._timeout_ms, stalled.lag, last_step)
