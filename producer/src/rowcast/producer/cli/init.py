"""Define the command ``rowcast init``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.errors import ConfigurationError, RowcastError

_log = logging.getLogger("rowcast.init")


@command()
def init(
    invocation: Invocation,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", envvar="ROWCAST_SOURCE", metavar="NAME", help="Name of the primary, the prefix of its topics."
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            "--primary", envvar="ROWCAST_PRIMARY__URL", metavar="URL", help="URL of the application's database."
        ),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            "--kafka", envvar="ROWCAST_KAFKA__BOOTSTRAP_SERVERS", metavar="HOST:PORT", help="Brokers of Kafka."
        ),
    ] = None,
    alembic: Annotated[
        Path | None,
        typer.Option(
            "--alembic",
            envvar="ROWCAST_ALEMBIC",
            metavar="PATH",
            help="Write a migration for this alembic.ini instead of creating the outbox tables.",
        ),
    ] = None,
    no_tables: Annotated[
        bool, typer.Option("--no-tables", envvar="ROWCAST_NO_TABLES", help="Do not create the outbox tables.")
    ] = False,
) -> None:
    """Write a commented rowcast.toml if there is none, and create the outbox tables that are missing.

    With --alembic, the command writes a migration that creates the tables, and opens no database.
    """
    from rowcast.producer.instrumentation.setup import create_outbox, write_configuration, write_migration
    from rowcast.shared.config.settings import DEFAULT_PATH

    file = invocation.configs[0] if invocation.configs else DEFAULT_PATH

    def create_tables() -> None:
        settings = Invocation((file,), invocation.log_format, invocation.log_level).settings()
        if alembic is not None:
            _log.info("written: %s. Run it with: alembic upgrade head", write_migration(alembic))
        elif not no_tables:
            for name in create_outbox(settings) or ("none, because all outbox tables exist",):
                _log.info("created: %s", name)

    if file.exists():
        ignored = [name for name, v in (("--source", source), ("--primary", primary), ("--kafka", kafka)) if v]
        _log.info("%s exists and stays as it is", file, extra={"ignored": ignored} if ignored else None)
        create_tables()
        return
    if source is None or primary is None:
        raise ConfigurationError(
            f"{file} does not exist. To write it, rowcast init needs --source, such as shop, and --primary, such "
            "as postgresql+psycopg://shop@db/shop."
        )
    write_configuration(file, source, primary, kafka)
    try:
        create_tables()
    except RowcastError:
        # The next call shall write the file with corrected options.
        file.unlink()
        raise
    _log.info("written: %s", file)
