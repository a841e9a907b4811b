"""Claims on outputs: what their records say, which of them live, and who owns. Pure.

A claim is never rewritten: each has a key of its own, so compaction leaves it at its offset. The lowest offset among
living claims owns; what precedes goes before what does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from streams._native import Records
from streams.v1.owner_pb2 import Claim, Incarnation

__all__ = ["FORMAT", "Claims", "Living", "claim_key", "instance_key", "packed", "rivals"]

FORMAT = 1
"""First byte of a value; a higher one is a newer release's."""
CLAIMS_MAX = 100_000
"""Of all outputs of a cluster, a few hundred bytes each; beyond it somebody writes who should not, and is not heard."""


class Living(NamedTuple):
    """A claim that was not withdrawn."""

    key: bytes
    offset: int
    output: str
    app: str
    claim: Claim
    """Without content where a newer release wrote it: its key says enough to stand back."""

    @property
    def rank(self) -> tuple[bool, int]:
        """The lowest owns."""
        return not self.claim.precedes, self.offset


def claim_key(output: str, app: str, nonce: str) -> bytes:
    """The key of a claim."""
    return f"output/{output}/{app}/{nonce}".encode()


def instance_key(app: str, instance: str) -> bytes:
    """The key of a worker's name."""
    return f"instance/{app}/{instance}".encode()


def packed(message: Claim | Incarnation) -> bytes:
    """The value of a record."""
    return bytes([FORMAT]) + message.SerializeToString()


class Claims:
    """The living claims as far as the topic was read."""

    def __init__(self) -> None:
        self._living: dict[bytes, Living] = {}
        self._next = 0
        self.names: dict[bytes, int] = {}
        """When each worker's name was last spoken of, in milliseconds, by its key."""
        self.counts: Counter[str] = Counter()
        """Records that are nothing this release knows, by reason; each costs itself alone."""

    def take(self, records: Records) -> list[tuple[int, Incarnation]]:
        """Takes records in, in their order; what workers said of their names, with its offsets, is handed back.

        Records that were taken before change nothing, and are handed back again.
        """
        said: list[tuple[int, Incarnation]] = []
        for index in range(len(records)):
            key, value, offset = records.key(index) or b"", records.value(index), records.offset(index)
            kind, _, rest = key.partition(b"/")
            if kind == b"instance":
                spoken = _read(Incarnation, value)
                if isinstance(spoken, Incarnation):
                    said.append((offset, spoken))
                self._named(key, value, records.timestamp_ms(index))
            elif offset >= self._next and kind == b"output":
                self._claimed(key, rest, value, offset)
            elif offset >= self._next:
                self.counts["unknown"] += 1
            self._next = max(self._next, offset + 1)
        return said

    def _named(self, key: bytes, value: bytes | None, at_ms: int) -> None:
        self.names.pop(key, None)
        if value is not None and len(self.names) < CLAIMS_MAX:
            self.names[key] = at_ms

    def _claimed(self, key: bytes, rest: bytes, value: bytes | None, offset: int) -> None:
        if value is None:
            self._living.pop(key, None)
            return
        names = rest.decode("utf-8", "replace").split("/")
        newer = value[:1] > bytes([FORMAT])
        claim = Claim() if newer else _read(Claim, value)
        fits = isinstance(claim, Claim) and len(names) == 3 and all(names)
        if not isinstance(claim, Claim) or not fits or not (newer or [claim.output, claim.app] == names[:2]):
            self.counts["damaged"] += 1
        elif key not in self._living and len(self._living) >= CLAIMS_MAX:
            self.counts["too-many"] += 1
        else:
            self._living[key] = Living(key, offset, names[0], names[1], claim)

    def of(self, output: str, output_id: bytes) -> list[Living]:
        """Living claims of an output, its owner's first. One of a topic that was deleted since is over."""
        found = [
            each
            for each in self._living.values()
            if each.output == output and (not output_id or each.claim.output_id in (b"", output_id))
        ]
        return sorted(found, key=lambda each: each.rank)

    def of_app(self, output: str, output_id: bytes, app: str) -> list[Living]:
        """As `of`, those of one application."""
        return [each for each in self.of(output, output_id) if each.app == app]

    def over(self, output: str, output_id: bytes, app: str) -> list[Living]:
        """An app's claims of a topic of that name that was deleted since."""
        living = self.of(output, output_id)
        return [
            each for each in self._living.values() if (each.output, each.app) == (output, app) and each not in living
        ]

    def owner(self, output: str, output_id: bytes) -> Living | None:
        """Whose the output is; None: nobody's."""
        found = self.of(output, output_id)
        return found[0] if found else None

    def of_changelog(self, changelog: str) -> set[str]:
        """Outputs that are claimed with the state in this topic."""
        return {each.output for each in self._living.values() if each.claim.changelog == changelog}

    def outputs(self) -> dict[str, set[str]]:
        """The apps that claim each output, whatever became of the topics."""
        apps: dict[str, set[str]] = {}
        for each in self._living.values():
            apps.setdefault(each.output, set()).add(each.app)
        return apps


def rivals(topics: Iterable[str], source: str, changelog: str, output: str, claims: Claims) -> Mapping[str, str]:
    """Apps that may have written the output before there were claims: by the names of their changelogs, with those.

    Not one whose state is claimed for another output, nor a name that another source explains: `a-b` of `c` and `a` of
    `b-c` have the same changelog.
    """
    there, found = set(topics), {}
    tail = f"-{source}-changelog"
    for name in sorted(there):
        app = name.removesuffix(tail)
        if name == changelog or app in (name, ""):
            continue
        parts = app.split("-")
        explained = any("-".join([*parts[at:], source]) in there for at in range(1, len(parts)))
        elsewhere = claims.of_changelog(name)
        if not explained and (not elsewhere or output in elsewhere):
            found[app] = name
    return found


def _read(kind: type[Claim] | type[Incarnation], value: bytes | None) -> Claim | Incarnation | None:
    """The message of a value of our format; None for any other."""
    if value is None or value[:1] != bytes([FORMAT]):
        return None
    try:
        return kind.FromString(value[1:])
    except DecodeError:
        return None
