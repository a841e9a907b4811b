"""A token endpoint on a real socket, as strict or as broken as a test wants it."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote_plus

from aiohttp import web

__all__ = ["CLIENT_ID", "SECRET", "TokenEndpoint"]

CLIENT_ID = "fleet:main"
SECRET = "s3cr&t/ +ä"


class TokenEndpoint:
    """Gives `token-1`, `token-2` and so on to whoever shows the secret."""

    def __init__(self) -> None:
        self.secret = SECRET
        self.lifetime_s: int | None = 3_600
        self.in_body_only = False
        """Whether the secret is taken in the form alone, as some endpoints do."""
        self.fixed: tuple[int, str, dict[str, str]] | None = None
        """Status, body and headers of every answer, whatever was asked."""
        self.extra: dict[str, object] = {}
        self.requests = 0
        self.forms: list[dict[str, str]] = []
        self.open = asyncio.Event()
        """While clear, requests wait."""
        self.open.set()
        self._tokens = 0

    @property
    def url(self) -> str:
        """Where tokens are asked for."""
        return f"http://127.0.0.1:{self._port}/oauth/token"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/oauth/token", self._post)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.set()
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        self.requests += 1
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
        self.forms.append(form)
        await self.open.wait()
        if self.fixed is not None:
            status, body, headers = self.fixed
            return web.Response(status=status, body=body.encode(), headers=headers)
        shown = form.get("client_id", ""), form.get("client_secret", "")
        if "Authorization" in request.headers and not self.in_body_only:
            pair = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
            name, _, secret = pair.partition(":")
            shown = unquote_plus(name), unquote_plus(secret)
        if shown != (CLIENT_ID, self.secret) or form["grant_type"] != "client_credentials":
            return web.json_response({"error": "invalid_client", "error_description": "secret-of-the-peer"}, status=401)
        self._tokens += 1
        token: dict[str, object] = {"access_token": f"token-{self._tokens}", "token_type": "bearer"} | self.extra
        if self.lifetime_s is not None:
            token["expires_in"] = self.lifetime_s
        return web.json_response(token)
