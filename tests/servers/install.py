"""Find the servers' programs on the machine, and install missing programs from Debian's packages and Maven's jars."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import sid
from .container import compose_image, docker_answers, pull
from .paths import CACHE
from .run import run
from .server import ServerError

_POM = Path(__file__).with_name("pom.xml")
_CONNECT_POM = Path(__file__).with_name("connect-pom.xml")


def _folder(name: str, *poms: Path) -> Path:
    """Return a folder whose name changes with the contents of the poms."""
    return CACHE / f"{name}-{hashlib.sha256(b''.join(pom.read_bytes() for pom in poms)).hexdigest()[:12]}"


_KAFKA = _folder("kafka", _POM)
_CONNECT = _folder("connect", _POM, _CONNECT_POM)
_FOLDERS = {"kafka": _KAFKA, "connect": _CONNECT}
COMPOSE_SERVICES = {
    "kafka": "kafka",
    "postgresql": "primary",
    "newest_postgresql": "newest-postgresql",
    "mariadb": "replica-mariadb",
    "mysql": "mysql",
    "connect": "connect",
}
_TIME_ZONES = Path("/usr/share/zoneinfo/UTC")
_FROM_SID = ("mysql", "newest_postgresql")


def install(*names: str) -> None:
    """Install the missing programs or images of these servers. Return quickly without missing programs."""
    if docker_answers():
        for name in names:
            pull(compose_image(COMPOSE_SERVICES[name]))
    else:
        install_programs(*names)


def install_programs(*names: str) -> None:
    """Install the missing programs of these servers, even if a Docker engine answers."""
    if not (_missing_packages(names) or _missing_jars(names) or _is_missing_from_sid(names)):
        return
    with _one_at_a_time():
        if packages := _missing_packages(names):
            _apt_install(packages)
        for name in _missing_jars(names):
            {"kafka": _fetch_kafka, "connect": _fetch_connect}[name]()
        if _is_missing_from_sid(names):
            sid.install()


def install_available(*names: str) -> dict[str, str]:
    """Install the servers, and return the reason for each server that is not available on this machine.

    Only MySQL and the newest PostgreSQL may be missing. In CI, a missing server raises ServerError.
    """
    install(*(name for name in names if name not in _FROM_SID))
    unavailable = {}
    for name in names:
        if name in _FROM_SID:
            try:
                install(name)
            except ServerError as error:
                if os.environ.get("CI", "").lower() not in ("", "0", "false"):
                    raise
                unavailable[name] = str(error).splitlines()[0]
    return unavailable


def java() -> str:
    return _program("java")


def kafka_jars() -> Path:
    return _KAFKA / "jars"


def connect_jars() -> Path:
    return _CONNECT / "jars"


def connect_plugins() -> Path:
    """Return the folder that has a folder for each connector."""
    return _CONNECT / "plugins"


def kafka_class_archive() -> Path:
    """Return the file with the archive of a broker's classes."""
    return _KAFKA / "classes.jsa"


def kafka_formatted_storage() -> Path:
    """Return the log directory of a new node, to be copied.

    Formatting a directory would take as long as starting the broker.
    """
    return _KAFKA / "formatted"


def postgresql_binaries() -> Path:
    """Return the programs of the newest installed version."""
    found = _postgresql()
    if found is None:
        raise ServerError("PostgreSQL's programs were not found")
    return found


def mariadb_programs() -> tuple[str, str]:
    return _program("mariadbd"), _program("mariadb-install-db")


def _missing_packages(names: tuple[str, ...]) -> list[str]:
    missing = []
    if any(name in _FOLDERS for name in names) and not _find("java"):
        missing.append("default-jre-headless")
    if _missing_jars(names) and not _find("mvn"):
        missing.append("maven")
    if "postgresql" in names and _postgresql() is None:
        missing.append("postgresql")
    if _is_missing_from_sid(names) and not sid.KEYRING.exists():
        missing.append("debian-archive-keyring")
    if "newest_postgresql" in names and not _TIME_ZONES.exists():
        missing.append("tzdata")
    if "mariadb" in names:
        if not (_find("mariadbd") and _find("mariadb-install-db")):
            missing.append("mariadb-server-core")
        if not _find("my_print_defaults"):  # mariadb-install-db calls my_print_defaults.
            missing.append("mariadb-client-core")
    return missing


def _is_missing_from_sid(names: tuple[str, ...]) -> bool:
    return any(name in _FROM_SID for name in names) and not sid.is_installed()


def _missing_jars(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in _FOLDERS and not _FOLDERS[name].exists()]


def _postgresql() -> Path | None:
    if versions := list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return max(versions, key=lambda path: int(path.parts[-3])).parent
    found = _find("postgres")
    return Path(found).resolve().parent if found else None


def _find(program: str) -> str | None:
    # Servers are in sbin, and the PATH of an unprivileged user may lack sbin.
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
        run([*apt_get, "update", "--quiet"])
        run([*apt_get, "install", "--yes", "--quiet", "--no-install-recommends", *packages])


@contextlib.contextmanager
def _services_not_started() -> Iterator[None]:
    """Keep Debian's packages from starting servers, by Debian's policy file for services."""
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
    """Fetch Kafka's jars into a temporary folder, and rename the complete folder."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="kafka-") as temporary:
        folder = Path(temporary) / "kafka"
        jars = folder / "jars"
        _copy_jars(_POM, jars)
        settings = Path(temporary) / "kafka.properties"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
            "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
            f"controller.listener.names=CONTROLLER\nlog.dirs={folder / 'formatted'}\n"
        )
        tool = [java(), "-cp", f"{jars}/*", "kafka.tools.StorageTool"]
        cluster_id = run([*tool, "random-uuid"]).split()[-1]
        run([*tool, "format", "--cluster-id", cluster_id, "--config", str(settings)])
        folder.rename(_KAFKA)


def _fetch_connect() -> None:
    """Fetch Kafka Connect into a temporary folder, and rename the complete folder."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="connect-") as temporary:
        folder = Path(temporary) / "connect"
        _copy_jars(_CONNECT_POM, folder / "jars")
        archives = ["-DincludeTypes=tar.gz", f"-DoutputDirectory={folder / 'plugins'}"]
        archives += [f"-DmarkersDirectory={temporary}/markers"]
        _maven(_CONNECT_POM, "dependency:unpack-dependencies", *archives)
        folder.rename(_CONNECT)


def _copy_jars(pom: Path, folder: Path) -> None:
    options = ["-DincludeScope=runtime", "-DincludeTypes=jar", f"-DoutputDirectory={folder}"]
    _maven(pom, "dependency:copy-dependencies", *options)


def _maven(pom: Path, *arguments: str) -> None:
    run([_program("mvn"), "--quiet", "--batch-mode", "-f", str(pom), *arguments])
