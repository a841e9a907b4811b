"""Who else writes an output: by the claims on it, and by changelogs of other applications on its source."""

from __future__ import annotations

from collections.abc import Iterable

from streams._native import KafkaAdmin
from streams.cli import reading
from streams.cli.taking_over import claims_of, log_id
from streams.options import Settings
from streams.ownership.claims import Claims, rivals
from streams.sync.topics import SyncTopics
from streams.transport.log import Log

__all__ = ["others"]

TIMEOUT_MS = 10_000


def others(settings: Settings, syncs: Iterable[SyncTopics]) -> dict[str, list[str]]:
    """Other applications by the output that they claim, or whose patches they seem to have written."""
    there, claims = _topics(settings), claims_of(settings) or Claims()
    found: dict[str, list[str]] = {}
    for topics in syncs:
        if topics.output not in there:
            continue
        living = claims.of(topics.output, log_id(settings, topics.output))
        apps = {each.app for each in living}
        if living and living[0].claim.epoch and living[0].app == settings.app.id:
            found[topics.output] = sorted(apps - {settings.app.id})
            continue  # taken over by command: whose changelog still stands there has written, and was stopped
        for app, changelog in rivals(there, topics.source, topics.changelog, topics.output, claims).items():
            if any(reading.ends(settings, changelog)[changelog].values()):
                apps.add(app)
        found[topics.output] = sorted(apps - {settings.app.id})
    return found


def _topics(settings: Settings) -> set[str]:
    directory = reading.embedded_directory(settings)
    if directory is None:
        return set(reading.native(KafkaAdmin, settings).topics(TIMEOUT_MS))
    with Log(directory, readonly=True) as log:
        return set(log.topics())
