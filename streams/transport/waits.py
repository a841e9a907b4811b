"""Declared reasons that concern some partitions: an agent does not take what is there. Others must go on meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping

from faust.types import TP

__all__ = ["Waits"]

log = logging.getLogger(__name__)


class Waits:
    """`reasons` are the worker's declared ones: what is declared here is shown among them."""

    def __init__(self, reasons: MutableMapping[str, str]) -> None:
        self._reasons = reasons
        self._where: dict[str, Collection[TP | str]] = {}

    def declare(self, reason: str, said: str, where: Collection[TP | str]) -> None:
        """These partitions, or all of these topics, wait."""
        if self._reasons.get(reason) != said:
            log.warning("%s %s", reason, said)
        self._reasons[reason] = said
        self._where[reason] = where

    def end(self, reason: str) -> None:
        """It is over, if it was there."""
        self._reasons.pop(reason, None)
        self._where.pop(reason, None)

    def hold(self, topic: str, partition: int) -> bool:
        """Whether this partition is not expected to move."""
        return any(topic in where or TP(topic, partition) in where for where in self._where.values())

    def beside(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Those of the reasons that concern the whole worker."""
        return {name: said for name, said in reasons.items() if name not in self._where}
