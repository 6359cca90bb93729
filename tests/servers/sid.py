"""Install server programs of Debian's unstable release, sid: MySQL and the newest PostgreSQL.

The machine may have any release. apt downloads the packages and every needed library, and checks the signatures as
usual. apt works in separate folders, so the machine's packages do not change and root is not needed. The programs run
by sid's loader on sid's libraries, because the libraries of an older release are too old for them.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from .paths import CACHE
from .run import run
from .server import ServerError

PACKAGES = ("mysql-server-core", "postgresql")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The servers' packages depend on these packages for services and scripts. No test runs services or scripts.
_NOT_NEEDED = ("debconf", "locales-all", "perl", "postgresql-client-common", "postgresql-common", "ssl-cert", "tzdata")
# The kept files of the packages, relative to /usr.
_KEPT = (
    "lib/*-linux-gnu*/*.so*",
    "sbin/mysqld",
    "share/mysql",
    "lib/mysql/plugin",
    "lib/postgresql",
    "share/postgresql",
)
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_LAYOUT = 1  # Increase this number when the module keeps or creates different files.
_ROOT = CACHE / f"sid-{_LAYOUT}"
_MYSQL_DATA = "mysql-data"

# The sum of these sizes is the cost of a copy at each start. A smaller redo log makes the initialization seconds
# slower.
MYSQL_SIZES = ("--innodb-redo-log-capacity=32M", "--innodb-buffer-pool-size=64M", "--innodb-doublewrite=OFF")

_WRAPPER = """\
#!/bin/sh
usr="${{0%/*}}/../../../.."
exec "$usr/lib/{triplet}/{loader}" --library-path "$usr/lib/{triplet}" --argv0 "$0" "$0.program" "$@"
"""


class Programs:
    """Locate the unpacked programs, in a folder readable for the servers' user."""

    def __init__(self, root: Path) -> None:
        self._usr = root / "usr"
        self._root = root

    def mysqld(self) -> list[str]:
        """Return the command that runs mysqld, with --no-defaults and the folders of the program.

        The caller appends options.
        """
        mysqld = self._usr / "sbin/mysqld"
        loader = _loader(self._usr)
        run_by = [str(loader), "--library-path", str(loader.parent), "--argv0", str(mysqld), str(mysqld)]
        places = [f"--basedir={self._usr}", f"--lc-messages-dir={self._usr}/share/mysql"]
        places += [
            f"--character-sets-dir={self._usr}/share/mysql/charsets",
            f"--plugin-dir={self._usr}/lib/mysql/plugin",
        ]
        # Debian's package sets a missing folder for LOAD DATA.
        return [*run_by, "--no-defaults", *places, "--secure-file-priv=NULL"]

    def copy_mysql_data(self, data: Path) -> None:
        """Create the data directory of a new server.

        The only user is root, without a password and only from this machine.
        """
        shutil.copytree(self._root / _MYSQL_DATA, data)

    def postgresql_binaries(self) -> Path:
        """Return the folder of the newest version's programs. Only initdb and postgres can run."""
        return _postgresql_binaries(self._usr)


def is_installed() -> bool:
    return _ROOT.exists()


def install() -> None:
    """Download and unpack the programs into a temporary folder, and rename the complete folder. Raises ServerError."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ServerError(
            "MySQL and the newest PostgreSQL come from Debian's packages, which this machine has no apt for"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="sid-") as temporary:
        apt, unpacked, made = (Path(temporary) / name for name in ("apt", "unpacked", "made"))
        for archive in _download(apt):
            run(["dpkg-deb", "--extract", str(archive), str(unpacked)])
        _keep(unpacked / "usr", made / "usr")
        _wrap_postgresql(made / "usr")
        _initialize_mysql(made)
        made.chmod(0o755)
        made.rename(_ROOT)


def programs(folder: Path) -> Programs:
    """Return the programs. If only root can read the cache, they are linked or copied into ``folder``."""
    if os.geteuid() != 0 or all(_everybody_may_enter(path) for path in (_ROOT, *_ROOT.parents)):
        return Programs(_ROOT)
    shutil.copytree(
        _ROOT, folder, symlinks=True, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(_MYSQL_DATA)
    )
    (folder / _MYSQL_DATA).symlink_to(_ROOT / _MYSQL_DATA)
    return Programs(folder)


def _download(folder: Path) -> list[Path]:
    """Let apt choose, download and check the packages as for a machine without packages of sid."""
    status = folder / "status"
    archives = folder / "cache/archives"
    for path in (folder / "state/lists/partial", archives / "partial"):
        path.mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} sid main\n")
    status.write_text("".join(_claimed_to_be_installed(name) for name in _NOT_NEEDED))
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": status,
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    apt_get = [
        "apt-get",
        "--quiet",
        "--yes",
        *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
    ]
    run([*apt_get, "update", "--error-on=any"])
    run([*apt_get, "install", "--download-only", *PACKAGES])
    return sorted(archives.glob("*.deb"))


def _claimed_to_be_installed(package: str) -> str:
    return (
        f"Package: {package}\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: allowed\nVersion: 99999\n"
        "Maintainer: none\nDescription: not needed\n\n"
    )


def _mirror() -> str:
    """Return the Debian mirror of the machine."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in files:
        if file.is_file() and (found := re.search(r"(?<!\S)https?://[^/\s]+/debian(?=/?\s)", file.read_text())):
            return found[0]
    return _DEFAULT_MIRROR


def _keep(unpacked: Path, kept: Path) -> None:
    for pattern in _KEPT:
        found = list(unpacked.glob(pattern))
        if not found:
            raise ServerError(f"Debian's packages have no {pattern} any more. Adapt tests/servers/sid.py.")
        for path in found:
            place = kept / path.relative_to(unpacked)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)


def _wrap_postgresql(usr: Path) -> None:
    """Replace each program by a script with sid's loader, because initdb starts postgres by its path."""
    loader = _loader(usr)
    for name in ("initdb", "postgres"):
        program = _postgresql_binaries(usr) / name
        program.rename(program.with_name(f"{name}.program"))
        program.write_text(_WRAPPER.format(triplet=loader.parent.name, loader=loader.name))
        program.chmod(0o755)


def _initialize_mysql(root: Path) -> None:
    """Initialize a data directory once, because an initialization takes seconds and a copy does not."""
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    mysqld = Programs(root).mysqld()
    run([*mysqld, *as_root, f"--datadir={root / _MYSQL_DATA}", "--initialize-insecure", *MYSQL_SIZES])
    (root / _MYSQL_DATA / "auto.cnf").unlink()  # This file has the server's identity. Each copy creates a new identity.


def _loader(usr: Path) -> Path:
    return next(usr.glob("lib/*-linux-gnu*/ld-linux*.so*"))


def _postgresql_binaries(usr: Path) -> Path:
    return max(usr.glob("lib/postgresql/*/bin"), key=lambda path: int(path.parent.name))


def _everybody_may_enter(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXOTH)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # The target is on a different file system.
        shutil.copy2(source, target)
