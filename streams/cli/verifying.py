"""Whether the patches of a source lead to its stored state: what `streams state verify` compares. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from streams._native import RESERVED_PREFIX, decode_row, xxh3_64
from streams.client.held import HeldStates
from streams.errors import Finding

__all__ = ["Verified", "compare"]

KEYS_NAMED_MAX = 5
"""A finding names so many keys, as XXH3-64 hashes; the rest is a count."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, and what does not fit."""

    rows: int
    equal: int
    moved_on: int
    findings: tuple[Finding, ...]


def compare(source: str, rows: Mapping[tuple[int, bytes], bytes], held: HeldStates[Message]) -> Verified:
    """Compares stored rows with the state that a receiver of all patches holds.

    `rows` are those of the changelog, read before the patches: a key whose patches are ahead has moved on meanwhile,
    and is counted, not judged.
    """
    equal = moved_on = 0
    damaged: list[bytes] = []
    behind: list[bytes] = []
    different: list[bytes] = []
    stale: list[bytes] = []
    for (_, key), value in rows.items():
        if key.startswith(RESERVED_PREFIX):
            continue
        try:
            row = decode_row(value)
        except ValueError:
            damaged.append(key)
            continue
        stored, seen = (row["epoch"], row["revision"]), held.revision(key)
        if seen is not None and seen > stored:
            moved_on += 1
        elif held.is_stale(key):
            stale.append(key)
        elif seen is None or seen < stored:
            behind.append(key)
        elif row["canonical"] and (held.state(key) or b"") != row["message"]:
            different.append(key)
        else:
            equal += 1
    findings = [
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
    return Verified(count, equal, moved_on, tuple(finding for finding in findings if finding is not None))


def _finding(place: str, keys: list[bytes], what: str, wanted: str, cure: str) -> Finding | None:
    if not keys:
        return None
    named = ", ".join(f"{xxh3_64(key):016x}" for key in keys[:KEYS_NAMED_MAX])
    return Finding(place, f"{len(keys)} {what} (hashes {named})", wanted, cure)
