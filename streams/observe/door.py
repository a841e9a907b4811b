"""How many connections the web port keeps, and for how long without a request: each holds a file of the process.

Somebody may open many and ask for nothing, by intent or by a broken proxy; the worker needs its files for its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web
from faust.web.base import BlueprintManager
from faust.web.drivers import aiohttp as driver
from typing_extensions import override

__all__ = ["Door", "Web"]

QUIET_MAX = 200
"""Of the 1,024 files that a process may have by default; probes, a scraper and people with browsers need twenty."""
FIRST_S = 10.0
"""For the head of the first request: probes send theirs at once, and a slow line needs seconds."""
NEXT_S = 120.0
"""For the next one: a scraper comes once a minute and keeps its connection."""
LOOK_S = 2.0
SHUTDOWN_S = 1.0
"""For answers under way when the worker stops; aiohttp's minute is longer than the drain."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Quiet(NamedTuple):
    """Since when a connection has had no request, and for how long it may."""

    since_s: float
    allowed_s: float


class Door:
    """The connections without a request at the moment; who has waited longest stands first. In the server's loop."""

    def __init__(self) -> None:
        self._quiet: dict[web.RequestHandler, Quiet] = {}
        self._looking: asyncio.TimerHandle | None = None

    def made(self, connection: web.RequestHandler) -> web.RequestHandler:
        """One was accepted. Where there are too many, the one that has waited longest makes room."""
        if len(self._quiet) >= QUIET_MAX:
            self._forget_answered()
        while len(self._quiet) >= QUIET_MAX:
            self._close(next(iter(self._quiet)))
        self._wait(connection, FIRST_S)
        return connection

    def keeping(self) -> Any:
        """An aiohttp middleware: a connection that has asked waits again once it is answered."""

        @web.middleware
        async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._quiet.pop(request.protocol, None)
            try:
                return await handler(request)
            finally:
                self._wait(request.protocol, NEXT_S)

        return keep

    def _forget_answered(self) -> None:
        """Those that asked and have gone: probes do, and are not to take the place of a scraper that waits."""
        for connection, quiet in list(self._quiet.items()):
            if connection.transport is None and quiet.allowed_s == NEXT_S:
                del self._quiet[connection]

    def _wait(self, connection: web.RequestHandler, allowed_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._quiet[connection] = Quiet(loop.time(), allowed_s)
        self._looking = self._looking or loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for connection, quiet in list(self._quiet.items()):
            waited_s = now_s - quiet.since_s
            # One without a transport is closed; for a moment it may not have come to it yet.
            if waited_s > (LOOK_S if connection.transport is None else quiet.allowed_s):
                self._close(connection)
        again = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._quiet else None
        self._looking = again

    def _close(self, connection: web.RequestHandler) -> None:
        del self._quiet[connection]
        if connection.transport is not None:
            connection.transport.abort()


class _Runner(web.AppRunner):
    """aiohttp's, with a door."""

    def __init__(self, app: web.Application, door: Door) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        self._door = door

    @property
    @override
    def server(self) -> Any:
        """What makes the protocol of each connection."""
        server = super().server
        return None if server is None else lambda: self._door.made(server())


class Web(driver.Web):
    """Faust's web server, with a door, and without its page at /, which says OK whatever happens."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.blueprints = BlueprintManager()
        door = Door()
        self.web_app.middlewares.insert(0, door.keeping())
        self._runner = _Runner(self.web_app, door)
