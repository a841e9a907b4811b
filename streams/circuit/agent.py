"""The circuit agent: one owner per target folds what all workers counted, and tells everybody how its circuit stands.

Counts come in as increments on `{app}.outcomes`, keyed by target, so that a target has one owner in the group. The
owner keeps each target's window and state in a table with a changelog, and writes every change to `{app}.circuits`
(compacted), which each worker follows into its board. Breaker time is the owner's processing time: circuits close,
open and are tried by its clock, with or without traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from streams._native import Records
from streams.circuit.board import Board
from streams.circuit.owner import KNOWN_MAX, NAME_LENGTH_MAX, Owner
from streams.client.broker import Outcome, Writer, WriterOptions
from streams.client.connect import open_writer
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError, TransportError
from streams.options import CircuitSettings, Settings
from streams.transport.follow import Follower, open_follower, opened
from streams.v1.circuit_pb2 import Circuit

__all__ = ["Circuits", "circuits_topic", "outcomes_topic"]

PARTITIONS = 8
"""Of outcomes and of the table's changelog: Faust's own default; so many workers can own circuits."""
OUTCOMES_KEPT_MS = 3_600_000
"""Counts are of now; an hour is for an operator's wish that waits for a worker."""
WRITE_TIMEOUT_MS = 5_000
"""A report that takes longer is written again with the next one."""
FETCH_RECORDS_MAX = 1_000
FETCH_BYTES_MAX = 4 << 20
FETCH_WAIT_MS = 500
"""Circuits are few and change rarely; a record is handed over as soon as it is there."""
RETRY_PAUSE_S = 1.0

TRANSITIONS_MAX = 10_000
"""Targets and states that are counted by name; beyond, they are counted together: anybody may invent a target."""
OTHERS = "others"

log = logging.getLogger(__name__)


def outcomes_topic(app_id: str) -> str:
    """Where counts go."""
    return f"{app_id}.outcomes"


def circuits_topic(app_id: str) -> str:
    """Where the owners' decisions are."""
    return f"{app_id}.circuits"


class Circuits:
    """The circuits of one worker: it reports, it follows, and it owns those whose partition it has."""

    def __init__(self, app: Any, board: Board, clock: Clock = SYSTEM_CLOCK) -> None:
        own: Settings = app.settings
        self.transitions: Counter[tuple[str, str]] = Counter()
        """Transitions seen here, by target and new state."""
        self._app = app
        self._board = board
        self._settings: CircuitSettings = own.circuit
        self._broker = own.app.broker
        self._options = WriterOptions(own.security, WRITE_TIMEOUT_MS)
        self._outcomes, self._circuits = outcomes_topic(own.app.id), circuits_topic(own.app.id)
        self._partitions = 1  # of the circuits
        self.damaged: Counter[str] = Counter()
        """Records that are nothing, by topic; each was ignored."""
        self.owner = Owner(own.circuit, clock)
        self._writer: Writer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="circuits")
        self._tasks: list[asyncio.Task[None]] = []
        self._troubles: set[str] = set()  # what is known not to work now
        board.on_change.append(self._changed)

    @property
    def topic(self) -> str:
        """The topic of outcomes: who has a partition of it owns the circuits of its targets."""
        return self._outcomes

    # -- joining the worker -----------------------------------------------------------------------------------

    def mount(self) -> None:
        """Registers the agent, its table and GET /circuits."""
        # A table takes its codecs from its types, and only from them.
        types: Any = {"key_type": bytes, "value_type": bytes}
        self.owner.table = self._app.Table(
            "circuits", partitions=PARTITIONS, help="windows and states of targets' circuits", **types
        )
        topic = self._app.topic(self._outcomes, key_serializer="raw", value_serializer="raw", **types)
        self._app.agent(topic, name="circuits", vital=True)(self._fold_all)

        async def circuits(view: Any, request: Any) -> Any:
            return view.json({"circuits": self._board.view(), "owned": self.owner.targets})

        self._app.page("/circuits")(circuits)

    def plans(self, existing: Mapping[str, int]) -> list[tuple[str, int, dict[str, str]]]:
        """Topics that do not exist yet: name, partitions, configuration. SettingsError for a wrong partition count."""
        found = existing.get(self._outcomes, PARTITIONS)
        if found != PARTITIONS:
            raise SettingsError(
                Finding(
                    f"topic {self._outcomes}",
                    f"{found} partitions",
                    f"{PARTITIONS}, as the table of circuits has",
                    "delete it: it holds counts of the last moments, and is made anew",
                )
            )
        self._partitions = existing.get(self._circuits, 1)
        kept = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(OUTCOMES_KEPT_MS)}
        wanted = [(self._outcomes, PARTITIONS, kept), (self._circuits, 1, {"cleanup.policy": "compact"})]
        return [plan for plan in wanted if plan[0] not in existing]

    async def start(self) -> None:
        """The topics exist: takes in what was told so far, and begins to report. Raises TransportError."""
        positions, told = await asyncio.to_thread(self._read_all)
        for circuit in told:
            self._take(circuit)
        create = asyncio.get_running_loop().create_task
        self._tasks = [
            create(self._every_report(self._report), name="report outcomes"),
            create(self._every_report(self.owner.tick), name="circuits' time"),
            create(self._tell(), name="tell circuits"),
            create(self._follow(positions), name="follow circuits"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def assign(self, partitions: set[int]) -> None:
        """Partitions of the outcomes that are this worker's after a rebalance; the table has their rows."""
        self.owner.assign(partitions, self._app.consumer_generation_id)

    async def stop(self) -> None:
        """Ends; what was counted since the last report goes with this worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._app.loop.create_task(self._app.crash(error))

    # -- the owner --------------------------------------------------------------------------------------------

    async def _fold_all(self, stream: Any) -> None:
        """The agent's body: every report is folded into its target's circuit, which is kept in the table."""
        async for event in stream.events():
            self.owner.fold(event.value, event.message.partition)

    async def _tell(self) -> None:
        """Writes changed circuits to their topic, for as long as it takes; never returns."""
        while True:
            await self.owner.changed.wait()
            targets, records = self.owner.untold()
            failed = await self._write(self._circuits, records)
            if failed:
                await asyncio.sleep(RETRY_PAUSE_S)
                self.owner.tell(targets[index] for index in failed)

    # -- every worker -----------------------------------------------------------------------------------------

    async def _every_report(self, work: Callable[[], Awaitable[None] | None]) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._settings.report_ms / 1000)
            doing = work()
            if doing is not None:
                await doing

    async def _report(self) -> None:
        """Tells what this worker counted; what is not acknowledged is told again."""
        reports, records = self._board.drain(), Records()
        for report in reports:
            records.append(report.target.encode(), report.SerializeToString())
        failed = await self._write(self._outcomes, records)
        self._board.give_back([reports[index] for index in failed])

    def _read_all(self) -> tuple[dict[tuple[str, int], int], list[Circuit]]:
        """The last that was told of each target, and the next offsets. What lies before it is history. Blocks."""
        told: dict[str, Circuit] = {}

        def take(_topic: str, _partition: int, records: Records) -> None:
            for circuit in _circuits(records, self._circuits, self.damaged):
                last = told.pop(circuit.target, None)
                told[circuit.target] = circuit if last is None or _pair(circuit) > _pair(last) else last
                if len(told) > KNOWN_MAX:
                    del told[next(name for name in told if not self._board.expects(name))]

        start = {(self._circuits, partition): 0 for partition in range(self._partitions)}
        positions: dict[tuple[str, int], int] = self._app.transport.read_log(
            start, take, lambda: not self._app.should_stop
        )
        return positions, list(told.values())

    async def _follow(self, positions: dict[tuple[str, int], int]) -> None:
        """Takes circuits in as they are told; never returns."""
        following = f"following {self._circuits}"
        while True:
            follower: Follower | None = None
            try:
                follower = await opened(partial(open_follower, self._app.transport, positions))
                while True:
                    runs = await asyncio.to_thread(follower.fetch, FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS)
                    self._say(following, None)
                    for topic, partition, records, _ in runs:
                        for circuit in _circuits(records, self._circuits, self.damaged):
                            self._take(circuit)
                        if len(records):
                            positions[topic, partition] = records.last_offset + 1
            except TransportError as error:
                self._say(following, error)
                await asyncio.sleep(RETRY_PAUSE_S)
            finally:
                if follower is not None:
                    await asyncio.to_thread(follower.close)

    def _take(self, circuit: Circuit) -> None:
        if not 0 < len(circuit.target) <= NAME_LENGTH_MAX:
            self.damaged[self._circuits] += 1
            return
        self.owner.heard(circuit.target, _pair(circuit))
        self._board.take(circuit)

    def _changed(self, target: str, old: str, new: str, reason: str) -> None:
        """One line per transition, and none per refused call."""
        known = (target, new) in self.transitions or len(self.transitions) < TRANSITIONS_MAX
        self.transitions[target if known else OTHERS, new] += 1
        log.log(
            logging.INFO if new.endswith("closed") else logging.WARNING,
            "circuit %s: %s -> %s (%s)",
            target,
            old,
            new,
            reason or "-",
        )

    # -- inside -----------------------------------------------------------------------------------------------

    async def _write(self, topic: str, records: Records) -> list[int]:
        """Which records were not acknowledged."""
        if not len(records):
            return []
        outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._append, topic, records)
        errors = [outcome for outcome in outcomes if isinstance(outcome, TransportError)]
        self._say(f"writing to {topic}", errors[0] if errors else None)
        return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, TransportError)]

    def _append(self, topic: str, records: Records) -> list[Outcome]:
        try:
            if self._writer is None:
                self._writer = open_writer(self._broker, self._options)
            return self._writer.write(topic, records)
        except TransportError as error:
            return [error] * len(records)

    def _say(self, doing: str, error: TransportError | None) -> None:
        """A line when something does not work, and one when it does again; not one per attempt."""
        if error is None and doing in self._troubles:
            self._troubles.remove(doing)
            log.info("%s works again", doing)
        elif error is not None and doing not in self._troubles:
            self._troubles.add(doing)
            log.warning("%s does not work for now, and is tried until it does: %s", doing, error)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _pair(circuit: Circuit) -> tuple[int, int]:
    return circuit.generation, circuit.transition


def _circuits(records: Records, topic: str, damaged: Counter[str]) -> list[Circuit]:
    """The circuits in a batch; what is none is left out, named and counted. A record without a value says nothing."""
    found: list[Circuit] = []
    for index in range(len(records)):
        value = records.value(index)
        if value is None:
            continue
        try:
            circuit = Circuit.FromString(value)
        except DecodeError:
            circuit = Circuit()
        if circuit.target:
            found.append(circuit)
        else:
            damaged[topic] += 1
            log.warning("%s: offset %d is no circuit, and is ignored", topic, records.offset(index))
    return found
