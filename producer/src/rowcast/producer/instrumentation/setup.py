"""Write a configuration, and create the outbox or a migration for the outbox, for ``rowcast init``."""

from __future__ import annotations

import configparser
from pathlib import Path

import sqlalchemy as sa

from rowcast.producer.instrumentation.databases import is_in_memory
from rowcast.producer.outbox.creation import create_missing_tables
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, MissingExtraError

_CONFIGURATION = """\
# The configuration of rowcast. docs/reference/configuration.md explains every key. Each key is also an environment
# variable, which has precedence: ROWCAST_PRIMARY__URL. Put passwords there.

# The name of the primary. Topics and events begin with it. It cannot change later without new topics.
source = {source}

[primary]
# The application's database. The application's own URL works, also with an asynchronous driver.
url = {primary}

[kafka]
# librdkafka's properties, under their own names.
{kafka}

# A replica for `rowcast worker reporting`. Its tables are created by the worker.
# [replicas.reporting]
# url = "sqlite:///replica.db"

# What is published of a table. Without a section, a table is published as it is.
# [tables."orders"]
# capture = false               # the table is not published, for example because it has no primary key
# mode = "triggers"             # capture by triggers, which also see SQL text and AUTOCOMMIT
# where = "status <> 'draft'"   # publish only these rows
# before = true                 # events carry the row as it was before
# [tables."customers".columns]
# email = {{ hash = "sha256", salt = "a secret" }}
# password = {{ capture = false }}
"""


def write_configuration(file: Path, source: str, primary: str, kafka: str | None) -> None:
    """Write a commented configuration. Raises ConfigurationError if no file can be written."""
    brokers = f'"bootstrap.servers" = {_quoted(kafka or "localhost:9092")}'
    text = _CONFIGURATION.format(
        source=_quoted(source), primary=_quoted(primary), kafka=brokers if kafka else f"# {brokers}"
    )
    try:
        # The URL may hold a password.
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def create_outbox(settings: Settings) -> list[str]:
    """Create the missing outbox tables of the primary. Return their names.

    Raises ConfigurationError for an SQLite database in memory, because the database is invisible to the relay.
    """
    url = settings.require_primary().sqlalchemy_url
    if is_in_memory(url):
        raise ConfigurationError(
            f"{url} is a database in memory, which ends with this process. Name a file: sqlite:///shop.db. Or let "
            "the program create the outbox: rowcast instrument --create-outbox."
        )
    engine = open_engine(url, "primary", pooled=False)
    tables = outbox_tables(sa.MetaData())
    try:
        reach(engine, "primary")
        with engine.connect() as connection:
            missing = [table.name for table in tables if missing_parts(table, connection)]
        create_missing_tables(engine, tables)
        return missing
    finally:
        engine.dispose()


_IMPORT = "import rowcast.producer.alembic  # noqa: F401  # registers the operations"
_MIGRATION_BODY = "op.rowcast_{verb}_tables()"


def write_migration(ini: Path) -> Path:
    """Write an Alembic revision for the outbox tables. Return the file.

    Raises ConfigurationError if Alembic cannot use the configuration.
    """
    try:
        import alembic.command
        from alembic.config import Config
        from alembic.script import Script
        from alembic.util import CommandError
    except ImportError as error:
        raise MissingExtraError("Alembic", "alembic") from error
    if not ini.is_file():
        raise ConfigurationError(f"no file {ini}. Give --alembic the path of an alembic.ini.")
    try:
        script = alembic.command.revision(Config(str(ini)), message="Create the outbox of rowcast")
    except (CommandError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(f"Alembic cannot write a revision for {ini}: {error}") from error
    assert isinstance(script, Script)
    path = Path(script.path)
    path.write_text(_with_operations(path.read_text("utf-8"), path), "utf-8")
    return path


def _with_operations(text: str, path: Path) -> str:
    """Return the text of the new revision with the operations in place of ``pass``."""
    upgrade, downgrade = (text.find(f"def {name}(") for name in ("upgrade", "downgrade"))
    parts = text[:upgrade], text[upgrade:downgrade], text[downgrade:]
    if not 0 <= upgrade < downgrade or "    pass" not in parts[1] or "    pass" not in parts[2]:
        raise ConfigurationError(
            f"{path} does not have the form of Alembic's template. Write it yourself: import rowcast.producer.alembic, "
            "then op.rowcast_create_tables() in upgrade, and op.rowcast_drop_tables() in downgrade."
        )
    bodies = [f"    {_MIGRATION_BODY.format(verb=verb)}" for verb in ("create", "drop")]
    head = parts[0].replace("from alembic import op\n", f"{_IMPORT}\nfrom alembic import op\n", 1)
    return head + parts[1].replace("    pass", bodies[0], 1) + parts[2].replace("    pass", bodies[1], 1)
