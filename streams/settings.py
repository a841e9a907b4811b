"""Settings: flag > environment > streams.toml > code > default, into one frozen object, every error at once.

This module is the only reader of the environment. `parse` is pure: the environment and the file's text are arguments.
`read` is the thin shell around it. The options themselves are the table in `streams.options`.

Environment: `STREAMS_SECTION__KEY`, for example `STREAMS_APP__BROKER`; lists are separated by commas. Names without the
two underscores are not ours. `[[sync]]` and `[[target]]` entries come from the file
or from code. Paths are relative to the working
directory. A secret is never printed, not even when it is wrong.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_type_hints

from streams.errors import Finding, SettingsError
from streams.options import (
    ENTRIES,
    SECTIONS,
    AppSettings,
    ChunkSettings,
    EmbeddedSettings,
    LimitSettings,
    Option,
    Rule,
    SecuritySettings,
    Settings,
    SyncSettings,
    TargetSettings,
    TransactionSettings,
    options,
)
from streams.options.rule import MS_MAX, NUMBER_MAX, came
from streams.options.together import completed, sync_together, target_together, together

__all__ = [
    "AppSettings",
    "ChunkSettings",
    "CommandLine",
    "EmbeddedSettings",
    "LimitSettings",
    "Option",
    "SecuritySettings",
    "Settings",
    "SyncSettings",
    "TargetSettings",
    "TransactionSettings",
    "options",
    "parse",
    "read",
    "sync_settings",
    "target_settings",
]

PREFIX = "STREAMS_"
KNOWABLE = re.compile(r"[a-z_]{1,40}(\[\d+\])?(\.[a-z_][a-z0-9_]{0,40})?")
"""An unknown name that is shown: it looks like one."""

Section = TypeVar("Section")


class _Given(NamedTuple):
    """A value on its way in: where it came from, and whether it is text that still has to be read as its type."""

    origin: str
    value: object
    is_text: bool


class CommandLine:
    """What the command line said: the settings file and the flags, by dotted name.

    An `App` is made while user code is imported, where nobody can hand it anything: `remember` is called before.
    """

    path: Path | None = None
    flags: Mapping[str, object] = MappingProxyType({})

    @classmethod
    def remember(cls, path: Path | None, flags: Mapping[str, object]) -> None:
        """Keeps both for every later `read` of this process."""
        cls.path, cls.flags = path, dict(flags)


def read(
    path: Path | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    code: Mapping[str, object] | None = None,
    required: Sequence[str] = (),
) -> Settings:
    """Reads the process environment and the file at `path`, and parses. SettingsError: see `parse`.

    What is not given here is as the command line of this process said, see `CommandLine`; no path at all: no file.
    """
    text, path, flags = "", path or CommandLine.path, CommandLine.flags if flags is None else flags
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8-sig")  # editors of one system put a mark before the text
        except (OSError, ValueError) as error:
            why = error.strerror or "unreadable" if isinstance(error, OSError) else "no UTF-8 text"
            shown = "a URL" if ":/" in str(path) else path
            raise SettingsError(Finding("--config", f"{shown} ({why})", "a readable TOML file")) from None
    found = parse(
        flags=flags, environment=os.environ, text=text, file=str(path or "streams.toml"), code=code, required=required
    )
    if found.app.instance:
        return found
    instance = re.sub(r"[^a-zA-Z0-9._-]", "-", f"{socket.gethostname()}-{found.app.web_port}")
    return dataclasses.replace(found, app=dataclasses.replace(found.app, instance=instance[-100:]))


def parse(
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    text: str = "",
    file: str = "streams.toml",
    code: Mapping[str, object] | None = None,
    required: Sequence[str] = (),
) -> Settings:
    """The settings that these sources make, highest first: flags, environment, text of the file, code.

    `flags` and `code` map dotted names to values (`{"app.broker": ...}`; None: not given); strings among the flags are
    read as the option's type. `required` are dotted names that need a value. SettingsError lists everything that is
    wrong at once.
    """
    findings: list[Finding] = []
    tables = _toml(text, file, findings)
    entries = {name: tables.pop(name, []) for name in ENTRIES}
    given: dict[str, _Given] = {}
    given.update(_named(code or {}, "code", findings, is_text=False))
    given.update(_named(_flat(tables, file, findings), file, findings, is_text=False))
    given.update(_named(_environment(environment or {}), "environment", findings, is_text=True))
    given.update(_named(flags or {}, "flag", findings, is_text=True))
    bad = {finding.setting for finding in findings}
    sections = {name: _section(kind, name, given, findings) for name, kind in SECTIONS.items()}
    syncs = _syncs(entries["sync"], file, findings)
    targets = _targets(entries["target"], file, syncs, findings)
    settings = Settings(
        **sections, sync=syncs, target=targets, origins={name: item.origin for name, item in given.items()}
    )
    bad |= {finding.setting.split(" (")[0] for finding in findings}
    findings += [
        Finding(name, "nothing", "a value", f"set it in {file}, in the environment as {_variable(name)}, or in code")
        for name in required
        if name not in given and name not in bad
    ]
    findings += [finding for names, finding in together(settings) if not bad.intersection(names)]
    if findings:
        raise SettingsError(*findings)
    return settings


def sync_settings(**values: object) -> SyncSettings:
    """One `[[sync]]` made in code, checked as the file's are. SettingsError lists everything that is wrong."""
    findings: list[Finding] = []
    (made,) = _syncs([values], "code", findings) or (SyncSettings(),)
    if findings:
        raise SettingsError(*findings)
    return made


def target_settings(syncs: Sequence[SyncSettings], **values: object) -> TargetSettings:
    """One `[[target]]` made in code, checked as the file's are. SettingsError lists everything that is wrong."""
    findings: list[Finding] = []
    (made,) = _targets([values], "code", syncs, findings) or (TargetSettings(),)
    if findings:
        raise SettingsError(*findings)
    return made


def _toml(text: str, file: str, findings: list[Finding]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        findings.append(Finding(file, str(error), "TOML"))
    except (ValueError, RecursionError):
        findings.append(Finding(file, "a number too long, or tables too deep, to be read", "TOML"))
    return {}


def _flat(tables: Mapping[str, Any], file: str, findings: list[Finding]) -> dict[str, object]:
    """Tables of the file as dotted names."""
    flat: dict[str, object] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            findings.append(Finding(f"{section} ({file})", type(table).__name__, f"a table [{section}]"))
            continue
        flat.update({f"{section}.{key}": value for key, value in table.items()})
    return flat


def _environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Our variables as dotted names."""
    found: dict[str, object] = {}
    for name, value in environment.items():
        section, separator, key = name.removeprefix(PREFIX).partition("__")
        if name.startswith(PREFIX) and separator and section:
            found[f"{section.lower()}.{key.lower()}"] = value
    return found


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _named(values: Mapping[str, object], origin: str, findings: list[Finding], *, is_text: bool) -> dict[str, _Given]:
    """Values of known names; an unknown name is a finding with the nearest known one."""
    known = [f"{section}.{entry.name}" for section, kind in SECTIONS.items() for entry in dataclasses.fields(kind)]
    given: dict[str, _Given] = {}
    for name, value in values.items():
        if name in known:
            if value is not None:
                given[name] = _Given(origin, value, is_text and isinstance(value, str))
        else:
            findings.append(_unknown(name, known, origin))
    return given


def _unknown(name: str, known: Iterable[str], origin: str) -> Finding:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if not KNOWABLE.fullmatch(name):  # what stands before a = may be anything
        name = f"a name of {len(name)} characters"
    shown = f"{name} ({_variable(name)})" if origin == "environment" else f"{name} ({origin})"
    cure = f"did you mean {near[0]}?" if near else "`streams settings` lists all names"
    return Finding(shown, "an unknown name", "a known one", cure)


def _entries(
    kind: type[Section], section: str, needed: Sequence[str], entries: object, file: str, findings: list[Finding]
) -> list[tuple[str, Section, bool]]:
    """The tables of one [[section]]: each one's name, itself, and whether it is right as far as one option goes."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        findings.append(Finding(f"{section} ({file})", type(entries).__name__, f"tables [[{section}]]"))
        return []
    known = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a section is a dataclass
    made = []
    for index, entry in enumerate(entries):
        name, before = f"{section}[{index}]", len(findings)
        findings += [
            _unknown(f"{name}.{key}", [f"{name}.{one}" for one in known], file) for key in entry.keys() - known
        ]
        given = {f"{name}.{key}": _Given(file, value, is_text=False) for key, value in entry.items() if key in known}
        one = _section(kind, name, given, findings)
        missing = [key for key in needed if f"{name}.{key}" not in given]
        findings += [Finding(f"{name}.{key}", "nothing", "a value", f"every [[{section}]] needs it") for key in missing]
        made.append((name, one, len(findings) == before))
    return made


def _syncs(entries: object, file: str, findings: list[Finding]) -> tuple[SyncSettings, ...]:
    """The `[[sync]]` entries, completed: output and partitioning depend on source and key."""
    made: list[SyncSettings] = []
    for name, sync, right in _entries(SyncSettings, "sync", ("source", "message"), entries, file, findings):
        if right:
            findings += sync_together(name, sync)
        partitioning = sync.partitioning or ("trusted" if sync.key == "record" else "murmur2")
        output = sync.output or f"{sync.source}.patches"
        made.append(dataclasses.replace(sync, partitioning=partitioning, output=output))
    return tuple(made)


def _targets(
    entries: object, file: str, syncs: Sequence[SyncSettings], findings: list[Finding]
) -> tuple[TargetSettings, ...]:
    """The `[[target]]` entries, completed: topic and message type are those of the sync they follow."""
    made: list[TargetSettings] = []
    by_source = {sync.source: sync for sync in syncs}
    for name, target, right in _entries(TargetSettings, "target", ("name", "url"), entries, file, findings):
        if right:
            findings += target_together(name, target, by_source.get(target.source))
        made.append(completed(target, by_source.get(target.source)))
    return tuple(made)


def _section(kind: type[Section], name: str, given: Mapping[str, _Given], findings: list[Finding]) -> Section:
    """One section, made of what is given and right, and of defaults; what is wrong goes to the findings."""
    hints = get_type_hints(kind)
    values: dict[str, object] = {}
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]  # a section is a dataclass
        item = given.get(f"{name}.{entry.name}")
        if item is None:
            continue
        rule: Rule = entry.metadata["rule"]
        value = _typed(item.value, hints[entry.name], is_text=item.is_text)
        wanted = _wanted(value, hints[entry.name], _bounded(entry.name, rule))
        if wanted:
            where = _variable(f"{name}.{entry.name}") if item.origin == "environment" else item.origin
            findings.append(
                Finding(
                    f"{name}.{entry.name} ({where})", came(item.value, rule, hints[entry.name]), wanted, rule.meaning
                )
            )
        else:
            values[entry.name] = value
    return kind(**values)


def _typed(value: object, kind: object, *, is_text: bool) -> object:
    """The value as the option's type; what cannot be read stays as it came, for `_wanted` to refuse."""
    if is_text and isinstance(value, str):
        try:
            if kind is bool:
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
            if kind in (int, float):
                return int(value) if kind is int else float(value)
            if kind in (tuple[str, ...], tuple[int, ...]):
                return _typed([part.strip() for part in value.split(",") if part.strip()], kind, is_text=True)
        except (KeyError, ValueError):
            return value
        return value
    if isinstance(value, list | tuple) and kind == tuple[int, ...]:
        return tuple(_typed(part, int, is_text=is_text) for part in value)
    if isinstance(value, list | tuple):
        return tuple(value)
    return float(value) if kind is float and type(value) is int else value


def _wanted(value: object, kind: object, rule: Rule) -> str:
    """What was expected instead of the value; empty when the value is right."""
    if kind in (tuple[str, ...], tuple[int, ...]):
        part = str if kind == tuple[str, ...] else int
        right = isinstance(value, tuple) and all(type(one) is part for one in value)
        return "" if right else f"a list of {'names' if part is str else 'whole numbers'}"
    if type(value) is not kind:
        return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]  # type: ignore[index]
    if isinstance(value, str) and ("\0" in value or (not value.isascii() and _no_text(value))):
        return "text in UTF-8, without NUL"
    if rule.choices and value not in rule.choices:
        return "one of " + ", ".join(choice or '""' for choice in rule.choices)
    if rule.pattern and not re.fullmatch(rule.pattern, str(value)):
        return rule.wanted
    if isinstance(value, int | float):
        if rule.least is not None and not value >= rule.least:  # also refuses NaN
            return f"{rule.least:g} or more"
        if rule.most is not None and not value <= rule.most:
            return f"{rule.most:.16g} or less"
    return ""


def _bounded(name: str, rule: Rule) -> Rule:
    """The rule of a number with a bound, its own or that of its unit."""
    most = MS_MAX if "_ms" in name else NUMBER_MAX
    return rule if rule.most is not None else dataclasses.replace(rule, most=most)


def _no_text(value: str) -> bool:
    """Whether there is no UTF-8 of it: bytes of the environment that are none come as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
