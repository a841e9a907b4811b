"""A receiver of patches over HTTP as another team would write it, with the standard library's server.

It applies each `streams.v1.PatchBatch` by the receiver's rule, answers 409 with the keys that have a gap, and falls
sick when it is told to: then every request gets 503, until it is healed.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from streams.client.held import HeldStates
from streams.clock import SYSTEM_CLOCK, Clock
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.kernel.compression import decompress
from streams.v1.delivery_pb2 import StaleKeys
from streams.v1.patch_pb2 import PatchBatch

__all__ = ["HttpReceiver"]

BODY_BYTES_MAX = 16 << 20
"""Far above a target's `batch_bytes_max`: a body that claims more is not what the demo sends."""


class HttpReceiver:
    """Serves on a free port of 127.0.0.1 while the `with` block runs."""

    def __init__(self, sick_after: int, clock: Clock = SYSTEM_CLOCK) -> None:
        """Falls sick when it has applied so many patches."""
        self.held: HeldStates[AircraftState] = HeldStates(AircraftState, requester="demo", asks=None)
        self.patches = 0
        """Patches in requests that were answered as success."""
        self.requests = 0
        self.refused = 0
        """Requests answered with 503."""
        self.sick = False
        self.away_s = 0.0
        """How long it was sick."""
        self._clock = clock
        self._sick_since_s = 0.0
        self._sick_after: int | None = sick_after
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="demo-receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where patches are posted."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/patches"

    def heal(self) -> None:
        """From here on every request is taken."""
        with self._lock:
            if self.sick:
                self.away_s += self._clock.monotonic_s() - self._sick_since_s
            self.sick, self._sick_after = False, None

    def states(self) -> dict[str, bytes]:
        """The bytes that it holds of every aircraft."""
        return {key.decode(): self.held.state(key) or b"" for key, _ in self.held.states()}

    def take(self, body: bytes) -> tuple[int, bytes]:
        """The answer to one request: status and body."""
        with self._lock:
            if self._sick_after is not None and self.patches >= self._sick_after and not self.sick:
                self.sick, self._sick_since_s = True, self._clock.monotonic_s()
            if self.sick:
                self.refused += 1
                return 503, b""
            self.requests += 1
            return self._apply(PatchBatch.FromString(body))

    def _apply(self, batch: PatchBatch) -> tuple[int, bytes]:
        gaps = self.held.counts.gaps
        stale = []
        for offset, patch in enumerate(batch.patches):
            self.held.take(0, offset, patch.key, patch.SerializeToString())
            if self.held.counts.gaps > gaps:
                gaps = self.held.counts.gaps
                stale.append(patch.key)
        self.patches += len(batch.patches) - len(stale)
        return (409, StaleKeys(keys=stale).SerializeToString()) if stale else (200, b"")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(receiver: HttpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection, kept alive."""

        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            """A worker that ends, as with Ctrl-C, leaves in the middle of a request; that is no error of ours."""
            with suppress(ConnectionError):
                super().handle()

        def do_POST(self) -> None:
            """Takes one batch."""
            length = int(self.headers.get("Content-Length", "0"))
            if length > BODY_BYTES_MAX:
                self.send_error(413)
                return
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the worker left within a request")
            if self.headers.get("Content-Encoding") == "zstd":
                body = decompress(body, BODY_BYTES_MAX)
            status, answer = receiver.take(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: the demo's own lines are what people look at."""

    return Handler
