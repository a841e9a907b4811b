"""One request until it is settled: attempts, and what each kind of answer means for the patches it carries.

Retries happen here and nowhere else. A retry sends the same bytes under the same Idempotency-Key. What an answer is
called is decided by `retry.py`; here it is acted upon.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass

from streams._native import Records
from streams.circuit.board import Board, Pass, Refusal
from streams.circuit.breaker import Mode
from streams.clock import Clock
from streams.dead_letters.letter import Letter, write
from streams.dead_letters.limit import Limit
from streams.delivery.http import Parcel, Sender, stale_keys
from streams.delivery.lane import Batch, Entry, Lanes
from streams.delivery.outbox import Outbox
from streams.delivery.retry import Budget, Verdict, classify, full_jitter_ms
from streams.delivery.stale import StaleKeys
from streams.delivery.target import Target
from streams.errors import InputError
from streams.http import HttpFailure
from streams.options import DeliverySettings

__all__ = ["Attempts", "Means"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What all targets of a worker share."""

    board: Board
    outbox: Outbox
    budget: Budget
    settings: DeliverySettings
    clock: Clock
    chance: random.Random
    letter_bytes_max: int


class Attempts:
    """The requests of one target."""

    def __init__(
        self, target: Target, lanes: Lanes, sender: Sender, stale: StaleKeys, limit: Limit, means: Means
    ) -> None:
        self.counts: Counter[str] = Counter()
        """patches, requests, retries, bytes, dead.REASON, stale, since the start."""
        self.resume_s = 0.0
        """The target asked to be left alone until then, on the monotonic clock."""
        self.stopped = ""
        """Why nothing is sent any more until a person looks: too many dead letters; empty: it goes on."""
        self._target = target
        self._lanes = lanes
        self._sender = sender
        self._stale = stale
        self._limit = limit
        self._means = means
        self._success_s = float("-inf")
        self._fails = 0  # attempts in a row, of all requests

    async def run(self, batch: Batch, leave: Pass) -> None:
        """Sends the batch until it is delivered, waits in its lanes again, or is a dead letter."""
        try:
            parcel = await self._sender.build(batch)
        except InputError as error:
            self._means.board.cancelled(leave)
            await self._refuse(batch, error.reason, error.detail)
            return
        began_s, attempt = self._means.clock.monotonic_s(), 0
        while True:
            attempt += 1
            verdict, detail, body = await self._attempt(parcel, leave)
            if await self._settled(batch, verdict, detail, body):
                return
            pause_s = self._pause_s(verdict, attempt)
            if not self._may_retry(attempt, began_s, pause_s, verdict):
                await self._exhausted(batch, began_s, attempt, detail)
                return
            self.counts["retries"] += 1
            await asyncio.sleep(pause_s)
            answer = self._means.board.ask(self._target.name)
            if isinstance(answer, Refusal):
                self._lanes.put_back(batch)
                return
            leave = answer

    async def _attempt(self, parcel: Parcel, leave: Pass) -> tuple[Verdict, str, bytes]:
        """One request: what it came to, for people, and the answer's body."""
        board, clock = self._means.board, self._means.clock
        began_s = clock.monotonic_s()
        try:
            answer = await self._sender.send(parcel)
        except asyncio.CancelledError:
            board.cancelled(leave)
            raise
        taken_s = clock.monotonic_s() - began_s
        self.counts["requests"] += 1
        self.counts["bytes"] += len(parcel.body)
        if isinstance(answer, HttpFailure):
            verdict, detail, body = classify(answer.kind), f"{answer.kind}: {answer.detail}", b""
        else:
            wall_s, cap_ms = clock.now_ms() / 1000, self._means.settings.retry_after_ms_max
            verdict = classify(answer.status, answer.headers, wall_s, cap_ms)
            detail, body = f"HTTP {answer.status}", answer.body
        self.counts[f"answers.{verdict.kind}"] += 1
        self._report(leave, verdict, int(taken_s * 1e6))
        return verdict, detail, body

    def _report(self, leave: Pass, verdict: Verdict, latency_us: int) -> None:
        """The outcome, as the circuits count it: a 4xx is an answer of a healthy target, a refused login is not."""
        board = self._means.board
        if verdict.kind in ("transient", "auth"):
            board.outcome(leave, "failed", latency_us)
        elif verdict.kind == "throttled":
            board.outcome(leave, "throttled", latency_us)
        else:
            slow = latency_us > self._target.slow_ms * 1000
            board.outcome(leave, "slow" if slow else "ok", latency_us)

    async def _settled(self, batch: Batch, verdict: Verdict, detail: str, body: bytes) -> bool:
        """Acts on an answer that no retry would change; False: it is to be tried again."""
        match verdict.kind:
            case "ok":
                self._succeeded(batch)
            case "stale":
                self._refused_keys(batch, body)
            case "permanent":
                await self._refuse(batch, f"delivery-{verdict.code}", f"the target answered {detail}")
            case "gone":
                name = self._target.name
                log.warning("target %s answered 410: nothing is sent until `streams circuits automatic %s`", name, name)
                self._means.board.set_mode(name, Mode.FORCED_OPEN, gone=True)
                self._lanes.put_back(batch)
            case "auth":
                self._sender.invalidate()
                return False
            case _:
                return False
        return True

    def _succeeded(self, batch: Batch) -> None:
        self._means.budget.success()
        self._success_s, self._fails = self._means.clock.monotonic_s(), 0
        self.counts["patches"] += batch.records
        self._limit.observe(batch.records, 0)
        self._lanes.delivered(batch)

    def _refused_keys(self, batch: Batch, body: bytes) -> None:
        """409: the keys that it names, all of them where it names none, need snapshots; the others are delivered."""
        keys = stale_keys(body) & {entry.key for entry in batch.entries}
        stale = self._lanes.keep(batch, keys or {entry.key for entry in batch.entries})
        self._success_s, self._fails = self._means.clock.monotonic_s(), 0
        self.counts["patches"] += batch.records - stale.records
        self.counts["stale"] += len(stale.entries)
        self._stale.want(stale.entries)

    # -- refused for good -------------------------------------------------------------------------------------

    async def _refuse(self, batch: Batch, reason: str, detail: str) -> None:
        """Finds the key that the target refuses: halves are sent until one key is left, which is a dead letter."""
        halves = self._lanes.split(batch)
        if len(halves) == 1:
            await self.bury(batch, reason, detail)
            return
        for half in halves:
            answer = self._means.board.ask(self._target.name)
            if isinstance(answer, Refusal):
                self._lanes.put_back(half)
            else:
                await self.run(half, answer)

    async def bury(self, batch: Batch, reason: str, detail: str) -> None:
        """Dead letters for everything in the batch, acknowledged; then its keys wait for snapshots."""
        if self.stopped:
            self._lanes.put_back(batch)
            return
        if reason != "circuit-open":
            verdict = self._limit.observe(batch.records, batch.records)
            if verdict.stop:
                self.stopped = f"{verdict.dead} of the last {verdict.seen} patches were refused, last with {reason}"
                log.error("target %s stops: %s; mend it and restart the worker", self._target.name, self.stopped)
                self._lanes.put_back(batch)
                return
        letters: dict[int, Records] = {}
        for entry in batch.entries:
            for letter in self._letters(entry, reason, detail):
                write(letters.setdefault(entry.partition, Records()), letter, self._means.letter_bytes_max)
        for partition, records in letters.items():
            await self._means.outbox.write_until_acked(self._target.dead_letters, records, partition)
        self.counts[f"dead.{reason}"] += batch.records
        if reason == "circuit-open":
            self._lanes.delivered(batch)
            self._stale.want_later({entry.key: entry.partition for entry in batch.entries})
        else:
            self._stale.want(batch.entries)

    def _letters(self, entry: Entry, reason: str, detail: str) -> list[Letter]:
        """One per patch; a composed one has the offset of the first record in it."""
        now_ms, target = self._means.clock.now_ms(), self._target
        return [
            Letter(
                target.topic, entry.partition, offset, now_ms, reason, detail, entry.key, patch, target=target.name
            )
            for offset, patch in zip(entry.offsets, entry.patches, strict=True)
        ]  # fmt: skip

    # -- tried again ------------------------------------------------------------------------------------------

    def _pause_s(self, verdict: Verdict, attempt: int) -> float:
        """Full jitter, never earlier than the target asked for; then all of its requests leave it alone."""
        settings = self._means.settings
        jitter_ms = full_jitter_ms(settings.backoff_ms, settings.backoff_ms_max, attempt, self._means.chance.random())
        pause_s = max(jitter_ms, verdict.retry_after_ms or 0) / 1000
        if verdict.kind == "throttled" or verdict.retry_after_ms:
            self.resume_s = max(self.resume_s, self._means.clock.monotonic_s() + pause_s)
        return pause_s

    def _may_retry(self, attempt: int, began_s: float, pause_s: float, verdict: Verdict) -> bool:
        settings, now_s = self._means.settings, self._means.clock.monotonic_s()
        self._fails += 1
        if verdict.kind == "throttled":
            return attempt < settings.attempts_max
        allowed = self._means.budget.failure()
        in_time = (now_s - began_s + pause_s) * 1000 <= settings.retry_time_ms_max
        return allowed and in_time and attempt < settings.attempts_max

    async def _exhausted(self, batch: Batch, began_s: float, attempt: int, detail: str) -> None:
        """No attempt is left. Where the target took others meanwhile it is about these keys, else about the target."""
        settings, now_s = self._means.settings, self._means.clock.monotonic_s()
        if self._success_s < began_s:
            if self._fails >= settings.attempts_max:
                self._means.board.exhausted(self._target.name)
            self._lanes.put_back(batch)
            self.resume_s = max(self.resume_s, now_s + settings.backoff_ms / 1000)
            return
        now_ms = int(now_s * 1000)
        if len(batch.entries) == 1:
            since_ms = self._lanes.key_failed(batch.entries[0].key, now_ms)
            if now_ms - since_ms >= settings.key_retry_ms_max:
                await self.bury(batch, "delivery-exhausted", f"{attempt} attempts in a row failed, last with {detail}")
                return
        pause_ms = full_jitter_ms(
            settings.backoff_ms, settings.backoff_ms_max, settings.attempts_max, self._means.chance.random()
        )
        self._lanes.put_back(batch, not_before_ms=now_ms + pause_ms, alone=True)
