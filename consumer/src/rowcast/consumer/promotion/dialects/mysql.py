"""MariaDB and MySQL: AUTO_INCREMENT. Each statement commits at once."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.engine import Connection

from rowcast.consumer.promotion.dialects.base import PromotionDialect
from rowcast.consumer.promotion.existing_table import ExistingForeignKey, ExistingTable
from rowcast.consumer.promotion.plan import Plan
from rowcast.consumer.replica.dialects import LOCK_S, WORKER_PREFIX, for_driver
from rowcast.consumer.replica.dialects.default_sql import MYSQL_LONG
from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.consumer.replica.dialects.mysql_columns import column_definitions
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape

_REFERRING = """
SELECT table_name, constraint_name FROM information_schema.key_column_usage
WHERE referenced_table_schema = database() AND referenced_table_name = %s AND referenced_column_name = %s
"""
_COUNTER = "SELECT auto_increment FROM information_schema.tables WHERE table_schema = database() AND table_name = %s"
_INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")


class MySQLPromotion(PromotionDialect):
    """Promote a replica on MariaDB or MySQL."""

    engine = "mysql"

    def prepare(self, connection: Connection) -> None:
        """Read present counters, and let columns of foreign keys be changed, whose types stay."""
        driver = connection.connection.dbapi_connection
        assert driver is not None
        cursor = driver.cursor()
        cursor.execute("SET SESSION foreign_key_checks = 0")
        cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_S:d}")
        if not getattr(connection.dialect, "is_mariadb", False):
            cursor.execute("SET SESSION information_schema_stats_expiry = 0")
        cursor.close()

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ExistingColumn]:
        """Return the columns of a table by name."""
        return column_definitions(connection, name)

    def plan_not_null(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add the step that defines the column again."""
        if existing.default:
            plan.note(f"{table.shape.full_name}.{column.name} may be NULL here, and not at the source")
            return
        plan.add(table.shape.full_name, self._modify(connection, table, column.name, existing, "NOT NULL"))

    def _modify(
        self, connection: Connection, table: ExistingTable, name: str, existing: ExistingColumn, more: str
    ) -> str:
        definition = " ".join(filter(None, (for_driver(connection, existing.type), existing.attributes, more)))
        return f"ALTER TABLE {table.quoted} MODIFY {self.quote(connection, name)} {definition}"

    def set_default(self, connection: Connection, table: ExistingTable, name: str, sql: str) -> str:
        """Return the statement that gives a column a default.

        MySQL takes a text in parentheses for an expression, and ON UPDATE, only where the column is defined.
        """
        existing, default = table.columns[name], table.shape.column(name).default
        is_updated = default is not None and default.kind == "now_on_update"
        if not (is_updated or MYSQL_LONG.match(existing.type)):
            return super().set_default(connection, table, name, sql)
        is_null = existing.nullable and (table.shape.column(name).nullable or name in table.has_rows_without)
        return self._modify(connection, table, name, existing, f"{'NULL' if is_null else 'NOT NULL'} DEFAULT {sql}")

    def plan_counter(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add AUTO_INCREMENT, and set the counter above the greatest value."""
        identity, where = column.identity, f"{table.shape.full_name}.{column.name}"
        assert identity is not None
        quoted = self.quote(connection, column.name)
        greatest = int(connection.exec_driver_sql(f"SELECT max({quoted}) FROM {table.quoted}").scalar() or 0)
        if identity.sequence is not None and getattr(connection.dialect, "is_mariadb", False):
            self._plan_sequence(connection, table, column, existing, greatest, plan)
            return
        is_first = any(index.columns[:1] == (column.name,) for index in table.indexes)
        if not existing.is_numbered:
            others = [name for name, other in table.columns.items() if other.is_numbered]
            is_integer = existing.type.partition("(")[0].split()[0] in _INTEGERS
            if others or not is_integer or not (is_first or table.key[:1] == (column.name,)):
                plan.note(f"{where} cannot be AUTO_INCREMENT here. Let the application number the rows")
                return
            plan.add(
                table.shape.full_name,
                self._modify(connection, table, column.name, existing, "NOT NULL AUTO_INCREMENT"),
                # Some releases of MariaDB refuse the statement for a column of a foreign key (MDEV-32018).
                remedy=tuple(self._drop_foreign_keys(connection, table, column.name)),
            )
        if identity.increment not in (None, 1):
            plan.note(f"{where} counts by {identity.increment} at the source, and by auto_increment_increment here")
        present = connection.exec_driver_sql(_COUNTER, (table.name,)).scalar() or 1
        wanted = max(greatest + 1, identity.start or 1)
        if int(present) < wanted:
            plan.add(table.shape.full_name, f"ALTER TABLE {table.quoted} AUTO_INCREMENT = {wanted:d}")

    def _drop_foreign_keys(self, connection: Connection, table: ExistingTable, column: str) -> Iterator[str]:
        """Yield the statements that drop the worker's foreign keys of a column. The next plan creates them again."""
        names = {(child, name) for child, name in connection.exec_driver_sql(_REFERRING, (table.name, column))}
        names |= {(table.name, key.name or "") for key in table.foreign_keys if column in key.columns}
        for child, name in sorted(names):
            if name.startswith(WORKER_PREFIX):
                yield f"ALTER TABLE {self.quote(connection, child)} DROP FOREIGN KEY {self.quote(connection, name)}"

    def _plan_sequence(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn,
        greatest: int, plan: Plan,
    ) -> None:  # fmt: skip
        """Add the application's sequence (MariaDB only), and set the sequence to the greatest value."""
        assert column.identity is not None
        name, start = self.quote(connection, column.identity.sequence or ""), column.identity.start or 1
        options = f"START WITH {start:d} INCREMENT BY {column.identity.increment or 1:d}"
        plan.add(table.shape.full_name, f"CREATE SEQUENCE IF NOT EXISTS {name} {options}")
        if greatest >= start:
            # The server never sets a sequence back.
            plan.add(table.shape.full_name, f"SELECT SETVAL({name}, {greatest:d})")
        if not existing.default and not existing.is_numbered:
            sql = f"NEXTVAL({name})"
            plan.add(table.shape.full_name, self.set_default(connection, table, column.name, f"({sql})"))

    def plan_action(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        existing: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Replace a foreign key in one statement."""
        plan.add(
            table.shape.full_name,
            f"ALTER TABLE {table.quoted} DROP FOREIGN KEY {self.quote(connection, existing.name or '')}, "
            f"ADD {self.foreign_key_sql(connection, existing, key)}",
        )

    def plan_key(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        planned: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Add the step that creates a foreign key.

        The server checks the rows only with foreign_key_checks on in the session.
        """
        plan.add(
            table.shape.full_name,
            "SET SESSION foreign_key_checks = 1",
            f"ALTER TABLE {table.quoted} ADD {self.foreign_key_sql(connection, planned, key)}",
            is_optional=True,
        )

    def rename_index(self, connection: Connection, table: ExistingTable, old: str, new: str) -> tuple[str, ...]:
        """Return the statement that gives an index another name."""
        old, new = self.quote(connection, old), self.quote(connection, new)
        return (f"ALTER TABLE {table.quoted} RENAME INDEX {old} TO {new}",)
