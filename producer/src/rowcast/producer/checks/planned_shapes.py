"""The future shapes of the application's models on the primary, for ``rowcast check`` before a migration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from rowcast.producer.tables.captured import CapturedTables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import MissingExtraError
from rowcast.shared.findings import Finding
from rowcast.shared.tables.shape import TableShape

Planned = Callable[[Settings], tuple[list[TableShape], list[Finding]]]
"""Return the shapes after a migration, and what is wrong with the models."""


def planned_by_models(metadata: sa.MetaData) -> Planned:
    """Return the reader of the models' shapes."""
    return lambda settings: (planned_shapes(settings, metadata), [])


def planned_by_alembic(ini: Path) -> Planned:
    """Return the reader of the shapes of an Alembic project's models.

    Raises MissingExtraError, and ConfigurationError if the project cannot be read.
    """
    try:
        from rowcast.producer.checks.migrations.environment import read_project
        from rowcast.producer.checks.migrations.renames import rename_findings
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "alembic":
            raise
        raise MissingExtraError("Alembic", "alembic") from error
    project = read_project(ini)

    def planned(settings: Settings) -> tuple[list[TableShape], list[Finding]]:
        shapes, tables = planned_shapes(settings, project.metadata), CapturedTables(project.metadata, settings.tables)
        engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        try:
            with engine.connect() as connection:
                revisions = project.pending(connection)
        finally:
            engine.dispose()
        return shapes, list(rename_findings(project.context, revisions, project.metadata, tables))

    return planned


def planned_shapes(settings: Settings, metadata: sa.MetaData) -> list[TableShape]:
    """Return the shapes of the captured tables, sorted by name.

    The primary must answer, because its version and default schema are part of a shape. Raises ConfigurationError and
    UnreachableError.
    """
    tables = CapturedTables(metadata, settings.tables)
    tables.check()
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    try:
        reach(engine, "primary")
        with engine.connect() as connection:
            schema = default_schema(connection.dialect)
            shapes = [tables.captured_table(table, connection.dialect, schema).shape for table in tables]
    finally:
        engine.dispose()
    return sorted(shapes, key=lambda shape: shape.full_name)
