"""A dead letter: a record that could not be processed, where it came from and why. Pure: records in, records out.

The letter has the record's own key, value and headers, untouched, and one family of headers beside them:

    dlq-origin-topic      dlq-origin-partition    dlq-origin-offset    dlq-origin-timestamp (ms, -1: none)
    dlq-origin-topic-id   which topic of that name it was, its id in hex; absent: not known
    dlq-reason            a code, also the metrics' label
    dlq-error             text for people, at most 1 KiB, never payload
    dlq-format            "1"
    dlq-replay-count      how often it was replayed before; absent: never
    dlq-target            the target that could not be given it; absent: it died as an event
    dlq-length            only in a stub: bytes of the value that did not fit its topic
    dlq-sha256            only in a stub: SHA-256 of that value, in hex
    dlq-headers-unread    in no letter: stands for the headers of a record that has more than its reader reads

The family is replaced, never appended: a record that dies, is replayed and dies again has one family, with the origin
of its first death. The native core writes the same letters for the records it refuses.

Beside the letters their topic holds marks, which say what was done about them: see `replay.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streams._native import Records
from streams.errors import InputError
from streams.kernel.recognition import HEADERS_MAX, HEADERS_UNREAD

__all__ = ["ERROR_BYTES_MAX", "FORMAT", "Letter", "bury", "fitted", "letter_room", "read", "replayed", "write"]

FORMAT = "1"
"""Of what a dead-letter topic holds, letters and marks."""
FAMILY = "dlq-"
ERROR_BYTES_MAX = 1_024
"""Room for one sentence with a place in it; it travels in a header beside the original ones."""
RECORD_OVERHEAD_BYTES = 128
"""What Kafka's format adds to a record that is sent alone: 61 bytes of batch, the rest lengths, offset and time."""
HEADER_OVERHEAD_BYTES = 10
"""Two lengths of at most five bytes."""

UNREAD = HEADERS_UNREAD.removeprefix(FAMILY)

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    `topic`, `partition`, `offset` and `timestamp_ms` are the origin's; `key`, `value` and `headers` the record's own.
    A stub has `length` and `sha256` of the value it could not keep, and no value. `target` is set when the record is a
    patch that could not be delivered.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    error: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    replay_count: int = 0
    length: int | None = None
    sha256: str | None = None
    target: str = ""
    topic_id: str = ""


def bury(records: Records, index: int, topic: str, partition: int, error: InputError, topic_id: bytes = b"") -> Letter:
    """The letter for a record of `topic` and `partition` that failed with `error`. `topic_id`: of that topic as it is.

    A record that was replayed to the very partition it had come from keeps its first origin. Anybody may write headers,
    so an origin elsewhere, or not before the record itself, is none.
    """
    headers = records.headers(index)
    family = _family(headers)
    offset, timestamp_ms = records.offset(index), records.timestamp_ms(index)
    own = family.get("origin-topic") == topic and _number(family, "origin-partition", -1) == partition
    first = _number(family, "origin-offset", -1)
    log, first_log = topic_id.hex(), _log(family)
    is_elsewhere = bool(log and first_log and log != first_log)  # in a log that was replaced it lay anywhere
    if own and first >= 0 and (is_elsewhere or first < offset):
        offset, timestamp_ms = first, _number(family, "origin-timestamp", timestamp_ms)
        log = first_log
    # A stub that somebody sent back stays one: without its value it must not pass for a DELETE later.
    is_stub = records.value(index) is None and "length" in family
    letter = Letter(
        topic,
        partition,
        offset,
        timestamp_ms,
        error.reason,
        _shortened(error.detail),
        records.key(index),
        records.value(index),
        _own(headers),
        _number(family, "replay-count", 0),
        _number(family, "length", 0) if is_stub else None,
        family.get("sha256") if is_stub else None,
        topic_id=log,
    )
    if UNREAD not in family and len(headers) <= HEADERS_MAX:
        return letter
    # What a record does not say whole is not sent back: a replay would take the rest for all of it.
    return replace(letter if is_stub else _stub(letter), headers=())


def write(out: Records, letter: Letter, record_bytes_max: int) -> Letter:
    """Appends a letter to the records of its topic; returns what was written.

    Where it does not fit `record_bytes_max`, its stub: without the value, and if that is not enough also without the
    record's own headers, then without the key, and last without the text of the error. The family itself is below
    2 KiB: dead-letter topics have 64 KiB of room for it, unless somebody made them smaller.
    """
    fitting = letter
    if _size(letter) > record_bytes_max and letter.length is None:
        fitting = _stub(letter)
    if _size(fitting) > record_bytes_max:
        fitting = replace(fitting, headers=())
    if _size(fitting) > record_bytes_max:
        fitting = replace(fitting, key=None)
    if _size(fitting) > record_bytes_max:
        fitting = replace(fitting, error="")
    out.append(fitting.key, fitting.value, [*fitting.headers, *_written(fitting)], fitting.timestamp_ms)
    return fitting


def letter_room(record_bytes_max: int, refused: int | None) -> int:
    """Bytes that a letter may have; `refused`: its topic took none of this size, whatever it is said to take."""
    return record_bytes_max if refused is None else min(record_bytes_max, refused - 1)


def fitted(letters: Records, record_bytes_max: int) -> Records:
    """The same letters, those that do not fit `record_bytes_max` as their stubs; the batch itself where all fit."""
    if letters.nbytes + len(letters) * RECORD_OVERHEAD_BYTES <= record_bytes_max:
        return letters
    out = Records()
    for index in range(len(letters)):
        write(out, read(letters, index), record_bytes_max)
    return out


def read(records: Records, index: int) -> Letter:
    """The letter that a record of a dead-letter topic holds.

    InputError `bad-letter` when its family is missing or incomplete, `newer-letter` when a newer release wrote it.
    """
    headers = records.headers(index)
    family = _family(headers)
    came = family.get("format", "")
    if came.isdecimal() and int(came) > int(FORMAT):
        raise InputError("newer-letter", f"dlq-format is {came}, the newest this release reads is {FORMAT}; upgrade it")
    missing = [name for name in ("format", "origin-topic", "reason") if not family.get(name)]
    missing += [name for name in ("origin-partition", "origin-offset") if _number(family, name, -1) < 0]
    if missing:
        raise InputError("bad-letter", f"no usable header dlq-{missing[0]}; expected a record of a dead-letter topic")
    return Letter(
        family["origin-topic"],
        _number(family, "origin-partition", -1),
        _number(family, "origin-offset", -1),
        _number(family, "origin-timestamp", -1),
        family["reason"],
        family.get("error", ""),
        records.key(index),
        records.value(index),
        _own(headers),
        _number(family, "replay-count", 0),
        _number(family, "length", 0) if "length" in family else None,
        family.get("sha256"),
        family.get("target", ""),
        _log(family),
    )


def replayed(out: Records, letter: Letter) -> None:
    """Appends the record as it goes back to its topic: as it was, with its origin, by whose offset it is judged.

    It gets the present time, as the first one stays in the family: retention counts from it, and could be over before a
    worker that is away has read the record. InputError `stub` for a letter that has no value of its record, `delivery`
    for one of a target: the patch in it may be older than what the target has by now.
    """
    if letter.target:
        raise InputError("delivery", f"a patch for target {letter.target} is never sent again; ask for a snapshot")
    if letter.length is not None:
        raise InputError(
            "stub",
            f"the value of {letter.length} bytes is not in the letter, it did not fit or is sealed; read "
            f"{letter.topic} partition {letter.partition} offset {letter.offset} while it is retained",
        )
    family = _written(replace(letter, replay_count=letter.replay_count + 1))
    kept = [(name, value) for name, value in family if name not in ("dlq-reason", "dlq-error")]
    out.append(letter.key, letter.value, [*letter.headers, *kept])


def _stub(letter: Letter) -> Letter:
    """The letter without its value."""
    value = letter.value or b""
    return replace(letter, value=None, length=len(value), sha256=hashlib.sha256(value).hexdigest())


def _written(letter: Letter) -> list[tuple[str, bytes]]:
    """The family, in a fixed order."""
    family = {
        "origin-topic": letter.topic,
        "origin-partition": str(letter.partition),
        "origin-offset": str(letter.offset),
        "origin-timestamp": str(letter.timestamp_ms),
        "reason": letter.reason,
        "error": _shortened(letter.error),
        "format": FORMAT,
    }
    if letter.topic_id:
        family["origin-topic-id"] = letter.topic_id
    if letter.replay_count:
        family["replay-count"] = str(letter.replay_count)
    if letter.length is not None:
        family |= {"length": str(letter.length), "sha256": letter.sha256 or ""}
    if letter.target:
        family["target"] = letter.target
    return [(FAMILY + name, text.encode()) for name, text in family.items()]


def _family(headers: Sequence[Header]) -> dict[str, str]:
    """The family's values by name without prefix; the last of a name, as Kafka's clients read it."""
    return {
        name.removeprefix(FAMILY): (value or b"").decode("utf-8", "replace")
        for name, value in headers
        if name.startswith(FAMILY)
    }


def _log(family: dict[str, str]) -> str:
    """Id of the topic that the letter's offset counts in; empty where it has none that could be one."""
    text = family.get("origin-topic-id", "")
    return text if len(text) == 32 and all(letter in "0123456789abcdef" for letter in text) else ""


def _own(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The record's own headers, in order."""
    return tuple((name, value) for name, value in headers if not name.startswith(FAMILY))


def _number(family: dict[str, str], name: str, otherwise: int) -> int:
    """A header's number within 64 bits: anybody may have written it."""
    text = family.get(name, "")
    if not text.isascii() or not text.removeprefix("-").isdecimal() or len(text) > 19:
        return otherwise
    return int(text)


def _shortened(error: str) -> str:
    """At most ERROR_BYTES_MAX bytes of UTF-8, cut between characters."""
    return error.encode("utf-8", "replace")[:ERROR_BYTES_MAX].decode("utf-8", "ignore")


def _size(letter: Letter) -> int:
    """Bytes of the letter as a record, at most."""
    headers: list[Header] = [*letter.headers, *_written(letter)]
    return (
        RECORD_OVERHEAD_BYTES
        + len(letter.key or b"")
        + len(letter.value or b"")
        + sum(HEADER_OVERHEAD_BYTES + len(name.encode()) + len(value or b"") for name, value in headers)
    )
