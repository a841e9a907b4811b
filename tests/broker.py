"""A real Apache Kafka, one KRaft node on loopback, for tests and by hand.

    python -m tests.broker start --port 19092        # prints its address; Ctrl-C ends it

The jars come from Maven Central by tests/kafka/pom.xml, once, into .cache/kafka/libs (or lie in $KAFKA_LIBS).
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
POM = HERE / "kafka" / "pom.xml"
LOGGING = HERE / "kafka" / "log4j2.properties"
CACHE = HERE.parent / ".cache" / "kafka" / "libs"

START_TIMEOUT_S = 120
"""4-8 s on an idle machine; two busy cores have been seen to need half a minute."""
STOP_TIMEOUT_S = 30
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=4
min.insync.replicas=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Fault tests freeze workers past their session: seconds, not the usual 6 or more.
group.min.session.timeout.ms=1000
# A dead worker's open transaction is aborted at its timeout, not up to ten seconds later.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
controlled.shutdown.enable=false
# The controller has been seen to stand still for five seconds on two busy cores; in a shorter session it gives its only
# broker up meanwhile, and no partition has a leader. A node that comes back waits until its former self is given up.
broker.session.timeout.ms=9000
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=4
"""


class BrokerError(RuntimeError):
    """The broker could not be installed, started or reached; the message says which and the cure."""


class Broker:
    """One Kafka node with its own data directory and ports, which survive `stop`, `kill` and `start`."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        heap_mb: int = 1024,
        properties: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
    ) -> None:
        """`properties` go to the node; `listeners` among them are further ones, as `SASL_SSL://127.0.0.1:port`.

        `format_arguments` go to the storage tool, for example users for SCRAM.
        """
        self.directory = directory
        self.port = port or free_port()
        self.heap_mb = heap_mb
        self._properties = dict(properties or {})
        self._format_arguments = list(format_arguments)
        self._controller_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port`, as librdkafka's bootstrap.servers wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """`kafka://host:port`, as our settings want it."""
        return f"kafka://{self.bootstrap}"

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        if self._process is None:
            raise BrokerError(f"Kafka on {self.bootstrap} is not running; call start() first")
        return self._process.pid

    def start(self) -> None:
        """Starts the node, formats its storage the first time, and returns when it answers requests."""
        libs = install_jars()
        config = self._configure(libs)
        log = (self.directory / "broker.log").open("ab")
        self._process = subprocess.Popen(
            [_java(), f"-Xmx{self.heap_mb}m", "-Xms256m", "-XX:+UseG1GC", f"-Dlog4j2.configurationFile={LOGGING}",
             "-cp", f"{libs}/*", "kafka.Kafka", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,  # Ctrl-C is for us to act on
        )  # fmt: skip
        log.close()
        # A test run that is killed takes its broker along: the pipe closes, and the shell behind it ends the node.
        self._watcher = subprocess.Popen(
            ["sh", "-c", f"read _; kill -9 {self._process.pid}"],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = "".join((self.directory / "broker.log").read_text(errors="replace").splitlines(True)[-20:])
                self.kill()
                raise BrokerError(f"Kafka on {self.bootstrap} did not start within {START_TIMEOUT_S} s:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the node as an operator does (SIGTERM), and waits."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the node as a power cut does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts the node on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes the node: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused node go on."""
        os.kill(self.pid, signal.SIGCONT)

    def create_topics(self, *names: str, partitions: int = 4, config: Mapping[str, str] | None = None) -> None:
        """Creates topics; one that exists is an error, so that no test reads another's records."""
        from streams._native import KafkaAdmin

        admin = KafkaAdmin({"bootstrap.servers": self.bootstrap})
        made = admin.create_topics([(name, partitions, 1, dict(config or {})) for name in names], 30_000)
        failed = {name: error for name, error in made if error}
        if failed:
            raise BrokerError(f"topics on {self.bootstrap} not created: {failed}")

    def _configure(self, libs: Path) -> Path:
        """Writes the properties; formats the storage if this node never ran."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config, data = self.directory / "server.properties", self.directory / "data"
        extra = dict(self._properties)
        listeners = "".join(f",{listener}" for listener in extra.pop("listeners", "").split(",") if listener)
        text = PROPERTIES.format(port=self.port, controller_port=self._controller_port, data=data, listeners=listeners)
        config.write_text(text + "".join(f"{name}={value}\n" for name, value in extra.items()))
        if not (data / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            done = subprocess.run(
                [_java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", "kafka.tools.StorageTool",
                 "format", f"--cluster-id={cluster}", f"--config={config}", *self._format_arguments],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise BrokerError(f"Kafka storage in {data} not formatted:\n{done.stdout}{done.stderr}")
        return config

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            watcher, self._watcher = self._watcher, None
            if watcher is not None and watcher.stdin is not None:
                watcher.kill()
                watcher.stdin.close()
                watcher.wait()


def install_jars() -> Path:
    """The folder with Kafka's jars, fetched by Maven the first time. Processes that ask together wait for the first."""
    given = os.environ.get("KAFKA_LIBS")
    if given:
        return Path(given)
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()
    mark = CACHE / "pom.sha256"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text() == wanted:
            return CACHE
        maven = shutil.which("mvn")
        if maven is None:
            raise BrokerError("Kafka's jars need Maven: apt-get install maven, or set KAFKA_LIBS to a folder with them")
        shutil.rmtree(CACHE)
        done = subprocess.run(
            [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={CACHE}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise BrokerError(f"Maven could not fetch Kafka's jars:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        mark.write_text(wanted)
    return CACHE


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether a Kafka on that port answers ApiVersions (key 18, version 0), the first request of every client."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise BrokerError("Kafka needs Java 17 or newer: apt-get install openjdk-17-jre-headless")
    return java


def main() -> int:
    """Runs one broker until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker", description="One real Kafka node on loopback.")
    parser.add_argument("verb", choices=["start", "install"])
    parser.add_argument("--port", type=int, default=19092)
    parser.add_argument("--heap-mb", type=int, default=1024)
    parser.add_argument("--dir", type=Path, help="keep its data here; default: a temporary folder, removed at the end")
    chosen = parser.parse_args()
    try:
        if chosen.verb == "install":
            print(install_jars())
            return 0
        directory = chosen.dir or Path(tempfile.mkdtemp(prefix="kafka-"))
        broker = Broker(directory, port=chosen.port, heap_mb=chosen.heap_mb)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            broker.start()
            print(broker.url, flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave the node behind
            broker.stop()
            if not chosen.dir:
                shutil.rmtree(directory, ignore_errors=True)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
