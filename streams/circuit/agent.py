"""The circuit agent: one owner per target folds what all workers counted, and tells everybody how its circuit stands.

Counts come in as increments on `{app}.outcomes`, keyed by target, so that a target has one owner in the group. The
owner keeps each target's window and state in a table with a changelog, and writes every change to `{app}.circuits`
(compacted), which each worker follows into its board. Breaker time is the owner's processing time: circuits close,
open and are tried by its clock, with or without traffic.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.message import DecodeError

from streams._native import Records
from streams.circuit.board import Board
from streams.circuit.fleet import Fleet
from streams.client.broker import Writer, WriterOptions
from streams.client.connect import open_writer
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import TransportError
from streams.options import CircuitSettings, Settings
from streams.transport.follow import Follower, open_follower
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

__all__ = ["Circuits", "circuits_topic", "outcomes_topic"]

PARTITIONS = 8
"""Of outcomes and of the table's changelog: Faust's own default; so many workers can own circuits."""
WRITE_TIMEOUT_MS = 5_000
"""A report that takes longer is written again with the next one."""
FETCH_RECORDS_MAX = 1_000
FETCH_BYTES_MAX = 4 << 20
FETCH_WAIT_MS = 500
"""Circuits are few and change rarely; a record is handed over as soon as it is there."""
RETRY_PAUSE_S = 1.0

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
        self._app = app
        self._board = board
        self._clock = clock
        self._settings: CircuitSettings = own.circuit
        self._broker = own.app.broker
        self._options = WriterOptions(own.security, WRITE_TIMEOUT_MS)
        self._outcomes, self._circuits = outcomes_topic(own.app.id), circuits_topic(own.app.id)
        self._table: Any = None
        self._fleets: dict[str, tuple[int, Fleet]] = {}  # with the partition that they came in on
        self._known: dict[str, tuple[int, int]] = {}  # numbers of the last records that were told
        self._untold: set[str] = set()
        self._changed = asyncio.Event()
        self._writer: Writer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="circuits")
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def topic(self) -> str:
        """The topic of outcomes: who has a partition of it owns the circuits of its targets."""
        return self._outcomes

    # -- joining the worker -----------------------------------------------------------------------------------

    def mount(self) -> None:
        """Registers the agent, its table and GET /circuits."""
        # Faust's own JSON: it decodes a table's changelog by that, whatever schema the table is given.
        self._table = self._app.Table("circuits", partitions=PARTITIONS, help="windows and states of targets' circuits")
        topic = self._app.topic(
            self._outcomes, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self._app.agent(topic, name="circuits")(self._fold_all)

        async def circuits(view: Any, request: Any) -> Any:
            return view.json({"circuits": self._board.view(), "owned": sorted(self._fleets)})

        self._app.page("/circuits")(circuits)

    def plans(self, existing: Mapping[str, int]) -> list[tuple[str, int, dict[str, str]]]:
        """Topics that do not exist yet: name, partitions, configuration."""
        wanted = [
            (self._outcomes, PARTITIONS, {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}),
            (self._circuits, 1, {"cleanup.policy": "compact"}),
        ]
        return [plan for plan in wanted if plan[0] not in existing]

    async def start(self) -> None:
        """The topics exist: takes in what was told so far, and begins to report. Raises TransportError."""
        positions = await asyncio.to_thread(self._read_all)
        create = asyncio.get_running_loop().create_task
        self._tasks = [
            create(self._report(), name="report outcomes"),
            create(self._tell(), name="tell circuits"),
            create(self._tick(), name="circuits' time"),
            create(self._follow(positions), name="follow circuits"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def assign(self, partitions: set[int]) -> None:
        """Partitions of the outcomes after a rebalance: circuits of others are theirs, and are forgotten here."""
        self._fleets = {name: owned for name, owned in self._fleets.items() if owned[0] in partitions}
        now_ms, generation = self._now_ms(), self._generation
        for name, (_, fleet) in self._fleets.items():
            if fleet.take_over(generation, self._known.get(name, (0, 0)), now_ms, random.random()):
                self._note(name)

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
            try:
                report = Outcomes.FromString(event.value or b"")
            except DecodeError:
                report = Outcomes()
            if not report.target or not report.reporter:
                log.warning("%s: a record without target or reporter is ignored", self._outcomes)
                continue
            now_ms = self._now_ms()
            fleet = self._owned(report.target, event.message.partition, now_ms)
            if fleet.fold(report, now_ms, random.random()):
                self._note(report.target)
            self._table[report.target] = {"at_ms": self._clock.now_ms(), "row": fleet.row(now_ms).decode("latin-1")}

    def _owned(self, target: str, partition: int, now_ms: int) -> Fleet:
        """The circuit of a target of ours; taken over with what its last owner left, the first time."""
        if target in self._fleets:
            return self._fleets[target][1]
        kept: dict[str, Any] | None = self._table.get(target)
        if kept is None:
            fleet = Fleet(self._settings, target, now_ms)
        else:
            age_ms = max(0, self._clock.now_ms() - kept["at_ms"])
            fleet = Fleet.of_row(self._settings, target, kept["row"].encode("latin-1"), now_ms, age_ms)
        if fleet.take_over(self._generation, self._known.get(target, (0, 0)), now_ms, random.random()):
            self._note(target)
        self._fleets[target] = (partition, fleet)
        return fleet

    async def _tick(self) -> None:
        """Windows close and open times end without anybody's report."""
        while True:
            await asyncio.sleep(self._settings.report_ms / 1000)
            now_ms = self._now_ms()
            for name, (_, fleet) in list(self._fleets.items()):
                if fleet.tick(now_ms, random.random()):
                    self._note(name)

    def _note(self, target: str) -> None:
        self._untold.add(target)
        self._changed.set()

    async def _tell(self) -> None:
        """Writes changed circuits to their topic, for as long as it takes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            targets, self._untold = self._untold & self._fleets.keys(), set()
            records = Records()
            for name in sorted(targets):
                records.append(name.encode(), self._fleets[name][1].record(self._now_ms()).SerializeToString())
            try:
                await self._write(self._circuits, records)
            except TransportError as error:
                log.warning("circuits could not be told, tried again: %s", error)
                self._untold |= targets
                self._changed.set()
                await asyncio.sleep(RETRY_PAUSE_S)

    # -- every worker -----------------------------------------------------------------------------------------

    async def _report(self) -> None:
        """Tells what this worker counted; what is not acknowledged is counted again."""
        while True:
            await asyncio.sleep(self._settings.report_ms / 1000)
            reports = self._board.drain()
            records = Records()
            for report in reports:
                records.append(report.target.encode(), report.SerializeToString())
            try:
                await self._write(self._outcomes, records)
            except TransportError as error:
                self._board.give_back(reports)
                log.warning("outcomes could not be reported, tried again: %s", error)
                await asyncio.sleep(RETRY_PAUSE_S)

    def _read_all(self) -> dict[tuple[str, int], int]:
        """Everything that was told so far; next offsets. Blocks."""
        start = {(self._circuits, 0): 0}
        positions: dict[tuple[str, int], int] = self._app.transport.read_log(
            start, lambda _topic, _partition, records: self._take(records), lambda: not self._app.should_stop
        )
        return positions

    async def _follow(self, positions: dict[tuple[str, int], int]) -> None:
        """Takes circuits in as they are told; never returns."""
        while True:
            follower: Follower | None = None
            try:
                follower = await asyncio.to_thread(open_follower, self._app.transport, positions)
                while True:
                    runs = await asyncio.to_thread(follower.fetch, FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS)
                    for topic, partition, records, _ in runs:
                        if len(records):
                            self._take(records)
                            positions[topic, partition] = records.last_offset + 1
            except TransportError as error:
                log.warning("circuits cannot be followed for now: %s", error)
                await asyncio.sleep(RETRY_PAUSE_S)
            finally:
                if follower is not None:
                    await asyncio.to_thread(follower.close)

    def _take(self, records: Records) -> None:
        for index in range(len(records)):
            try:
                circuit = Circuit.FromString(records.value(index) or b"")
            except DecodeError:
                log.warning("%s: a record is no circuit, and is ignored", self._circuits)
                continue
            pair, name = (circuit.generation, circuit.transition), circuit.target
            known = self._known.get(name, (0, 0))
            owned = self._fleets.get(name)
            if owned is not None and pair < known == owned[1].pair:
                # A former owner that did not know yet wrote after us: the last record of the key has to be ours.
                owned[1].tell_again()
                self._note(name)
            self._known[name] = max(known, pair)
            self._board.take(circuit)

    # -- inside -----------------------------------------------------------------------------------------------

    @property
    def _generation(self) -> int:
        generation: int = self._app.consumer_generation_id
        return max(generation, 1)

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)

    async def _write(self, topic: str, records: Records) -> None:
        if len(records):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._append, topic, records)

    def _append(self, topic: str, records: Records) -> None:
        if self._writer is None:
            self._writer = open_writer(self._broker, self._options)
        for outcome in self._writer.write(topic, records):
            if isinstance(outcome, TransportError):
                raise outcome

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
