"""What Faust and aiokafka log at DEBUG holds what records hold, and how this worker logs in: it is not written.

Whoever sets the level of one of these loggers by name decides for himself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from streams.transport.raised import kind_of, line_of

__all__ = ["hush", "say_without_text"]

TALKATIVE = ("aiokafka", "faust", "streams.transport")
"""Requests as they go out, a SASL login's among them; records that are sent; what an agent yields. Parts of Faust that
are ours log under our names, and only Faust does so at DEBUG."""

log = logging.getLogger(__name__)


def hush() -> None:
    """From here on none of them writes at DEBUG, whatever the root logger says. Twice is once."""
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def say_without_text(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's handler of exceptions that nobody awaited: its own would write them as they are."""
    error = context.get("exception")
    told = f": {kind_of(error)}{line_of(error)}" if isinstance(error, BaseException) else ""
    log.error("%s%s", context.get("message", "an exception that nobody handled"), told)
