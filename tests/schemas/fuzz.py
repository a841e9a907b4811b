"""Random events of foreign and invented schemas: patches applied by stock calls, by the receiver and replayed agree.

    python -m tests.schemas.fuzz --seconds 60                 # the packages of the extra `test`, and our own zoo
    python -m tests.schemas.fuzz --seconds 600 FOLDER         # and every wheel or sdist in FOLDER
    python -m tests.schemas.fuzz --seed 7 --only acme.Order   # again what failed; a failure prints this line

Every history of one entity is checked: no event that protobuf reads becomes a dead letter, and every other one does;
after each patch the state is that of a plain replay; patches composed lead from every revision of their span to its
end. Events come as serialisers write them, and in odd encodings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache, reduce
from itertools import count
from pathlib import Path
from random import Random

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from streams._native import compose_patches
from streams.client.held import HeldStates
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import apply_patch
from streams.kernel.reference import LEN, Record, is_known, records, wrapped
from streams.v1.patch_pb2 import Patch
from tests.laws.mangle import WAYS, mangled
from tests.laws.variants import emitted, schema_for
from tests.protos import message_class
from tests.schemas import invented
from tests.schemas.generate import change, fill
from tests.schemas.packages import Schemas, installed, unpacked

PACKAGES = ("opentelemetry-proto", "googleapis-common-protos", "xds-protos")
"""OTLP; google.api, google.rpc, google.type; Envoy, and CEL's TestAllTypes of proto2 and proto3."""
LARGE = (
    "opentelemetry.proto.trace.v1.Span", "opentelemetry.proto.metrics.v1.Metric", "google.api.Service",
    "envoy.config.cluster.v3.Cluster", "envoy.config.listener.v3.Listener", "cel.expr.conformance.proto2.TestAllTypes",
    "cel.expr.conformance.proto3.TestAllTypes", "transit_realtime.FeedMessage", "transit_realtime.TripUpdate",
    "k8s.io.api.core.v1.Pod", "k8s.io.api.apps.v1.Deployment",
)  # fmt: skip
"""Tried as often as all others together."""
OWN = (
    "zoo.three.Everything", "zoo.three.Maps", "zoo.two.Old", "zoo.edition.Edition", "streams.golden.v1.Everything",
)  # fmt: skip
GTFS = Path(__file__).resolve().parents[2] / "benchmarks" / "schemas" / "gtfs-realtime.binpb"
EVENTS = 6
ODD_SHARE = 0.3
"""Of the events, those in an odd encoding."""
SKIPPED = ("google.protobuf.", "proto2.bridge.")


class MismatchError(AssertionError):
    """Two ways to a state ended in two states."""


@cache
def types(folder: Path | None) -> dict[str, type[Message]]:
    """Every message type by name: of the packages, of GTFS realtime, and of our zoo."""
    described = [installed(package) for package in PACKAGES]
    described += [list(FileDescriptorSet.FromString(GTFS.read_bytes()).file)]
    described += [unpacked(path) for path in sorted(folder.iterdir())] if folder is not None else []
    found: dict[str, type[Message]] = {name: message_class(name) for name in OWN}
    for files in described:
        found |= _classes(Schemas(files).messages)
    return found


def _classes(messages: Iterable[Descriptor]) -> dict[str, type[Message]]:
    named = {message.full_name: message for message in messages if not message.full_name.startswith(SKIPPED)}
    return {name: GetMessageClass(message) for name, message in named.items()}


def history(message_type: type[Message], random: Random) -> list[bytes]:
    """The events of one entity."""
    message, events = message_type(), []
    fill(message, random, 0)
    for _ in range(EVENTS):
        event = message.SerializePartialToString(deterministic=True)
        if random.random() < ODD_SHARE:
            event = mangled(event, descriptor_of(message), random.choice(sorted(WAYS)), random.randrange(2**32))
        events.append(event)
        change(message, random)
    return events


def check(message_type: type[Message], events: list[bytes]) -> int:
    """Raises MismatchError where something is wrong with the patches of the events; returns how many there were."""
    schema = schema_for(message_type)
    readable = [event for event in events if _is_read(message_type, event)]
    patches, letters = emitted(message_type, list(events))
    _same(len(events) - len(readable), letters, "events that protobuf refuses, and dead letters")
    states = HeldStates(message_type, requester="r", asks=None)
    stock: Message | None = message_type()
    seen = [message_type().SerializePartialToString(deterministic=True)]
    for offset, raw in enumerate(patches):
        patch = Patch.FromString(raw)
        stock = apply_patch(stock if stock is not None else message_type(), patch)
        change_ = states.take(0, offset, b"k", raw)
        if stock is None or change_ is None:
            raise MismatchError(f"patch {offset} was not applied: {states.counts}")
        seen.append(plain(message_type, stock.SerializePartialToString(deterministic=True)))
        _same(seen[-1], plain(message_type, states.state(b"k") or b""), f"after patch {offset}: stock calls, receiver")
    if readable:
        wanted = schema.canonicalise(readable[-1]) or b""
        _same(plain(message_type, wanted), seen[-1], "a replay of the events, stock calls")
    _check_composed(message_type, patches, seen)
    return len(patches)


def _check_composed(message_type: type[Message], patches: list[bytes], seen: list[bytes]) -> None:
    """Every run of deltas as one patch, applied from every revision in it."""
    native = schema_for(message_type).native
    kinds = [Patch.FromString(patch) for patch in patches]
    for first in range(1, len(patches)):
        for last in range(first + 1, len(patches)):
            if any(patch.kind != Patch.DELTA for patch in kinds[first : last + 1]):
                break
            composed = reduce(lambda one, two: compose_patches(native, one, two), patches[first : last + 1])
            for held in range(first, last + 1):
                after = apply_patch(message_type.FromString(seen[held]), Patch.FromString(composed))
                _same(
                    seen[last + 1],
                    b"" if after is None else plain(message_type, after.SerializePartialToString(deterministic=True)),
                    f"patches {first} to {last} as one, from revision {held}",
                )


def plain(message_type: type[Message], state: bytes) -> bytes:
    """A state for comparison: as protobuf reads it, with unknown fields by number, those of one number as they came."""
    read = message_type.FromString(state).SerializePartialToString(deterministic=True)
    return _by_number(descriptor_of(message_type), read)


def _by_number(descriptor: Descriptor, data: bytes) -> bytes:
    out: list[tuple[int, bytes]] = []
    for record in records(data):
        field = descriptor.fields_by_number.get(record.number)
        raw = record.raw
        # an entry with more than a key and a value is unknown, and upb writes maps in it in an order of the moment
        if (
            field is not None
            and field.message_type is not None
            and (is_known(field, record) or _is_entry(field, record))
        ):
            raw = wrapped(field, _by_number(field.message_type, record.value))
        out.append((record.number, raw))
    # map entries come in an order of the runtime's own, and are told apart by their bytes
    maps = {number for number, field in descriptor.fields_by_number.items() if _is_map(field.message_type)}
    out.sort(key=lambda one: (one[0], one[1] if one[0] in maps else b""))
    return b"".join(raw for _, raw in out)


def _is_entry(field: FieldDescriptor, record: Record) -> bool:
    return _is_map(field.message_type) and record.wire_type == LEN


def _is_map(message: Descriptor | None) -> bool:
    return message is not None and message.GetOptions().map_entry


def _is_read(message_type: type[Message], event: bytes) -> bool:
    try:
        message_type.FromString(event)
    except DecodeError:
        return False
    return True


def _same(wanted: object, found: object, what: str) -> None:
    if wanted != found:
        raise MismatchError(f"{what}: {_shown(wanted)} and {_shown(found)}")


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def run(seed: int, seconds: float, *, folder: Path | None = None, only: str = "") -> tuple[int, int, int]:
    """Histories until the time is over; returns how many there were, of how many types, with how many patches.

    With `only` it is the one history of that type and seed. Raises MismatchError with the line that repeats it.
    """
    known = types(folder)
    large = [name for name in (*LARGE, *OWN) if name in known]
    names, end, tried, patches = sorted(known), time.monotonic() + seconds, set(), 0
    for turn in count():
        random = Random(f"{seed}/{turn}")
        name = only or _next(random, large, names)
        once = Random(f"{seed}/{name}") if only else Random(f"{seed + turn}/{name}")
        tried.add(name)
        kind = invented.message(name) if name.startswith(invented.PREFIX) else known[name]
        events = history(kind, once)
        try:
            patches += check(kind, events)
        except (MismatchError, ValueError, AssertionError) as error:
            again = f"python -m tests.schemas.fuzz --seed {seed if only else seed + turn} --only {name}"
            raise MismatchError(f"{error}\nevents: {[event.hex() for event in events]}\nagain: {again}") from error
        if only or time.monotonic() > end:
            return turn + 1, len(tried), patches
    raise AssertionError("never here")


def _next(random: Random, large: Sequence[str], names: Sequence[str]) -> str:
    """Every fifth type is invented, every other one of the rest is large."""
    if random.random() < 0.2:
        return f"{invented.PREFIX}{random.randrange(2**32)}.M{random.randrange(invented.MESSAGES)}"
    return random.choice(large if random.random() < 0.5 else names)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--only", default="", help="the one history of this type and seed")
    parser.add_argument("folder", nargs="?", type=Path, help="wheels and sdists with more schemas")
    given = parser.parse_args()
    print(f"--seed {given.seed}, {len(types(given.folder))} message types", flush=True)
    try:
        histories, tried, patches = run(given.seed, given.seconds, folder=given.folder, only=given.only)
    except MismatchError as error:
        print(error)
        return 1
    print(f"{histories} histories of {tried} types, {patches} patches: all ways agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
