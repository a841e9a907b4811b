"""One receiver of patches: what its settings come to. Pure; who it is, what it takes, and the URL for a key."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from streams.errors import InputError
from streams.options import CircuitSettings, TargetSettings

__all__ = ["URL_BYTES_MAX", "Target"]

URL_BYTES_MAX = 8_000
"""What RFC 9110 (4.1) wants every server to take; a key that makes a longer one reaches nobody."""

_KEY = "{key}"
_DOTS = (".", "..")


@dataclass(frozen=True, slots=True)
class Target:
    """One receiver. Fields that `TargetSettings` has too mean what they mean there, completed."""

    name: str
    requester: str
    """Names this target in requests for snapshots, so that other targets skip the answers."""
    source: str
    topic: str
    message: str
    url: str = dataclasses.field(repr=False)
    """May carry a secret: not for logs."""
    format: str
    compression: str
    batch_records_max: int
    batch_bytes_max: int
    linger_ms: int
    concurrency: int
    timeout_ms: int
    slow_ms: int
    rate_per_second_max: int
    snapshots_per_second_max: int
    fallback: str
    probe_share: float

    @classmethod
    def of(cls, settings: TargetSettings, circuit: CircuitSettings, app_id: str) -> Self:
        """The target that completed settings describe, in the app of this id."""
        given = {field.name for field in dataclasses.fields(TargetSettings)}
        taken = {field.name: getattr(settings, field.name) for field in dataclasses.fields(cls) if field.name in given}
        return cls(requester=f"{app_id}/{settings.name}", probe_share=circuit.probe_share, **taken)

    @property
    def dead_letters(self) -> str:
        """The topic of patches that this target refused for good."""
        return f"{self.source}.dlq"

    @property
    def resync(self) -> str:
        """The topic on which snapshots are asked for."""
        return f"{self.source}.resync"

    @property
    def content_type(self) -> str:
        """Of the request bodies."""
        if self.format == "json":
            return "application/json"
        return 'application/x-protobuf; messageType="streams.v1.PatchBatch"'

    @property
    def one_key(self) -> bool:
        """Whether the URL names the entity key, so that a request carries one key's patches."""
        return _KEY in self.url

    def address(self, key: bytes) -> str:
        """The URL for patches of this key; the same for all keys where it does not name them.

        Every byte of the key that is no letter, digit or one of `-._~` is percent-encoded, so a key cannot add to the
        path or to the query. InputError `target-url` for a key that would still name another resource: none at all,
        dots that step up the path (encoded ones do so too), or more than a URL can hold.
        """
        if not self.one_key:
            return self.url
        if not key:
            raise InputError("target-url", "the URL names the key, and this key is empty")
        url = self.url.replace(_KEY, quote(key, safe=""))
        if len(url) > URL_BYTES_MAX:
            raise InputError(
                "target-url", f"the URL has {len(url)} bytes with this key, expected {URL_BYTES_MAX} at most"
            )
        if any(segment in _DOTS for segment in url.partition("?")[0].split("/")):
            raise InputError(
                "target-url", "the URL has a path segment of dots alone with this key; servers resolve those"
            )
        return url

    def idempotency_key(self, content: bytes) -> str:
        """Names a request by its target and its uncompressed body: SHA-256 of the name, a zero byte and the body."""
        return hashlib.sha256(self.name.encode() + b"\0" + content).hexdigest()
