"""Run Kafka Connect with Debezium's JDBC sink and PostgreSQL source in a process without permanent data.

Tests define connectors by its API.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import install
from .broker import Broker
from .container import Container, compose_image
from .guard import Guard
from .process import Process, free_port
from .server import Server, ServerError

_PROPERTIES = {
    # Offsets are flushed often, because a test ends the connector right after the result.
    "offset.flush.interval.ms": "1000",
    "connector.client.config.override.policy": "All",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
}
_SMALL = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class Connect(Server):
    name = "connect"

    def put(self, connector: str, settings: Mapping[str, str]) -> None:
        """Start a connector, or give a running connector new settings."""
        self._ask("PUT", f"/connectors/{connector}/config", settings)

    def drop(self, connector: str) -> None:
        self._ask("DELETE", f"/connectors/{connector}")

    def check(self, connector: str) -> None:
        """Raise ServerError, with Java's stack, if a task of the connector has failed."""
        status = self._ask("GET", f"/connectors/{connector}/status")
        for part in (status["connector"], *status["tasks"]):
            if part["state"] == "FAILED":
                raise ServerError(f"the connector {connector} has failed:\n{part['trace']}")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, kafka: Broker) -> Connect:
        port = free_port()
        home = folder / "connect"
        home.mkdir()
        properties = _PROPERTIES | {
            "bootstrap.servers": kafka.bootstrap_servers,
            "listeners": f"http://127.0.0.1:{port}",
            "plugin.path": str(install.connect_plugins()),
            "offset.storage.file.filename": str(home / "offsets"),
        }
        settings = home / "connect.properties"
        settings.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        command = [install.java(), *_SMALL, "-XX:-UsePerfData", f"-Djava.io.tmpdir={home}"]
        command += ["-cp", f"{install.connect_jars()}/*", "org.apache.kafka.connect.cli.ConnectStandalone"]
        return cls(Process([*command, str(settings)], folder=home, guard=guard), port)

    @classmethod
    def as_container(cls, guard: Guard, *, kafka: Broker) -> Connect:
        """Create a container in the network of the machine, because the advertised addresses of the servers are valid
        only there.
        """
        port = free_port()
        properties = _PROPERTIES | {
            "listeners": f"http://127.0.0.1:{port}",
            "config.storage.replication.factor": "1",
            "offset.storage.replication.factor": "1",
            "status.storage.replication.factor": "1",
        }
        environment = {f"CONNECT_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
        environment |= {"BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "GROUP_ID": "connect"}
        environment |= {f"{kind}_STORAGE_TOPIC": f"connect-{kind.lower()}" for kind in ("CONFIG", "OFFSET", "STATUS")}
        image = compose_image("connect")
        return cls(Container(image, ports={}, guard=guard, environment=environment, network="host"), port)

    def _probe(self) -> None:
        self._ask("GET", "/connectors")
