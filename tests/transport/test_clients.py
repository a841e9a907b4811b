"""streams.transport.clients: every native client has the current token, and what it logs is heard."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams._native import KafkaConsumer
from streams.clock import ManualClock
from streams.errors import TransportError
from streams.options import SecuritySettings
from streams.transport.clients import NativeClients
from streams.transport.credentials import Credentials
from streams.transport.tail import read_to_end


class Listener:
    """A port that takes connections and says nothing; it counts them."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.came = threading.Event()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        try:
            self.socket.accept()
        except OSError:
            return
        self.came.set()

    @property
    def place(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.socket.getsockname()[1]}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A listener for one test."""
    made = Listener()
    yield made
    made.socket.close()


def clients(place: str, file: Path, clock: ManualClock) -> NativeClients:
    """Clients that log in with the token in a file."""
    security = SecuritySettings(sasl_mechanism="OAUTHBEARER", token_file=str(file), token_refresh_ms=5_000)
    credentials = Credentials(security, clock)
    return NativeClients({"bootstrap.servers": place, **credentials.librdkafka()}, credentials)


def test_the_reader_that_restores_has_a_token(tmp_path: Path, listener: Listener) -> None:
    """Without one librdkafka does not even connect: no connection was made, and the restore asked for ever."""
    (tmp_path / "token").write_text("first")
    opened = clients(listener.place, tmp_path / "token", ManualClock(time.time_ns() // 1_000_000))

    def open_consumer(config: dict[str, str]) -> KafkaConsumer:
        return opened.open(KafkaConsumer, config)

    def restore() -> None:
        with pytest.raises(TransportError):
            read_to_end({}, {("t", 0): 0}, lambda *_: None, lambda: False, "restore", open_consumer=open_consumer)

    threading.Thread(target=restore, daemon=True).start()

    assert listener.came.wait(10)


def test_every_open_client_gets_the_next_token(tmp_path: Path) -> None:
    """One that is closed is forgotten; a token that cannot be read is told, and asked for again."""
    file, clock = tmp_path / "token", ManualClock(time.time_ns() // 1_000_000)
    file.write_text("first")
    opened = clients("127.0.0.1:1", file, clock)
    kept, closed = (opened.open(KafkaConsumer, {"group.id": "g"}) for _ in range(2))
    closed.close()
    opened.tend()
    file.write_text("two words")
    clock.advance(5_000)
    with pytest.raises(TransportError, match="OAUTHBEARER token"):
        opened.tend()
    file.write_text("second")
    opened.tend()
    held = [(one.client, one.handed) for one in opened._open]
    kept.close()

    assert [(kept, "second")] == held


def test_a_token_that_is_still_valid_serves_while_its_file_is_away(tmp_path: Path) -> None:
    """Found with a file that was being rewritten: a ledger made anew at that moment ended the worker. It is told all
    the same, and tried again once nothing is valid any more.
    """
    file, clock = tmp_path / "token", ManualClock(time.time_ns() // 1_000_000)
    file.write_text("first")
    opened = clients("127.0.0.1:1", file, clock)
    first = opened.open(KafkaConsumer, {"group.id": "g"})
    file.unlink()
    clock.advance(5_000)
    second = opened.open(KafkaConsumer, {"group.id": "g"})
    with pytest.raises(TransportError, match=r"security\.token_file") as told:
        opened.tend()
    clock.advance(5_000)
    with pytest.raises(TransportError, match=r"security\.token_file") as refused:
        opened.open(KafkaConsumer, {"group.id": "g"})
    file.write_text("second")
    opened.tend()
    handed = [one.handed for one in opened._open]
    first.close()
    second.close()

    assert told.value.retriable
    assert refused.value.retriable
    assert ["second", "second"] == handed


def test_what_a_client_logs_is_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that refuses shows in the worker's log, not only in a buffer that nobody reads."""
    credentials = Credentials(SecuritySettings())
    opened = NativeClients({"bootstrap.servers": "127.0.0.1:1", **credentials.librdkafka()}, credentials)
    consumer = opened.open(KafkaConsumer, {"group.id": "g"})
    consumer.assign([("t", 0, 0)])
    for _ in range(20):
        consumer.fetch(1, 1, 100)
        opened.tend()
        if caplog.messages:
            break
    consumer.close()

    assert any("127.0.0.1:1" in line for line in caplog.messages)
