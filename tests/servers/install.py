"""Finds the servers' programs on this machine and installs what is missing, from Debian's packages and Maven's jars."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .container import compose_image, docker_answers, pull
from .paths import CACHE
from .server import ServerError

_POM = Path(__file__).with_name("pom.xml")
_KAFKA = CACHE / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
_COMPOSE_SERVICES = {"kafka": "kafka", "postgresql": "primary", "mariadb": "replica-mariadb"}


def install(*names: str) -> None:
    """Sees to it that the programs, or the images, of these servers are here. Quick when they are."""
    if docker_answers():
        for name in names:
            pull(compose_image(_COMPOSE_SERVICES[name]))
        return
    if not _missing_packages(names) and not ("kafka" in names and not _KAFKA.exists()):
        return
    with _one_at_a_time():
        if packages := _missing_packages(names):
            _apt_install(packages)
        if "kafka" in names and not _KAFKA.exists():
            _fetch_kafka()


def java() -> str:
    return _program("java")


def kafka_jars() -> Path:
    return _KAFKA / "jars"


def kafka_formatted_storage() -> Path:
    """A new node's log directory, to be copied: formatting one takes as long as starting the broker."""
    return _KAFKA / "formatted"


def postgresql_binaries() -> Path:
    """The newest version's."""
    found = _postgresql()
    if found is None:
        raise ServerError("PostgreSQL's programs were not found")
    return found


def mariadb_programs() -> tuple[str, str]:
    return _program("mariadbd"), _program("mariadb-install-db")


def _missing_packages(names: tuple[str, ...]) -> list[str]:
    missing = []
    if "kafka" in names:
        if not _find("java"):
            missing.append("default-jre-headless")
        if not _KAFKA.exists() and not _find("mvn"):
            missing.append("maven")
    if "postgresql" in names and _postgresql() is None:
        missing.append("postgresql")
    if "mariadb" in names:
        if not (_find("mariadbd") and _find("mariadb-install-db")):
            missing.append("mariadb-server-core")
        if not _find("my_print_defaults"):  # mariadb-install-db calls it
            missing.append("mariadb-client-core")
    return missing


def _postgresql() -> Path | None:
    if versions := list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return max(versions, key=lambda path: int(path.parts[-3])).parent
    found = _find("postgres")
    return Path(found).resolve().parent if found else None


def _find(program: str) -> str | None:
    # Servers are in sbin, which is not on the path of everyone who may run them.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _program(name: str) -> str:
    found = _find(name)
    if found is None:
        raise ServerError(f"the program {name} was not found")
    return found


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _apt_install(packages: list[str]) -> None:
    wanted = " ".join(packages)
    if not shutil.which("apt-get"):
        raise ServerError(f"neither a Docker engine nor apt-get is here: install {wanted}, or start Docker")
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if as_root and not shutil.which("sudo"):
        raise ServerError(f"missing packages: as root, run: apt-get install {wanted}")
    apt_get = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    with _services_not_started():
        _run([*apt_get, "update", "--quiet"])
        _run([*apt_get, "install", "--yes", "--quiet", "--no-install-recommends", *packages])


@contextlib.contextmanager
def _services_not_started() -> Iterator[None]:
    """Packages of servers start a server of their own; this is Debian's way to tell them not to."""
    policy = Path("/usr/sbin/policy-rc.d")
    if os.geteuid() != 0 or policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _fetch_kafka() -> None:
    """Into a folder that takes its name only when it is whole."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="kafka-") as temporary:
        folder = Path(temporary) / "kafka"
        jars = folder / "jars"
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        _run([_program("mvn"), "--quiet", "--batch-mode", "-f", str(_POM), *copy])
        settings = Path(temporary) / "kafka.properties"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
            "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
            f"controller.listener.names=CONTROLLER\nlog.dirs={folder / 'formatted'}\n"
        )
        tool = [java(), "-cp", f"{jars}/*", "kafka.tools.StorageTool"]
        cluster_id = _run([*tool, "random-uuid"]).split()[-1]
        _run([*tool, "format", "--cluster-id", cluster_id, "--config", str(settings)])
        folder.rename(_KAFKA)


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout
