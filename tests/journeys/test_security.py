"""TLS and SASL against a real Kafka: one [security] section logs both clients in, each mechanism, tokens renewed."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError as AioKafkaError

from streams._native import KafkaAdmin, KafkaError, Records
from streams.app import App
from streams.cli.reading import native, read_all
from streams.client.broker import Ack, WriterOptions
from streams.client.connect import open_writer
from streams.demo.v1.device_pb2 import DeviceState
from streams.options import AppSettings, SecuritySettings, Settings
from streams.transport.credentials import Credentials
from streams.v1.patch_pb2 import Patch
from tests.broker import Broker, free_port

pytestmark = pytest.mark.kafka

STORE_PASSWORD = "changeit"
USER = {"username": "alice", "password": "wonder land"}
MODULES = "org.apache.kafka.common.security"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key store for the broker, and its certificate as ca.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    store = ["-keystore", str(folder / "broker.p12"), "-storepass", STORE_PASSWORD, "-alias", "broker"]
    make = ["-genkeypair", "-keyalg", "RSA", "-dname", "CN=broker", "-ext", "SAN=ip:127.0.0.1", "-storetype", "PKCS12"]
    subprocess.run(["keytool", *make, *store], check=True, capture_output=True)
    subprocess.run(["keytool", "-exportcert", "-rfc", "-file", str(folder / "ca.pem"), *store], check=True,
                   capture_output=True)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with a SASL_SSL listener; `port` is that listener's."""
    port = free_port()
    listener = "listener.name.sasl_ssl"
    broker = Broker(
        tmp_path_factory.mktemp("guarded"),
        heap_mb=512,
        properties={
            "listeners": f"SASL_SSL://127.0.0.1:{port}",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(certificates / "broker.p12"),
            "ssl.keystore.password": STORE_PASSWORD,
            f"{listener}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{listener}.plain.sasl.jaas.config":
                f'{MODULES}.plain.PlainLoginModule required user_{USER["username"]}="{USER["password"]}";',
            f"{listener}.scram-sha-256.sasl.jaas.config": f"{MODULES}.scram.ScramLoginModule required;",
            f"{listener}.scram-sha-512.sasl.jaas.config": f"{MODULES}.scram.ScramLoginModule required;",
            f"{listener}.oauthbearer.sasl.jaas.config":
                f'{MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        },
        format_arguments=[
            argument
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for argument in
            ("--add-scram", f"{mechanism}=[name={USER['username']},password={USER['password']}]")
        ],
    )  # fmt: skip
    broker.start()
    broker.create_topics("guarded", partitions=1)
    broker.port = port
    yield broker
    broker.stop()


def token(life_s: int) -> str:
    """An unsigned token, as the broker's default validator for development takes it (RFC 7515, `alg` none)."""
    now_s = int(time.time())
    parts = [{"alg": "none"}, {"sub": "alice", "iat": now_s, "exp": now_s + life_s}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def settings(broker: Broker, **security: object) -> Settings:
    """Settings for the guarded listener."""
    chosen = SecuritySettings(tls=True, **security)  # type: ignore[arg-type]
    return Settings(app=AppSettings(id="guarded", broker=f"kafka://127.0.0.1:{broker.port}"), security=chosen)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
async def test_one_section_logs_both_clients_in(
    guarded: Broker, certificates: Path, tmp_path: Path, mechanism: str
) -> None:
    """librdkafka writes, reads and administers, aiokafka looks at the topic: with the same settings."""
    (tmp_path / "token").write_text(token(3600))
    who = {"token_file": str(tmp_path / "token")} if mechanism == "OAUTHBEARER" else USER
    chosen = settings(guarded, ca_file=str(certificates / "ca.pem"), sasl_mechanism=mechanism, **who)
    records = Records()
    records.append(mechanism.encode(), b"value")
    writer = open_writer(chosen.app.broker, WriterOptions(security=chosen.security))
    (outcome,) = writer.write("guarded", records, 0)
    writer.close()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{guarded.port}", **Credentials(chosen.security).aiokafka()
    )
    await consumer.start()
    seen = await consumer.topics()
    await consumer.stop()
    keys = {found.key(index) for _, found in read_all(chosen, "guarded") for index in range(len(found))}

    assert isinstance(outcome, Ack)
    assert "guarded" in seen
    assert mechanism.encode() in keys
    assert "guarded" in native(KafkaAdmin, chosen).topics(30_000)


async def test_a_worker_starts_with_tokens(guarded: Broker, certificates: Path, tmp_path: Path) -> None:
    """Found when nobody had handed the reader that restores a token: it was never ready, for ever asking again."""
    (tmp_path / "token").write_text(token(3600))
    trusted = {"ca_file": str(certificates / "ca.pem"), "token_file": str(tmp_path / "token")}
    chosen = settings(guarded, sasl_mechanism="OAUTHBEARER", **trusted)
    chosen = dataclasses.replace(
        chosen, app=dataclasses.replace(chosen.app, datadir=str(tmp_path / "data"), standby_replicas=1)
    )
    native(KafkaAdmin, chosen).create_topics([("readings", 1, 1, {})], 30_000)
    for battery in (0.5, 0.25):  # the second time there is a changelog to restore
        app = App("guarded", settings=chosen, web_enabled=False)
        sync = app.sync("readings", DeviceState, key="field:device_id")
        assigned = asyncio.Event()
        worker = asyncio.create_task(app.serve(assigned.set))
        waiting = asyncio.create_task(assigned.wait())
        try:
            await asyncio.wait({worker, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)

            assert assigned.is_set(), app.transport.reasons

            await asyncio.to_thread(_write, chosen, DeviceState(device_id="d", battery=battery).SerializeToString())
            deadline_s = time.monotonic() + 30
            while not sync.counts["events"]:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.05)
        finally:
            waiting.cancel()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    found = [
        Patch.FromString(r.value(i) or b"") for _, r in read_all(chosen, "readings.patches") for i in range(len(r))
    ]

    assert [1, 2] == [patch.revision for patch in found]


def _write(chosen: Settings, value: bytes) -> None:
    records = Records()
    records.append(None, value)
    writer = open_writer(chosen.app.broker, WriterOptions(security=chosen.security))
    writer.write("readings", records, 0)
    writer.close()


async def test_a_wrong_password_or_an_unknown_certificate_is_refused(guarded: Broker, certificates: Path) -> None:
    """Neither client gets in with another password, nor talks to a broker whose certificate nobody vouches for."""
    wrong = {**USER, "password": "wrong"}
    for chosen in (
        settings(guarded, ca_file=str(certificates / "ca.pem"), sasl_mechanism="PLAIN", **wrong),
        settings(guarded, sasl_mechanism="PLAIN", **USER),
    ):
        consumer = AIOKafkaConsumer(
            bootstrap_servers=f"127.0.0.1:{guarded.port}", **Credentials(chosen.security).aiokafka()
        )
        with pytest.raises(AioKafkaError):
            await consumer.start()
        await consumer.stop()
        with pytest.raises(KafkaError):
            native(KafkaAdmin, chosen).topics(3_000)
