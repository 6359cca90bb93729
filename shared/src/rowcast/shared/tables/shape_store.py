"""Read the capture's shapes from ``rowcast_shape`` in the primary, and choose the newest of each table.

This module owns the rule: the newest version of a table's shape has the greatest ``(created_ms, version)``. The version
decides between two shapes of one millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.renamed_tables import renamed_tables
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_shape

_SHAPE = sa.table("rowcast_shape", *map(sa.column, ("table_name", "version", "created_ms", "shape")))
_ROW = _SHAPE.c
_STORED = sa.select(_ROW.table_name, _ROW.version, _ROW.shape)
_OLDEST_FIRST = (_ROW.created_ms, _ROW.version)
_NEWEST_FIRST = (_ROW.created_ms.desc(), _ROW.version.desc())


class StoredShape(NamedTuple):
    """A row of ``rowcast_shape``: the full name of the table, the version, and the shape as a JSON document."""

    table: str
    version: str
    document: str

    def parse(self) -> TableShape:
        """Return the shape. Raises DataError, naming the row, if the document is damaged."""
        try:
            return parse_shape(self.document)
        except DataError as error:
            raise DataError(
                f"the row of table {self.table}, version {self.version}, in rowcast_shape: {error}"
            ) from error


def newest_of(versions: Mapping[str, int]) -> str:
    """Return the newest version of a table. ``versions``: ``created_ms`` of each version, not empty."""
    return max(versions, key=lambda version: (versions[version], version))


def stored_shapes(connection: Connection) -> list[StoredShape]:
    """Return all versions of all tables, with the newest version of each table last."""
    return [StoredShape(*row) for row in connection.execute(_STORED.order_by(*_OLDEST_FIRST))]


def newest_shapes(connection: Connection) -> dict[str, TableShape]:
    """Return the newest shape of each captured table, by full name. A renamed table has its present name.

    Raises DataError, naming the row, if a shape is damaged.
    """
    newest: dict[str, StoredShape] = {}
    for stored in stored_shapes(connection):
        # The tables are sorted by the time when their shapes became the newest.
        newest.pop(stored.table, None)
        newest[stored.table] = stored
    shapes = {table: stored.parse() for table, stored in newest.items()}
    renamed = renamed_tables(shapes.values())
    return {table: shape for table, shape in shapes.items() if table not in renamed}


def newest_shape(connection: Connection, table: str) -> TableShape | None:
    """Return the newest shape of a table, or None if the table was never captured.

    Raises DataError, naming the row, if the shape is damaged.
    """
    row = connection.execute(_STORED.where(_ROW.table_name == table).order_by(*_NEWEST_FIRST).limit(1)).first()
    return None if row is None else StoredShape(*row).parse()


def newest_version(connection: Connection, table: str) -> str | None:
    """Return the newest version of a table, or None if the table was never captured."""
    versions = sa.select(_ROW.version).where(_ROW.table_name == table)
    version: str | None = connection.execute(versions.order_by(*_NEWEST_FIRST).limit(1)).scalar()
    return version


def written_shapes(primary: Engine) -> list[TableShape]:
    """Return the newest shape of each captured table, sorted by full name.

    Raises ConfigurationError if the primary has no table ``rowcast_shape``.
    """
    try:
        with primary.connect() as connection:
            shapes = newest_shapes(connection)
    except (exc.ProgrammingError, exc.OperationalError) as error:
        raise ConfigurationError(
            f"the primary database has no table rowcast_shape ({error.orig}): is the capture installed, and were its "
            "tables made? `rowcast check` says."
        ) from error
    return [shapes[name] for name in sorted(shapes)]
