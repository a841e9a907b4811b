"""A real HTTP server with configuration to look up, and look-ups of it on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from streams.circuit.board import Board
from streams.clock import ManualClock
from streams.http import HttpClient
from streams.identity.credential import Credential, Credentials
from streams.lookup.lookups import Lookups
from streams.options import CircuitSettings, LookupSettings, TargetSettings

__all__ = ["TARGET", "Registry", "lookups", "target"]

TARGET = "registry"


class Registry:
    """Answers `GET /base/{path}` with what `answers` has for the path, else with the path and a number that grows."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """Requests by path and query."""
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        """Status, body and headers by path; `*`: of every path."""
        self.gate = asyncio.Event()
        """Answers wait for it."""
        self.gate.set()
        self.at_once = 0
        """Requests waiting for their answers now, and the most that ever did."""
        self.at_once_max = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """What the target's setting says."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/base"

    @property
    def count(self) -> int:
        """Requests so far."""
        return self.requests.total()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/base/{path:.*}", self._get)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self.gate.set()
        await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        path = request.raw_path.removeprefix("/base/")
        self.requests[path] += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        status, body, headers = self.answers.get(path) or self.answers.get("*") or (200, b"", {})
        return web.Response(status=status, body=body or f"{path} {self.count}".encode(), headers=headers)


def target(url: str, **options: Any) -> TargetSettings:
    """A target that is looked up."""
    return TargetSettings(name=TARGET, url=url, allow_private=True, **options)


def lookups(
    url: str,
    clock: ManualClock,
    *,
    board: Board | None = None,
    circuit: CircuitSettings | None = None,
    options: dict[str, Any] | None = None,
    namespace: str = "fleet",
    **settings: Any,
) -> Lookups:
    """Look-ups of one target. `options` are the target's, `settings` those of [lookup]."""
    logins = Credentials(clock)

    def connect(chosen: TargetSettings) -> tuple[HttpClient, Credential | None]:
        client = HttpClient(connections_max=chosen.concurrency, allow_private=chosen.allow_private)
        return client, logins.of(chosen, client)

    return Lookups(
        board or Board(circuit or CircuitSettings(), "test", clock),
        LookupSettings(**{"timeout_ms": 10_000, **settings}),
        [target(url, **(options or {}))],
        connect,
        namespace=namespace,
        clock=clock,
        chance=lambda: 0.5,
    )
