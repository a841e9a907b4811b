"""The one HTTP client: bounded in time, size and reach, whoever answers.

A request has one deadline, from the wait for a connection to the last byte of the answer, and an answer has one limit,
checked while it comes in. Redirects are not followed, nothing is tried twice, cookies and proxies of the environment
are ignored, and answers stay as they were sent: nothing is unpacked here. A failure is an `HttpFailure` that names its
kind and neither URL nor header. Where an address leads is checked when the socket for it is made, so a name that
resolves to something else the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import math
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from streams.errors import FailureKind, HttpFailure

__all__ = ["Answer", "FailureKind", "HttpClient", "HttpFailure", "Lookup", "TlsSource", "is_public"]

CONNECT_TIMEOUT_MS = 5_000
"""For one address to accept and shake hands: two lost packets of the first three (at 0, 1 and 3 s) are outlived."""
IDLE_MS = 4_000
"""An idle connection is kept for so long: many servers (Node, uvicorn) close theirs after 5 s, and a request sent into
a closing connection is a failure that nobody caused."""
DNS_TTL_S = 10
"""A name is resolved again after this: a receiver that moved is found within ten seconds."""
DNS_THREADS_MAX = 2
"""Names being resolved at once: a receiver's and its token endpoint's. Their own threads, since the loop's are shared:
six questions to a name server that is gone would hold up everything else that runs in a thread."""
BODY_WRITE_BYTES = 1_048_576
"""A body above this is written in pieces, so that the event loop is not held up by one write."""
ANSWER_BYTES_MAX = 65_536
"""Unless told otherwise: an answer to a delivery is a status and at most a list of keys."""

_URL = re.compile(r"https?://[!-~]+")
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Lookup = Callable[[str], list[str]]
"""A host's addresses, or OSError. Called in a thread."""


class TlsSource(Protocol):
    """Where a client's TLS context comes from. It may change; connections that exist live on with the old one."""

    async def context(self) -> ssl.SSLContext:
        """The context for connections that are opened now."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers are in lower case; several of one name are joined by a comma.

    `body` is as it was sent. No encoding was offered, so a `content-encoding` here is the sender's mistake.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class HttpClient:
    """Requests over one pool of connections. Belongs to the event loop of its first request; close it there."""

    def __init__(
        self,
        *,
        connections_max: int = 16,
        allow_private: bool = False,
        tls: TlsSource | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """`connections_max`, to one host: further requests wait, within their own time. To all hosts together it is
        twice that, so that a token endpoint is reached while every connection to the receiver hangs.

        `allow_private` lets requests go to addresses that are not public. `tls` None: the machine's trusted
        certificates. `lookup` None: the machine's own resolver.
        """
        self._connections_max = connections_max
        self._allow_private = allow_private
        self._tls = tls
        self._lookup = lookup or _addresses
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_ms: int,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """Sends one request, once, and reads its whole answer. Every failure is an HttpFailure.

        `url` goes out as it is: percent-encode what comes from outside. Cancelling the call frees the connection.
        """
        if not _URL.fullmatch(url):
            raise HttpFailure(
                "protocol", "the URL is none of http or https in printable ASCII; percent-encode the rest"
            )
        head = _Head()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._exchange(method, url, headers or {}, body, answer_bytes_max, head)
        except TimeoutError:
            where = "the answer's body did not end" if head.status else "no answer"
            raise HttpFailure("timeout", f"{where} within {timeout_ms} ms", status=head.status) from None
        except aiohttp.ClientError as error:
            # Without its cause: aiohttp's messages name the URL.
            raise _failure(error, head.status) from None

    async def close(self) -> None:
        """Closes all connections; requests under way fail. The client can be used again after that."""
        session, threads = self._session, self._threads
        self._session = self._threads = None
        if session is not None:
            await session.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        """Nothing is opened before the first request."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the client."""
        await self.close()

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, answer_bytes_max: int, head: _Head
    ) -> Answer:
        context = True if self._tls is None else await self._tls.context()
        data = io.BytesIO(body) if len(body) > BODY_WRITE_BYTES else body or None
        try:
            response = await self._opened().request(
                method, URL(url, encoded=True), headers=headers, data=data, ssl=context, allow_redirects=False
            )
        except ValueError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            raise HttpFailure("protocol", "the request has a header or a URL that HTTP cannot carry") from None
        head.status = response.status
        try:
            return Answer(response.status, _joined(response.headers), await _read(response, answer_bytes_max))
        finally:
            # An answer read to its end has already given its connection back; any other one's is of no more use.
            response.close()

    def _opened(self) -> aiohttp.ClientSession:
        """The session; made on first use, since it belongs to the running event loop."""
        if self._session is None:
            self._threads = ThreadPoolExecutor(DNS_THREADS_MAX, thread_name_prefix="streams-dns")
            connector = aiohttp.TCPConnector(
                limit=2 * self._connections_max,
                limit_per_host=self._connections_max,
                resolver=_Resolver(self._lookup, self._threads),
                ttl_dns_cache=DNS_TTL_S,
                keepalive_timeout=IDLE_MS / 1000,
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "patchstream", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_MS / 1000, ceil_threshold=math.inf),
                auto_decompress=False,
                trust_env=False,
                middlewares=(_once,),
            )
        return self._session

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for an address that is about to be connected to: the one gate that every connection passes."""
        family, kind, proto, _, address = info
        if not self._allow_private and not is_public(address[0]):
            raise _RefusedAddressError("not a public address")
        return socket.socket(family=family, type=kind, proto=proto)


class _Head:
    """The status of an answer whose body is still coming; 0 before."""

    status = 0


class _RefusedAddressError(OSError):
    """An address that this client may not connect to. Its text is always the same: aiohappyeyeballs passes the first of
    several errors on as it is only then."""


class _Resolver(AbstractResolver):
    """A host's addresses, asked for in threads of its own."""

    def __init__(self, lookup: Lookup, threads: ThreadPoolExecutor) -> None:
        self._lookup = lookup
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses of the host, of either family: the connector tries them one beside the other."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_UNSPEC, proto=0, flags=0)
            for address in found
        ]

    async def close(self) -> None:
        """The threads are the client's."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a GET a second time when the connection broke: retries are counted, at one layer."""
    try:
        return await handler(request)
    except aiohttp.ClientError as error:
        raise _failure(error, 0) from None


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body, as long as it stays within the limit."""
    too_large = HttpFailure("too-large", f"the answer has more than {bytes_max} bytes", status=response.status)
    if (response.content_length or 0) > bytes_max and response.method != "HEAD":
        raise too_large
    pieces, nbytes = [], 0
    async for piece in response.content.iter_any():
        nbytes += len(piece)
        if nbytes > bytes_max:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for written, value in headers.items():
        name = written.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _failure(error: aiohttp.ClientError, status: int) -> HttpFailure:
    """What happened, in our words: texts of the peer and the URL stay out, those of the machine's own errors are in."""
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(error, aiohttp.ServerTimeoutError):
        return HttpFailure("timeout", f"no connection within {CONNECT_TIMEOUT_MS} ms", status=status)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return HttpFailure("dns", f"the host has no address ({_text(error.os_error)})")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return HttpFailure("tls", f"the certificate is not trusted ({_text(error.certificate_error)})")
    if isinstance(error, aiohttp.ClientSSLError):
        return HttpFailure("tls", f"no TLS connection ({_text(error.os_error)})")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, _RefusedAddressError):
            return HttpFailure("refused-address", "the host has no public address; allow_private allows others")
        return HttpFailure("connect", f"no connection ({_text(error.os_error)})")
    if isinstance(cause, ssl.SSLError):
        return HttpFailure("tls", f"the TLS connection ended ({_text(cause)})", status=status)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return HttpFailure("reset", "the connection broke off before the answer", status=status)
    if isinstance(error, aiohttp.ClientPayloadError):
        return HttpFailure("reset", "the connection broke off within the answer", status=status)
    if isinstance(error, aiohttp.ClientConnectionError):
        return HttpFailure("reset", "the connection was closed", status=status)
    return HttpFailure("protocol", f"what came is not HTTP ({type(error).__name__})", status=status)


def _text(error: BaseException) -> str:
    """The machine's own words for an error of a socket, of the resolver or of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _addresses(host: str) -> list[str]:
    """What the machine's resolver says."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return [str(address[0]) for _, _, _, _, address in found]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a host of the public Internet, as opposed to this machine or its networks.

    Of IPv6 only the global unicast block counts; an address that carries an IPv4 one (mapped, 6to4, NAT64) is judged
    by that. The metadata services of clouds (169.254.169.254, fd00:ec2::254) are link-local or private.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if inner is None:
            return ip in _UNICAST and ip.is_global
        ip = inner
    return ip.is_global and not ip.is_multicast
