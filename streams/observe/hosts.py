"""Who the web port answers to: requests whose Host is an address or a name of this worker. What its pages raise is not
shown.

A browser on this machine reaches 127.0.0.1 from any page: one whose name was pointed here meanwhile (DNS rebinding)
sends that name as Host, and is refused. An address as Host is no such page's.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streams.options import AppSettings
from streams.transport.raised import kind_of, line_of

__all__ = ["allowed", "guard", "own_names", "web_options"]

HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?")
"""A Host header: an IPv6 address in brackets, or a name or IPv4 address, and a port."""
MISDIRECTED = 421
FAILED = 500
REFUSED = "this port answers to its own addresses and names alone; list others in app.web_names\n"

VIEWS = ("router", "tables", "graph", "stats", "metrics")
"""Faust's own pages. They show keys, values and assignments to anybody: off until a login stands before them."""

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def web_options(own: AppSettings, application: Mapping[str, Any]) -> dict[str, Any]:
    """How Faust's web server is set up: where it listens, which of Faust's pages it lacks, whom it answers, and what it
    says of a page that raises.


    `application`: the user's own options of the aiohttp application; their middlewares come behind the guard.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_http)
    guards = [guard(own_names(own.web_host, own.web_names)), *application.get("middlewares", ())]
    return {
        "web_host": own.web_host,
        "web_bind": own.web_host,
        "web_port": own.web_port,
        "web_application_options": {**application, "middlewares": guards},
        **{f"web_{view}_enabled": False for view in VIEWS},
    }


def _is_http(record: logging.LogRecord) -> bool:
    """Not what somebody sent that is no HTTP: it is answered with 400; aiohttp would write all of it, at ERROR."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def own_names(web_host: str, names: Iterable[str]) -> frozenset[str]:
    """The names of this worker, in lower case: localhost, what it is bound to, its machine's, and those of settings."""
    return frozenset(
        name.rstrip(".").lower() for name in ("localhost", web_host, socket.gethostname(), socket.getfqdn(), *names)
    )


def allowed(host: str | None, names: Collection[str]) -> bool:
    """Whether a Host header names this worker, or an address. Pure."""
    found = HOST.fullmatch(host or "")
    if found is None:
        return False
    name = found.group(1) or found.group(2)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return found.group(1) is None and name.rstrip(".").lower() in names
    return True


def guard(names: Collection[str]) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """An aiohttp middleware that refuses other hosts, in the header and in a request line with a whole URL."""

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        line = request.raw_path
        authority = line.partition("://")[2].partition("/")[0] if not line.startswith("/") else None
        if allowed(request.headers.get("Host"), names) and (authority is None or allowed(authority, names)):
            return await answered(request, handler)
        return web.Response(status=MISDIRECTED, text=REFUSED)

    return check_host


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a page answers; where it raises, what and where: aiohttp would log all that the error says."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold what was asked for
        resource = request.match_info.route.resource
        page = resource.canonical if resource is not None else "an unknown one"
        log.error("page %s raised %s%s", page, kind_of(error), line_of(error))
        return web.Response(status=FAILED, text="500: Internal Server Error\n")
