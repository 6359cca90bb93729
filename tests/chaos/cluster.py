"""The servers of a campaign, each behind a proxy, with the processes that use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos import bank
from chaos.databases import Database, MySQLFamily, PostgreSQLDatabase, SQLiteDatabase
from chaos.disks import Disk
from chaos.plan import Layout
from chaos.services import Service, Services
from servers import Broker, MariaDB, MySQL, PostgreSQL, Server
from servers.guard import Guard
from servers.install import install_programs
from support.silent_proxy import SilentProxy

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
"""The library that shifts the clock of a server: Debian's package libfaketime."""

_MEGABYTES = {"postgresql": 768, "mysql": 1536, "mariadb": 1024, "sqlite": 128}
_SERVERS: dict[str, type[PostgreSQL | MySQL | MariaDB]] = {
    "postgresql": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MariaDB,
}
_DATABASE = "bank"
_RELAY_LEASE_MS = 3_000
_WORKER_LEASE_MS = 3_000
_KAFKA_SILENCE_MS = 6_000
"""How long a client waits for a broker. Shorter than by default, so that an hour has more rounds."""


@dataclass
class Cluster:
    """Hold the servers, their doors, and the services."""

    layout: Layout
    folder: Path
    guard: Guard
    brokers: list[Broker] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)
    doors: dict[str, SilentProxy] = field(default_factory=dict)
    """The proxies. Those of the application are apart, because it has no protection from silent connections."""
    databases: dict[str, Database] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    standby: PostgreSQL | None = None
    services: Services = field(init=False)
    _primaries: int = 0
    """How many primaries and standbys there have been."""
    _primary_name: str = "primary-1"

    @property
    def config(self) -> Path:
        return self.folder / "rowcast.toml"

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"127.0.0.1:{self.doors[name].port}" for name in self.layout.broker_names)

    @property
    def primary(self) -> PostgreSQL:
        server = self.servers["primary"]
        assert isinstance(server, PostgreSQL)
        return server

    def shift_primary_clock(self, seconds: int) -> None:
        self._clock.write_text(f"{seconds:+d}")

    @property
    def _clock(self) -> Path:
        return self.folder / "primary.clock"

    def start(self, seed: int) -> None:
        engines = set(self.layout.replicas) | {"postgresql", "kafka"}
        install_programs(*sorted(engines - {"sqlite"}))
        if FAKETIME is not None:
            self.shift_primary_clock(0)
            self._clock.chmod(0o644)
        with ThreadPoolExecutor() as pool:
            starts = [pool.submit(self._start_brokers), pool.submit(self._start_primary)]
            starts += [pool.submit(self._start_replica, engine) for engine in self.layout.replicas]
            for start in starts:
                start.result()
        bank.open_bank(self.databases["primary"].engine, self.layout.pair)
        if self.layout.standby:
            self.add_standby()
        self._write_config()
        self.services = Services({name: self._service(name, seed) for name in self.layout.services})
        self.services.start()

    def close(self) -> None:
        """End everything. The guard kills what runs."""
        if hasattr(self, "services"):
            self.services.close()
        self.guard.close()
        for door in self.doors.values():
            door.close()
        for server in [*self.brokers, *self.servers.values(), *([self.standby] if self.standby else [])]:
            server.reap()

    def server(self, name: str) -> Server:
        """Return a broker or the server of a database by the name of a plan."""
        if name.startswith("broker-"):
            return self.brokers[int(name.removeprefix("broker-")) - 1]
        return self.servers[name]

    def disk(self, name: str) -> Disk:
        """Return the disk of a database. That of the primary changes with a failover."""
        return self.disks[self._primary_name if name == "primary" else name]

    def all_servers(self) -> list[Server]:
        """Return the brokers and the servers of the databases, without the standby."""
        return [*self.brokers, *self.servers.values()]

    def add_standby(self) -> None:
        """Copy the primary, and let the copy follow it."""
        self.standby = self.primary.standby(self._primary_home(), self.guard, self._primary_environment())
        self.standby.start()

    def fail_over(self) -> None:
        """Let the standby be the primary, and forget the old one, which has ended."""
        assert self.standby is not None
        old = self.servers["primary"]
        self._primary_name = f"primary-{self._primaries}"
        self.standby.promote()
        self.servers["primary"] = self.standby
        self.standby = None
        for door in ("primary", "application"):
            self.doors[door].retarget(self.primary.port)
        self.databases["primary"].move_to(self.primary.url(_DATABASE))
        old.reap()
        for name in (name for name in [*self.disks] if name.startswith("primary-") and name != self._primary_name):
            self.disks.pop(name).remove()

    # -- the start of each part

    def _home(self, name: str, home: str, engine: str) -> Path:
        """Return the folder of a server, whose data get a disk of their own if that is possible."""
        folder = self.folder / name
        folder.mkdir(mode=0o711)
        if self.layout.can_mount:
            self.disks[name] = Disk(folder / home, _MEGABYTES[engine], self.guard)
        return folder

    def _start_brokers(self) -> None:
        folders = [self.folder / name for name in self.layout.broker_names]
        for folder in folders:
            folder.mkdir()
        names = iter(self.layout.broker_names)

        def door(port: int) -> int:
            proxy = self.doors[next(names)] = SilentProxy(port)
            return proxy.port

        self.brokers = Broker.cluster(folders, self.guard, door)
        Broker.start_cluster(self.brokers)

    def _start_primary(self) -> None:
        primary = PostgreSQL.as_process(
            self._primary_home(), self.guard, durable=False, environment=self._primary_environment()
        )
        primary.start()
        self.servers["primary"] = primary
        for door in ("primary", "application"):
            self.doors[door] = SilentProxy(primary.port)
        self.databases["primary"] = PostgreSQLDatabase(primary.create_database(_DATABASE))

    def _primary_home(self) -> Path:
        self._primaries += 1
        return self._home(f"primary-{self._primaries}", "postgresql", "postgresql")

    def _primary_environment(self) -> dict[str, str] | None:
        if FAKETIME is None or not self.layout.can_fake_clock:
            return None
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            # Only the wall clock jumps, as on a real machine.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def _start_replica(self, engine: str) -> None:
        name = f"replica-{engine}"
        if engine == "sqlite":
            home = self._home(name, "sqlite", engine)
            path = home / "sqlite" / "bank.db"
            path.parent.mkdir(exist_ok=True)
            self.databases[name] = SQLiteDatabase(f"sqlite:///{path}")
            return
        kind = _SERVERS[engine]
        server = kind.as_process(self._home(name, engine, engine), self.guard, durable=False)
        server.start()
        self.servers[name] = server
        self.doors[name] = SilentProxy(server.port)
        url = server.create_database(_DATABASE)
        self.databases[name] = PostgreSQLDatabase(url) if engine == "postgresql" else MySQLFamily(url)
        self.databases[name].create_worker()

    def _write_config(self) -> None:
        """Write the configuration of relays and workers, whose connections all lead through the doors."""
        sections: dict[str, dict[str, object]] = {
            "kafka": {"bootstrap.servers": self.bootstrap_servers, "socket.timeout.ms": _KAFKA_SILENCE_MS},
            "primary": {"url": self._url("primary", as_worker=False)},
            "relay": {"lease_ms": _RELAY_LEASE_MS},
            "topics": {"partitions": 2},
        }
        for engine in self.layout.replicas:
            url = self._url(f"replica-{engine}", as_worker=True)
            sections[f"replicas.{engine}"] = {"url": url, "lease_ms": _WORKER_LEASE_MS}
        lines = [f"source = {json.dumps(bank.SOURCE)}"]
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def _url(self, name: str, *, as_worker: bool) -> str:
        database = self.databases[name]
        url = database.worker_url if as_worker else database.url
        if name in self.doors:
            url = url.set(port=self.doors[name].port)
        return url.render_as_string(hide_password=False)

    def _service(self, name: str, seed: int) -> Service:
        kind, _, rest = name.partition("-")
        command = ["rowcast.shared.cli", kind, f"--config={self.config}"]
        if kind == "worker":
            command.insert(2, rest.rpartition("-")[0])
        elif kind == "writer":
            url = self.databases["primary"].url.set(port=self.doors["application"].port)
            command = ["chaos.bank", url.render_as_string(hide_password=False), rest, str(seed + int(rest))]
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return Service(name, command, logs, self.guard)


@contextmanager
def running_cluster(layout: Layout, folder: Path, seed: int) -> Iterator[Cluster]:
    """Run the servers and processes until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    cluster = Cluster(layout, folder, Guard())
    try:
        cluster.start(seed)
        yield cluster
    finally:
        cluster.close()
