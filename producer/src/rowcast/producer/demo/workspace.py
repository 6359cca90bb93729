"""Prepare the directory and the databases of a run, without touching foreign files or tables."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from rowcast.producer.demo.models import Base
from rowcast.shared.database.engines import open_engine, reach, synchronous
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.own_tables import is_rowcast_table

REPLICA_NAME = "replica"

_MARK = "# Written by `rowcast demo`"
_HEADER = f"{_MARK}, which replaces this directory in each run."
_DATABASES = ("primary.db", "replica.db")
_PROCESSES = ("relay", "worker", "verify", "repair", "rebuild")
# The beginnings of the names of own files. Databases have journals, and each process has a log and an output.
_OWN_FILES = (*_DATABASES, "rowcast.toml", *_PROCESSES)

# This table marks a database with tables created by the demo. The next run may drop the tables.
_own = sa.MetaData()
_demo_table = sa.Table("rowcast_demo", _own, sa.Column("made_by", sa.String(40), primary_key=True))


@dataclass(frozen=True, slots=True)
class Workspace:
    """Name the demo's directory and its two databases."""

    directory: Path
    primary: URL
    replica: URL

    @property
    def config(self) -> Path:
        """Return the path of the configuration file."""
        return self.directory / "rowcast.toml"

    def log(self, name: str) -> Path:
        """Return the path of a process's log file."""
        return self.directory / f"{name}.log"

    def output(self, name: str) -> Path:
        """Return the path of the file with a process's output."""
        return self.directory / f"{name}.out"

    def remove(self) -> None:
        """Remove all files of the demo, and the directory if empty."""
        _remove_own_files(self.directory)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()


def database_file(url: URL) -> Path | None:
    """Return the file of an SQLite database, or None for a server."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def open_workspace(directory: Path, primary: str | None, replica: str | None) -> Workspace:
    """Create the directory, or empty the directory of an earlier run.

    Raises ConfigurationError if the directory has foreign files, or if a URL is not valid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "rowcast.toml"
    ours = config.is_file() and config.read_text("utf-8").startswith(_MARK)
    if not ours and any(directory.iterdir()):
        raise ConfigurationError(
            f"{directory} exists, but the demo did not create it. Choose another with --directory, or remove it."
        )
    _remove_own_files(directory)
    # The header is written first, so that the next run recognises the directory of an interrupted run.
    _write(config, _HEADER + "\n")
    return Workspace(directory, _url(primary, directory / "primary.db"), _url(replica, directory / "replica.db"))


def _remove_own_files(directory: Path) -> None:
    for name in _OWN_FILES:
        for leftover in directory.glob(f"{name}*"):
            leftover.unlink()


def _url(given: str | None, file: Path) -> URL:
    if given is None:
        return URL.create("sqlite", database=str(file.resolve()))
    try:
        return synchronous(make_url(given))
    except ArgumentError as error:
        raise ConfigurationError(
            "not a database URL. Write it like postgresql+psycopg://user:password@host/name"
        ) from error


def write_config(places: Workspace, source: str, bootstrap: str) -> None:
    """Write the ``rowcast.toml`` of this run."""

    def url(value: URL) -> str:
        # A JSON string is a TOML string.
        return json.dumps(value.render_as_string(hide_password=False))

    _write(
        places.config,
        f"{_HEADER}\n"
        f"source = {json.dumps(source)}\n\n"
        f'[kafka]\n"bootstrap.servers" = {json.dumps(bootstrap)}\n\n'
        f"[primary]\nurl = {url(places.primary)}\n\n"
        f"[replicas.{REPLICA_NAME}]\nurl = {url(places.replica)}\n",
    )


def _write(path: Path, text: str) -> None:
    """Write a file readable by the owner alone, because the configuration may hold passwords."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def fresh_database(url: URL, what: str) -> Engine:
    """Return an engine for a database, after dropping the tables of an earlier run.

    Raises ConfigurationError if the database has foreign tables of these names, and UnreachableError.
    """
    engine = open_engine(url, what)
    reach(engine, what)
    inspector = sa.inspect(engine)
    there = set(inspector.get_table_names())
    names = {table.name for table in Base.metadata.tables.values()}
    conflicting = sorted(name for name in there if name in names or is_rowcast_table(name))
    if conflicting and _demo_table.name not in there:
        raise ConfigurationError(
            f"the {what} database at {engine.url} has tables that the demo would overwrite but did not create: "
            f"{', '.join(conflicting)}. Give it an empty database."
        )
    drop_demo_tables(engine)
    return engine


def drop_demo_tables(engine: Engine) -> None:
    """Drop the shop's tables and rowcast's tables, and leave the mark of the demo."""
    with engine.begin() as connection:
        Base.metadata.drop_all(connection)
        leftover = sa.MetaData()
        leftover.reflect(connection, only=lambda name, _: is_rowcast_table(name))
        leftover.drop_all(connection)
        _own.create_all(connection)
