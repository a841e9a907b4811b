"""`streams dlq`: looks at dead letters, sends them on their way again, or lets them be. Beside running workers."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from streams._native import xxh3_64
from streams.cli import flags
from streams.cli.judging import APPLIED, APPLIES, KNOWN, SUPERSEDED
from streams.cli.replaying import Case, Letters, Sender
from streams.dead_letters.replay import REPLAYS_MAX, Filter, Span
from streams.errors import Finding, InputError, SettingsError
from streams.options import Settings

PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})(?:-([0-9]{1,18}))?", re.ASCII)
PER_SECOND = 100
"""Live events go first: a worker takes a hundred thousand a second, receivers behind it take fewer."""
OPEN_HEADERS = re.compile(
    r"dlq-.*|ce_(id|source|specversion|type|time|sequence|dataschema|datacontenttype)|content-(type|encoding)"
    r"|traceparent|tracestate|correlation-id|__(key|value)_schema_id"
)
"""Headers whose values are shown: they say what the record is and where it came from, not whom it is about."""
HEADING = f"{'place':<10}  {'time':<29}  {'reason':<28}  {'key':<16}  {'bytes':>8}  replays"
"""On standard error: what is on standard output are letters alone."""
FORECASTS = {
    APPLIES: "applies",
    APPLIED: "is applied already",
    SUPERSEDED: "superseded",
    KNOWN: "known id: is dropped",
    "": "cannot be foretold",
}


@click.group(
    epilog="""\b
Examples:
  streams dlq list devices --config streams.toml
  streams dlq list devices --reason undecodable --since 2026-11-20T06:00 --config streams.toml
  streams dlq show devices 3:17 --payload record.bin --config streams.toml
  streams dlq replay devices --reason bad-sequence --config streams.toml          (says what it would do)
  streams dlq replay devices --reason bad-sequence --per-second 50 --yes --config streams.toml
  streams dlq drop devices --offset 3:10-20 --yes --config streams.toml
"""
)
def command() -> None:
    """List, show, replay or drop dead letters."""


def _placed(function: Any) -> Any:
    """Adds the flags of every command here; they arrive as `settings`."""

    @functools.wraps(function)
    def with_settings(
        config: Path | None, broker: str | None, set_: Sequence[str], app_id: str | None, **more: Any
    ) -> None:
        function(settings=flags.chosen(config, broker, set_, required=["app.id"], app__id=app_id), **more)

    named = click.option("--id", "app_id", metavar="ID", help="The application, where no file says it.")
    return flags.shared(named(with_settings))


def _filtered(function: Any) -> Any:
    """Adds the flags that choose letters; they arrive as `wanted`, and --keys as `keys`."""

    @functools.wraps(function)
    def with_filter(
        reasons: Sequence[str], targets: Sequence[str], since: str | None, until: str | None,
        key: str | None, is_hex: bool, places: Sequence[str], **more: Any,
    ) -> None:  # fmt: skip
        wanted = Filter(
            frozenset(reasons), frozenset(targets), _instant_ms("--since", since), _instant_ms("--until", until),
            tuple(_span("--offset", place) for place in places), None if key is None else _key(key, is_hex),
        )  # fmt: skip
        function(wanted=wanted, **more)

    decorators = [
        click.option("--reason", "reasons", multiple=True, metavar="CODE", help="Only these reasons."),
        click.option("--target", "targets", multiple=True, metavar="NAME", help="Only patches for these targets."),
        click.option("--since", metavar="TIME", help="Records written to their topic at or after this; UTC."),
        click.option("--until", metavar="TIME", help="Records written before this."),
        click.option("--key", metavar="KEY", help="Only this entity key."),
        click.option("--hex", "is_hex", is_flag=True, help="KEY is hexadecimal."),
        click.option("--offset", "places", multiple=True, metavar="P:N[-M]", help="Partition and offsets, as listed."),
        click.option("--keys", is_flag=True, help="Show keys as they are, not as hashes."),
    ]
    for decorator in reversed(decorators):
        with_filter = decorator(with_filter)
    return with_filter


def _instant_ms(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(Finding(flag, repr(text), "a time such as 2026-11-20T06:00 or 2026-11-20")) from error
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def _key(text: str, is_hex: bool) -> bytes:
    try:
        return bytes.fromhex(text) if is_hex else text.encode()
    except ValueError as error:
        raise SettingsError(Finding("--key", f"a text of {len(text)} characters", "hexadecimal digits")) from error


def _span(flag: str, text: str) -> Span:
    found = PLACE.fullmatch(text)
    if found is None:
        raise SettingsError(Finding(flag, repr(text), "PARTITION:OFFSET or PARTITION:FIRST-LAST, such as 3:17"))
    partition, first, last = found.groups()
    return Span(int(partition), int(first), int(last or first))


@command.command("list")
@click.argument("source")
@_placed
@_filtered
@click.option("--done", is_flag=True, help="Those that were replayed or dropped, and what became of them.")
def list_(source: str, settings: Settings, wanted: Filter, keys: bool, done: bool) -> None:
    """List the dead letters of SOURCE, with what a replay would do about each. No payload is shown."""
    letters = Letters(settings, source, replays_max=REPLAYS_MAX)
    reasons: Counter[str] = Counter()
    click.echo(HEADING, err=True)
    for cases in letters.cases(wanted, done=done):
        for case in cases:
            _line(case, keys, _state(case) if done else _plan(case))
            reasons[case.entry.letter.reason] += 1
    _told(letters, reasons)


@command.command()
@click.argument("source")
@click.argument("place", metavar="PARTITION:OFFSET")
@_placed
@click.option("--keys", is_flag=True, help="Show the key, and every header, as they are.")
@click.option("--payload", type=click.Path(allow_dash=True), metavar="FILE", help="Write the record's value there.")
def show(source: str, place: str, settings: Settings, keys: bool, payload: str | None) -> None:
    """Print one dead letter as JSON: origin, reason, headers, sizes. Its value is written only where --payload says."""
    span = _span("PARTITION:OFFSET", place)
    letters = Letters(settings, source, replays_max=REPLAYS_MAX)
    found = [
        case for done in (False, True) for cases in letters.cases(Filter(spans=(span,)), done=done) for case in cases
    ]
    if not found:
        raise InputError("no-letter", f"{letters.topics.dead_letters} has none at {place}; `streams dlq list` has all")
    letter = found[0].entry.letter
    if payload is None:
        click.echo(json.dumps(_shown(found[0], keys), indent=2))
        return
    if letter.value is None:
        raise InputError("no-value", f"the letter at {place} holds no value: a delete, a stub or sealed")
    with click.open_file(payload, "wb") as file:
        file.write(letter.value)


@command.command()
@click.argument("source")
@_placed
@_filtered
@click.option("--per-second", type=click.IntRange(1, 100_000), default=PER_SECOND, show_default=True,
              help="At most so many, so that live events go first.")  # fmt: skip
@click.option("--replays-max", type=click.IntRange(0, 1_000_000), default=REPLAYS_MAX, show_default=True,
              help="Letters that were replayed so often stay.")  # fmt: skip
@click.option("--unordered", is_flag=True, help="Also what died before its key was known: it may overwrite newer state "
              "unless the event has a sequence.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do it; without this the command only says what it would do.")
def replay(
    source: str,
    settings: Settings,
    wanted: Filter,
    keys: bool,
    per_second: int,
    replays_max: int,
    unordered: bool,
    yes: bool,
) -> None:
    """Send dead letters of SOURCE back to where they died, as they were, in their order.

    A worker judges each by its origin: where a newer event of its key is applied it is superseded, dropped and counted.
    A patch that could not be delivered is not sent again: its target gets a snapshot of the key. What would die again
    stays. An interrupted replay goes on where it was; what was on its way is sent twice at most.
    """
    letters = Letters(settings, source, replays_max=replays_max, unordered=unordered)
    counts: Counter[str] = Counter()
    click.echo(HEADING, err=True)
    with contextlib.ExitStack() as stack:
        sender: Sender | None = None
        for cases in letters.cases(wanted):
            if yes:
                sender = sender or stack.enter_context(contextlib.closing(Sender(settings, letters, per_second)))
            for case, code, state in _replayed(cases, sender):
                _line(case, keys, state)
                counts[code] += 1
    _told(letters, counts)
    if not yes:
        click.echo("nothing was sent; add --yes to do it", err=True)
    elif counts["replayed"]:
        click.echo(f"`streams dlq list {source} --done` says what becomes of them", err=True)


def _replayed(cases: Sequence[Case], sender: Sender | None) -> Iterator[tuple[Case, str, str]]:
    """What was done about each case, as a word to count by and as text; without a sender what would be."""
    for case in cases:
        if case.decision.act == "refuse":
            yield case, case.decision.code, _plan(case)
        elif sender is None:
            yield case, f"would be {case.way}", _plan(case)
    if sender is not None:
        for case, error in sender.replay(case for case in cases if case.decision.act != "refuse"):
            yield case, "too-large" if error else case.way, f"stays, too-large: {error}" if error else case.way


@command.command()
@click.argument("source")
@_placed
@_filtered
@click.option("--yes", is_flag=True, help="Do it; without this the command only says what it would do.")
def drop(source: str, settings: Settings, wanted: Filter, keys: bool, yes: bool) -> None:
    """Be done with dead letters of SOURCE: they are not listed and not replayed any more.

    Their bytes stay in the topic until its retention ends, and in `list --done`.
    """
    letters = Letters(settings, source, replays_max=REPLAYS_MAX)
    reasons: Counter[str] = Counter()
    click.echo(HEADING, err=True)
    with contextlib.ExitStack() as stack:
        sender: Sender | None = None
        for cases in letters.cases(wanted, forecast=False):
            if yes:
                sender = sender or stack.enter_context(contextlib.closing(Sender(settings, letters, PER_SECOND)))
                sender.mark([case.entry for case in cases], "dropped")
            for case in cases:
                _line(case, keys, "dropped" if yes else "would be dropped")
                reasons[case.entry.letter.reason] += 1
    _told(letters, reasons)
    if not yes:
        click.echo("nothing was dropped; add --yes to do it", err=True)


def _line(case: Case, keys: bool, state: str) -> None:
    """One letter: place, time, reason, key, bytes, what is with it."""
    letter = case.entry.letter
    reason = f"{letter.reason}@{letter.target}" if letter.target else letter.reason
    size = len(letter.value or b"") if letter.length is None else letter.length
    columns = [
        f"{case.entry.place:<10}", f"{_instant(letter.timestamp_ms) or '-':<29}", f"{_printable(reason):<28}",
        f"{_shown_key(case.key, keys) or '-':<16}", f"{size:>8}", f"{letter.replay_count:>7}", state,
    ]  # fmt: skip
    click.echo("  ".join(columns))


def _plan(case: Case) -> str:
    """What a replay would do."""
    if case.decision.act == "refuse":
        return f"stays, {case.decision.code}: {case.decision.why}"
    return "asks for a snapshot" if case.decision.act == "ask" else FORECASTS.get(case.forecast, case.forecast)


def _state(case: Case) -> str:
    """What was done about a letter, and of one that was replayed what became of it."""
    if case.done != "replayed" or case.entry.letter.target:
        return str(case.done)
    became = {APPLIES: "not processed yet", APPLIED: "applied", KNOWN: "applied"}
    return f"replayed, {became.get(case.forecast) or _plan(case)}"


def _told(letters: Letters, counts: Counter[str]) -> None:
    """The sums, for people, and what the lines could not say."""
    sums = ", ".join(f"{count} {_printable(name)}" for name, count in counts.most_common())
    click.echo(f"{counts.total()} letters{': ' if sums else ''}{sums}", err=True)
    if letters.unreadable:
        click.echo(f"{letters.unreadable} records of {letters.topics.dead_letters} are no dead letters", err=True)
    if counts and not letters.forecasts:
        click.echo(
            "superseded letters are not told apart: give --config with the message type of this source", err=True
        )


def _shown(case: Case, keys: bool) -> dict[str, Any]:
    """A letter for people, without its value."""
    letter = case.entry.letter
    size = letter.length if letter.value is None else len(letter.value)
    return {
        "place": case.entry.place,
        "origin": {
            "topic": letter.topic, "partition": letter.partition, "offset": letter.offset,
            "time": _instant(letter.timestamp_ms),
        },
        "reason": letter.reason, "error": letter.error, "target": letter.target or None,
        "replays": letter.replay_count, "key": _shown_key(case.key, keys),
        "key_bytes": None if letter.key is None else len(letter.key),
        "value_bytes": size,
        "value_sha256": letter.sha256,
        "headers": [
            {"name": name, "bytes": None if value is None else len(value)}
            | ({"value": (value or b"").decode("utf-8", "backslashreplace")}
               if keys or OPEN_HEADERS.fullmatch(name) else {})
            for name, value in letter.headers
        ],
        "done": case.done, "replay": _plan(case),
    }  # fmt: skip


def _shown_key(key: bytes | None, as_it_is: bool) -> str | None:
    """A key is personal data as often as not: its XXH3-64, unless it was asked for."""
    if key is None:
        return None
    return _printable(key.decode("utf-8", "backslashreplace")) if as_it_is else f"{xxh3_64(key):016x}"


def _printable(text: str) -> str:
    """Text that anybody may have written, without what a terminal would obey."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _instant(ms: int) -> str | None:
    try:
        return None if ms < 0 else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None
