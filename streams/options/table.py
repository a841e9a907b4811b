"""All options of all sections: one option is one field with its default, unit, meaning and the reason for its number.

`streams.settings` fills these classes; `streams settings` and the README print the same table. Units are the last part
of a name. A field marked secret is never printed, not even when it is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

from streams.options.core import (
    AppSettings,
    ChunkSettings,
    EmbeddedSettings,
    LimitSettings,
    SecuritySettings,
    SyncSettings,
    TransactionSettings,
)
from streams.options.delivery import CircuitSettings, DeliverySettings, LookupSettings, TargetSettings
from streams.options.rule import Rule

__all__ = ["ENTRIES", "SECTIONS", "Option", "Settings", "options"]


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it, frozen. `origins` says where each value that is not a default came from."""

    app: AppSettings = field(default_factory=AppSettings)
    transaction: TransactionSettings = field(default_factory=TransactionSettings)
    chunk: ChunkSettings = field(default_factory=ChunkSettings)
    embedded: EmbeddedSettings = field(default_factory=EmbeddedSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    circuit: CircuitSettings = field(default_factory=CircuitSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    lookup: LookupSettings = field(default_factory=LookupSettings)
    sync: tuple[SyncSettings, ...] = ()
    target: tuple[TargetSettings, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


SECTIONS: dict[str, type[Any]] = {
    "app": AppSettings,
    "transaction": TransactionSettings,
    "chunk": ChunkSettings,
    "embedded": EmbeddedSettings,
    "security": SecuritySettings,
    "limits": LimitSettings,
    "circuit": CircuitSettings,
    "delivery": DeliverySettings,
    "lookup": LookupSettings,
}
"""Tables of the file that there is one of."""
ENTRIES: dict[str, type[Any]] = {"sync": SyncSettings, "target": TargetSettings}
"""Tables that there may be many of: [[sync]], [[target]]."""


class Option(NamedTuple):
    """One line of the table of options."""

    name: str
    kind: str
    default: object
    rule: Rule


def options() -> Iterator[Option]:
    """Every option there is, in the order of the file; `[[sync]]` entries as `sync.name`, and so on."""
    tables: list[tuple[str, type[Any]]] = [*SECTIONS.items(), *ENTRIES.items()]
    for section, kind in tables:
        hints = get_type_hints(kind)
        for entry in dataclasses.fields(kind):
            named = getattr(hints[entry.name], "__name__", str(hints[entry.name]))
            yield Option(f"{section}.{entry.name}", named, entry.default, entry.metadata["rule"])
