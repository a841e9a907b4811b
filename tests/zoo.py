"""Receivers of every kind on real sockets of 127.0.0.1: the target zoo, where each does one thing, and a receiver that
does what a receiver should and keeps account of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import trustme
from aiohttp import web
from google.protobuf.message import Message

from streams.client.held import HeldStates
from streams.kernel.compression import Dictionary, decompress
from streams.kernel.rule import Held, Verdict, decide
from streams.v1.delivery_pb2 import StaleKeys
from streams.v1.patch_pb2 import Patch, PatchBatch

__all__ = ["Certificates", "Delivery", "Receiver", "Zoo", "failing"]

M = TypeVar("M", bound=Message)

STALE_KEY = b"stale-key"
"""The key that the zoo's 409 names."""
BODY_BYTES_MAX = 64 << 20


class Certificates:
    """PEM files of a CA of their own, of servers good and bad, and of a client."""

    def __init__(self, directory: Path) -> None:
        """Writes into the directory."""
        self._directory = directory
        self._ca, self._other_ca = trustme.CA(), trustme.CA()
        self.ca_file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)
        past = datetime.now(UTC) - timedelta(days=1)
        self.good = self._ca.issue_cert("127.0.0.1", "localhost")
        self.expired = self._ca.issue_cert("127.0.0.1", "localhost", not_before=past - timedelta(1), not_after=past)
        self.other_name = self._ca.issue_cert("other.example")
        self.other_ca = self._other_ca.issue_cert("127.0.0.1", "localhost")

    def client(self, name: str, foreign: bool = False) -> tuple[str, str]:
        """Files with a client certificate of this name and its key. A foreign one is of another CA."""
        made = (self._other_ca if foreign else self._ca).issue_cert(f"{name}.client.example")
        cert_file, key_file = str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(cert_file)
        made.private_key_pem.write_to_path(key_file)
        return cert_file, key_file

    def server_context(self, cert: trustme.LeafCert, mutual: bool = False) -> ssl.SSLContext:
        """For a server with this certificate; `mutual`: it takes clients of the CA alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert.configure_cert(context)
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context


@dataclass
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Animal = Callable[["Zoo", Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Zoo:
    """Targets by name, each with its own URL: `slow`, `hang`, `hang-after-headers`, `drip`, `reset`, `reset-mid-body`,
    `endless-body`, `endless-header`, `endless-hints`, `long-answer`, `garbage`, `bad-chunk`, `bomb`, `cookie`,
    `early-refusal`, `redirect`, `stale`, `stale-json`, `gone`, `throttled-seconds`, `throttled-date`,
    `throttled-absurd`, `throttled-absurd-date`, `unavailable`, `errors-N` (500 for N of a hundred), `status-N`, `ok`.

    With certificates also `tls-good`, `tls-expired`, `tls-other-name`, `tls-other-ca`, `tls-mutual`, and `tls-plain`,
    where nobody speaks TLS.
    """

    def __init__(self, certificates: Certificates | None = None, delay_s: float = 0.2) -> None:
        """`delay_s` is how long `slow` takes."""
        self.delay_s = delay_s
        self.requests: Counter[str] = Counter()
        """Requests by name of the target."""
        self.left: Counter[str] = Counter()
        """Clients that closed the connection on a target that keeps them waiting, by its name."""
        self.last: dict[str, Seen] = {}
        self.connections = 0
        """Connections ever opened."""
        self.open = 0
        """Connections open now."""
        self._changed = asyncio.Event()
        self._certificates = certificates
        self._servers: list[asyncio.Server] = []
        self._ports: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def url(self, name: str) -> str:
        """Where the target of this name is."""
        scheme = "https" if name.startswith("tls-") else "http"
        return f"{scheme}://127.0.0.1:{self.port(name)}/{name}"

    def port(self, name: str = "") -> int:
        """The port of this target; all but those with TLS share one."""
        return self._ports.get(name, self._ports[""])

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for something about requests or connections to be so."""
        async with asyncio.timeout(60):
            while not condition():
                await self._changed.wait()

    def note(self) -> None:
        """Something about requests or connections is new."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._listen("")
        if self._certificates is not None:
            made = self._certificates
            await self._listen("tls-good", made.server_context(made.good))
            await self._listen("tls-expired", made.server_context(made.expired))
            await self._listen("tls-other-name", made.server_context(made.other_name))
            await self._listen("tls-other-ca", made.server_context(made.other_ca))
            await self._listen("tls-mutual", made.server_context(made.good, mutual=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, name: str, context: ssl.SSLContext | None = None) -> None:
        server = await asyncio.start_server(self._visit, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        self._ports[name] = server.sockets[0].getsockname()[1]

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        try:
            while True:
                await self._serve(await _head(reader, writer), reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client went, or the zoo closes
        finally:
            self.open -= 1
            self.note()
            writer.close()

    async def _serve(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = seen.path.strip("/").partition("/")[0].partition("?")[0]
        self.requests[name] += 1
        self.last[name] = seen
        self.note()
        if name != "early-refusal":
            seen.body = await reader.readexactly(int(seen.headers.get("content-length", "0")))
        family, _, number = name.rpartition("-")
        if name in ANIMALS:
            await ANIMALS[name](self, seen, reader, writer)
        elif family == "status":
            await _answer(writer, int(number))
        elif family == "errors":
            nth, share = self.requests[name], int(number)
            await _answer(writer, 500 if nth * share // 100 > (nth - 1) * share // 100 else 200)
        else:
            await _answer(writer, 200, b"ok")


async def _head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Seen:
    first = await reader.readexactly(1)
    if first == b"\x16":  # TLS where nobody speaks it
        await _answer(writer, 400)
        raise EOFError
    lines = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return Seen(method, path, {name.strip().lower(): value.strip() for name, _, value in pairs}, b"")


async def _answer(writer: asyncio.StreamWriter, status: int, body: bytes = b"", **headers: str) -> None:
    fields = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"HTTP/1.1 {status} Reason\r\n{head}\r\n".encode() + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with a TCP reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


async def _slow(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(zoo.delay_s)
    await _answer(writer, 200, b"ok")


async def _hang(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    zoo.left["hang"] += 1
    zoo.note()
    raise EOFError


async def _hang_after_headers(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _answer(writer, 200, Content_Length="10")
    await reader.read()
    zoo.left["hang-after-headers"] += 1
    zoo.note()
    raise EOFError


async def _drip(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _answer(writer, 200, Content_Length="5000")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _reset_at_once(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _reset(writer)


async def _reset_mid_body(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _answer(writer, 200, b"half", Content_Length="8")
    await asyncio.sleep(0.05)
    _reset(writer)


async def _endless_body(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def _endless_header(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def _endless_hints(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)
        await writer.drain()


async def _garbage(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP secret-of-the-peer\r\n")
    await writer.drain()
    await reader.read()


async def _bad_chunk(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"secret-of-the-peer\r\n")
    await writer.drain()
    await reader.read()


async def _early_refusal(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers before it has read the body, and goes on reading until the client has enough of it."""
    await _answer(writer, 413)
    while await reader.read(0x10000):
        pass
    raise EOFError


def _fixed(status: int, body: bytes = b"", **headers: str) -> Animal:
    async def answer(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer(writer, status, body, **headers)

    return answer


async def _redirect(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _answer(writer, 307, Location=zoo.url("redirected"))


async def _throttled_date(zoo: Zoo, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _answer(writer, 429, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))


ANIMALS: dict[str, Animal] = {
    "slow": _slow,
    "hang": _hang,
    "hang-after-headers": _hang_after_headers,
    "drip": _drip,
    "reset": _reset_at_once,
    "reset-mid-body": _reset_mid_body,
    "endless-body": _endless_body,
    "endless-header": _endless_header,
    "endless-hints": _endless_hints,
    "long-answer": _fixed(200, b"x" * 1_000_000),
    "garbage": _garbage,
    "bad-chunk": _bad_chunk,
    "bomb": _fixed(200, b"\x1f\x8b not really", Content_Encoding="gzip"),
    "cookie": _fixed(200, b"ok", Set_Cookie="session=1; Path=/"),
    "early-refusal": _early_refusal,
    "redirect": _redirect,
    "stale": _fixed(
        409, StaleKeys(keys=[STALE_KEY]).SerializeToString(), Content_Type="application/x-protobuf"
    ),
    "stale-json": _fixed(
        409, json.dumps({"keys": [base64.b64encode(STALE_KEY).decode()]}).encode(), Content_Type="application/json"
    ),
    "gone": _fixed(410),
    "throttled-seconds": _fixed(429, Retry_After="30"),
    "throttled-date": _throttled_date,
    "throttled-absurd": _fixed(429, Retry_After="9" * 30),
    "throttled-absurd-date": _fixed(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
    "unavailable": _fixed(503, Retry_After="30"),
}  # fmt: skip
"""What each target does."""


@dataclass(frozen=True)
class Delivery:
    """One request to a receiver: `body` is what the patches came in, unpacked, `wire_bytes` the size on the way."""

    headers: dict[str, str]
    path: str
    body: bytes
    wire_bytes: int
    keys: tuple[bytes, ...]

    @property
    def idempotency_key(self) -> str:
        """The request's name; a retry has the same."""
        return self.headers.get("idempotency-key", "")


Refusal = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer that takes nothing."""


def failing(share: int, status: int = 500, **headers: str) -> Callable[[Delivery], Refusal | None]:
    """For `Receiver.refuse`: answers `status` to `share` of a hundred requests, evenly spread."""
    count = 0

    def refuse(delivery: Delivery) -> Refusal | None:
        nonlocal count
        count += 1
        fails = count * share // 100 > (count - 1) * share // 100
        return (status, {name.replace("_", "-"): value for name, value in headers.items()}, b"") if fails else None

    return refuse


@dataclass(frozen=True)
class _Batch:
    """A batch in one of its forms. `apply` gives the key of each patch that could not be applied, else None."""

    keys: tuple[bytes, ...]
    apply: Callable[[], Iterable[bytes | None]]
    refusal: Callable[[list[bytes]], Refusal]


class Receiver(Generic[M]):
    """A receiver that applies what it gets by the receiver's rule and answers 409 for keys that it cannot go on with.

    It takes both forms of a batch, plain, in zstd, or in dcz with one of `dictionaries`, which it announces.
    """

    def __init__(self, message_class: type[M], *, dictionaries: tuple[Dictionary, ...] = ()) -> None:
        """`message_class`: of the patches' data."""
        self.held: HeldStates[M] = HeldStates(message_class, requester="receiver", asks=None)
        self.held_json = _JsonStates()
        self.refuse: Callable[[Delivery], Refusal | None] | None = None
        """Asked about every request before it is taken: an answer of its own, or None to take it."""
        self.delay_s = 0.0
        """How long every answer takes."""
        self.dictionaries = dictionaries
        self.requests = 0
        self.taken = 0
        """Requests answered with 200 or 409."""
        self.patches = 0
        """Patches in requests that were taken."""
        self.wire_bytes = 0
        self.stale = 0
        """Keys named in answers 409."""
        self.repeats = 0
        """Requests with an Idempotency-Key that came before."""
        self.changed = 0
        """Of these the ones with another body than before: always 0, or a retry was not the same bytes."""
        self.statuses: Counter[int] = Counter()
        self.last: deque[Delivery] = deque(maxlen=1_000)
        """The last requests, refused ones too."""
        self._bodies: dict[str, bytes] = {}
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where batches are posted; any path below will do."""
        return f"http://127.0.0.1:{self._port}/patches"

    def states(self) -> dict[bytes, bytes]:
        """The canonical state of every key that has one, from batches in Protobuf."""
        return {key: self.held.state(key) or b"" for key, _ in self.held.states()}

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/{path:.*}", self._post)
        self._runner = web.AppRunner(application, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def listen(self) -> None:
        """Listens, on the same port again after `vanish`."""
        assert self._runner is not None
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def vanish(self) -> None:
        """As if killed: connections end, and new ones are refused until `listen`."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()
        server = self._runner.server
        assert server is not None
        for connection in server.connections:
            connection.force_close()

    async def _post(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        wire = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = self._unpacked(headers.get("content-encoding", ""), wire)
        way = self._json_batch(body) if "json" in headers.get("content-type", "") else self._batch(body)
        delivery = Delivery(headers, request.path, body, len(wire), way.keys)
        self._account(delivery)
        refusal = self.refuse(delivery) if self.refuse is not None else None
        status, fields, content = refusal or self._taken(way)
        self.statuses[status] += 1
        return web.Response(status=status, headers=self._announced() | fields, body=content)

    def _unpacked(self, encoding: str, wire: bytes) -> bytes:
        if encoding == "zstd":
            return decompress(wire, BODY_BYTES_MAX)
        if encoding == "dcz":
            fitting = next(known for known in self.dictionaries if known.sha256 == wire[8:40])
            return fitting.decompress(wire, BODY_BYTES_MAX)
        assert encoding == "", f"an encoding that was not announced: {encoding}"
        return wire

    def _account(self, delivery: Delivery) -> None:
        self.last.append(delivery)
        self.wire_bytes += delivery.wire_bytes
        name, digest = delivery.idempotency_key, hashlib.sha256(delivery.body).digest()
        if name:
            self.repeats += name in self._bodies
            self.changed += self._bodies.setdefault(name, digest) != digest

    def _taken(self, batch: _Batch) -> Refusal:
        stale = list(dict.fromkeys(key for key in batch.apply() if key is not None))
        self.taken += 1
        self.patches += len(batch.keys)
        self.stale += len(stale)
        return batch.refusal(stale) if stale else (200, {}, b"")

    def _batch(self, body: bytes) -> _Batch:
        patches = PatchBatch.FromString(body).patches

        def refusal(stale: list[bytes]) -> Refusal:
            return 409, {"Content-Type": "application/x-protobuf"}, StaleKeys(keys=stale).SerializeToString()

        return _Batch(tuple(patch.key for patch in patches), lambda: map(self._take, patches), refusal)

    def _json_batch(self, body: bytes) -> _Batch:
        patches = json.loads(body)["patches"]

        def refusal(stale: list[bytes]) -> Refusal:
            keys = [base64.b64encode(key).decode() for key in stale]
            return 409, {"Content-Type": "application/json"}, json.dumps({"keys": keys}).encode()

        keys = tuple(base64.b64decode(patch["key"]) for patch in patches)
        return _Batch(keys, lambda: map(self.held_json.take, patches), refusal)

    def _take(self, patch: Patch) -> bytes | None:
        before = self._refused
        self.held.take(0, 0, patch.key, patch.SerializeToString())
        return patch.key if self._refused > before else None

    @property
    def _refused(self) -> int:
        counts = self.held.counts
        return counts.gaps + counts.stale + counts.refused

    def _announced(self) -> dict[str, str]:
        if not self.dictionaries:
            return {}
        digest = base64.b64encode(self.dictionaries[-1].sha256).decode()
        return {"Accept-Encoding": "dcz, zstd", "Available-Dictionary": f":{digest}:"}


@dataclass
class _JsonStates:
    """What a receiver without Protobuf holds, by nothing but the description of the JSON form."""

    rows: dict[bytes, tuple[Held, dict[str, Any] | None]] = field(default_factory=dict)

    def take(self, patch: dict[str, Any]) -> bytes | None:
        """Applies one patch. Returns its key when a snapshot is needed."""
        key = base64.b64decode(patch["key"])
        held, state = self.rows.get(key, (None, None))
        head = Patch(
            epoch=int(patch["epoch"]),
            revision=int(patch["revision"]),
            base_revision=int(patch["base_revision"]),
            kind=patch["kind"],
        )
        verdict = decide(held, head)
        if verdict is not Verdict.APPLY:
            return None if verdict is Verdict.DUPLICATE else key
        after: dict[str, Any] | None = None
        if patch["kind"] == "SNAPSHOT":
            after = patch["data"]
        elif patch["kind"] == "DELTA":
            after = state or {}
            for path in patch["mask"]:
                _clear(after, path.split("."))
            _merge(after, patch["data"])
        self.rows[key] = Held(head.epoch, head.revision), after
        return None


def _clear(state: dict[str, Any], path: list[str]) -> None:
    *parents, name = path
    for parent in parents:
        if parent not in state:
            return
        state = state[parent]
    state.pop(name, None)


def _merge(state: dict[str, Any], data: dict[str, Any]) -> None:
    for name, value in data.items():
        if isinstance(value, dict) and isinstance(state.get(name), dict):
            _merge(state[name], value)
        else:
            state[name] = value
