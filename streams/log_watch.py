"""Which logs a worker is at work on: looked at before state is restored, and every so often while it works.

What is found is decided in `transport.identity`; here the worker asks, says what became of it, and goes on or ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streams._native import PARTITION_KEY, Records, decode_patch
from streams.errors import LogReplacedError, SettingsError, StateError, TransportError
from streams.state.stores import Identity
from streams.state.table import PartitionState
from streams.sync.agent import Sync
from streams.sync.topics import check_counts
from streams.transport.identity import Bounds, Kept, Source, changelog_fault, is_other, judge_source
from streams.transport.logs import Where

__all__ = ["LogWatch"]

log = logging.getLogger(__name__)

OLD_ROW_FORMAT = 1
"""Of a changelog without a partition record: it cannot tell the offsets of two logs apart."""
SOON_S = 1.0
"""The same while a topic is away."""
LOOK_S = 30.0
"""Between two looks: one small request each; what happens in between is seen by the fetch, or read again."""


class LogWatch:
    """Compares what offsets were committed with what the broker has. Methods block but for those that are awaited."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.replaced: Counter[str] = Counter()
        """Partitions whose log was found to be another one, by topic."""
        self.notes: dict[str, str] = {}
        """What a person should know of it, by topic, for as long as this worker runs."""
        self._told: dict[Where, bytes] = {}
        self._beside: set[str] = set()  # topics that were there and are only written to: dead letters, progress
        self._homes: frozenset[bytes] = frozenset()  # ids of this application's changelogs

    # -- before and after a restore ---------------------------------------------------------------------------

    def look(self, assignment: Iterable[Any]) -> None:
        """Before anything is restored: the ids of all logs, and what committed offsets of ordinary topics mean in them.

        StateError: a changelog is not the one that the committed offsets belong to. LogReplacedError: a person decides.
        """
        app, logs = self._app, self._app.consumer.logs
        own = {topic for sync in app.syncs.values() for topic in (sync.topics.changelog, sync.topics.output)}
        read = {*own, *(tp.topic for tp in assignment)}
        written = {name for sync in app.syncs.values() for name in sync.topics.names}
        if app.guarded is not None and app.guarded.deliveries is not None:
            written |= app.guarded.deliveries.topics
        everything = app.transport.log_ids(read | written)
        self._beside |= everything.keys() - read
        found = {name: everything[name] for name in read & everything.keys()}
        logs.speak_for({})
        logs.anew, logs.ids = frozenset(), found
        homes = [found[sync.topics.changelog] for sync in app.syncs.values() if found.get(sync.topics.changelog)]
        self._homes, logs.home = frozenset(homes), homes[0] if homes else b""
        logs.copied = {sync.topics.source: sync.topics.rekey for sync in app.syncs.values() if sync.topics.rekey}
        inputs = {sync.topics.input for sync in app.syncs.values()}
        anew = set()
        for tp in assignment:
            if tp.topic in inputs or tp.topic in app.tables.changelog_topics:
                continue
            if self._judge(tuple(tp), b"") is Source.ANEW:
                anew.add(tuple(tp))
                self._tell(tuple(tp))
            elif self._lacks_copies(tuple(tp)):
                anew.add(tuple(tp))
        logs.anew = frozenset(anew)
        for sync in app.syncs.values():
            if not sync.has_states:
                continue
            topics = sync.topics
            ids = [found.get(topic, b"") for topic in (topics.input, topics.changelog, topics.output)]
            sync.states.identity = Identity(*ids)
            for partition in {tp.partition for tp in assignment if tp.topic == topics.input}:
                _, beside = self._committed((topics.input, partition))
                if beside is None:
                    continue
                if is_other(beside.source, ids[0]) and is_other(beside.changelog, ids[1]):
                    raise self._undecided((topics.input, partition), "and so is its changelog, as on another cluster")
                self._check_changelog(sync, partition, beside, has_record=False)

    def _lacks_copies(self, where: Where) -> bool:
        """Whether records were copied to a log that is gone, with those that nobody had read: all are copied again, and
        what was taken of them is dropped.
        """
        logs = self._app.consumer.logs
        _, beside = self._committed(where)
        return beside is not None and is_other(beside.copies, logs.ids.get(logs.copied.get(where[0], ""), b""))

    def settle(self, sync: Sync, keep_going: Callable[[], bool]) -> None:
        """After a restore: what each partition's input means for its rows. Errors as with `look`."""
        anew = set(self._app.consumer.logs.anew)
        for state in sync.states:
            if self._settle(sync, state, keep_going):
                anew.add((sync.topics.input, state.partition))
        self._app.consumer.logs.anew = frozenset(anew)

    def speak(self) -> None:
        """Everything is settled: from here on commits say what the states know."""
        speakers = {
            (sync.topics.input, state.partition): state.beside
            for sync in self._app.syncs.values()
            if sync.has_states
            for state in sync.states
        }
        self._app.consumer.logs.speak_for(speakers)

    def _settle(self, sync: Sync, state: PartitionState, keep_going: Callable[[], bool]) -> bool:
        """Whether reading begins at the beginning, whatever was committed."""
        where = (sync.topics.input, state.partition)
        offset, beside = self._committed(where)
        found, record = state.identity.source, state.table.partition_record
        recorded, has_record = record["logs"].get(record["ordinal"], b""), state.row(PARTITION_KEY) is not None
        if beside is None:
            self._check_changelog(sync, state.partition, None, has_record=has_record)
        verdict = self._judge(where, recorded)
        has_no_ids = record["row_format"] == OLD_ROW_FORMAT and offset is None
        is_replaced = (
            (beside is not None and beside.replaced)
            or verdict is Source.ANEW
            or (has_no_ids and not state.is_empty and state.highest_offset() >= self._bounds(where).end)
        )
        is_decided = beside is not None and beside.source == found != b""
        is_other_log = is_replaced or is_other(recorded, found)
        if is_other_log and sync.spec.on_replaced == "stop" and not is_decided:
            raise self._undecided(where, 'and on_replaced = "stop"')
        if beside is not None and beside.partial:
            state.table.set_partial()
        if beside is not None:
            state.table.raise_epoch(beside.epoch)  # a changelog of an older release does not say it
        # Whoever commits from outside, a person's tool or a command, may have made the group anew.
        is_group_new = offset is None or beside is None or beside.moved
        answer = state.assigned(self._generation(), is_group_new=is_group_new, is_replaced=is_replaced)
        if answer["replaced"]:
            self._tell(where)
        if state.is_empty and not has_record:
            self._begin_above(sync, state, record["last_epoch"], keep_going)
        return verdict is Source.ANEW

    def _begin_above(self, sync: Sync, state: PartitionState, epoch: int, keep_going: Callable[[], bool]) -> None:
        """State without rows begins above every epoch of the output, whoever wrote it; and where the source cannot tell
        of all that was published, an unknown key may live.
        """
        topics, number = sync.topics, state.partition
        highest = epoch or self._highest_epoch(topics.output, number, keep_going)
        if not highest:
            return
        state.table.raise_epoch(highest)
        partitions = [number]
        if topics.rekey:
            partitions = list(range(self._app.transport.log_counts([topics.source]).get(topics.source, 0)))
        is_partial = any(self._app.transport.log_start(topics.source, each) for each in partitions)
        if is_partial:
            state.table.set_partial()
        log.warning(
            "%s partition %d has no rows, while patches of it were published: state begins anew, in epochs above %d%s",
            topics.changelog, number, highest,
            "; the source lacks its beginning: requests about unknown keys are not answered" if is_partial else "",
        )  # fmt: skip

    def _generation(self) -> int | None:
        """Of the group, where nothing else fences an owner that is none any more."""
        return None if self._app.consumer.is_fenced else int(self._app.consumer_generation_id)

    def _highest_epoch(self, output: str, partition: int, keep_going: Callable[[], bool]) -> int:
        """The highest epoch of any patch that is there."""
        highest = 0

        def note(_topic: str, _partition: int, records: Records) -> None:
            nonlocal highest
            for index in range(len(records)):
                try:
                    highest = max(highest, decode_patch(records.value(index) or b"")["epoch"])
                except ValueError:
                    continue  # whatever it is, receivers do not take it for a patch either

        self._app.transport.read_log({(output, partition): 0}, note, keep_going)
        return highest

    # -- judging ----------------------------------------------------------------------------------------------

    def _committed(self, where: Where) -> tuple[int | None, Kept | None]:
        found: tuple[int | None, Kept | None] = self._app.consumer.logs.committed.get(where, (None, None))
        return found

    def _bounds(self, where: Where) -> Bounds:
        return Bounds(self._app.transport.log_start(*where), self._app.transport.open_end(*where))

    def _judge(self, where: Where, recorded: bytes) -> Source:
        """What the committed offset means. LogReplacedError: only a person knows."""
        offset, beside = self._committed(where)
        found = self._app.consumer.logs.ids.get(where[0], b"")
        known = beside.source if beside is not None and beside.source else recorded
        if offset is None or (known and known == found):
            return Source.COUNTS
        verdict = judge_source(offset, beside, recorded, found, self._bounds(where), self._homes)
        if verdict is Source.CAME_ALONG and self._app.transport.expiry.expires(where[0]):
            return Source.ANEW  # requests and counts: what was missed is not owed, what comes twice does no harm
        if verdict is Source.CAME_ALONG:
            raise self._undecided(where, f"and offset {offset}, which the group has committed, can be one of either")
        return verdict

    def _undecided(self, where: Where, why: str) -> LogReplacedError:
        return LogReplacedError(*where, why)

    def _check_changelog(self, sync: Sync, partition: int, beside: Kept | None, *, has_record: bool) -> None:
        changelog, source = sync.topics.changelog, sync.topics.source
        found = sync.states.identity.changelog
        fault = changelog_fault(beside, has_record, found, self._bounds((changelog, partition)))
        if fault is not None:
            raise StateError(
                f"{changelog} partition {partition}: {fault}; rows of living keys are missing, and would be answered "
                "with DELETE. Restore the topic, or stop all workers and run "
                f"`streams state rebuild {source} --from-source`",
                table=source,
            )

    def _tell(self, where: Where) -> None:
        found = self._app.consumer.logs.ids.get(where[0], b"")
        if self._told.get(where) == found:
            return
        self._told[where] = found
        self.replaced[where[0]] += 1
        self.notes[where[0]] = "the topic is another one than before: it is read from its beginning"
        log.warning("log replaced: %s partition %d is another one than before: it is read from its beginning", *where)

    # -- while it works ---------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Looks until the worker stops, every so often and whenever a fetch came to an end that is none."""
        logs, reasons = self._app.consumer.logs, self._app.transport.reasons
        pause_s = LOOK_S
        while not self._app.should_stop:
            await logs.doubted(pause_s)
            if self._app.rebalancing or not logs.ids:
                continue  # the assignment that follows looks by itself
            try:
                found = await asyncio.to_thread(self._app.transport.log_ids, {*logs.ids, *self._beside})
            except TransportError:
                continue  # whoever needs the broker says that it is away
            gone = {*logs.ids, *self._beside} - found.keys()
            pause_s = SOON_S if gone else LOOK_S
            reasons.pop("deleted", None)
            if gone:
                reasons["deleted"] = self._deleted(gone)
            replaced = logs.replaced(found)
            if replaced:
                await self._go_over(replaced, found)

    def _deleted(self, gone: set[str]) -> str:
        """Why nothing goes on, and what helps: a changelog made anew is not enough."""
        said = f"topics {', '.join(sorted(gone))} were deleted: waiting until they are made anew"
        for topics in (sync.topics for sync in self._app.syncs.values()):
            if topics.changelog in gone:
                said += (
                    f"; {topics.changelog} holds the rows of living keys: restore it, or stop all workers and run "
                    f"`streams state rebuild {topics.source} --from-source`"
                )
        return said

    async def _go_over(self, replaced: set[str], found: Mapping[str, bytes]) -> None:
        """Begins with the new logs under the old names, or ends the worker where that is not its to decide."""
        tables = self._app.tables.changelog_topics
        for sync in self._app.syncs.values():
            topics = sync.topics
            if topics.changelog in replaced:
                await self._app.crash(
                    StateError(
                        f"{topics.changelog} was deleted and made anew while the worker ran: it lacks the rows of "
                        f"living keys. Stop all workers and run `streams state rebuild {topics.source} --from-source`",
                        table=topics.source,
                    )
                )
                return
            if topics.input in replaced and sync.spec.on_replaced == "stop":
                await self._app.crash(self._undecided((topics.input, 0), 'and on_replaced = "stop"'))
                return
        consumer, transport = self._app.consumer, self._app.transport
        synced = [sync.topics for sync in self._app.syncs.values() if sync.topics.source in replaced]
        try:
            counts = await asyncio.to_thread(transport.log_counts, [name for each in synced for name in each.names])
            for topics in synced:
                if topics.source in counts:
                    check_counts(topics, counts)
        except SettingsError as error:
            await self._app.crash(error)  # before a key meets the state of others on another partition
            return
        except TransportError:
            return  # as below
        copied = {topic for topic, copies in consumer.logs.copied.items() if copies in replaced}
        moved = [tp for tp in consumer.assignment() if tp.topic in replaced | copied and tp.topic not in tables]
        try:
            starts = await asyncio.to_thread(lambda: {tp: transport.log_start(*tp) for tp in moved})
        except TransportError:
            return  # not ready yet: the next look finds it again
        log.warning("log replaced: %s made anew while the worker ran", ", ".join(sorted(replaced)))
        for tp in moved:
            if tp.topic in replaced:
                self._tell(tuple(tp))
        await consumer.begin_over(starts, found)
