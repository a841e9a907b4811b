"""Every option there is: which, what for, and why its default is what it is."""

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
from streams.options.table import ENTRIES, SECTIONS, Option, Settings, options

__all__ = [
    "ENTRIES",
    "SECTIONS",
    "AppSettings",
    "ChunkSettings",
    "CircuitSettings",
    "DeliverySettings",
    "EmbeddedSettings",
    "LimitSettings",
    "LookupSettings",
    "Option",
    "Rule",
    "SecuritySettings",
    "Settings",
    "SyncSettings",
    "TargetSettings",
    "TransactionSettings",
    "options",
]
