"""Kafka: one node that is broker and KRaft controller."""

from __future__ import annotations

import shutil
import socket
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
    # One node holds every replica.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # The internal topics are made while the first test waits for them: 1 partition instead of 50.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    # A topic with the wrong settings would hide that nobody created the right one.
    "auto.create.topics.enable": "false",
    # Groups form at once, and tests may ask for session timeouts that a crash test can wait for.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A killed broker may register again only after its session has run out, by default 9 s later.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Compaction is looked for every 15 s by default.
    "log.cleaner.backoff.ms": "500",
    # Everybody may do everything, until a test forbids something.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}

# The quick compiler alone: up a second sooner, half the throughput, and more of the cores left to the tests.
_SMALL = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# kafka-server-start.sh's own.
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


class Broker(Server):
    name = "kafka"

    @property
    def bootstrap_servers(self) -> str:
        return f"{self.host}:{self.port}"

    def pause(self) -> None:
        """It keeps its connections and answers nothing, as a machine does that swaps."""
        self._runtime.pause()

    def resume(self) -> None:
        self._runtime.resume()
        self._wait_until_it_answers()

    def ensure_running(self) -> None:
        if self._runtime.is_running():
            self._runtime.resume()
        super().ensure_running()

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, durable: bool) -> Broker:
        port, controller_port = free_port(), free_port()
        data = folder / "kafka"
        shutil.copytree(install.kafka_formatted_storage(), data)
        properties = _PROPERTIES | {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(data),
        }
        settings = folder / "kafka.properties"
        settings.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        logging = folder / "kafka-log4j2.xml"
        logging.write_text(_LOGGING)
        machine = _AS_KAFKA_SHIPS if durable else _SMALL
        # It leaves nothing in the system's temporary folder when it is killed.
        nothing_left = ["-XX:-UsePerfData", f"-Djava.io.tmpdir={folder}"]
        command = [install.java(), *machine, *nothing_left]
        command += [f"-Dlog4j2.configurationFile={logging.as_uri()}", "-cp", f"{install.kafka_jars()}/*"]
        command += ["kafka.Kafka", str(settings)]
        return cls(Process(command, folder=data, guard=guard), port)

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

        # The client library would print each refused connection: first see that somebody listens.
        socket.create_connection((self.host, self.port), timeout=1).close()
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        if not client.list_topics(timeout=5).brokers:
            raise ConnectionError("the broker does not know itself yet")
