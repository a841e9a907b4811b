"""`streams demo`: the main job on one machine over a month of real flights, from producer to receiver.

The worker is the real one: an `App` with one `sync`, on the embedded transport unless told otherwise. A `Producer`
sends the events and a `Receiver` applies every patch, all in this process. Patches also go to a receiver over HTTP that
is away for most of the run: its circuit opens, what waits for it conflates, and it is level again soon after it is
back. In the end both receivers' bytes are held against a plain replay of the same month.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path

import orjson
from rich.console import Console

from streams import settings
from streams.app import App
from streams.client.broker import Reader, ReaderOptions
from streams.client.connect import open_reader
from streams.client.event import Event
from streams.client.producer import Producer
from streams.client.receiver import Receiver
from streams.clock import SYSTEM_CLOCK, Clock
from streams.demo.flights import events
from streams.demo.progress import Steps
from streams.demo.receiver import HttpReceiver
from streams.demo.replay import Replay
from streams.demo.report import Report
from streams.demo.sizes import BATCH_PATCHES, Sizes
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.errors import EXIT_DONE, EXIT_FAILED, Finding, SettingsError, TransportError, UnknownTopicError
from streams.sync.agent import Sync

TOPIC = "aircraft"
TYPE = AircraftState.DESCRIPTOR.full_name
PATCHES = f"{TOPIC}.patches"
PARTITIONS = 4
TARGET = "ground-control"
SICK_AFTER_SHARE = 4
"""The HTTP receiver falls sick after a quarter of the patches, and is well again when all are in the log."""
CIRCUIT = {"window_ms": 5_000, "calls_min": 4, "open_ms": 500, "open_ms_max": 1_000}
"""A month in some seconds needs a circuit that is as much quicker."""
STALL_TIMEOUT_S = 30.0
"""The whole run takes less on a slow machine; a worker that takes nothing for so long is broken."""
POLL_MS = 50
READ_TIMEOUT_MS = 1_000
SHOW_EVERY = 250
"""Showing each single event would cost more than handling it."""

Count = Callable[[int], None]


def run(
    events_limit: int | None = None,
    broker: str | None = None,
    datadir: Path | None = None,
    json: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Run the demo and print what came out; answers the exit code: 1 when the receiver's states are not the replay's.

    `events_limit`: at most so many deliveries. `broker`: kafka://host:port or embedded://directory; default: embedded
    in `datadir`. `datadir`: default a temporary directory, gone afterwards. `json`: one object on standard output
    instead of the table; progress goes to standard error either way. Raises StreamsError where the job itself fails.
    """
    with _directory(datadir) as directory:
        address = broker or f"embedded://{directory / 'log'}"
        given = {"app.id": "demo", "app.broker": address, "app.datadir": str(directory)}
        given |= {f"circuit.{name}": str(value) for name, value in CIRCUIT.items()}
        demo = Demo(settings.read(flags=given), events_limit, clock)
        report = asyncio.run(demo.report(Console(stderr=True)))
    if json:
        sys.stdout.write(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        Console().print(report.as_table())
    return EXIT_DONE if report.verified else EXIT_FAILED


class Demo:
    """One run: who takes part in it, and the order of its steps."""

    def __init__(self, chosen: settings.Settings, events_limit: int | None, clock: Clock) -> None:
        self._settings = chosen
        self._broker = chosen.app.broker
        self._limit = events_limit
        self._clock = clock

    async def report(self, console: Console) -> Report:
        """Streams the month through the worker, replays it plainly, and compares."""
        deliveries, repeated = self._deliveries()
        total, patches = len(deliveries), len(deliveries) - repeated
        totals = {"sent": total, "worked off": total, "applied": patches, "replayed": total}
        with Steps(console, totals) as steps, HttpReceiver(patches // SICK_AFTER_SHARE) as http:
            receiver, sync, seconds = await self._stream(deliveries, patches, http, steps)
            replay = self._replay(steps.counter("replayed"))
        held = {key.decode(): receiver.bytes(key) or b"" for key, _ in receiver.states()}
        sizes = await asyncio.to_thread(self._sizes)
        return Report(
            events=replay.events,
            duplicates_injected=repeated,
            duplicates_dropped=sum(count for name, count in sync.counts.items() if name.startswith("dropped.")),
            patches=receiver.counts.applied,
            aircraft=len(held),
            full_json_bytes=replay.json_bytes,
            full_protobuf_bytes=replay.protobuf_bytes,
            patch_bytes=sizes.plain_bytes,
            compressed_patch_bytes=sizes.compressed_bytes,
            seconds=seconds,
            differences=replay.differences(held),
            http_patches=http.patches,
            http_requests=http.requests,
            http_refused=http.refused,
            http_away_seconds=http.away_s,
            http_differences=replay.differences(http.states()),
            broker=self._broker.partition("://")[0],
        )

    def _deliveries(self) -> tuple[list[Event], int]:
        """All events, and how many of them are repeated deliveries.

        Messages are encoded already: that takes a tenth of their memory, and is no part of the time measured.
        """
        deliveries, repeated = [], 0
        for each in events(self._limit):
            encoded = each.state.SerializeToString(deterministic=True)
            deliveries.append(Event(encoded, each.key, each.sequence, each.id, each.time, type=TYPE))
            repeated += each.repeated
        return deliveries, repeated

    async def _stream(
        self, deliveries: list[Event], patches: int, http: HttpReceiver, steps: Steps
    ) -> tuple[Receiver[AircraftState], Sync, float]:
        """Sends all events, has the worker work them off, and applies their patches.

        The seconds are those from the first event to the last patch, without start and end of the worker.
        """
        security = self._settings.security
        await asyncio.to_thread(self._require_fresh)
        async with contextlib.AsyncExitStack() as closing:
            producer = await closing.enter_async_context(
                Producer(self._broker, source="/demo/flights", security=security)
            )
            await producer.create_topic(TOPIC, PARTITIONS)
            app = App("demo", settings=self._settings, web_enabled=False)
            sync = app.sync(TOPIC, AircraftState)
            app.target(TARGET, source=TOPIC, url=http.url, allow_private=True)
            assert app.guarded is not None  # there is a target
            app.guarded.board.on_change.append(lambda *change: steps.say(_said(*change)))
            async with app:
                receiver = await closing.enter_async_context(
                    Receiver(self._broker, PATCHES, AircraftState, start="earliest", security=security)
                )
                began_s = self._clock.monotonic_s()
                following = await closing.enter_async_context(_beside(_follow(receiver, steps.counter("applied"))))
                await producer.send_many(TOPIC, _shown(deliveries, steps.counter("sent")))
                arrived = self._arrived(app, sync, receiver, len(deliveries), patches, steps.counter("worked off"))
                arriving = await closing.enter_async_context(_beside(arrived))
                ended, _ = await asyncio.wait({following, arriving}, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                seconds = self._clock.monotonic_s() - began_s
                following.cancel()
                await asyncio.wait({following})  # its own cancellation stays in it; ours, Ctrl-C, comes through
                await receiver.catch_up()
                await self._heal(app, http, receiver, steps)
            steps.counter("applied")(receiver.counts.applied)
        return receiver, sync, seconds

    def _require_fresh(self) -> None:
        """SettingsError where an earlier run left patches: a receiver would hold their aircraft too."""
        try:
            with self._reader(topic_timeout_ms=0) as reader:
                left = sum(reader.ends().values())
        except UnknownTopicError:
            return
        if left:
            cure = f"give another --datadir or broker, or delete the topics that begin with {TOPIC}"
            raise SettingsError(Finding("--broker", f"{left} records in {PATCHES}", "no earlier demo there", cure))

    def _reader(self, topic_timeout_ms: int) -> contextlib.closing[Reader]:
        """A reader of all patches from the beginning."""
        options = ReaderOptions(start="earliest", security=self._settings.security, topic_timeout_ms=topic_timeout_ms)
        return contextlib.closing(open_reader(self._broker, PATCHES, options))

    async def _arrived(
        self, app: App, sync: Sync, receiver: Receiver[AircraftState], total: int, patches: int, show: Count
    ) -> None:
        """Waits until the worker took every event and the receiver applied every patch.

        Raises what ended the worker, or TransportError when nothing moves any more.
        """
        seen, moved_s = (-1, -1), self._clock.monotonic_s()
        while seen[0] < total or seen[1] < patches:
            if app.failure is not None:
                raise app.failure
            now = sync.counts["events"], receiver.counts.applied
            if now != seen:
                seen, moved_s = now, self._clock.monotonic_s()
                show(min(seen[0], total))
            elif self._clock.monotonic_s() - moved_s > STALL_TIMEOUT_S:
                raise TransportError(
                    f"{TOPIC}: the worker took {seen[0]} of {total} events and the receiver applied {seen[1]} of "
                    f"{patches} patches, then nothing moved for {STALL_TIMEOUT_S:.0f} s; the log lines say why"
                )
            await asyncio.sleep(POLL_MS / 1000)

    async def _heal(self, app: App, http: HttpReceiver, receiver: Receiver[AircraftState], steps: Steps) -> None:
        """The HTTP receiver is well again, and everything that waited for it is delivered."""
        deliveries = app.guarded.deliveries if app.guarded is not None else None
        assert deliveries is not None  # it has started with a target
        waiting = deliveries.pending
        steps.say(f"{TARGET} is well again: {waiting:,} patches wait for it, one per aircraft")
        http.heal()
        wanted = {key: receiver.bytes(key) for key, _ in receiver.states()}
        seen, moved_s = -1, self._clock.monotonic_s()
        while any(http.held.state(key) != state for key, state in wanted.items()):
            if app.failure is not None:
                raise app.failure
            if http.patches != seen:
                seen, moved_s = http.patches, self._clock.monotonic_s()
            elif self._clock.monotonic_s() - moved_s > STALL_TIMEOUT_S:
                raise TransportError(
                    f"{TARGET} took {seen} patches, then nothing moved for {STALL_TIMEOUT_S:.0f} s; see the log lines"
                )
            await asyncio.sleep(POLL_MS / 1000)

    def _replay(self, show: Count) -> Replay:
        replay = Replay()
        for number, each in enumerate(events(self._limit), 1):
            replay.add(each)
            if number % SHOW_EVERY == 0:
                show(number)
        show(replay.events)
        return replay

    def _sizes(self) -> Sizes:
        """All patches, read again from the beginning of their topic."""
        sizes = Sizes()
        with self._reader(topic_timeout_ms=READ_TIMEOUT_MS) as reader:
            ends = {partition: end for partition, end in reader.ends().items() if end}
            while ends:
                for part in reader.fetch(PARTITIONS * BATCH_PATCHES, READ_TIMEOUT_MS):
                    sizes.add(part.partition, part.records)
                    if max(part.records.last_offset + 1, part.end) >= ends.get(part.partition, 0):
                        ends.pop(part.partition, None)
        sizes.finish()
        return sizes


def _said(target: str, old: str, new: str, reason: str) -> str:
    """A circuit's transition in a line."""
    return f"circuit of {target}: {old} -> {new} ({reason})"


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task that has ended before what it works with is closed, whatever the end is: Ctrl-C, too."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(receiver: Receiver[AircraftState], show: Count) -> None:
    """Applies patches as they come, until cancelled."""
    async for _ in receiver:
        if receiver.counts.applied % SHOW_EVERY == 0:
            show(receiver.counts.applied)


def _shown(deliveries: Sequence[Event], show: Count) -> Iterator[Event]:
    for number, each in enumerate(deliveries, 1):
        if number % SHOW_EVERY == 0 or number == len(deliveries):
            show(number)
        yield each


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    """The directory given, or a temporary one for the time being."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="streams-demo-") as temporary:
        yield Path(temporary)
