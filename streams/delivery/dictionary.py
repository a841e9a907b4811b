"""Dictionaries for zstd: learnt from live patches, told to everybody through a compacted topic, renewed once a day.

They are for small requests: a lone patch of 200 bytes does not compress, with a dictionary it loses a quarter, and five
in a request take 48 % instead of 59 %; of 500 there is nothing left to win. A worker that delivers a type to a target
with `compression = "dictionary"` keeps a few recent patches of it. It learns a dictionary from them when there is none,
or when the newest is a day old and another would save more. Every worker reads the topic, so any of them can compress
with any dictionary and serve it. Receivers find it at GET /dictionaries (all of them), fetch its bytes from
/dictionaries/{id}, and say in their answers which one they have (RFC 9842). The newest two of a type stay, so that a
receiver has a day to fetch the newer one. Nobody depends on having one: whoever does not announce a dictionary that is
known here gets plain zstd.

Its bytes are pieces of patches: who may fetch it may read those.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import Any

from google.protobuf.message import DecodeError

from streams._native import Records
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import TransportError
from streams.kernel import compression
from streams.options.rule import DAY_MS
from streams.v1.dictionary_pb2 import Dictionary

__all__ = ["Dictionaries", "Publish"]

RENEW_MS = DAY_MS
"""Data drifts over days; receivers fetch 16 KB a day."""
ALIVE = 2
"""Dictionaries of a type: the newest, and the one that receivers come from."""
SAMPLES = 2_000
"""Patches that a dictionary is learnt from: of 200 bytes, 25 times its size. Four times as many win another 1 %."""
SAMPLE_BYTES_MAX = 4_096
"""A longer patch is cut: 2,000 of them are 8 MB per type, and a long one repeats itself without a dictionary."""
SAMPLE_EVERY = 16
"""Of a request of 500 patches 32 are kept, of a lone patch that one."""
HELD_OUT = 200
"""Samples that a dictionary is judged by, and not learnt from."""
SAVING_MIN = 0.05
"""A new dictionary saves at least this much on them, or receivers need not fetch it."""
HELD_MAX = 64
"""Dictionaries in memory: the living ones of 32 types, a megabyte. Beyond, the oldest are forgotten."""
NOT_FOUND = 404

Publish = Callable[[Records], Awaitable[None]]
"""Writes records to the dictionaries' topic; returns when they are acknowledged, raises TransportError otherwise."""

log = logging.getLogger(__name__)


class _Held:
    """One dictionary of the topic."""

    def __init__(self, read: Dictionary) -> None:
        self.id: int = read.id
        self.type: str = read.type
        self.sha256: bytes = read.sha256
        self.created_ms: int = read.created_ms
        self.content: bytes = read.content

    @property
    def key(self) -> bytes:
        """Of its record."""
        return str(self.id).encode()

    @property
    def age(self) -> tuple[int, int]:
        """Orders dictionaries, the same way in every worker."""
        return self.created_ms, self.id

    @cached_property
    def ready(self) -> compression.Dictionary:
        """Made when it is first used: zstd's tables for it are ten times its size."""
        return compression.Dictionary(self.content)


class Dictionaries:
    """All dictionaries of one app, in one worker. Used in the event loop."""

    def __init__(self, publish: Publish, clock: Clock = SYSTEM_CLOCK) -> None:
        """`publish` is called when one was learnt; it counts from when `take` gets it back from the topic."""
        self._publish = publish
        self._clock = clock
        self._held: dict[bytes, _Held] = {}  # by record key
        self.damaged = 0
        """Records of the topic that are none."""
        self._samples: dict[str, deque[bytes]] = {}
        self._tried_ms: dict[str, int] = {}

    # -- the topic --------------------------------------------------------------------------------------------

    def take(self, key: bytes, value: bytes | None) -> None:
        """Takes in one record of the topic. One that is damaged, or is not what its key says, is ignored."""
        if value is None:
            self._held.pop(key, None)
            return
        try:
            read = Dictionary.FromString(value)
        except DecodeError:
            read = Dictionary()
        held = _Held(read)
        if not held.content or key != held.key or hashlib.sha256(held.content).digest() != held.sha256:
            self.damaged += 1
            log.warning("a record of the dictionaries' topic is no dictionary, and is ignored")
            return
        self._held[key] = held
        while len(self._held) > HELD_MAX:
            del self._held[min(self._held.values(), key=lambda each: each.age).key]

    # -- use --------------------------------------------------------------------------------------------------

    def find(self, sha256: bytes) -> compression.Dictionary | None:
        """The dictionary whose bytes have this SHA-256."""
        return next((held.ready for held in self._held.values() if held.sha256 == sha256), None)

    def get(self, id: int) -> bytes | None:
        """The bytes of a dictionary."""
        held = self._held.get(str(id).encode())
        return None if held is None else held.content

    def view(self) -> list[dict[str, Any]]:
        """For GET /dictionaries: all of them, the newest first. `sha256` as `Available-Dictionary` wants it."""
        return [
            {
                "id": held.id,
                "type": held.type,
                "bytes": len(held.content),
                "sha256": f":{base64.b64encode(held.sha256).decode()}:",
                "created_ms": held.created_ms,
            }
            for held in sorted(self._held.values(), key=lambda each: each.age, reverse=True)
        ]

    def mount(self, app: Any) -> None:
        """Adds GET /dictionaries and /dictionaries/{id} to the worker's web server."""

        async def dictionaries(view: Any, request: Any) -> Any:
            return view.json(self.view())

        async def dictionary(view: Any, request: Any, id: str) -> Any:
            held = self._held.get(id.encode())
            if held is None:
                return view.json({"error": "no such dictionary; /dictionaries lists them"}, status=NOT_FOUND)
            return view.bytes(held.content, content_type="application/octet-stream")

        app.page("/dictionaries")(dictionaries)
        app.page("/dictionaries/{id}")(dictionary)

    # -- learning ---------------------------------------------------------------------------------------------

    def sample(self, type: str, patches: Sequence[bytes]) -> None:
        """Keeps some of these patches, which go to a target that could use a dictionary of this type."""
        kept = self._samples.get(type)
        if kept is None:
            kept = self._samples[type] = deque(maxlen=SAMPLES)
        kept.extend(patch[:SAMPLE_BYTES_MAX] for patch in patches[::SAMPLE_EVERY])

    async def tend(self) -> None:
        """Learns and publishes whatever is due. Call it now and then, once the topic was read to its end."""
        for name, samples in list(self._samples.items()):
            newest = self._newest(name)
            since_ms = max(newest.created_ms if newest else 0, self._tried_ms.get(name, 0))
            if len(samples) == SAMPLES and self._clock.now_ms() - since_ms >= RENEW_MS:
                await self._renew(name, list(samples), newest)

    async def _renew(self, type: str, samples: list[bytes], newest: _Held | None) -> None:
        self._tried_ms[type] = self._clock.now_ms()
        content = await asyncio.to_thread(_learnt, samples, newest)
        if content is None or self._newest(type) is not newest:
            return  # not worth it, or another worker was first
        sha256 = hashlib.sha256(content).digest()
        read = Dictionary(
            id=int.from_bytes(sha256[:4], "big"),
            type=type,
            content=content,
            sha256=sha256,
            created_ms=self._clock.now_ms(),
        )
        records = Records()
        records.append(str(read.id).encode(), read.SerializeToString())
        for old in self._of(type)[ALIVE - 1 :]:
            records.append(old.key, None)
        try:
            await self._publish(records)
        except TransportError as error:
            del self._tried_ms[type]
            log.warning("a dictionary for %s is not published, another will be: %s", type, error)
        else:
            log.info("dictionary %d for %s is published, %d bytes", read.id, type, len(content))

    def _of(self, type: str) -> list[_Held]:
        """Dictionaries of a type, the newest first."""
        return sorted((held for held in self._held.values() if held.type == type), key=lambda it: it.age, reverse=True)

    def _newest(self, type: str) -> _Held | None:
        return next(iter(self._of(type)), None)


def _learnt(samples: list[bytes], newest: _Held | None) -> bytes | None:
    """A dictionary's content; None where it would not save enough against the newest, or against none."""
    content = compression.train(samples[:-HELD_OUT])
    if content is None:
        return None
    before = partial(compression.compress, level=compression.BODY_LEVEL) if newest is None else newest.ready.compress
    after = compression.Dictionary(content).compress
    judged = samples[-HELD_OUT:]
    saved = 1 - sum(len(after(patch)) for patch in judged) / sum(len(before(patch)) for patch in judged)
    return content if saved >= SAVING_MIN else None
