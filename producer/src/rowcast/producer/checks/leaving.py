"""Do the tables that the configuration names exist, and does the application's capture do as it says?"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector

from rowcast.producer.outbox import outbox_tables
from rowcast.producer.predicates import check_predicate
from rowcast.producer.tables import CapturedTable, settings_of
from rowcast.shared.config import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.parts import Finding, Verdict
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

_AREA = "primary"


def leaving(settings: Settings, connection: Connection, inspector: Inspector) -> Iterator[Finding]:
    """The findings about ``[tables]``."""
    shapes = written_shapes(connection)
    for name, table_settings in settings.tables.items():
        table = _reflected(name, connection, inspector)
        if table is None:
            yield Finding(
                _AREA,
                Verdict.configuration,
                f'[tables."{name}"]: there is no such table',
                "name it as schema.table, or by its own name in the default schema",
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
                "make it with Capture.from_settings(metadata, load()), start it anew and let it commit a change",
            )


def _reflected(name: str, connection: Connection, inspector: Inspector) -> sa.Table | None:
    schema, _, bare = name.rpartition(".")
    for table, where in ((name, None), (bare, schema)):
        if inspector.has_table(table, schema=where):
            return sa.Table(table, sa.MetaData(), autoload_with=connection, schema=where, resolve_fks=False)
    return None


def written_shapes(connection: Connection) -> dict[str, TableShape]:
    """The newest of each table."""
    shape = outbox_tables(sa.MetaData()).shape.c
    rows = connection.execute(sa.select(shape.table_name, shape.shape).order_by(shape.created_ms, shape.version))
    return {name: TableShape.from_json(document) for name, document in rows}


def _fault(table: sa.Table, settings: TableSettings, connection: Connection, shapes: dict[str, TableShape]) -> str:
    """What the capture does against the settings; empty: nothing. Raises ConfigurationError if they cannot be kept."""
    schema = connection.dialect.default_schema_name or "main"
    shape = shapes.get(f"{table.schema or schema}.{table.name}")
    if not settings.capture:
        return ""
    captured = CapturedTable(table, connection.dialect, schema, settings_of(table, _whole(settings)))
    check_predicate(connection, captured)
    if shape is None:
        return ""
    if settings.where is not None and settings.where != shape.where:
        return "does not know the condition of its rows"
    there = {column.name: column for column in shape.columns}
    wanted = {column.name: column for column in captured.shape.columns}
    for name in settings.columns:
        if (name in there) is not (name in wanted):
            return f"{'writes' if name in there else 'leaves out'} its column {name}"
        if name in there and there[name].masking != wanted[name].masking and wanted[name].masking is not None:
            return f"does not mask its column {name} so"
    return ""


def _whole(settings: TableSettings) -> TableSettings:
    """As far as they can be judged here: the application may have the salt, or what it is for, in Column.info."""
    columns = {name: column.salted() for name, column in settings.columns.items()}
    return settings.model_copy(update={"columns": columns})
