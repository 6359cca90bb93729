"""``rowcast triggers``: install, drop, show. Imports wait until a command runs."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.options import Invocation, command, command_group

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine import Engine

    from rowcast.producer.triggers.definitions import Definitions
    from rowcast.shared.config import Settings

_log = logging.getLogger("rowcast.triggers")

triggers = command_group(
    "triggers", "Capture by database triggers instead of listeners: SQL text, COPY, procedures and other programs, too."
)

Tables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TABLE]...",
        envvar="ROWCAST_TABLE",
        help="Names or patterns, as in public.ord* (default: those whose mode is triggers).",
    ),
]
MetadataOption = Annotated[
    str | None,
    typer.Option(
        "--metadata",
        envvar="ROWCAST_METADATA",
        metavar="MODULE:ATTRIBUTE",
        help="The application's MetaData, or its declarative base (default: as the database describes its tables).",
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
            help="Even if listeners have captured the table until now.",
        ),
    ] = False,
) -> None:
    """Install triggers on tables, or install them anew after the tables have changed.

    Each table in a transaction of its own, where the database can.
    """
    from rowcast.producer.triggers.definitions import chosen
    from rowcast.producer.triggers.installing import install as install_on
    from rowcast.producer.triggers.installing import triggers_on

    with _primary(invocation.settings(), metadata) as (engine, definitions):
        with engine.connect() as connection:
            names = chosen(connection, definitions, table or ())
        for name in names:
            with engine.begin() as connection:
                (captured,) = definitions.read(connection, [name])
                install_on(connection, captured, instead_of_listeners=instead_of_listeners)
                unseen = list(triggers_on(connection).unseen(captured.shape.schema, captured.shape.name))
            _log.info("installed on %s", captured.full_name, extra={"table": captured.full_name})
            for what in unseen:
                _log.warning("%s: not seen by its triggers: %s", captured.full_name, what)


@triggers.command("drop")
@command()
def drop(
    invocation: Invocation,
    table: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...", envvar="ROWCAST_TABLE", help="Names or patterns of tables with triggers; '*' for all."
        ),
    ],
) -> None:
    """Drop the triggers of tables. What changes from then on is not captured, until listeners write again.

    The outbox keeps what they have written.
    """
    from rowcast.producer.triggers.definitions import matching
    from rowcast.producer.triggers.installing import drop as drop_from
    from rowcast.producer.triggers.installing import triggers_on

    with _primary(invocation.settings(), None) as (engine, _):
        with engine.connect() as connection:
            installed = [(one.schema, one.name) for one in triggers_on(connection).installed()]
            names = matching(installed, table)
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
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="The tables as JSON.")] = False,
) -> int:
    """Show which tables have triggers, and whether they still fit.

    Exit code 1: a table has changed since, or lacks its triggers. With --metadata the application's models are
    compared, too.
    """
    from rowcast.producer.triggers.report import report

    with _primary(invocation.settings(), metadata) as (engine, definitions), engine.connect() as connection:
        return report(connection, definitions, table or (), as_json=as_json)


@contextmanager
def _primary(settings: Settings, metadata: str | None) -> Iterator[tuple[Engine, Definitions]]:
    from rowcast.producer.triggers.definitions import Definitions
    from rowcast.shared.databases import open_engine, reach

    definitions = Definitions(None if metadata is None else _load_metadata(metadata), settings.tables)
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    try:
        reach(engine, "primary")
        yield engine, definitions
    finally:
        engine.dispose()


def _load_metadata(name: str) -> sa.MetaData:
    import sqlalchemy as sa

    module_name, _, attribute = name.partition(":")
    # As Python itself does for a script: modules of the folder that one works in.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"--metadata {name}: {error}. It looks like shop.models:Base, and is importable from here."
        ) from error
    found = getattr(found, "metadata", found)
    if not isinstance(found, sa.MetaData):
        raise ConfigurationError(f"--metadata {name} is {type(found).__name__}, not a MetaData or a declarative base.")
    return found
