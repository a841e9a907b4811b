"""How much one transaction may hold, by what became of those before, and when a failed one is tried again. Pure.

A transaction that runs out of time above 16 MB is halved: the next ones are gathered to half, until some have
succeeded; then more is tried. One that fails for the size of a record is cut in eight: that ends at one record, and
what its transaction is refused for is this record's own. Every other failure is a reason to wait, not to give anything
up: an outage makes no dead letters.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = [
    "PRODUCE_ROOM_BYTES",
    "TOO_LARGE",
    "Allowance",
    "Fault",
    "after_failure",
    "after_success",
    "fault_of",
    "pause_s",
    "sends_max",
]

Fault = Literal["size", "time", "other"]

PRODUCE_ROOM_BYTES = 128 * 1024
"""What is sent may be larger than what was read: headers of dead letters, the row around a state. The topics' own
limits are the real ones; this one only keeps the clients' defaults of 1 MB out of the way."""
REFUSED_PARTS = 8
"""A failure costs seconds (state is restored), a success next to nothing: five failures lead from 8,000 records to the
one that is too large, halving would take thirteen."""
HALVED_ABOVE_BYTES = 16 << 20
"""Below it a broker that cannot take a transaction in time is slow or away, and half of it would not help."""
TIMES_IN_A_TRANSACTION = 3
"""A record counts as it was read, as a patch and as a row: a new entity has its whole state in each of them."""
GROWS_AFTER = 8
"""Successes in a row before the allowance doubles: one is chance, and a second timeout costs its whole length again."""
PAUSE_MAX_S = 30.0
"""A broker that comes back is noticed within half a minute, and is not asked by every worker each second meanwhile."""
PAUSE_FIRST_S = 0.5
TIME_SHARE = 0.9
"""A commit that took so much of the transaction's time ran out of it: the broker's clock and ours differ a little."""
OUT_OF_TIME = ("_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT", "REQUEST_TIMED_OUT")
TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")


class Allowance(NamedTuple):
    """What the next transaction may hold: input records, and bytes of inputs, outputs and rows."""

    records: int
    bytes: int
    good: int = 0
    """Transactions that succeeded since it last changed."""

    @property
    def chunk_bytes(self) -> int:
        """What one chunk may have, so that its transaction holds it with what comes of it."""
        return max(1, self.bytes // TIMES_IN_A_TRANSACTION)


def sends_max(now: Allowance) -> int:
    """Bytes that an agent may send for what it has in hand: a transaction of it alone must be able to succeed."""
    return max(now.bytes, HALVED_ABOVE_BYTES)


def fault_of(code: str, *, size: int, took_s: float, timeout_s: float) -> Fault:
    """Whose fault a failed transaction is: `code` is the broker's, `size` its bytes, `took_s` how long it was tried."""
    if code in TOO_LARGE:
        return "size"
    if size > HALVED_ABOVE_BYTES and (code in OUT_OF_TIME or took_s >= timeout_s * TIME_SHARE):
        return "time"
    return "other"


def after_failure(now: Allowance, fault: Fault, *, records: int, size: int) -> Allowance:
    """The allowance after a transaction of so many records and bytes has failed.

    Of one that a topic refuses a record of, an eighth of the records: down to the one that is too large. Of one that
    ran out of time, half of the bytes.
    """
    if fault == "size":
        return Allowance(max(1, records // REFUSED_PARTS), now.bytes)
    if fault == "time":
        return Allowance(now.records, max(1, min(now.bytes, size) // 2))
    return Allowance(now.records, now.bytes)


def after_success(now: Allowance, most: Allowance, *, suspects: bool = False) -> Allowance:
    """The allowance after a transaction that succeeded; it never passes `most`.

    While there are `suspects` (a record that was refused is still to come, alone) it stays.
    """
    if suspects or (now.records >= most.records and now.bytes >= most.bytes):
        return now._replace(good=0)
    if now.good + 1 < GROWS_AFTER:
        return now._replace(good=now.good + 1)
    return Allowance(min(most.records, now.records * 2), min(most.bytes, now.bytes * 2))


def pause_s(failures: int, chance: float) -> float:
    """Seconds before a transaction is tried again that has failed so often in a row; `chance` in [0, 1) is the jitter.

    The first time at once: most failures are another worker's arrival or a moved leader.
    """
    if failures <= 1:
        return 0.0
    longest = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(failures - 2, 16))
    return longest * (0.5 + chance / 2)
