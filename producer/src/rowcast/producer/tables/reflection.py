"""Describe all tables of a database from its catalogue, with the types of the models that are known."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.tables.own_tables import is_alembic_copy, is_rowcast_table

_OF_THE_ENGINE = frozenset(("sqlite_sequence",))


def reflect_tables(connection: Connection, declared: Iterable[sa.MetaData] = ()) -> sa.MetaData:
    """Return the tables of the default schema, and of the schemas of ``declared``, without those of rowcast.

    ``declared``: MetaData of the program. Where one of them has a column, the column has the type and the settings from
    there, because the catalogue may have a poorer type: MariaDB has no boolean, and SQLite has no uuid.
    """
    models = Models(declared, default_schema(connection.dialect))
    found = sa.MetaData()
    event.listen(found, "column_reflect", models.complete_column)
    options = connection._execution_options
    try:
        with warnings.catch_warnings():
            # The warnings concern parts of the catalogue that the capture does not use, such as indexes on expressions.
            warnings.simplefilter("ignore", exc.SAWarning)
            for schema in models.schemas():
                _reflect_schema(connection, found, schema)
    finally:
        # On MariaDB and MySQL, SQLAlchemy's reflection leaves an option on the connection. The option would hide the
        # application's errors from all listeners, also from the capture.
        connection._execution_options = options
    for table in found.tables.values():
        models.complete_table(table)
    return found


def _reflect_schema(connection: Connection, found: sa.MetaData, schema: str | None) -> None:
    # The rows of a partition belong to the partitioned table.
    partitions = capture_dialect(connection.dialect).partitions(
        connection, schema or default_schema(connection.dialect)
    )

    def is_wanted(name: str, _metadata: sa.MetaData) -> bool:
        is_left_out = is_rowcast_table(name) or is_alembic_copy(name) or name in _OF_THE_ENGINE
        return not is_left_out and name not in partitions

    found.reflect(connection, schema=schema, only=is_wanted)


class Models:
    """Find what the program's models say of a table. The largest MetaData that has the table is asked."""

    def __init__(self, declared: Iterable[sa.MetaData], default: str) -> None:
        self._default = default
        self._tables: dict[tuple[str | None, str], sa.Table] = {}
        for metadata in sorted(declared, key=lambda one: -len(one.tables)):
            for table in list(metadata.tables.values()):
                self._tables.setdefault((self._schema(table.schema), str(table.name)), table)

    def _schema(self, schema: str | None) -> str | None:
        return None if schema == self._default else schema

    def schemas(self) -> list[str | None]:
        """Return the schemas to reflect. None is the default schema."""
        return sorted({None, *(schema for schema, _ in self._tables)}, key=str)

    def complete_column(self, _inspector: Any, table: sa.Table, column: dict[str, Any]) -> None:
        """Give a reflected column the type and the key of the model's column."""
        model = self._tables.get((self._schema(table.schema), str(table.name)))
        own = None if model is None else next((c for c in model.columns if c.name == column["name"]), None)
        if own is None:
            return
        column["key"] = own.key
        # The type is unknown while a foreign key refers to a table that is not defined, as in migrations.
        if not isinstance(own.type, sa.types.NullType):
            column["type"] = own.type

    def complete_table(self, table: sa.Table) -> None:
        """Give a reflected table the settings of the model."""
        model = self._tables.get((self._schema(table.schema), str(table.name)))
        if model is None:
            return
        table.info.update(model.info)
        for own in model.columns:
            column = next((c for c in table.columns if c.name == own.name), None)
            if column is not None:
                column.info.update(own.info)
