"""Where the demo keeps its things, and making room for a fresh run without touching what is not the demo's own."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from rowcast.producer.demo.shop import Base
from rowcast.shared.databases import open_engine, reach, synchronous
from rowcast.shared.errors import ConfigurationError

REPLICA_NAME = "replica"

_HEADER = "# Written by `rowcast demo`, which makes this directory anew each time."
_OWN_FILES = ("primary.db", "replica.db", "rowcast.toml", "relay.log", "worker.log")

# In each of the demo's databases: these tables are the demo's own, and may be dropped by the next run.
_own = sa.MetaData()
_mark = sa.Table("rowcast_demo", _own, sa.Column("made_by", sa.String(40), primary_key=True))


@dataclass(frozen=True, slots=True)
class Places:
    """The demo's directory and the two databases."""

    directory: Path
    primary: URL
    replica: URL

    @property
    def config(self) -> Path:
        """The configuration that relay, worker and verify are started with."""
        return self.directory / "rowcast.toml"

    def log(self, command: str) -> Path:
        """Where a command's log lines go."""
        return self.directory / f"{command}.log"


def places(directory: Path, primary: str | None, replica: str | None) -> Places:
    """Makes the directory, or empties the one that an earlier run left.

    Raises ConfigurationError if there is something in it that the demo did not write, or a URL is none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "rowcast.toml"
    ours = config.is_file() and config.read_text("utf-8").startswith(_HEADER)
    if not ours and any(directory.iterdir()):
        raise ConfigurationError(
            f"{directory} exists and was not made by the demo. Name another place with --directory, or take it away."
        )
    for name in _OWN_FILES:
        for leftover in directory.glob(f"{name}*"):
            leftover.unlink()
    # Written first, so that a run that is cut short leaves a directory that the next one knows.
    _write(config, _HEADER + "\n")
    return Places(directory, _url(primary, directory / "primary.db"), _url(replica, directory / "replica.db"))


def _url(given: str | None, file: Path) -> URL:
    if given is None:
        return URL.create("sqlite", database=str(file.resolve()))
    try:
        return synchronous(make_url(given))
    except ArgumentError as error:
        raise ConfigurationError(
            "not a database URL; it looks like postgresql+psycopg://user:password@host/name"
        ) from error


def write_config(places: Places, source: str, bootstrap: str) -> None:
    """The ``rowcast.toml`` of this run."""

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
    """The file may hold passwords: nobody else may read it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def fresh_database(url: URL, what: str) -> Engine:
    """An engine on a database without the tables of an earlier run.

    Raises ConfigurationError if tables of those names are there that no demo made, UnreachableError.
    """
    engine = open_engine(url, what)
    reach(engine, what)
    inspector = sa.inspect(engine)
    there = set(inspector.get_table_names())
    names = {table.name for table in Base.metadata.tables.values()}
    in_the_way = sorted(name for name in there if name in names or name.startswith("rowcast_"))
    if in_the_way and _mark.name not in there:
        raise ConfigurationError(
            f"the {what} database at {engine.url} has tables that the demo would overwrite and did not make: "
            f"{', '.join(in_the_way)}. Give it an empty database."
        )
    with engine.begin() as connection:
        Base.metadata.drop_all(connection)
        leftover = sa.MetaData()
        leftover.reflect(connection, only=lambda name, _: name.startswith("rowcast_"))
        leftover.drop_all(connection)
        _own.create_all(connection)
    return engine
