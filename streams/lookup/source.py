"""Guarded requests to one target: its circuit, how many at a time and a second, and when it asked to be left alone.

A look-up is sent once: what fails falls back on an old answer, and the next look-up is the next attempt.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from aiolimiter import AsyncLimiter

from streams.circuit.board import Board, Pass, Refusal
from streams.clock import Clock
from streams.delivery.retry import Verdict, classify
from streams.errors import Finding, HttpFailure, InputError, SettingsError
from streams.http import Answer, HttpClient
from streams.identity.credential import Credential
from streams.options import LookupSettings, TargetSettings

__all__ = ["NOTHING", "PAUSE_S", "Connect", "Counts", "Failed", "Source"]

NOTHING = (404, 410)
"""The target says that there is nothing here: an answer like any other."""
PAUSE_S = 1.0
"""A path that failed is not asked for again before this: a stream looks it up thousands of times a second."""
PATH_CHARS_MAX = 2_048
"""Servers and proxies refuse longer ones."""

_PATH = re.compile(r"[!-\"$-\[\]-~]*")  # printable ASCII without # and backslash

Connect = Callable[[TargetSettings], tuple[HttpClient, Credential | None]]
"""The client for a target, which the look-ups close at their end, and who they are to it."""


@dataclass(slots=True)
class Counts:
    """Look-ups of one target by how they ended, since the start; all but `asked` add up to all of them."""

    hits: int = 0
    """Answered from memory."""
    joined: int = 0
    """Answered by what another look-up had begun to ask for."""
    shared: int = 0
    """Answered from the shared cache."""
    fetched: int = 0
    """Answered by the target."""
    stale: int = 0
    """Answered with an old answer."""
    failed: int = 0
    """Not answered."""
    asked: int = 0
    """Requests to the target."""


class Failed(NamedTuple):
    """Why there is no answer, since when, and how long until asking again makes sense."""

    reason: str
    at_s: float
    retry_s: float


class Source:
    """One target as look-ups use it."""

    def __init__(
        self, target: TargetSettings, settings: LookupSettings, board: Board, connect: Connect, clock: Clock
    ) -> None:
        self.counts = Counts()
        self._target = target
        self._settings = settings
        self._timeout_s = settings.timeout_ms / 1000
        self._slow_us = min(target.slow_ms or settings.timeout_ms, settings.timeout_ms * 2 // 3) * 1000
        self._board = board
        self._connect = connect
        self._clock = clock
        self._slots = asyncio.Semaphore(target.concurrency)
        rate = target.rate_per_second_max
        self._limiter = AsyncLimiter(rate, 1.0) if rate else None
        self._resume_s = float("-inf")  # it asked to be left alone until then
        self._client: HttpClient | None = None
        self._credential: Credential | None = None

    def url(self, path: str) -> str:
        """Where `path` is: below the target's URL, whatever is in it."""
        base = self._target.url
        if not base or re.search(r"[{?#]", base):
            came = "a URL with a query, a fragment or {key}" if base else "no URL"
            wanted = "one that a look-up's path can be put behind"
            raise SettingsError(Finding(f"target.{self._target.name}.url", came, wanted))
        if len(path) > PATH_CHARS_MAX or not _PATH.fullmatch(path):
            raise InputError(
                "lookup-path",
                f"got {len(path)} characters, expected at most {PATH_CHARS_MAX} of printable ASCII without # and "
                "backslash; percent-encode the others",
            )
        if any(segment in (".", "..") for segment in re.split(r"[/\\]", unquote(path.partition("?")[0]))):
            raise InputError("lookup-path", "got a segment of dots alone, expected names; servers resolve those")
        return f"{base.rstrip('/')}/{path.lstrip('/')}"

    async def fetch(self, url: str) -> Answer | Failed:
        """One guarded request, within `timeout_ms` once it is its turn, which it awaits for as long at most.

        An answer is one of success, or one that says that there is nothing. A failure is returned, not raised.
        """
        refused = self._refused()
        if refused is not None:
            return refused
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._limiter is not None:
                    await self._limiter.acquire()
                await self._slots.acquire()
        except TimeoutError:
            return self._failed("busy")
        try:
            return await self._guarded(url)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            await self._client.close()

    def _refused(self) -> Failed | None:
        """Why nothing can be asked at the moment, before anything waits for its turn."""
        now_s = self._clock.monotonic_s()
        if now_s < self._resume_s:
            return self._failed("throttled", self._resume_s - now_s)
        if self._board.is_open(self._target.name):
            # Asked all the same: that tells the owner that somebody would use a trial.
            leave = self._board.ask(self._target.name)
            if isinstance(leave, Refusal):
                return self._failed("circuit-open", leave.retry_s)
            self._board.cancelled(leave)
        return None

    async def _guarded(self, url: str) -> Answer | Failed:
        """One request, its outcome told to the circuits."""
        now_s = self._clock.monotonic_s()
        if now_s < self._resume_s:
            return self._failed("throttled", self._resume_s - now_s)
        leave = self._board.ask(self._target.name)
        if isinstance(leave, Refusal):
            return self._failed("circuit-open", leave.retry_s)
        try:
            answer = await self._exchange(url)
        except BaseException:
            self._board.cancelled(leave)
            raise
        ended_s = self._clock.monotonic_s()
        if isinstance(answer, HttpFailure):
            verdict, reason = classify(answer.kind), str(answer.kind)
        else:
            verdict = classify(answer.status, answer.headers, self._clock.now_ms() / 1000)
            reason = f"status-{answer.status}"
        self._report(leave, verdict, round((ended_s - now_s) * 1e6))
        if isinstance(answer, Answer) and (verdict.kind == "ok" or answer.status in NOTHING):
            return answer
        if verdict.retry_after_ms:
            self._resume_s = ended_s + verdict.retry_after_ms / 1000
        return self._failed(reason, max(verdict.retry_after_ms / 1000, PAUSE_S))

    async def _exchange(self, url: str) -> Answer | HttpFailure:
        """What comes back. Refused credentials are made anew once, where that makes others of them."""
        if self._client is None:
            self._client, self._credential = self._connect(self._target)
        try:
            async with asyncio.timeout(self._timeout_s):
                headers = await self._credential.headers() if self._credential is not None else {}
                answer = await self._request(self._client, url, headers)
                if answer.status == 401 and self._credential is not None:
                    self._credential.invalidate()
                    renewed = await self._credential.headers()
                    if renewed != headers:
                        answer = await self._request(self._client, url, renewed)
        except TimeoutError:
            return HttpFailure("timeout", f"no answer within {self._settings.timeout_ms} ms")
        except HttpFailure as failure:
            return failure
        if answer.headers.get("content-encoding", "identity") != "identity":
            return HttpFailure("protocol", "the answer is encoded, though no encoding was offered")
        return answer

    async def _request(self, client: HttpClient, url: str, headers: dict[str, str]) -> Answer:
        self.counts.asked += 1
        return await client.request(
            "GET",
            url,
            headers=headers,
            timeout_ms=self._settings.timeout_ms,
            answer_bytes_max=self._settings.body_bytes_max,
        )

    def _report(self, leave: Pass, verdict: Verdict, latency_us: int) -> None:
        """The outcome as the circuits count it. That one path is forbidden (403) is a healthy target's answer; that
        nobody is let in (401, no token) is not."""
        if verdict.kind == "transient" or (verdict.kind == "auth" and verdict.code != "403"):
            self._board.outcome(leave, "failed", latency_us)
        elif verdict.kind == "throttled":
            self._board.outcome(leave, "throttled", latency_us)
        else:
            self._board.outcome(leave, "slow" if latency_us > self._slow_us else "ok", latency_us)

    def _failed(self, reason: str, retry_s: float = PAUSE_S) -> Failed:
        return Failed(reason, self._clock.monotonic_s(), retry_s)
