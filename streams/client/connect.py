"""Which broker an address names, and a writer or a reader for it."""

from __future__ import annotations

import re

from streams.client import embedded, kafka
from streams.client.broker import Reader, ReaderOptions, Writer, WriterOptions
from streams.errors import Finding, SettingsError

__all__ = ["open_reader", "open_writer"]

_KAFKA = re.compile(r"(?:streams\+)?kafka://([^/,:\s@]+:\d+(?:,[^/,:\s@]+:\d+)*)/?")
_EMBEDDED = re.compile(r"embedded://(\S+)")


def open_writer(broker: str, options: WriterOptions) -> Writer:
    """A writer for `kafka://host:port[,host:port]` or `embedded://directory`. SettingsError for any other address."""
    servers = _KAFKA.fullmatch(broker)
    if servers:
        return kafka.Writer(broker, servers.group(1), options)
    return embedded.Writer(broker, _directory(broker))


def open_reader(broker: str, topic: str, options: ReaderOptions) -> Reader:
    """A reader of one topic. UnknownTopicError when the topic does not exist within `topic_timeout_ms`."""
    servers = _KAFKA.fullmatch(broker)
    if servers:
        return kafka.Reader(broker, servers.group(1), topic, options)
    return embedded.Reader(broker, _directory(broker), topic, options)


def _directory(broker: str) -> str:
    found = _EMBEDDED.fullmatch(broker)
    if found is None:
        raise SettingsError(
            Finding("broker", "an address of another form", "kafka://host:port[,host:port] or embedded://directory")
        )
    return found.group(1)
