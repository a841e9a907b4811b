"""The topic in which applications claim their outputs, and workers their names: read, written and followed by each.

Claimed before the first output, then read up to the own record: who stands lower owns. Whoever does not withdraws and
ends. Owners follow the topic, and end when they are overtaken. Where it, or their output, was emptied or made anew they
claim again, by the same rules: whoever came meanwhile found nobody there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from streams._native import Records
from streams.client.broker import Ack, WriterOptions
from streams.client.connect import open_writer
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError, TransportError, UnknownTopicError
from streams.options import Settings
from streams.ownership.claims import Claims, Living, claim_key, instance_key, packed, rivals
from streams.transport.follow import Follower, open_follower, opened
from streams.transport.identity import is_other
from streams.v1.owner_pb2 import Claim, Incarnation

__all__ = ["Registry", "Wish"]

WRITE_TIMEOUT_MS = 30_000
"""A claim is waited for: without it no output may be written. Longer than an election of leaders takes."""
FETCH_RECORDS_MAX = 1_000
FETCH_BYTES_MAX = 4 << 20
FETCH_WAIT_MS = 1_000
"""Claims are few; a record is handed over as soon as it is there."""
RETRY_PAUSE_S = 1.0
LOOK_S = 30.0
"""Between two looks whether the topic is still the same one: its records show that too, but for those at its start."""
ID_TIMEOUT_S = 5.0
"""A topic made a moment ago has no id at every broker yet."""
ID_PAUSE_S = 0.1

NAME_KEPT_MS = 24 * 3_600_000
"""A name is spoken to those who are there: a day later it says nothing to anybody, and the next worker removes it."""
NAMES_FORGOTTEN = 1_000
"""At one start; more pods than that do not come between two."""

log = logging.getLogger(__name__)


class Wish(NamedTuple):
    """An output that this application wants to write, and the state it does it with."""

    source: str
    output: str
    changelog: str
    partitions: int


class Registry:
    """One worker's part in it."""

    def __init__(self, app: Any, clock: Clock = SYSTEM_CLOCK) -> None:
        own: Settings = app.settings
        self.topic = own.app.owners_topic
        self.claims = Claims()
        self._app = app
        self._settings = own
        self._clock = clock
        self._incarnation = uuid.uuid4().hex
        self._announced: int | None = None  # where this worker's name stands
        self._position = self._heard = 0
        self._log = b""  # id of the topic, where the broker has ids
        self._existing: Mapping[str, int] = {}  # partitions of the topics that there are, as of the last claim
        self._owned: list[tuple[Wish, bytes]] = []  # outputs of this application, with their ids
        self._lock = threading.Lock()
        self._following: asyncio.Task[None] | None = None

    # -- before the first output ------------------------------------------------------------------------------

    def plans(self, existing: Mapping[str, int]) -> list[tuple[str, int, dict[str, str]]]:
        """The topic, where there is none: name, partitions, configuration."""
        return [] if self.topic in existing else [(self.topic, 1, {"cleanup.policy": "compact"})]

    def claim(self, wish: Wish, existing: Mapping[str, int]) -> Living:
        """Makes the output this application's, or finds that it is. Blocks.

        SettingsError: it is another's. TransportError: the broker does not answer now.
        """
        with self._lock:
            self._existing = existing
            self._read()
            self._heard = self._position
            output_id = self._id(wish.output)
            owner = self._settle(wish, output_id)
            self._owned.append((wish, output_id))
            return owner

    def _settle(self, wish: Wish, output_id: bytes, *, again: bool = False) -> Living:
        """Claims the output where no claim of this application stands. SettingsError: it is another's.

        `again`: it was this application's, which goes before whoever has written nothing yet.
        """
        if not self.claims.of_app(wish.output, output_id, self._settings.app.id):
            self._write_claim(wish, output_id, again=again)
        own, owner = self._settings.app.id, self.claims.owner(wish.output, output_id)
        mine = self.claims.of_app(wish.output, output_id, self._settings.app.id)
        if owner is None or owner.app != own:
            self._append([(each.key, None) for each in mine])
            raise refusal(wish, own, owner)
        # Several workers may have claimed at once: one claim is enough, and the first counts.
        over = [*mine[1:], *self.claims.over(wish.output, output_id, own)]
        if over:
            self._append([(each.key, None) for each in over])
        return owner

    def _write_claim(self, wish: Wish, output_id: bytes, *, again: bool) -> None:
        own, others = self._settings.app.id, self.claims.of(wish.output, output_id)
        states = self._app.transport.log_counts([each.claim.changelog for each in others if each.claim.changelog])
        existing = {**self._existing, **states}
        has_state = self._has_records(wish.changelog, wish.partitions)
        if not others and not has_state and not again and self._has_records(wish.output, wish.partitions):
            before = rivals(existing, wish.source, wish.changelog, wish.output, self.claims)
            for app, changelog in before.items():
                if self._has_records(changelog, existing[changelog]):
                    raise _refused(wish, own, f"it holds patches of {app}, whose state is in {changelog}", app)
        alone = not any(
            each.claim.precedes
            or not each.claim.changelog
            or self._has_records(each.claim.changelog, existing.get(each.claim.changelog, 0))
            for each in others
        )
        claim = Claim(
            output=wish.output, output_id=output_id, app=own, changelog=wish.changelog,
            precedes=(has_state or again) and alone, claimed_ms=self._clock.now_ms(),
        )  # fmt: skip
        self._append([(claim_key(wish.output, own, uuid.uuid4().hex), packed(claim))])

    def _has_records(self, topic: str, partitions: int) -> bool:
        return any(self._app.transport.log_end(topic, partition) > 0 for partition in range(partitions))

    def _id(self, topic: str) -> bytes:
        """The topic's id; empty where the broker has none."""
        deadline_s = time.monotonic() + ID_TIMEOUT_S
        while True:
            found: dict[str, bytes] = self._app.transport.log_ids([topic])
            if topic in found or time.monotonic() > deadline_s:
                return found.get(topic, b"")
            time.sleep(ID_PAUSE_S)

    def _append(self, entries: Sequence[tuple[bytes, bytes | None]]) -> int:
        """Writes records and reads up to them; the offset of the last one."""
        options = WriterOptions(security=self._settings.security, delivery_timeout_ms=WRITE_TIMEOUT_MS)
        writer = open_writer(self._settings.app.broker, options)  # rarely needed: none is kept
        records = Records()
        for key, value in entries:
            records.append(key, value)
        try:
            outcomes = writer.write(self.topic, records, 0)
        finally:
            writer.close()
        offset = -1
        for outcome in outcomes:
            if not isinstance(outcome, Ack):
                # A topic made a moment ago is not known to every broker yet.
                unknown = isinstance(outcome, UnknownTopicError)
                raise TransportError(str(outcome), retriable=unknown or outcome.retriable) from outcome
            offset = outcome.offset
        while self._position <= offset:
            if self._app.should_stop:
                raise TransportError(f"{self.topic}: not read up to offset {offset}, the worker stops", retriable=True)
            self._read()
        return offset

    def _read(self) -> None:
        """Takes in what the topic has now. What workers say of their names is for those who follow."""
        place = (self.topic, 0)
        self._app.transport.read_log(
            {place: self._position},
            lambda _topic, _partition, records: self._take(records),
            lambda: not self._app.should_stop,
        )

    def _take(self, records: Records) -> list[tuple[int, Incarnation]]:
        self._position = max(self._position, records.last_offset + 1)
        return self.claims.take(records)

    # -- while running ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The topic exists and outputs are claimed: follows it from here on; inside the event loop. Again: nothing."""
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow(), name=f"follow {self.topic}")
            self._following.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Ends."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._app.loop.create_task(self._app.crash(error))

    async def _follow(self) -> None:
        """Takes in what others say, for as long as the worker runs. SettingsError: it has to end."""
        while True:
            follower: Follower | None = None
            try:
                await asyncio.to_thread(self._announce)
                follower = await opened(partial(open_follower, self._app.transport, {(self.topic, 0): self._heard}))
                look_s = time.monotonic()  # at once: it may be another topic since the last time
                while time.monotonic() < look_s or not await asyncio.to_thread(self._is_other):
                    if time.monotonic() >= look_s:
                        look_s = time.monotonic() + LOOK_S
                    runs = await asyncio.to_thread(follower.fetch, FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS)
                    for _, _, records, _ in runs:
                        if len(records):
                            await asyncio.to_thread(self._hear, records)
            except TransportError as error:
                log.info("%s is not followed for now, and tried until it is: %s", self.topic, error)
                await asyncio.sleep(RETRY_PAUSE_S)
            finally:
                if follower is not None:
                    await asyncio.to_thread(follower.close)

    def _hear(self, records: Records) -> None:
        with self._lock:
            keys = [records.key(index) or b"" for index in range(len(records))]
            if any(key.startswith(f"output/{wish.output}/".encode()) for wish, _ in self._owned for key in keys):
                self._read_again()
            for offset, said in self._take(records):
                self._answer(offset, said)
            self._heard = records.last_offset + 1

    def _is_other(self) -> bool:
        """Whether the topic is another one than before: then all of it is read again, and followed from its end.

        Outputs that are other ones are claimed again, too.
        """
        with self._lock:
            ids = self._app.transport.log_ids([self.topic, *(wish.output for wish, _ in self._owned)])
            before, now = self._log, ids.get(self.topic, b"")
            self._log = now or before
            is_anew = is_other(before, now)
            if is_anew:
                log.warning("%s was made anew: outputs are claimed in it again", self.topic)
            if is_anew or any(is_other(known, ids.get(wish.output, b"")) for wish, known in self._owned):
                self._read_again()
            if is_anew:
                self._heard, self._announced = self._position, None
            return is_anew

    def _read_again(self) -> None:
        """Takes in the whole topic: who claims an output of this worker's may have found no claim on it there.

        SettingsError: the output is another's.
        """
        self.claims, self._position = Claims(), 0
        self._read()
        ids = self._app.transport.log_ids([wish.output for wish, _ in self._owned])
        self._owned = [(wish, ids.get(wish.output) or known) for wish, known in self._owned]
        for wish, output_id in self._owned:
            owner = self.claims.owner(wish.output, output_id)
            if not self.claims.of_app(wish.output, output_id, self._settings.app.id):
                self._settle(wish, output_id, again=True)
            elif owner is not None and owner.app != self._settings.app.id:
                raise refusal(wish, self._settings.app.id, owner)

    # -- names of workers -------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Says under which name this worker begins; on the embedded log there is no second one."""
        with self._lock:
            if self._announced is None and self._app.transport.open_tail is not None:
                begin_ms = self._clock.now_ms() - NAME_KEPT_MS
                old = [key for key, at_ms in self.claims.names.items() if at_ms < begin_ms]
                self._announced = self._append([*((key, None) for key in old[:NAMES_FORGOTTEN]), self._name()])

    def _name(self, to: str = "") -> tuple[bytes, bytes]:
        own = self._settings.app
        said = Incarnation(
            app=own.id, instance=own.instance, incarnation=self._incarnation, to=to, host=socket.gethostname()
        )
        return instance_key(own.id, own.instance), packed(said)

    def _answer(self, offset: int, said: Incarnation) -> None:
        """Another worker with this one's name: who came later has to go, and one that does not answer is dead."""
        own = self._settings.app
        if (said.app, said.instance) != (own.id, own.instance) or self._announced is None:
            return
        if said.to == self._incarnation:
            raise SettingsError(
                Finding(
                    "app.instance", f"{own.instance}, which another worker of {own.id} on {said.host} bears",
                    "a name of its own for each worker", "set app.instance, or stop the other one",
                )
            )  # fmt: skip
        if not said.to and said.incarnation != self._incarnation and offset > self._announced:
            self._append([self._name(said.incarnation)])


def refusal(wish: Wish, app: str, owner: Living | None) -> SettingsError:
    """The error for an application whose output is another's."""
    other = owner.app if owner is not None else "another application"
    return _refused(wish, app, f"{other} owns it", other)


def _refused(wish: Wish, app: str, why: str, other: str) -> SettingsError:
    return SettingsError(
        Finding(
            f"output {wish.output}", f"the application {app}, while {why}", "one application that writes it",
            f"set another `output =` in the [[sync]] of {app}, or stop {other} for good and run "
            f"`streams state take-over {wish.source}` for {app}",
        )
    )  # fmt: skip
