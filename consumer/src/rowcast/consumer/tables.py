"""The replica's tables: made from shapes where they are missing, checked where they are not."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateColumn, CreateSchema, CreateTable

from rowcast.consumer.definitions import Definitions, replica_name
from rowcast.consumer.dialects import ReplicaDialect, ReplicaTable, quoted_name
from rowcast.consumer.layouts import Layout
from rowcast.consumer.positions import TABLE
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.shapes import TableShape

_log = logging.getLogger("rowcast.worker")


class ReplicaTables:
    """What the replica has for each of the source's tables. Every method takes a connection in a transaction."""

    def __init__(self, source: str, replica: ReplicaDialect) -> None:
        self._source = source
        self._replica = replica
        self._tables: dict[str, ReplicaTable] = {}
        self._shapes: dict[str, TableShape] = {}

    def shapes(self) -> list[TableShape]:
        """Of the tables that are ready."""
        return list(self._shapes.values())

    def table(self, full_name: str) -> ReplicaTable:
        """The replica's table for ``schema.table``; it is ready."""
        return self._tables[full_name]

    def missing(self, shapes: Iterable[TableShape]) -> bool:
        """Whether ``prepare`` has anything to do."""
        return any(self._shapes.get(shape.full_name) != shape for shape in shapes)

    def fits(self, layout: Layout) -> bool:
        """Whether the table is ready for events of this layout: it has their columns, of their types, and their key."""
        table, shape = self._tables.get(layout.table), self._shapes.get(layout.table)
        if (
            table is None
            or shape is None
            or layout.key != shape.primary_key
            or not layout.names <= table.columns.keys()
        ):
            return False
        return layout.shape is shape or not _retyped(shape, layout.shape)

    def prepare(self, connection: Connection, shapes: Iterable[TableShape]) -> None:
        """Makes the tables of these shapes, or fits those that are there.

        Raises ConfigurationError if a table of the user's does not fit, DataError if a shape has changed in a way that
        the replica cannot follow.
        """
        wanted = list(shapes)
        known = {**self._shapes, **{shape.full_name: shape for shape in wanted}}
        definitions = Definitions(known.values(), self._replica, connection.dialect)
        recorded = {
            row.table_name: row for row in connection.execute(sa.select(TABLE).where(TABLE.c.source == self._source))
        }
        for shape in wanted:
            before = recorded.get(shape.full_name)
            if before is not None and self._columns(connection, shape):
                self._follow(connection, definitions, TableShape.from_json(before.shape), shape)
            elif self._columns(connection, shape):
                self._check(connection, shape)
                self._record(connection, shape, created=False)
                _log.info("table %s is there already: it is used as it is", shape.full_name)
            else:
                self._create(connection, definitions, shape)
                self._record(connection, shape, created=True)
                _log.info("table %s made", shape.full_name)
            self._tables[shape.full_name] = self._inspect(connection, shape)
            self._shapes[shape.full_name] = shape

    def require_replaceable(self, connection: Connection, layout: Layout) -> None:
        """Raises DataError unless rows of the layout's table can be deleted and written anew without a loss."""
        table = self.table(layout.table)
        others = {name for name, column in table.columns.items() if not column.generated} - layout.names
        if others:
            raise DataError(
                f"table {table.name}: a unique value changes hands between rows, which must be taken away for it, but "
                f"the source has no value for their columns {', '.join(sorted(others))}. Drop the unique key."
            )
        inspector = sa.inspect(connection)
        for other in self._tables.values():
            for key in inspector.get_foreign_keys(other.name, other.schema):
                action = key.get("options", {}).get("ondelete", "NO ACTION")
                refers = key["referred_table"] == table.name and key["referred_schema"] in (table.schema, None)
                if refers and action not in ("NO ACTION", "RESTRICT") and not self._replica.suspends_foreign_keys:
                    raise DataError(
                        f"table {table.name}: a unique value changes hands between rows, which must be taken away for "
                        f"it, but foreign key {key['name']} of {other.name} would {action} then. "
                        "Make it ON DELETE NO ACTION DEFERRABLE: cascades come as events."
                    )

    def own(self, connection: Connection) -> set[str]:
        """``schema.table`` of those that a worker made."""
        rows = connection.execute(sa.select(TABLE.c.table_name).where(TABLE.c.source == self._source, TABLE.c.created))
        return set(rows.scalars())

    def refresh(self, connection: Connection) -> None:
        """Looks at the tables again, after their constraints have changed."""
        for full_name, shape in self._shapes.items():
            self._tables[full_name] = self._inspect(connection, shape)

    def _columns(self, connection: Connection, shape: TableShape) -> set[str]:
        schema, name = self._name(shape)
        return set(self._replica.stored_columns(connection, schema, name))

    def _name(self, shape: TableShape) -> tuple[str | None, str]:
        return replica_name(shape.schema, shape.name, shape.default_schema, self._replica)

    def _create(self, connection: Connection, definitions: Definitions, shape: TableShape) -> None:
        table = definitions.tables[shape.full_name]
        if table.schema is not None:
            connection.execute(CreateSchema(table.schema, if_not_exists=True))
        keys = table.foreign_key_constraints if self._replica.foreign_keys_in_table else ()
        connection.execute(CreateTable(table, include_foreign_key_constraints=list(keys)))

    def _check(self, connection: Connection, shape: TableShape) -> None:
        """A table that the user made must have every column, and the same primary key."""
        schema, name = self._name(shape)
        missing = {c.name for c in shape.columns} - self._columns(connection, shape)
        if missing:
            raise ConfigurationError(
                f"the replica's table {name} has no column {', '.join(sorted(missing))}, which {shape.full_name} of "
                "the source has. Add it, or drop the table: the worker makes it anew."
            )
        key = sa.inspect(connection).get_pk_constraint(name, schema)["constrained_columns"]
        if set(key) != set(shape.primary_key):
            raise ConfigurationError(
                f"the primary key of the replica's table {name} is ({', '.join(key)}), but that of {shape.full_name} "
                f"is ({', '.join(shape.primary_key)}). Change it, or drop the table: the worker makes it anew."
            )

    def _follow(self, connection: Connection, definitions: Definitions, before: TableShape, shape: TableShape) -> None:
        """Adds the columns that are new, without a default and nullable: rows that are there have no value yet."""
        if before == shape:
            return
        if before.primary_key != shape.primary_key:
            raise DataError(
                f"the primary key of table {shape.full_name} has changed from ({', '.join(before.primary_key)}) to "
                f"({', '.join(shape.primary_key)}), which the replica cannot follow. "
                "Rebuild the replica: docs/operations.md says how."
            )
        for name, was, is_ in _retyped(before, shape):
            raise DataError(
                f"column {name} of table {shape.full_name} has changed from {was} to {is_}, which the replica cannot "
                "follow. Rebuild the replica: docs/operations.md says how."
            )
        schema, name = self._name(shape)
        there = self._columns(connection, shape)
        table = definitions.tables[shape.full_name]
        for column in shape.columns:
            if column.name not in there:
                new = sa.Column(column.name, table.c[column.name].type, nullable=True)
                ddl = CreateColumn(new).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {quoted_name(connection, schema, name)} ADD COLUMN {ddl}")
                _log.info("table %s: column %s added", shape.full_name, column.name)
        self._record(connection, shape, created=None)

    def _record(self, connection: Connection, shape: TableShape, *, created: bool | None) -> None:
        row = (TABLE.c.source == self._source) & (TABLE.c.table_name == shape.full_name)
        values = {"shape": shape.to_json().decode()}
        if created is None:
            connection.execute(sa.update(TABLE).where(row).values(values))
            return
        connection.execute(sa.delete(TABLE).where(row))
        connection.execute(
            sa.insert(TABLE).values(source=self._source, table_name=shape.full_name, created=created, **values)
        )

    def _inspect(self, connection: Connection, shape: TableShape) -> ReplicaTable:
        schema, name = self._name(shape)
        inspector = sa.inspect(connection)
        # An index over an expression has no column's name.
        unique: list[set[str | None]] = [set(u["column_names"]) for u in inspector.get_unique_constraints(name, schema)]
        unique += [set(i["column_names"]) for i in inspector.get_indexes(name, schema) if i["unique"]]
        return ReplicaTable(
            schema,
            name,
            quoted_name(connection, schema, name),
            self._replica.stored_columns(connection, schema, name),
            shape.primary_key,
            any(columns != set(shape.primary_key) for columns in unique),
        )


def _retyped(before: TableShape, after: TableShape) -> list[tuple[str, str, str]]:
    """The columns of both that have another type: name, type before, type after."""
    types = {column.name: column.type.name for column in before.columns}
    return [
        (column.name, types[column.name], column.type.name)
        for column in after.columns
        if types.get(column.name, column.type.name) != column.type.name
    ]
