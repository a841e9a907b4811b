"""What `streams state take-over` does, step by step, so that it can be said before it is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from streams._native import KafkaAdmin, Records
from streams.cli import reading, rebuilding
from streams.cli.rebuilding import Step
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.clock import SYSTEM_CLOCK
from streams.errors import TransportError
from streams.options import Settings
from streams.ownership.claims import Claims, claim_key, packed
from streams.sync.topics import SyncTopics
from streams.transport.log import Log
from streams.v1.owner_pb2 import Claim
from streams.v1.patch_pb2 import Patch

__all__ = ["claims_of", "log_id", "steps"]

TIMEOUT_MS = 10_000


def claims_of(settings: Settings) -> Claims | None:
    """Every living claim on the broker; None: nobody has claimed anything there yet."""
    topic = settings.app.owners_topic
    if not reading.ends(settings, topic)[topic]:
        return None
    claims = Claims()
    for _, records in reading.read_all(settings, topic):
        claims.take(records)
    return claims


def steps(settings: Settings, source: str, topics: SyncTopics, *, partial: bool = False) -> Iterator[Step]:
    """The steps in their order; none where the output is this application's already. `partial`: as for a rebuild.

    Keys begin anew, with epochs above all in the output: receivers drop what is below what they hold.
    """
    own, claims = settings.app.id, claims_of(settings)
    if claims is None:
        raise TransportError(
            f"no topic {settings.app.owners_topic} on {settings.app.broker}, expected the one in which applications "
            f"claim their outputs; the first worker makes it"
        )
    output_id = log_id(settings, topics.output)
    owner = claims.owner(topics.output, output_id)
    if owner is not None and owner.app == own:
        return
    living = claims.of(topics.output, b"")
    if reading.ends(settings, topics.changelog)[topics.changelog]:
        yield from rebuilding.steps(settings, source, from_source=True, partial=partial)
    epoch = _highest_epoch(settings, topics.output)
    claim = Claim(
        output=topics.output, output_id=output_id, app=own, changelog=topics.changelog, precedes=True, epoch=epoch,
        claimed_ms=SYSTEM_CLOCK.now_ms(),
    )  # fmt: skip
    records = Records()
    records.append(claim_key(topics.output, own, uuid.uuid4().hex), packed(claim))
    for each in living:  # after it: an owner that runs would claim again what is nobody's
        records.append(each.key, None)
    others = ", ".join(sorted({each.app for each in living})) or "nobody"
    yield Step(
        f"withdraw the claims of {others} on {topics.output} and claim it for {own}, with epochs above {epoch}",
        lambda: _write(settings, records),
    )


def _write(settings: Settings, records: Records) -> None:
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    try:
        for outcome in writer.write(settings.app.owners_topic, records, 0):
            if isinstance(outcome, TransportError):
                raise outcome
    finally:
        writer.close()


def log_id(settings: Settings, topic: str) -> bytes:
    """A topic's id; empty where there is none."""
    directory = reading.embedded_directory(settings)
    if directory is None:
        return reading.native(KafkaAdmin, settings).topic_ids([topic], TIMEOUT_MS).get(topic, b"")
    with Log(directory, readonly=True) as log:
        found = log.topics().get(topic)
        return found.id if found is not None else b""


def _highest_epoch(settings: Settings, output: str) -> int:
    highest = 0
    if not reading.ends(settings, output)[output]:
        return highest
    for _, records in reading.read_all(settings, output):
        for index in range(len(records)):
            try:
                highest = max(highest, Patch.FromString(records.value(index) or b"").epoch)
            except DecodeError:
                continue  # nobody's patch
    return highest
