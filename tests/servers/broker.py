"""Run Kafka: one node that is broker and KRaft controller, or a cluster of such nodes."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import install
from .container import Container, compose_image
from .guard import Guard
from .process import Process, free_port
from .server import Runtime, Server

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A single node can hold only one replica of a partition.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # Kafka creates the internal topics while the first test waits, so the topics get 1 partition instead of 50.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    # Topics created by the broker have wrong settings, and would hide that the relay did not create a topic.
    "auto.create.topics.enable": "false",
    # Groups form without delay, and tests may choose session timeouts that a crash test can wait for.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A killed broker may register again only after its session has ended, by default 9 s later.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # By default, Kafka looks for work for compaction every 15 s.
    "log.cleaner.backoff.ms": "500",
    # By default, an idle controller writes two records a second, which takes a third of an idle broker's CPU.
    "metadata.max.idle.interval.ms": "0",
    # Every client may do everything until a test forbids something.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}

# With only the quick compiler, the broker starts a second sooner and leaves more CPU to the tests, at half the
# throughput.
_SMALL = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# The options of kafka-server-start.sh.
_AS_KAFKA_SHIPS = [
    "-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
]  # fmt: skip

_LOGGING = """\
<Configuration status="WARN">
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{ISO8601} %-5p [%t] %c{1}: %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def _login_properties(properties: Mapping[str, str], listener: str, logins: Mapping[str, str]) -> dict[str, str]:
    users = " ".join(f'user_{name}="{password}"' for name, password in logins.items())
    return {
        "listeners": f"{properties['listeners']},{listener}",
        "advertised.listeners": f"{properties['advertised.listeners']},{listener}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",
    }


def archive_classes() -> None:
    """Run a broker once, and let Java write the loaded classes to an archive.

    With the archive a broker starts in half the time. Nothing is done if the archive exists.
    """
    archive = install.kafka_class_archive()
    if archive.exists():
        return
    with tempfile.TemporaryDirectory(prefix="rowcast-kafka-") as folder:
        guard = Guard()
        try:
            broker = Broker._as_process(Path(folder), guard, [*_SMALL, f"-XX:ArchiveClassesAtExit={archive}"])
            broker.start()
            # Java writes the archive at the end of the process.
            broker.stop()
        finally:
            guard.close()


class Broker(Server):
    name = "kafka"

    login_port = 0
    """The port that asks for a login, if the broker has logins."""

    @property
    def bootstrap_servers(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, durable: bool) -> Broker:
        return cls._as_process(folder, guard, _AS_KAFKA_SHIPS if durable else _small())

    @classmethod
    def cluster(cls, folders: Sequence[Path], guard: Guard, door: Callable[[int], int]) -> list[Broker]:
        """Return the brokers of a cluster, one for each folder, with 3 copies of each partition if there are 3 brokers.

        ``door``: given the port of a broker, return the port that clients are to use, such as the port of a proxy. The
        brokers reach each other without it. A single broker cannot answer alone: use ``start_cluster``.
        """
        copies = min(3, len(folders))
        controllers = {node: free_port() for node in range(1, len(folders) + 1)}
        shared = {
            "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port}" for node, port in controllers.items()),
            "default.replication.factor": str(copies),
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.replication.factor": str(copies),
            "offsets.topic.num.partitions": str(copies),
            "transaction.state.log.num.partitions": str(copies),
            "min.insync.replicas": str(max(1, copies - 1)),
            "transaction.state.log.min.isr": str(max(1, copies - 1)),
            "inter.broker.listener.name": "INTERNAL",
            # The authorizer would refuse the votes of the other controllers until one of them leads.
            "authorizer.class.name": "",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }
        brokers = []
        for folder, (node, controller_port) in zip(folders, controllers.items(), strict=True):
            port, internal = free_port(), free_port()
            listeners = f"PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}"
            own = {
                "node.id": str(node),
                "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller_port}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{door(port)},INTERNAL://127.0.0.1:{internal}",
            }
            process = _process(folder, guard, _small(), shared | own)
            brokers.append(cls(process, port))
        return brokers

    @staticmethod
    def start_cluster(brokers: Sequence[Broker]) -> None:
        """Start the brokers together, because none answers without the others."""
        for broker in brokers:
            broker._runtime.start()
        for broker in brokers:
            broker._wait_until_it_answers()

    @classmethod
    def with_logins(cls, folder: Path, guard: Guard, logins: Mapping[str, str]) -> Broker:
        """Return a broker with users and their passwords, who may do nothing without an ACL.

        Clients of ``bootstrap_servers`` need no login, and may do everything.
        """
        login_port = free_port()
        broker = cls._as_process(folder, guard, _small(), login_port, logins)
        broker.login_port = login_port
        return broker

    @classmethod
    def _as_process(
        cls,
        folder: Path,
        guard: Guard,
        machine: list[str],
        login_port: int = 0,
        logins: Mapping[str, str] | None = None,
    ) -> Broker:
        """Return a broker on a Java machine with the options ``machine``."""
        port, controller_port = free_port(), free_port()
        properties = {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        }
        if logins is not None:
            properties |= _login_properties(properties, f"LOGIN://127.0.0.1:{login_port}", logins)
        return cls(_process(folder, guard, machine, properties), port)

    @classmethod
    def as_container(cls, guard: Guard, *, durable: bool) -> Broker:
        port = free_port()
        properties = _PROPERTIES | {
            "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": "1@localhost:9093",
        }
        environment = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
        runtime: Runtime = Container(compose_image("kafka"), ports={port: 9092}, guard=guard, environment=environment)
        return cls(runtime, port)

    def _probe(self) -> None:
        from confluent_kafka.admin import AdminClient

        # The client library would print each refused connection, so first wait for an open port.
        socket.create_connection((self.host, self.port), timeout=1).close()
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        if not client.list_topics(timeout=5).brokers:
            raise ConnectionError("the broker does not know itself yet")


def _small() -> list[str]:
    archive = install.kafka_class_archive()
    return [*_SMALL, f"-XX:SharedArchiveFile={archive}"] if archive.exists() else _SMALL


def _process(folder: Path, guard: Guard, machine: list[str], properties: Mapping[str, str]) -> Process:
    """Return the process of a node on a Java machine with the options ``machine``.

    ``properties``: the node's own properties, such as its listeners.
    """
    data = folder / "kafka"
    shutil.copytree(install.kafka_formatted_storage(), data, dirs_exist_ok=True)
    properties = {**_PROPERTIES, **properties, "log.dirs": str(data)}
    _rename_node(data / "meta.properties", properties["node.id"])
    settings = folder / "kafka.properties"
    settings.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    logging = folder / "kafka-log4j2.xml"
    logging.write_text(_LOGGING)
    # A killed broker must leave no files in the system's temporary folder.
    nothing_left = ["-XX:-UsePerfData", f"-Djava.io.tmpdir={folder}"]
    command = [install.java(), *machine, *nothing_left]
    command += [f"-Dlog4j2.configurationFile={logging.as_uri()}", "-cp", f"{install.kafka_jars()}/*"]
    command += ["kafka.Kafka", str(settings)]
    return Process(command, folder=data, guard=guard)


def _rename_node(formatted: Path, node: str) -> None:
    """Make the formatted storage of node 1 that of another node of the same cluster, with an identity of its own."""
    if node != "1":
        directory = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        text = re.sub(r"(?m)^node\.id=.*$", f"node.id={node}", formatted.read_text())
        formatted.write_text(re.sub(r"(?m)^directory\.id=.*$", f"directory.id={directory}", text))
