"""The shapes that the application's models will have on the primary, for ``rowcast check --metadata``."""

from __future__ import annotations

import sqlalchemy as sa

from rowcast.producer.tables.captured import CapturedTables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.tables.shape import TableShape


def planned_shapes(settings: Settings, metadata: sa.MetaData) -> list[TableShape]:
    """Return the shapes of the captured tables, in the order of their names.

    The primary must answer, because its version and its default schema are part of a shape. Raises ConfigurationError
    and UnreachableError.
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
