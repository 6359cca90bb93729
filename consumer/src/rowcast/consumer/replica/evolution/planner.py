"""Find the differences between existing tables and the shapes, and the statements for them.

The plan looks at the present tables. Therefore a new plan continues a plan that was carried out in part. No step loses
a value or refuses a row of an older shape, because events of older shapes may follow.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector
from sqlalchemy.schema import CreateColumn

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import Loosening, ReplicaColumn, ReplicaDialect, quoted_name
from rowcast.consumer.replica.dialects.naming import constraint_base
from rowcast.consumer.replica.evolution.column_fit import kept_column, misfits, narrow_column
from rowcast.consumer.replica.evolution.evolving_table import EvolvingTable, add_constraints
from rowcast.consumer.replica.evolution.steps import Step
from rowcast.consumer.replica.shared_defaults import shared_default
from rowcast.consumer.replica.table_definitions import TableDefinitions, constraint_name
from rowcast.shared.tables.shape import ForeignKeyShape, TableShape

_log = logging.getLogger("rowcast.worker")


class Planner:
    """Plan the steps for existing tables, in the caller's transaction.

    ``inspector``: of the transaction's connection.
    """

    def __init__(
        self, connection: Connection, inspector: Inspector, replica: ReplicaDialect, definitions: TableDefinitions
    ) -> None:
        self._connection = connection
        self._inspector = inspector
        self._replica = replica
        self._definitions = definitions

    def steps(self, tables: Sequence[EvolvingTable]) -> Iterator[Step]:
        """Yield the steps. Raise ConfigurationError if a column must be widened and cannot be.

        Tables of the user's only get new columns. If the caller carries out each step before the next, the statements
        fit the table at their time. If not, a statement may come twice.
        """
        for table in tables:
            if table.created:
                yield from self._renamed(table)
            yield from self._added(table)
            yield from self.widened(table)
        own = [table for table in tables if table.created]
        add_constraints(self._inspector, own)
        # All foreign keys go before the referred unique keys.
        for table in own:
            yield from self._loosened(table)
        for table in own:
            yield from self._dropped_indexes(table)

    def _renamed(self, table: EvolvingTable) -> Iterator[Step]:
        """Yield the columns that the source has renamed. Events of older shapes are read by the new names."""
        quoted = quoted_name(self._connection, *table.name)
        for old, new in table.shape.new_names(table.columns.keys()).items():
            pair = (quoted_name(self._connection, None, name) for name in (old, new))
            statement = f"ALTER TABLE {quoted} RENAME COLUMN {' TO '.join(pair)}"
            yield Step(table.shape, f"column {old} renamed to {new}", (statement,))
            table.columns = {
                new if name == old else name: replace(column, name=new) if name == old else column
                for name, column in table.columns.items()
            }

    def _added(self, table: EvolvingTable) -> Iterator[Step]:
        """Yield the new columns, which may be NULL, because existing rows may have no value for them yet.

        Existing rows get the default of the source, as at the source. Later rows of older shapes get the default too.
        """
        planned = self._definitions.tables[table.shape.full_name]
        for column in table.shape.columns:
            if column.name in table.columns:
                continue
            type_ = planned.c[column.name].type
            stored = type_.compile(dialect=self._connection.dialect)
            default = shared_default(table.shape, column, self._replica, stored)
            new = sa.Column(column.name, type_, nullable=True, server_default=planned.c[column.name].server_default)
            ddl = CreateColumn(new).compile(dialect=self._connection.dialect)
            statement = f"ALTER TABLE {quoted_name(self._connection, *table.name)} ADD COLUMN {ddl}"
            yield Step(table.shape, f"column {column.name} added", (statement,))
            table.columns[column.name] = ReplicaColumn(
                column.name, stored.lower(), True, False, stored=stored, default=default
            )

    def widened(self, table: EvolvingTable) -> Iterator[Step]:
        """Yield the columns that cannot hold every value of the source, if a worker created the table."""
        shape, name = table.shape, table.name[1]
        quoted = quoted_name(self._connection, *table.name)
        for misfit in misfits(shape, table.columns, self._replica, self._connection.dialect):
            column = misfit.column
            type_ = misfit.wider or misfit.planned
            statement = self._replica.type_change(self._connection, quoted, column, type_)
            if misfit.is_checked and not table.created:
                _log.warning("%s", kept_column(shape, name, misfit, statement))
                continue
            if not (table.created and misfit.wider and statement):
                raise narrow_column(shape, name, misfit, statement)
            obstacles = self._replica.column_obstacles(self._connection, name, column.name)
            yield Step(
                shape,
                f"column {column.name} widened from {column.type} to {misfit.wider}",
                (*obstacles, statement),
                partial(narrow_column, shape, name, misfit, statement),
            )
            table.columns[column.name] = replace(column, type=misfit.wider.lower(), stored=misfit.wider)

    def _loosened(self, table: EvolvingTable) -> Iterator[Step]:
        """Yield NOT NULL of columns dropped or nullable at the source, and dropped foreign keys."""
        names = frozenset(column.name for column in table.shape.columns)
        nullable = _refusing_null(table, table.shape, names)
        stale = tuple(key for key in table.foreign_keys if constraint_base(key) not in self._wanted_keys(table.shape))
        defaults = self._changed_defaults(table)
        loosening = Loosening(table.name, dict(table.columns), nullable, defaults, stale)
        if not loosening:
            return
        what = [
            *(f"NOT NULL of column {name} dropped" for name in nullable),
            *(f"default of column {name} {'changed' if sql else 'dropped'}" for name, sql in defaults.items()),
            *(f"foreign key {name} dropped" for name in stale),
        ]
        yield Step(table.shape, ", ".join(what), tuple(self._replica.loosen(self._connection, loosening)))
        for name in nullable:
            table.columns[name] = replace(table.columns[name], nullable=True)

    def relaxed(self, table: EvolvingTable, layout: RowLayout) -> Iterator[Step]:
        """Yield NOT NULL of columns that rows of an older shape do not have, or have as NULL."""
        if nullable := _refusing_null(table, layout.shape, layout.names):
            loosening = Loosening(table.name, dict(table.columns), nullable)
            what = ", ".join(f"NOT NULL of column {name} dropped for rows of an older shape" for name in nullable)
            yield Step(table.shape, what, tuple(self._replica.loosen(self._connection, loosening)))

    def _changed_defaults(self, table: EvolvingTable) -> dict[str, str]:
        """Return the SQL of the defaults changed at the source, for the columns created with a default."""
        before = {column.name: column.default for column in table.before.columns}
        return {
            column.name: shared_default(table.shape, column, self._replica, table.columns[column.name].type)
            for column in table.shape.columns
            if before.get(column.name) not in (None, column.default) and table.columns[column.name].default
        }

    def _wanted_keys(self, shape: TableShape) -> set[str]:
        """Return the names of the shape's foreign keys, without impossible keys."""
        return {
            constraint_name("fk", shape.full_name, key)
            for key in shape.foreign_keys
            if not self._is_known(key) or key in self._definitions.foreign_keys(shape)
        }

    def _is_known(self, key: ForeignKeyShape) -> bool:
        return f"{key.referred_schema}.{key.referred_table}" in self._definitions.shapes

    def _dropped_indexes(self, table: EvolvingTable) -> Iterator[Step]:
        shape = table.shape
        wanted = {constraint_name("uq", shape.full_name, columns) for columns in shape.unique}
        wanted |= {constraint_name("ix", shape.full_name, key.columns) for key in shape.foreign_keys}
        for name in table.indexes:
            if constraint_base(name) not in wanted and not name.startswith("rowcast_fk_"):
                drop = tuple(self._replica.index_drop(self._connection, table.name, name))
                yield Step(shape, f"index {name} dropped", drop)


def _refusing_null(table: EvolvingTable, shape: TableShape, names: Collection[str]) -> tuple[str, ...]:
    """Return the columns that refuse rows with these columns of a shape: without the column, or with NULL there."""
    nullable = {column.name for column in shape.columns if column.nullable}
    return tuple(
        column.name
        for column in table.columns.values()
        if not (column.nullable or column.generated or column.name in table.shape.primary_key)
        and (column.name in nullable if column.name in names else not column.default)
    )
