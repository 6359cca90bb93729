"""Check whether the tables in the configuration exist, and whether the application's capture uses the settings."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector

from rowcast.producer.tables.captured import CapturedTable, read_settings
from rowcast.producer.tables.row_filter import check_row_filter
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shapes

_AREA = "primary"


def check_table_settings(settings: Settings, connection: Connection, inspector: Inspector) -> Iterator[Finding]:
    """Yield the findings about ``[tables]``."""
    shapes = newest_shapes(connection)
    for name, table_settings in settings.tables.items():
        table = _reflected(name, connection, inspector)
        if table is None:
            yield Finding(
                _AREA,
                Verdict.configuration,
                f'[tables."{name}"]: there is no such table',
                "write schema.table, or only the name for a table of the default schema",
            )
            continue
        try:
            fault = _fault(table, table_settings, connection, shapes)
        except ConfigurationError as error:
            connection.rollback()
            yield Finding(_AREA, Verdict.configuration, str(error))
            continue
        if fault:
            yield Finding(
                _AREA,
                Verdict.missing,
                f'[tables."{name}"]: the application\'s capture {fault}',
                "create it with Capture.from_settings(metadata, load()), restart the application, and commit a change",
            )


def _reflected(name: str, connection: Connection, inspector: Inspector) -> sa.Table | None:
    schema, _, bare = name.rpartition(".")
    for table, where in ((name, None), (bare, schema)):
        if inspector.has_table(table, schema=where):
            return sa.Table(table, sa.MetaData(), autoload_with=connection, schema=where, resolve_fks=False)
    return None


def _fault(table: sa.Table, settings: TableSettings, connection: Connection, shapes: dict[str, TableShape]) -> str:
    """Return how the capture differs from the settings, or an empty string.

    Raises ConfigurationError if the settings are not valid for the table.
    """
    schema = default_schema(connection.dialect)
    shape = shapes.get(f"{table.schema or schema}.{table.name}")
    if not settings.capture:
        return ""
    captured = CapturedTable(table, connection.dialect, schema, read_settings(table, _whole(settings)))
    check_row_filter(connection, captured)
    if shape is None:
        return ""
    if settings.where is not None and settings.where != shape.where:
        return "uses another row filter"
    there = {column.name: column for column in shape.columns}
    wanted = {column.name: column for column in captured.shape.columns}
    for name in settings.columns:
        if (name in there) is not (name in wanted):
            return f"{'publishes' if name in there else 'leaves out'} its column {name}"
        if name in there and there[name].masking != wanted[name].masking and wanted[name].masking is not None:
            return f"masks its column {name} differently"
    return ""


def _whole(settings: TableSettings) -> TableSettings:
    """Return the settings with a salt for each hash, because the application may have it in Column.info."""
    columns = {name: column.salted() for name, column in settings.columns.items()}
    return settings.model_copy(update={"columns": columns})
