"""What an event says about itself, as text: time, sequence, trace context, correlation. The native core's twin.

What cannot be read must not cost the event: it is None here, and counted there. Sources: RFC 3339; W3C Trace Context
(Level 2), sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
from datetime import date

from google.protobuf.timestamp_pb2 import Timestamp

from streams.errors import InputError

__all__ = ["correlation", "sequence_number", "timestamp", "timestamp_text", "traceparent", "tracestate"]

_SEQUENCE_MAX = 2**64 - 1
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)
_TRACEPARENT = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]*)?"
)
_TRACEPARENT_MAX = 256
_TRACESTATE_BYTES_MAX = 512
_TRACESTATE_MEMBERS_MAX = 32
"""What W3C demands that everybody passes on, and more than that nobody has to."""
_MEMBER = re.compile(
    rb"([a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})=([ -+\--<>-~]{1,256})"
)
_CORRELATION = re.compile(rb"[ -~]{1,256}")
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799
"""Range of google.protobuf.Timestamp: years 0001 to 9999."""
_DAY_ZERO = date(1970, 1, 1).toordinal()


def sequence_number(text: str) -> int:
    """Read a sequence: an unsigned decimal of 64 bits, with leading zeros as the CloudEvents extension pads it.

    Raises InputError `bad-sequence` for anything else.
    """
    digits = text.lstrip("0") or "0"
    if not text or not _DIGITS.fullmatch(digits) or int(digits) > _SEQUENCE_MAX:
        raise InputError("bad-sequence", "the sequence is not an unsigned decimal of 64 bits")
    return int(digits)


def traceparent(value: bytes) -> str | None:
    """Read a `traceparent`; version 00 has 55 characters, later ones may append."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or len(value) > _TRACEPARENT_MAX or (found["version"] == b"00" and found["more"] is not None):
        return None
    return value.decode()


def tracestate(value: bytes) -> str | None:
    """Read a `tracestate`: up to 32 members `key=value`, no key twice, 512 bytes in all."""
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {each[1] for each in found if each is not None}
    if not members or len(value) > _TRACESTATE_BYTES_MAX or len(members) > _TRACESTATE_MEMBERS_MAX:
        return None
    return value.decode() if len(keys) == len(members) and None not in found else None


def correlation(value: bytes) -> bytes | None:
    """Read a `correlation-id`: up to 256 characters of printable ASCII."""
    return value if _CORRELATION.fullmatch(value) else None


def timestamp_text(text: str) -> int | None:
    """Read RFC 3339 as microseconds since 1970: with seconds and a zone, nothing shorter. A leap second is the next."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction, sign, hours, minutes = found.groups()[6:]
    if hour > 23 or minute > 59 or second > 60 or int(hours or 0) > 23 or int(minutes or 0) > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _DAY_ZERO
    except ValueError:
        return None
    shift = (int(hours) * 60 + int(minutes)) * (1 if sign == "+" else -1) if sign else 0
    seconds = ((days * 24 + hour) * 60 + minute - shift) * 60 + second
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        return None
    return seconds * 1_000_000 + int((fraction or "")[:6].ljust(6, "0"))


def timestamp(stamp: Timestamp) -> int | None:
    """Read a Timestamp as microseconds since 1970; None outside of its range."""
    valid = _SECONDS_MIN <= stamp.seconds <= _SECONDS_MAX and 0 <= stamp.nanos < 1_000_000_000
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000 if valid else None
