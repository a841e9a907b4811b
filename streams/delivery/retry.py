"""What the end of an attempt means, and when to try again. Pure: time and chance are arguments.

This is the one layer that tries again: the HTTP client sends everything once, and what is above asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from streams.errors import FailureKind
from streams.options import DeliverySettings, TargetSettings

__all__ = ["Budget", "Verdict", "VerdictKind", "classify", "full_jitter_ms", "policy", "retry_after_ms"]

VerdictKind = Literal["ok", "stale", "gone", "transient", "throttled", "permanent", "auth"]
"""ok: taken. stale: taken, save the keys it names. gone: the receiver wants no more. transient: may go better later.
throttled: come later. permanent: the same bytes will never be taken. auth: who we are is not accepted or not proven."""

RETRY_AFTER_MS_MAX = 300_000
"""Unless told otherwise: five minutes. Some answer with years."""

_STATUS: dict[int, VerdictKind] = {
    401: "auth",
    403: "auth",
    408: "transient",  # the server gave up waiting for the request
    409: "stale",
    410: "gone",
    425: "transient",  # too early: to be sent again, once the TLS handshake is through
    429: "throttled",
}
_HUNDREDS: dict[int, VerdictKind] = {2: "ok", 3: "transient", 4: "permanent", 5: "transient"}
"""Of any other status. Redirects are not followed: a receiver that moved, or sends everybody to its login page, has not
taken anything, and what it should have got is held until somebody corrects the URL. A status that HTTP does not have
says nothing about what was sent."""

OWN = ("attempts_max", "retry_time_ms_max", "backoff_ms", "backoff_ms_max", "key_retry_ms_max")
"""What a target may say of its own retries."""

_DOUBLINGS_MAX = 30
"""A pause is capped long before; the exponent must not grow without bound."""
_DIGITS_MAX = 9
"""More digits are above thirty years, and above every cap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The class of an attempt's end.

    `code` says what it was, for counting: the status, or the kind of failure. `retry_after_ms`: what the receiver asked
    for, capped; 0 where it did not.
    """

    kind: VerdictKind
    code: str
    retry_after_ms: int = 0


def classify(
    result: int | FailureKind,
    headers: Mapping[str, str] | None = None,
    now_s: float = 0,
    retry_after_ms_max: int = RETRY_AFTER_MS_MAX,
) -> Verdict:
    """The verdict on an answer's status, or on the kind of a failure without one.

    `headers`: the answer's, names in lower case. `now_s`: wall time, for a Retry-After that is a date. No failure
    without an answer is permanent: an endless answer, a name that leads elsewhere or a bad certificate are the
    target's, not the record's, and must not make dead letters.
    """
    if isinstance(result, str):
        return Verdict("auth" if result == "auth" else "transient", result)
    kind = _STATUS.get(result) or _HUNDREDS.get(result // 100, "transient")
    if kind not in ("transient", "throttled") or headers is None:
        return Verdict(kind, str(result))
    return Verdict(kind, str(result), retry_after_ms(headers.get("retry-after", ""), now_s, retry_after_ms_max))


def retry_after_ms(value: str, now_s: float, most_ms: int = RETRY_AFTER_MS_MAX) -> int:
    """A Retry-After in milliseconds from now, at most `most_ms`: seconds, or a date of HTTP. 0 for anything else."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return most_ms if len(value) > _DIGITS_MAX else min(int(value) * 1000, most_ms)
    try:
        wanted = parsedate_to_datetime(value)
        # One of HTTP's three formats does not name its zone; all of them mean UTC.
        wanted_s = (wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0
    return min(max(int((wanted_s - now_s) * 1000), 0), most_ms)


def full_jitter_ms(base_ms: int, most_ms: int, attempt: int, chance: float) -> int:
    """The pause after the `attempt`-th failure in a row: anything up to a bound that begins at `base_ms` and doubles.

    `chance` is a random number in [0, 1). Nothing of the pause is fixed, so that requests that failed together come
    back apart.
    """
    return int(min(base_ms << min(max(attempt - 1, 0), _DOUBLINGS_MAX), most_ms) * chance)


def policy(shared: DeliverySettings, target: TargetSettings) -> DeliverySettings:
    """How this target is tried again: as in `[delivery]`, but for what it says of its own."""
    return replace(shared, **{name: value for name in OWN if (value := getattr(target, name))})


class Budget:
    """The retry budget of gRPC (proposal A6): under a lasting outage only first attempts are made.

    It begins full. A failed attempt takes one token, a success gives back `ratio` of one, and retries are allowed
    while more than half of the tokens are there.
    """

    def __init__(self, tokens_max: float, ratio: float) -> None:
        """From `[delivery]`: `retry_budget` and `retry_budget_ratio`."""
        self._tokens_max = tokens_max
        self._ratio = ratio
        self._tokens = tokens_max

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def failure(self) -> bool:
        """An attempt failed in a way that may be tried again; returns whether the budget allows to."""
        self._tokens = max(self._tokens - 1, 0)
        return self._tokens > self._tokens_max / 2

    def success(self) -> None:
        """An attempt was taken."""
        self._tokens = min(self._tokens + self._ratio, self._tokens_max)
