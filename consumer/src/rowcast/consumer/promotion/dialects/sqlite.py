"""SQLite: a table is written again, in one transaction, because ALTER TABLE can change neither defaults nor keys."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.engine import Connection

from rowcast.consumer.promotion.dialects.base import PromotionDialect
from rowcast.consumer.promotion.existing_table import ExistingForeignKey, ExistingTable
from rowcast.consumer.promotion.plan import Plan
from rowcast.consumer.replica.dialects import quoted_name
from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.consumer.replica.dialects.sqlite_rewrite import column_part, rewritten
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape

_NEW_PREFIX = "rowcast_promoted_"


class SQLitePromotion(PromotionDialect):
    """Promote a replica in a file.

    An INTEGER PRIMARY KEY is numbered by itself, from above the greatest key on.
    """

    engine = "sqlite"

    def prepare(self, connection: Connection) -> None:
        """Switch foreign keys off, because a table is dropped and created again. Its rows and keys stay."""
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.cursor().execute("PRAGMA foreign_keys = OFF")

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ExistingColumn]:
        """Return the columns of a table by name."""
        rows = connection.exec_driver_sql(f"PRAGMA table_xinfo({quoted_name(connection, None, name)})").all()
        keys = [row for row in rows if row[5]]
        return {
            row[1]: ExistingColumn(
                row[2], not row[3] and not row[5], row[4] or "", len(keys) == 1 and row in keys and _is_rowid(row[2])
            )
            for row in rows
        }

    def taken_index_names(self, connection: Connection, schema: str | None) -> set[str]:
        """Return the names of everything in the file."""
        return set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())

    def plan(self, connection: Connection, table: ExistingTable, plan: Plan) -> None:
        """Add the step that writes an incomplete table again, then the indexes."""
        missing = [*self._missing(table)]
        if missing and not _is_whole(table):
            plan.note(
                f"{table.shape.full_name} is your own table or has columns or constraints of yours, so it stays as it "
                f"is. It lacks: {', '.join(missing)}"
            )
        elif missing:
            plan.add(table.shape.full_name, *self._write_again(connection, table))
        for column in table.shape.columns:
            if column.identity is not None and not self._becomes_rowid(table, column):
                plan.note(
                    f"{table.shape.full_name}.{column.name} is numbered at the source. SQLite numbers only "
                    "a key of one column"
                )
        if any(self._becomes_rowid(table, column) for column in table.shape.columns):
            plan.note("SQLite gives the key of a deleted last row again, because no table has AUTOINCREMENT")
        self.plan_indexes(connection, table, plan)

    def _missing(self, table: ExistingTable) -> Iterator[str]:
        for column, existing in table.pairs():
            if not column.nullable and existing.nullable and column.name not in table.has_rows_without:
                yield f"NOT NULL of {column.name}"
            if self._becomes_rowid(table, column) and not existing.is_numbered:
                yield f"INTEGER PRIMARY KEY of {column.name}"
        for key, _ in table.missing_keys():
            yield f"the foreign key ({', '.join(key.columns)})"
        yield from (f"the default of {name}" for name, _ in self.missing_defaults(table))
        for key, _ in self.keys_without_action(table):
            yield f"the actions of the foreign key ({', '.join(key.columns)})"

    def _becomes_rowid(self, table: ExistingTable, column: ColumnShape) -> bool:
        return column.identity is not None and table.key == (column.name,)

    def _write_again(self, connection: Connection, table: ExistingTable) -> list[str]:
        parts = [*self._column_definitions(connection, table), *self._constraints(connection, table)]
        return rewritten(connection, table.name, f"{_NEW_PREFIX}{table.name}", list(table.columns), parts)

    def _column_definitions(self, connection: Connection, table: ExistingTable) -> Iterator[str]:
        shapes = {column.name: column for column in table.shape.columns}
        missing = dict(self.missing_defaults(table))
        for name, existing in table.columns.items():
            shape = shapes.get(name)
            becomes_rowid = shape is not None and self._becomes_rowid(table, shape)
            # The worker's own DDL, as stored in the file.
            type_ = "INTEGER" if becomes_rowid else existing.type
            is_null = existing.nullable and (shape is None or shape.nullable or name in table.has_rows_without)
            default = missing.get(name) or existing.default
            yield column_part(connection, name, type_, nullable=is_null, default=default)

    def _constraints(self, connection: Connection, table: ExistingTable) -> Iterator[str]:
        yield f"PRIMARY KEY ({self.quoted_list(connection, table.key)})"
        changed = {existing.columns: key for key, existing in self.keys_without_action(table)}
        for existing in table.foreign_keys:
            key = changed.get(existing.columns)
            if key is None:
                key = ForeignKeyShape((), "", "", (), existing.on_delete, existing.on_update)
            yield self.foreign_key_sql(connection, existing, key)
        for key, planned in table.missing_keys():
            yield self.foreign_key_sql(connection, planned, key)

    def plan_not_null(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Do nothing, because the table is written again."""

    def plan_counter(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Do nothing, because the table is written again."""

    def plan_action(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        existing: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Do nothing, because the table is written again."""

    def plan_key(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        planned: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Do nothing, because the table is written again."""

    def rename_index(self, connection: Connection, table: ExistingTable, old: str, new: str) -> tuple[str, ...]:
        """Return the statements to create the index under the new name, and to drop the old index."""
        index = next(index for index in table.indexes if index.name == old)
        columns = self.quoted_list(connection, [name or "" for name in index.columns])
        unique = "UNIQUE " if index.unique else ""
        return (
            f"CREATE {unique}INDEX {self.quote(connection, new)} ON {table.quoted} ({columns})",
            f"DROP INDEX {self.quote(connection, old)}",
        )


def _is_whole(table: ExistingTable) -> bool:
    """Return whether a worker has created everything in the table. Then a new table loses nothing."""
    known = {column.name for column in table.shape.columns}
    return table.created and table.columns.keys() <= known and all(index.name for index in table.indexes)


def _is_rowid(type_: str) -> bool:
    return type_.upper() == "INTEGER"
