"""Batches as HTTP requests: built once, sent as often as it takes.

A request is a POST of one batch:

    Content-Type          application/x-protobuf; messageType="streams.v1.PatchBatch", or application/json
    Content-Encoding      zstd, or dcz (RFC 9842) towards a receiver that announces it, or none
    Idempotency-Key       SHA-256, in hex, of the target's name, a zero byte and the uncompressed body
    webhook-id            the same
    webhook-timestamp     of this attempt, in seconds
    webhook-signature     Standard Webhooks, over the body as it is sent; where the target has a signing secret
    traceparent           of the last patch, where it has one
    Authorization         where the target has a credential

A retry sends the same bytes, but when the receiver refuses their coding. A receiver announces a dictionary in its
answers: an `Accept-Encoding` that lists dcz, and `Available-Dictionary` with the SHA-256 of the one that it holds. It
takes that back by leaving them out. Where it refuses a dcz body nevertheless (400, 415, 422), or zstd (415 with an
`Accept-Encoding` that lacks it, RFC 9110, 15.5.16), the same content goes out once more at once, coded plainer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from streams._native import decode_patch
from streams.clock import SYSTEM_CLOCK, Clock
from streams.delivery.dictionary import Dictionaries
from streams.delivery.lane import Batch
from streams.delivery.signature import SigningKey, sign
from streams.delivery.target import Target
from streams.errors import SettingsError
from streams.http import ANSWER_BYTES_MAX, Answer, HttpClient, HttpFailure
from streams.identity.credential import Credential
from streams.kernel.compression import BODY_LEVEL, compress, named
from streams.v1.delivery_pb2 import StaleKeys

__all__ = ["Parcel", "Sender", "stale_keys"]

THREAD_BYTES = {"protobuf": 16_384, "json": 1_024}
"""A larger batch is built in a thread: that takes longer than the way there and back, 50 µs. So long take hashing and
compressing 16 KB, and telling five patches as JSON."""
SIGN_THREAD_BYTES = 262_144
"""A larger body is signed in a thread: 200 µs of SHA-256."""
STALE_KEY_BYTES = 32
"""What a 409 may need for a key beside twice its length: base64 takes a third more, quotes and commas a few bytes."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REFUSALS = (400, 415, 422)
_UNSUPPORTED = 415
_SERVER_ERROR = 500

Form = Callable[[Iterable[bytes]], bytes]
"""Makes a body of serialised patches: `protobuf_body`, or a JsonForm's `body`."""
Coder = Callable[[bytes], bytes]

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Parcel:
    """One request. Its content is fixed; `coding` and `body` change only when the receiver refuses them."""

    url: str = field(repr=False)
    content: bytes = field(repr=False)
    idempotency_key: str
    traceparent: str
    answer_bytes_max: int
    coding: str
    body: bytes = field(repr=False)


class Sender:
    """Builds and sends the requests of one target. Belongs to the event loop of its client."""

    def __init__(
        self,
        target: Target,
        client: HttpClient,
        form: Form,
        *,
        credential: Credential | None = None,
        signing_key: SigningKey | None = None,
        dictionaries: Dictionaries | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`form` is what the target's format wants. `dictionaries` are used by targets that want them only."""
        self._target = target
        self._client = client
        self._form = form
        self._credential = credential
        self._signing_key = signing_key
        self._dictionaries = dictionaries if target.compression == "dictionary" else None
        self._clock = clock
        self._announced: bytes | None = None  # the dictionary that the receiver says it holds
        self._refused: set[str | bytes] = set()  # zstd, or a dictionary, that it does not take all the same

    async def prepare(self) -> None:
        """Asks for credential and key once, so that a wrong file is found at start. Raises SettingsError."""
        if self._signing_key is not None:
            await self._signing_key()
        if self._credential is not None:
            try:
                await self._credential.headers()
            except HttpFailure as failure:
                log.warning("target %s: no credential yet: %s", self._target.name, failure)

    async def build(self, batch: Batch) -> Parcel:
        """The request for a batch. InputError when it can have none: the URL or the JSON form cannot hold it."""
        if self._target.one_key and len(batch.entries) != 1:
            raise ValueError(f"target {self._target.name}: {len(batch.entries)} keys in a batch, its URL names one")
        url = self._target.address(batch.entries[0].key)
        patches = [patch for entry in batch.entries for patch in entry.patches]
        answer_bytes_max = ANSWER_BYTES_MAX + sum(2 * len(entry.key) + STALE_KEY_BYTES for entry in batch.entries)
        if self._dictionaries is not None:
            self._dictionaries.sample(self._target.message, patches)
        coding, coder = self._coder()

        def made() -> Parcel:
            content = self._form(patches)
            key, trace = self._target.idempotency_key(content), _traceparent(patches[-1])
            return Parcel(url, content, key, trace, answer_bytes_max, coding, coder(content))

        return await _run(made, in_thread=sum(map(len, patches)) > THREAD_BYTES[self._target.format])

    async def send(self, parcel: Parcel) -> Answer | HttpFailure:
        """One attempt: the receiver's answer, whatever it is, or why there is none."""
        try:
            if parcel.coding == "dcz" and named(parcel.body) != self._announced:
                await self._code(parcel)
            answer = await self._post(parcel)
            refused = _refused(parcel, answer)
            if refused is None:
                return answer
            self._refused.add(refused)
            await self._code(parcel)
            answer = await self._post(parcel)
            if answer.status in _REFUSALS:
                self._refused.discard(refused)  # the coding was not the reason
            else:
                log.warning("target %s refuses %s: its bodies are coded plainer", self._target.name, _shown(refused))
            return answer
        except HttpFailure as failure:
            return failure
        except SettingsError as error:
            return HttpFailure("auth", f"no credential or signing key: {error}")

    def invalidate(self) -> None:
        """The receiver does not believe who we are: the next attempt comes with a new credential, if there is one."""
        if self._credential is not None:
            self._credential.invalidate()

    async def _post(self, parcel: Parcel) -> Answer:
        headers = {} if self._credential is None else await self._credential.headers()
        timestamp_s = self._clock.now_ms() // 1000
        headers |= {
            "Content-Type": self._target.content_type,
            "Idempotency-Key": parcel.idempotency_key,
            "webhook-id": parcel.idempotency_key,
            "webhook-timestamp": str(timestamp_s),
        }
        if parcel.coding:
            headers["Content-Encoding"] = parcel.coding
        if parcel.traceparent:
            headers["traceparent"] = parcel.traceparent
        if self._signing_key is not None:
            key = await self._signing_key()
            headers["webhook-signature"] = await _run(
                lambda: sign(key, parcel.idempotency_key, timestamp_s, parcel.body),
                in_thread=len(parcel.body) > SIGN_THREAD_BYTES,
            )
        answer = await self._client.request(
            "POST",
            parcel.url,
            headers=headers,
            body=parcel.body,
            timeout_ms=self._target.timeout_ms,
            answer_bytes_max=parcel.answer_bytes_max,
        )
        if answer.status < _SERVER_ERROR:  # those may be a proxy's, which knows nothing of dictionaries
            self._announced = _announced(answer.headers)
        return answer

    def _coder(self) -> tuple[str, Coder]:
        """How bodies are coded now: the name of the coding, and what does it, in any thread."""
        if self._dictionaries is not None and self._announced is not None and self._announced not in self._refused:
            dictionary = self._dictionaries.find(self._announced)
            if dictionary is not None:
                return "dcz", dictionary.compress
        if self._target.compression == "none" or "zstd" in self._refused:
            return "", bytes
        return "zstd", partial(compress, level=BODY_LEVEL)

    async def _code(self, parcel: Parcel) -> None:
        """Codes the content anew, as the receiver takes it now."""
        parcel.coding, coder = self._coder()
        in_thread = len(parcel.content) > THREAD_BYTES[self._target.format]
        parcel.body = await _run(lambda: coder(parcel.content), in_thread=in_thread)


def stale_keys(body: bytes) -> set[bytes]:
    """The keys that the body of a 409 names: `streams.v1.StaleKeys`, in Protobuf or JSON. Empty: it names none."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    try:
        # Any other JSON than an object may be Protobuf: a line feed and digits are both.
        if isinstance(said, dict):
            return set(ParseDict(said, StaleKeys(), ignore_unknown_fields=True).keys)
        return set(StaleKeys.FromString(body).keys)
    except (ParseError, DecodeError):
        return set()


async def _run(function: Callable[[], T], *, in_thread: bool) -> T:
    return await asyncio.to_thread(function) if in_thread else function()


def _traceparent(patch: bytes) -> str:
    """W3C trace context of a patch; empty where it has none that a header may carry."""
    try:
        found = decode_patch(patch)["traceparent"]
    except ValueError:
        return ""
    return found if _TRACEPARENT.fullmatch(found) else ""


def _refused(parcel: Parcel, answer: Answer) -> str | bytes | None:
    """What the receiver may have refused the body for: a dictionary, zstd, or neither."""
    if parcel.coding == "dcz" and answer.status in _REFUSALS:
        return named(parcel.body)
    accepted = answer.headers.get("accept-encoding")
    if parcel.coding == "zstd" and answer.status == _UNSUPPORTED and accepted is not None:
        return None if "zstd" in _codings(accepted) else "zstd"
    return None


def _shown(refused: str | bytes) -> str:
    return refused if isinstance(refused, str) else "the dictionary that it announces"


def _announced(headers: Mapping[str, str]) -> bytes | None:
    """The SHA-256 of the dictionary that an answer announces (RFC 9842, 2.2: bytes as a structured field)."""
    said = headers.get("available-dictionary", "").strip()
    if "dcz" not in _codings(headers.get("accept-encoding", "")) or not (said.startswith(":") and said.endswith(":")):
        return None
    try:
        return base64.b64decode(said[1:-1], validate=True)
    except binascii.Error:
        return None


def _codings(accepted: str) -> set[str]:
    """The codings that an `Accept-Encoding` accepts by name."""
    found = set()
    for each in accepted.lower().split(","):
        name, _, weight = each.partition(";")
        if not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight):
            found.add(name.strip())
    return found
