"""/metrics in Prometheus' text format: `streams_*`, base units, labels topic, partition and reason; never a key."""

from __future__ import annotations

import asyncio
from collections import Counter as Totals
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from streams.observe.health import Health
from streams.transport.progress import Stalled

__all__ = ["COUNTERS", "Metrics"]


class Counter(NamedTuple):
    """A counter of the kernel as a metric; `reason` is a label's value."""

    name: str
    help: str
    reason: str = ""


WITHOUT_PATCH = ("streams_events_without_patch", "Applied events that changed nothing worth a patch")
DROPPED = ("streams_events_dropped", "Events that were seen before or came too late, by what gave them away")
CANONICALISED = (
    "streams_messages_canonicalised",
    "Messages that came in another than the canonical form, by who mended them",
)
UNREADABLE = ("streams_attributes_unreadable", "Attributes of events that were left out because they cannot be read")
REFUSED = ("streams_requests_refused", "Snapshot requests that could not be answered here")

COUNTERS = {
    "events": Counter("streams_events", "Source records processed"),
    "patches": Counter("streams_patches", "Patches produced"),
    "snapshots": Counter("streams_patches_snapshot", "Patches that carry the whole message"),
    "deltas": Counter("streams_patches_delta", "Patches that carry changed fields"),
    "deletes": Counter("streams_patches_delete", "Patches that end an entity"),
    "unchanged": Counter(*WITHOUT_PATCH, "unchanged"),
    "ignored": Counter(*WITHOUT_PATCH, "ignored"),
    "delete-unknown": Counter(*WITHOUT_PATCH, "delete-unknown"),
    "dropped.offset": Counter(*DROPPED, "offset"),
    "dropped.id": Counter(*DROPPED, "id"),
    "dropped.sequence": Counter(*DROPPED, "sequence"),
    "dropped.superseded": Counter(*DROPPED, "superseded"),
    "dropped.origin": Counter(*DROPPED, "origin"),
    "sequences-unkept": Counter(
        "streams_sequences_unkept", "Events whose sequence was not kept: their key has those of eight other sources"
    ),
    "fallback.native": Counter(*CANONICALISED, "native"),
    "fallback.upb": Counter(*CANONICALISED, "upb"),
    "non-canonical": Counter(
        "streams_messages_non_canonical", "Messages without a canonical form, sent without a digest"
    ),
    "stuck-keys": Counter("streams_keys_stuck", "Keys that dropped 100 events in a row"),
    "value_bytes": Counter("streams_event_bytes", "Bytes of the source records' values"),
    "message_bytes": Counter("streams_message_bytes", "Bytes of the messages in them"),
    "patch_bytes": Counter("streams_patch_bytes", "Bytes of the patches, uncompressed"),
    "rows": Counter("streams_rows_changed", "Rows written to the changelog"),
    "row_bytes": Counter("streams_row_bytes", "Bytes of these rows with their keys, at most"),
    "expired": Counter("streams_tombstones_expired", "Rows of deleted keys removed after their retention"),
    "requests.without-key": Counter(*REFUSED, "without-key"),
    "requests.foreign": Counter(*REFUSED, "foreign"),
    "requests.unknown": Counter(*REFUSED, "unknown"),
    "resumes": Counter("streams_partition_resumes", "Stops of a partition that a request ended"),
    "repaired": Counter("streams_rows_repaired", "Rows put right that an owner wrote which was none any more"),
    "requests.damaged": Counter(*REFUSED, "damaged"),
    "requests.too-large": Counter(*REFUSED, "too-large"),
    "rekeyed": Counter("streams_events_rekeyed", "Source records copied under their entity key"),
    "skipped.type": Counter("streams_events_skipped", "Source records passed over because they hold another type"),
    "unreadable.time": Counter(*UNREADABLE, "time"),
    "unreadable.traceparent": Counter(*UNREADABLE, "traceparent"),
    "unreadable.tracestate": Counter(*UNREADABLE, "tracestate"),
    "unreadable.correlation-id": Counter(*UNREADABLE, "correlation-id"),
    "sequence-resets": Counter("streams_sequences_reset", "Keys whose sequences were forgotten on request"),
}
"""The kernel's counters by its names. Counters `dead.REASON` become streams_dead_letters_total."""

BESIDE = {
    "failures": Counter("streams_agent_failures", "Times that an agent raised on a record or a chunk of them"),
    "requests.unanswerable": Counter(*REFUSED, "unanswerable"),
    "letters.unwritable": Counter(
        "streams_dead_letters_unwritable", "Dead letters that their topic takes in no size; the log names their offsets"
    ),
    "answers.strange": Counter(
        "streams_answers_strange", "Records among the answers to agents' questions that are none"
    ),
    "answers.refused": Counter(
        "streams_answers_refused",
        "Answers that were not sent: the topic that they were asked to is no reply topic, or does not exist",
    ),
}
"""What is counted beside the kernel."""

DELIVERY_COUNTERS = {
    "patches": ("streams_delivered_patches", "Patches that targets took"),
    "requests": ("streams_delivery_requests", "Requests made, retries included"),
    "retries": ("streams_delivery_retries", "Requests repeated"),
    "bytes": ("streams_delivery_bytes", "Bytes of request bodies as they were sent"),
    "stale": ("streams_delivery_stale_keys", "Keys that a target answered 409 for"),
    "answers": ("streams_delivery_answers", "What requests came to, by class"),
    "dead": ("streams_delivery_dead_letters", "Patches that became dead letters, by reason"),
}
"""A route's counters by its names; those with a dot carry the reason behind it."""
WITH_REASON = {"answers", "dead"}
OTHER = "Counted under a name that this release's metrics do not describe, by that name"
ROUTE_GAUGES = {
    "pending_patches": "Patches that wait for the target",
    "pending_bytes": "Memory of what waits for the target",
    "in_flight_requests": "Requests on their way",
    "waiting_keys": "Keys that wait for a snapshot",
}
LOOKUP_REASONS = ("hits", "joined", "shared", "fetched", "stale", "failed")


class Metrics(Collector):
    """Reads the worker's numbers when it is asked for them; nothing is counted twice for it."""

    def __init__(self, app: Any, health: Health) -> None:
        self._app = app
        self._health = health
        self._open: dict[str, bool] = {}  # circuits, as of this request
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def mount(self) -> None:
        """Adds /metrics to the worker's web server."""

        async def metrics(view: Any, request: Any) -> Any:
            # The board belongs to this thread.
            if (guarded := self._app.guarded) is not None:
                names = [circuit["target"] for circuit in guarded.board.view()]
                self._open = {name: guarded.board.is_open(name) for name in names}
            # In a thread: a table that works on a chunk has its lock for as long.
            body = await asyncio.to_thread(generate_latest, self._registry)
            return view.bytes(body, headers={"Content-Type": CONTENT_TYPE_LATEST})

        self._app.page("/metrics")(metrics)

    def describe(self) -> Iterable[Any]:
        """Nothing: names and labels are known when there is something to collect."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Everything there is, as it is now."""
        yield from self._worker()
        yield from self._partitions()
        yield from self._transactions()
        by_topic = {topic: Totals(sync.counts) for topic, sync in self._app.syncs.items()}
        for topic, counts in self._app.rescue.counts.copy().items():
            by_topic[topic] = by_topic.get(topic, Totals()) + counts
        yield from counters(by_topic)
        yield from self._syncs()
        yield from self._targets()

    def _worker(self) -> Iterator[Any]:
        reasons = self._health.reasons()
        yield GaugeMetricFamily("streams_ready", "1 where the worker has its partitions and their state", not reasons)
        stalled = isinstance(self._health.verdict, Stalled)
        yield GaugeMetricFamily("streams_stalled", "1 where a topic stands still without a reason", stalled)
        waiting = GaugeMetricFamily("streams_waiting", "1 for each declared reason to wait", labels=["reason"])
        for reason in reasons:
            waiting.add_metric([reason], 1)
        yield waiting

    def _partitions(self) -> Iterator[Any]:
        lag = GaugeMetricFamily(
            "streams_lag_records", "Records up to the last stable offset", labels=["topic", "partition"]
        )
        for place in self._health.places:
            lag.add_metric([place.topic, str(place.partition)], place.lag)
        yield lag
        held = GaugeMetricFamily(
            "streams_held_records",
            "Records behind another producer's hanging transaction",
            labels=["topic", "partition"],
        )
        for hold in self._health.held:
            held.add_metric([hold.topic, str(hold.partition)], hold.records)
        yield held
        stopped = GaugeMetricFamily(
            "streams_partition_stopped",
            "1 for a partition that stands still until `streams resume`, by what stopped it",
            labels=["topic", "partition", "reason"],
        )
        for tp, stop in self._app.consumer.stops:
            stopped.add_metric([tp.topic, str(tp.partition), stop.code], 1)
        yield stopped

        expired = CounterMetricFamily(
            "streams_records_expired",
            "Offsets of topics of our own that expired before they were read",
            labels=["topic"],
        )
        for topic, count in self._app.transport.expiry.counts.copy().items():
            expired.add_metric([topic], count)
        yield expired
        replaced = CounterMetricFamily(
            "streams_logs_replaced", "Partitions that were found to be of another log than before", labels=["topic"]
        )
        for topic, count in self._app.log_watch.replaced.copy().items():
            replaced.add_metric([topic], count)
        yield replaced
        registry = self._app.declaring.registry
        damaged = CounterMetricFamily(
            "streams_records_damaged", "Records in topics of our own that are none, and were ignored", labels=["topic"]
        )
        guarded = self._app.guarded
        found = {registry.topic: sum(registry.claims.counts.values()), **(guarded.damaged if guarded else {})}
        for topic, count in found.items():
            damaged.add_metric([topic], count)
        yield damaged

    def _transactions(self) -> Iterator[Any]:
        ledger = self._app.consumer.ledger
        yield CounterMetricFamily("streams_transactions", "Transactions committed", ledger.transactions)
        allowed = self._app.consumer.pipeline.allowed
        yield GaugeMetricFamily(
            "streams_transaction_allowed_bytes",
            "What a transaction may hold; less while large ones fail",
            allowed.bytes,
        )
        for step, seconds in dict(ledger.seconds).items():
            yield CounterMetricFamily(
                f"streams_transaction_{step}_seconds", f"Time spent in the step {step} of transactions", seconds
            )

    def _syncs(self) -> Iterator[Any]:
        kernel = CounterMetricFamily("streams_kernel_seconds", "Time spent in the kernel", labels=["topic"])
        restore = GaugeMetricFamily("streams_restore_seconds", "How long the last restore took", labels=["topic"])
        rows = GaugeMetricFamily("streams_rows", "Rows in memory, of deleted keys too", labels=["topic", "partition"])
        size = GaugeMetricFamily("streams_state_bytes", "Memory of the rows", labels=["topic", "partition"])
        restored = GaugeMetricFamily(
            "streams_restored_rows", "Rows read from the changelog at the last restore", labels=["topic", "partition"]
        )
        for topic, sync in self._app.syncs.items():
            kernel.add_metric([topic], sync.kernel_seconds)
            if not sync.has_states:
                continue
            restore.add_metric([topic], sync.states.restore_seconds)
            for state in sync.states:
                labels = [topic, str(state.partition)]
                rows.add_metric(labels, len(state.table))
                size.add_metric(labels, state.table.nbytes)
                restored.add_metric(labels, state.restored)
        yield from (kernel, restore, rows, size, restored)

    def _targets(self) -> Iterator[Any]:
        guarded = self._app.guarded
        if guarded is None:
            return
        circuits = GaugeMetricFamily("streams_circuit_open", "1 where calls are refused now", labels=["target"])
        for name, is_open in self._open.items():
            circuits.add_metric([name], is_open)
        moved = CounterMetricFamily(
            "streams_circuit_transitions", "Transitions of circuits, by new state", labels=["target", "reason"]
        )
        for (name, state), count in guarded.circuits.transitions.copy().items():
            moved.add_metric([name, state], count)
        yield from (circuits, moved)
        routes = guarded.deliveries.routes if guarded.deliveries is not None else ()
        yield from deliveries({route.name: dict(route.counts) for route in routes})
        for name, meaning in ROUTE_GAUGES.items():
            gauge = GaugeMetricFamily(f"streams_delivery_{name}", meaning, labels=["target"])
            for route in routes:
                gauge.add_metric([route.name], route.view()[name])
            yield gauge
        if guarded.lookups is not None:
            found = CounterMetricFamily(
                "streams_lookups", "Look-ups, by where the answer was", labels=["target", "reason"]
            )
            for target, counts in guarded.lookups.counts.items():
                for reason in LOOKUP_REASONS:
                    found.add_metric([target, reason], getattr(counts, reason))
            yield found


def deliveries(by_target: Mapping[str, Mapping[str, int]]) -> Iterator[CounterMetricFamily]:
    """What became of each target's patches and requests, under public names."""
    families: dict[str, CounterMetricFamily] = {}
    for target, counts in by_target.items():
        for name, count in counts.items():
            kind, _, reason = name.partition(".")
            if kind not in DELIVERY_COUNTERS or bool(reason) != (kind in WITH_REASON):
                # One counter that nobody described must not cost all the others.
                reason, (public, meaning) = name, ("streams_delivery_other", OTHER)
            else:
                public, meaning = DELIVERY_COUNTERS[kind]
            labels = ["target", "reason"] if reason else ["target"]
            family = families.setdefault(public, CounterMetricFamily(public, meaning, labels=labels))
            family.add_metric([target, reason] if reason else [target], count)
    yield from families.values()


def counters(by_topic: Mapping[str, Mapping[str, int]]) -> Iterator[CounterMetricFamily]:
    """The kernel's counters of each topic, under their public names."""
    families: dict[str, CounterMetricFamily] = {}
    for topic, counts in by_topic.items():
        for name, count in counts.items():
            if name.startswith("dead."):
                reason = name.removeprefix("dead.")
                counter = Counter("streams_dead_letters", "Records that could not be processed, by reason", reason)
            else:
                counter = COUNTERS.get(name) or BESIDE.get(name) or Counter("streams_kernel_other", OTHER, name)
            labels = ["topic", "reason"] if counter.reason else ["topic"]
            family = families.setdefault(counter.name, CounterMetricFamily(counter.name, counter.help, labels=labels))
            family.add_metric([topic, counter.reason] if counter.reason else [topic], count)
    yield from families.values()
