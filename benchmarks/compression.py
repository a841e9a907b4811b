"""How many bytes go over the wire, in which form? Full states, merge patches, patches; plain, compressed, batched.

    streams bench compression
    streams bench compression --small --json

Three schemas: devices (of the canonical workload's kind), flights (real ones, the demo's), and vehicles of GTFS
Realtime, whose lists of stops patches have to replace whole. Each form is measured over the same events, those that
change nothing left out. A full state is the message alone, as Protobuf or as Protobuf's JSON with the schema's field
names: without the envelope that a producer has to send too. A JSON merge patch (RFC 7386) is the document alone as
well: it says neither of which key it is nor what it applies to. A patch is the whole record value, with key, revision,
digest and the event's id; `mask and data` is what of it compares with a merge patch. Dictionaries are trained on the
first tenth of a form and used on the rest.

What the figures do not show: Kafka's own batches, which compress as the last column does if producers fill them, and
HTTP's headers, which outweigh a single patch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
import zstandard
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from benchmarks import measure, vehicles
from benchmarks.kernel import NOW_MS
from benchmarks.measure import Figures
from benchmarks.workload import SMALL, events
from streams._native import Records, Table
from streams.demo import flights
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.compression import LEVEL
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.sync.agent import make_job
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch

FLIGHTS = 25_000
"""Half of the month; the JSON of one of its states takes a third of a millisecond to make."""
SMALL_EVENTS = 1_500
VEHICLES, REPORTS = 500, 50
SMALL_VEHICLES, SMALL_REPORTS = 25, 20
BATCH = 1_000
"""As `streams demo` counts, and about what a request to a receiver holds."""
DICTIONARY_BYTES = 16_384
"""A hundred times a patch, as zstd's manual advises; larger ones were measured to win under 2 percent."""
FORMS = ("full JSON", "full Protobuf", "JSON merge patch", "mask and data", "patch")

Source = Iterator[tuple[bytes, Message]]


@dataclass(slots=True)
class Forms:
    """The same events in every form, event by event."""

    events: int = 0
    values: dict[str, list[bytes]] = field(default_factory=lambda: {form: [] for form in FORMS})
    wrong: int = 0
    """Patches that a stock Protobuf library does not apply to the state that they are for."""


def forms(message_class: type[Message], source: Source) -> Forms:
    """Encodes each event of `source` in every form; the patch comes from the kernel and is applied for proof."""
    schema = MessageSchema(message_class)
    job = make_job(
        schema, SyncSettings(source="bench", sequence="none", format="plain"), "bench", partitions=0,
        record_bytes_max=1 << 20,
    )  # fmt: skip
    table, made = Table(job, 0), Forms()
    documents: dict[bytes, Any] = {}
    held: dict[bytes, bytes] = {}
    for offset, (key, message) in enumerate(source):
        value = message.SerializeToString(deterministic=True)
        event = Records()
        event.append(key, value, (), NOW_MS, offset)
        step = table.process(event, NOW_MS)
        table.commit(step.mark)
        if not len(step.patches):
            continue
        patch = Patch.FromString(step.patches.value(0) or b"")
        document = MessageToDict(message, preserving_proto_field_name=True)
        made.events += 1
        made.values["full JSON"].append(orjson.dumps(document))
        made.values["full Protobuf"].append(value)
        made.values["JSON merge patch"].append(orjson.dumps(merge_patch(documents.get(key, {}), document)))
        made.values["mask and data"].append(Patch(mask=patch.mask, data=patch.data).SerializeToString())
        made.values["patch"].append(step.patches.value(0) or b"")
        held[key] = applied(schema, held.get(key, b""), patch)
        made.wrong += held[key] != value
        documents[key] = document
    return made


def applied(schema: MessageSchema, state: bytes, patch: Patch) -> bytes:
    """The state after a patch."""
    if patch.kind == Patch.SNAPSHOT:
        return bytes(patch.data)
    return schema.native.apply(state, list(patch.mask.paths), patch.data)


def merge_patch(old: Any, new: Any) -> Any:
    """RFC 7386: what leads from one JSON document to the next; lists whole, null for what is gone."""
    patch = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif value != before:
            patch[name] = value
    return patch


def devices(count: int | None) -> Source:
    """States of devices, fifty events each."""
    for key, value, _ in islice(events(SMALL), count):
        yield key, DeviceState.FromString(CloudEvent.FromString(value).proto_data.value)


def aircraft(count: int) -> Source:
    """States of the demo's month, from its beginning."""
    for event in flights.events(count):
        yield event.key.encode(), event.state


def cases(made: Forms, times: int, step: measure.Step) -> list[Figures]:
    """Bytes per event of each form, plain and compressed; µs where it is zstd alone that is timed."""
    found = []
    for form in FORMS:
        values = made.values[form]
        seen = values[: len(values) // 10]
        rest = values[len(seen) :]
        plain = sum(map(len, values)) / len(values)
        case: Figures = {"case": form, "events": len(values), "bytes": round(plain, 1)}
        ways: dict[str, tuple[list[bytes], Callable[[], Callable[[bytes], bytes]]]] = {
            "zstd": (values, lambda: zstandard.ZstdCompressor(level=LEVEL).compress),
            "zstd, dictionary": (rest, lambda seen=seen: with_dictionary(seen)),
            "zstd, batch": (_batches(values), lambda: zstandard.ZstdCompressor(level=LEVEL).compress),
        }
        for name, (parts, compressor) in ways.items():
            size, figures = _compressed(parts, compressor(), times)
            units = len(rest) if name == "zstd, dictionary" else len(values)
            case[name] = {
                "bytes": round(size / units, 1),
                "cpu_us": measure.spread(us * len(parts) / units for us in figures),
            }
        case["hash"] = measure.hash_of(values)
        found.append(case)
        step()
    return found


def with_dictionary(seen: Sequence[bytes]) -> Callable[[bytes], bytes]:
    """A compressor with a dictionary trained on what was seen; a few samples make none, then without one."""
    try:
        dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, list(seen))
    except zstandard.ZstdError:
        return zstandard.ZstdCompressor(level=LEVEL).compress
    return zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary).compress


def _compressed(parts: Sequence[bytes], compress: Callable[[bytes], bytes], times: int) -> tuple[int, list[float]]:
    """Bytes of all parts compressed one by one, and CPU µs per part of each repetition."""
    size, found = 0, []
    for _ in range(times):
        began = time.thread_time()
        size = sum(len(compress(part)) for part in parts)
        found.append((time.thread_time() - began) / len(parts) * 1e6)
    return size, found


def _batches(values: Sequence[bytes]) -> list[bytes]:
    return [b"".join(values[first : first + BATCH]) for first in range(0, len(values), BATCH)]


def run(times: int, *, small: bool = False) -> Figures:
    """All forms of all schemas."""
    machine = measure.machine()
    sources: dict[str, Callable[[], Forms]] = {
        "devices": lambda: forms(DeviceState, devices(SMALL_EVENTS if small else None)),
        "flights": lambda: forms(AircraftState, aircraft(SMALL_EVENTS if small else FLIGHTS)),
        "vehicles": lambda: forms(
            vehicles.message_class(),
            vehicles.states(SMALL_VEHICLES, SMALL_REPORTS) if small else vehicles.states(VEHICLES, REPORTS),
        ),
    }
    found, wrong = [], []
    with measure.progress("compression", len(sources) * (1 + len(FORMS))) as step:
        for name, make in sources.items():
            made = make()
            step()
            found += [{**case, "case": f"{name}, {case['case']}", "schema": name, "form": case["case"]}
                      for case in cases(made, times, step)]  # fmt: skip
            if made.wrong:
                wrong.append(f"{name}: {made.wrong} of {made.events} patches do not lead to the state they are for")
    return {
        "benchmark": "compression",
        "small": small,
        "verified": not wrong,
        **({"findings": wrong} if wrong else {}),
        "repetitions": times,
        "seed": vehicles.SEED,
        "level": LEVEL,
        "batch": BATCH,
        "dictionary_bytes": DICTIONARY_BYTES,
        "cases": found,
        "machine": machine,
    }


def show(run: Figures) -> None:
    """A line per schema and form: bytes per event."""
    print(f"{measure.described(run['machine'])}; bytes per event, zstd level {run['level']}\n")
    print(f"{'':28} {'plain':>8} {'zstd':>8} {'+ dict':>8} {'batch':>8}   µs CPU: zstd, + dict, batch")
    for case in run["cases"]:
        ways = [case[name] for name in ("zstd", "zstd, dictionary", "zstd, batch")]
        sizes = "".join(f" {size:8.1f}" for size in (case["bytes"], *(way["bytes"] for way in ways)))
        print(f"{case['case']:28}{sizes}   " + ", ".join(f"{way['cpu_us']['median']:.1f}" for way in ways))
    print(f"\npatches applied to the last state give the next one: {run['verified']}; {run['repetitions']} repetitions")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = measure.parser(__doc__ or "").parse_args(arguments)
    return measure.finish(run(measure.repetitions(given), small=given.small), given, show=show)


if __name__ == "__main__":
    sys.exit(main())
