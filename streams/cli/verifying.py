"""Whether the patches of a source lead to its stored state: what `streams state verify` compares. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from streams._native import RESERVED_PREFIX, decode_row, xxh3_64
from streams.client.held import HeldStates
from streams.errors import Finding

__all__ = ["Verified", "compare", "split_finding", "split_keys"]

KEYS_NAMED_MAX = 5
"""A finding names so many keys, as XXH3-64 hashes; the rest is a count."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, and what does not fit."""

    rows: int
    equal: int
    moved_on: int
    findings: tuple[Finding, ...]


Rows = Mapping[tuple[int, bytes], bytes]
"""The last row of each key, by partition and key."""


def compare(source: str, rows: Rows, held: HeldStates[Message], later: Callable[[], Rows]) -> Verified:
    """Compares stored rows with the state that a receiver of all patches holds.

    `rows` are those of the changelog, read before the patches: a key whose patches are ahead has moved on meanwhile,
    and is counted, not judged. `later` reads the rows again: an epoch that the state still has not is another writer's.
    """
    equal = moved_on = 0
    ahead: dict[tuple[int, bytes], int] = {}
    damaged: list[bytes] = []
    behind: list[bytes] = []
    different: list[bytes] = []
    stale: list[bytes] = []
    for place, value in rows.items():
        key = place[1]
        if key.startswith(RESERVED_PREFIX):
            continue
        try:
            row = decode_row(value)
        except ValueError:
            damaged.append(key)
            continue
        if not row["revision"]:  # a DELETE of what was never there: remembered, and nothing published
            equal += 1
            continue
        stored, seen = (row["epoch"], row["revision"]), held.revision(key)
        if seen is not None and seen > stored:
            moved_on += 1
            if seen[0] > stored[0]:
                ahead[place] = seen[0]
        elif (found := held.rows.find(key)) is not None and not found[1].held.intact:
            stale.append(key)
        elif seen is None or seen < stored:
            behind.append(key)
        elif row["canonical"] and (held.state(key) or b"") != row["message"]:
            different.append(key)
        else:
            equal += 1
    held_twice = {key for key, count in Counter(key for _, key in rows).items() if count > 1}
    ahead = {place: epoch for place, epoch in ahead.items() if place[1] not in held_twice}
    foreign = _foreign(ahead, later() if ahead else {})
    findings = [
        *split_finding(source, split_keys(rows)),
        _finding(f"{source}: patches", foreign, "keys whose patches are of a newer epoch than their rows",
                 "one application that writes the output", f"`streams doctor` names the other one; then `output =` for "
                 f"it, or streams state take-over {source}"),
        _finding(f"{source}: changelog", damaged, "damaged rows", "rows of this release",
                 f"streams state rebuild {source} --from-source"),
        _finding(f"{source}: patches", behind, "keys whose patches stop before the stored revision", "all revisions",
                 f"retention removed one, or one was lost: streams state snapshot {source} --all"),
        _finding(f"{source}: patches", stale, "keys with a patch without its digest", "patches that prove themselves",
                 f"a patch was damaged: streams state snapshot {source} --all"),
        _finding(f"{source}: state", different, "keys whose patches lead to another state", "the stored one",
                 f"streams state rebuild {source} --from-source, and tell us"),
    ]  # fmt: skip
    count = sum(1 for _, key in rows if not key.startswith(RESERVED_PREFIX))
    return Verified(
        count, equal, moved_on - len(foreign), tuple(finding for finding in findings if finding is not None)
    )


def _foreign(ahead: Mapping[tuple[int, bytes], int], rows: Rows) -> list[bytes]:
    """Keys whose rows have still not come to the epoch that was seen in the patches."""
    found = []
    for place, epoch in ahead.items():
        value = rows.get(place)
        if value is not None and decode_row(value)["epoch"] < epoch:
            found.append(place[1])
    return found


def split_keys(rows: Rows) -> list[bytes]:
    """Keys that live in more than one partition: producers disagree about where a key belongs."""
    lives: dict[bytes, int] = {}
    for (_, key), value in rows.items():
        if key.startswith(RESERVED_PREFIX):
            continue
        try:
            lives[key] = lives.get(key, 0) + (not decode_row(value)["tombstone"])
        except ValueError:
            continue  # a finding of its own
    return [key for key, count in lives.items() if count > 1]


def split_finding(source: str, keys: Sequence[bytes]) -> Iterator[Finding]:
    """What to do about keys that live twice."""
    found = _finding(
        f"{source}: changelog", list(keys), "keys with live rows in more than one partition", "one partition for a key",
        "producers with different partitioners: librdkafka and Sarama need murmur2 to agree with Java's; or set "
        'partitioning = "repartition" under another app id and output',
    )  # fmt: skip
    return iter(() if found is None else (found,))


def _finding(place: str, keys: list[bytes], what: str, wanted: str, cure: str) -> Finding | None:
    if not keys:
        return None
    named = ", ".join(f"{xxh3_64(key):016x}" for key in keys[:KEYS_NAMED_MAX])
    return Finding(place, f"{len(keys)} {what} (hashes {named})", wanted, cure)
