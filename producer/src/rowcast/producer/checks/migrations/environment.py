"""Read the models and the revisions of an Alembic project without a database.

``env.py`` runs in Alembic's offline mode, as for ``alembic upgrade --sql``. No migration runs and no SQL is written.
"""

from __future__ import annotations

import configparser
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from rowcast.producer.tables.merged_metadata import merge_metadata
from rowcast.shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AlembicProject:
    """An Alembic project. ``metadata``: the models after the newest revision, the ``target_metadata`` of ``env.py``."""

    metadata: sa.MetaData
    scripts: ScriptDirectory
    context: MigrationContext

    def pending(self, connection: Connection) -> list[Script]:
        """Return the revisions missing in the database of the connection, in the order of application.

        Raise ConfigurationError if the database has a revision unknown to the project.
        """
        options = {name: self.context.opts.get(name) for name in ("version_table", "version_table_schema")}
        given = {name: value for name, value in options.items() if value is not None}
        heads = MigrationContext.configure(connection, opts=given).get_current_heads()
        try:
            revisions = list(self.scripts.iterate_revisions("heads", heads or "base"))
        except (CommandError, RevisionError) as error:
            raise ConfigurationError(
                f"the primary is at revision {', '.join(heads)}, which the Alembic project does not have: {error}"
            ) from error
        return revisions[::-1]


def read_project(ini: Path) -> AlembicProject:
    """Run ``env.py`` of the project of an ``alembic.ini``, in offline mode.

    Raise ConfigurationError if the file is missing, or if ``env.py`` fails in offline mode or names no metadata.
    """
    if not ini.is_file():
        raise ConfigurationError(f"no file {ini}. Give --alembic the path of an alembic.ini.")
    contexts: list[MigrationContext] = []
    metadata: list[Sequence[sa.MetaData] | sa.MetaData | None] = []

    def note(_: object, context: MigrationContext) -> list[Any]:
        contexts.append(context)
        # Now, because the next call of context.configure changes the options of all contexts.
        metadata.append(context.opts.get("target_metadata"))
        return []

    config = Config(str(ini), stdout=io.StringIO(), output_buffer=io.StringIO())
    try:
        scripts = ScriptDirectory.from_config(config)
        with _logging_unchanged(), EnvironmentContext(config, scripts, fn=note, as_sql=True, destination_rev="heads"):
            scripts.run_env()
    except (CommandError, RevisionError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(f"Alembic cannot read {ini}: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"env.py of {ini} does not run without a database ({type(error).__name__}: {error}). Let it support "
            "`alembic upgrade --sql`, or name the models: rowcast check --metadata MODULE:ATTRIBUTE"
        ) from error
    if not metadata or metadata[-1] is None:
        raise ConfigurationError(
            f"env.py of {ini} gives no target_metadata. Set it to the metadata of the models, as for autogenerate."
        )
    if len(set(map(id, metadata))) > 1:
        raise ConfigurationError(
            f"env.py of {ini} migrates several databases, and a source has one. Name its models: rowcast check "
            "--metadata MODULE:ATTRIBUTE"
        )
    return AlembicProject(merge_metadata(metadata[-1]), scripts, contexts[-1])


@contextmanager
def _logging_unchanged() -> Iterator[None]:
    """Undo the logging setup of ``env.py``, because the setup is meant for Alembic's own program."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.disabled, one.level) for one in loggers]
    disabled_level = logging.root.manager.disable
    # Alembic logs the generation of SQL, but discards the SQL here.
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled_level)
        root.handlers[:], root.level = handlers, level
        for one, disabled, own_level in before:
            one.disabled = disabled
            one.setLevel(own_level)
