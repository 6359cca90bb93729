"""Define the commands of ``rowcast triggers``: install, drop, show. Commands import their modules when they run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.producer.cli.metadata_option import METADATA, load_metadata
from rowcast.shared.cli.command import Invocation, command, command_group

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rowcast.producer.triggers.reflected_tables import ReflectedTables
    from rowcast.shared.config.settings import Settings

_log = logging.getLogger("rowcast.triggers")

triggers = command_group(
    "triggers", "Capture by database triggers, which also see SQL text, COPY, procedures and other programs."
)

Tables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TABLE]...",
        envvar="ROWCAST_TABLE",
        help="Names or patterns such as public.ord* (default: all tables whose mode is triggers).",
    ),
]
MetadataOption = Annotated[
    str | None,
    typer.Option(
        METADATA[0],
        envvar=METADATA[1],
        metavar=METADATA[2],
        help="The application's MetaData or declarative base (default: the tables as the database describes them).",
    ),
]


@triggers.command("install")
@command()
def install(
    invocation: Invocation,
    table: Tables = None,
    metadata: MetadataOption = None,
    instead_of_listeners: Annotated[
        bool,
        typer.Option(
            "--instead-of-listeners",
            envvar="ROWCAST_INSTEAD_OF_LISTENERS",
            help="Install even if listeners have captured the table until now.",
        ),
    ] = False,
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            envvar="ROWCAST_OWNER",
            metavar="ROLE",
            help="On PostgreSQL, the role that owns the triggers' functions, with whose rights the triggers run "
            "(default: the present owner, or the installing role).",
        ),
    ] = None,
) -> None:
    """Install triggers on tables, or replace them after the tables have changed.

    Each table has a transaction of its own on databases with transactional DDL.
    """
    from rowcast.producer.triggers.install import install as install_on
    from rowcast.producer.triggers.install import triggers_on
    from rowcast.producer.triggers.reflected_tables import choose_tables

    with _primary(invocation.settings(), metadata) as (engine, definitions):
        with engine.connect() as connection:
            names = choose_tables(connection, definitions, table or ())
        for name in names:
            with engine.begin() as connection:
                (captured,) = definitions.read(connection, [name])
                install_on(connection, captured, instead_of_listeners=instead_of_listeners, owner=owner)
                unseen = list(triggers_on(connection).unseen_changes(captured.shape.schema, captured.shape.name))
            _log.info("installed on %s", captured.full_name, extra={"table": captured.full_name})
            for what in unseen:
                _log.warning("%s: its triggers do not see %s", captured.full_name, what)


@triggers.command("drop")
@command()
def drop(
    invocation: Invocation,
    table: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...", envvar="ROWCAST_TABLE", help="Names or patterns of tables with triggers. '*' for all."
        ),
    ],
) -> None:
    """Drop the triggers of tables. Later changes are not captured until listeners write again.

    The outbox keeps what the triggers have written.
    """
    from rowcast.producer.triggers.install import drop as drop_from
    from rowcast.producer.triggers.install import triggers_on
    from rowcast.producer.triggers.reflected_tables import match_names

    with _primary(invocation.settings(), None) as (engine, _):
        with engine.connect() as connection:
            installed = [(one.schema, one.name) for one in triggers_on(connection).installed()]
            names = match_names(installed, table)
        for schema, name in names:
            with engine.begin() as connection:
                drop_from(connection, f"{schema}.{name}")
            _log.info("dropped from %s.%s", schema, name, extra={"table": f"{schema}.{name}"})


@triggers.command("show")
@command()
def show(
    invocation: Invocation,
    table: Tables = None,
    metadata: MetadataOption = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the tables as JSON.")] = False,
) -> int:
    """Show which tables have triggers, and whether the triggers still fit the tables.

    Exit code 1: a table has changed since the installation, or lacks its triggers. With --metadata, the command
    compares the application's models too.
    """
    from rowcast.producer.triggers.report import report_triggers

    with _primary(invocation.settings(), metadata) as (engine, definitions), engine.connect() as connection:
        return report_triggers(connection, definitions, table or (), as_json=as_json)


@contextmanager
def _primary(settings: Settings, metadata: str | None) -> Iterator[tuple[Engine, ReflectedTables]]:
    from rowcast.producer.triggers.reflected_tables import ReflectedTables
    from rowcast.shared.database.engines import open_engine, reach

    definitions = ReflectedTables(None if metadata is None else load_metadata(metadata), settings.tables)
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    try:
        reach(engine, "primary")
        yield engine, definitions
    finally:
        engine.dispose()
