"""PostgreSQL: identity columns and sequences, types of enums, all in transactions."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from rowcast.consumer.promotion.dialects.base import PromotionDialect
from rowcast.consumer.promotion.existing_table import ExistingForeignKey, ExistingTable
from rowcast.consumer.promotion.plan import Plan
from rowcast.consumer.replica.dialects import LOCK_S, for_driver, quoted_name
from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.shared.tables.native_types import is_type
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, PortableType

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), a.attidentity <> ''
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = CAST(%s AS regclass) AND a.attnum > 0 AND NOT a.attisdropped
"""
_RELATIONS = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = coalesce(to_regnamespace(%s), (SELECT oid FROM pg_namespace WHERE nspname = current_schema()))
"""
_INTEGERS = frozenset(("smallint", "integer", "bigint"))


class PostgreSQLPromotion(PromotionDialect):
    """Promote a replica on PostgreSQL."""

    engine = "postgresql"

    def prepare(self, connection: Connection) -> None:
        """Bound the wait for a lock, because all later readers queue behind a waiting statement."""
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.cursor().execute(f"SET lock_timeout = '{LOCK_S:d}s'")
        driver.commit()

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ExistingColumn]:
        """Return the columns of a table by name."""
        plain = quoted_name(connection, schema, name).replace("%%", "%")
        rows = connection.exec_driver_sql(_COLUMNS, (plain,)).all()
        return {
            column: ExistingColumn(type_, nullable, default, identity or default.startswith("nextval("))
            for column, type_, nullable, default, identity in rows
        }

    def taken_index_names(self, connection: Connection, schema: str | None) -> set[str]:
        """Return the names of all relations of the schema."""
        quoted = None if schema is None else quoted_name(connection, None, schema).replace("%%", "%")
        return set(connection.exec_driver_sql(_RELATIONS, (quoted,)).scalars())

    def plan_types(self, connection: Connection, table: ExistingTable, plan: Plan) -> None:
        """Turn texts into the source's enums, because the application's statements name the type."""
        if table.shape.engine != "postgresql":
            return
        for column, existing in table.pairs():
            enum = column.type.items or column.type
            if enum.name != "enum" or existing.type not in ("text", "text[]"):
                continue
            if not _is_name(enum.native) or any(column.name in key.columns for key in table.possible_keys):
                plan.note(
                    f"{table.shape.full_name}.{column.name} is text here, and an enum {enum.native} at the source"
                )
                continue
            self._plan_enum(connection, table, column, enum, plan)

    def _plan_enum(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, enum: PortableType, plan: Plan
    ) -> None:
        native = for_driver(connection, enum.native)
        create = f"CREATE TYPE {native} AS ENUM ({', '.join(_literal(connection, label) for label in enum.values)})"
        planned = {statement for step in plan.steps for statement in step.statements}
        exists = connection.exec_driver_sql("SELECT to_regtype(%s)", (enum.native,)).scalar() is not None
        if not exists and create not in planned:
            plan.add(table.shape.full_name, create)
        name, type_ = self.quote(connection, column.name), native + ("[]" if column.type.items else "")
        plan.add(
            table.shape.full_name,
            f"ALTER TABLE {table.quoted} ALTER COLUMN {name} TYPE {type_} USING {name}::{type_}",
        )

    def plan_not_null(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add the step that makes a column NOT NULL."""
        name = self.quote(connection, column.name)
        plan.add(table.shape.full_name, f"ALTER TABLE {table.quoted} ALTER COLUMN {name} SET NOT NULL")

    def plan_counter(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add the identity or the sequence, and set its counter to the greatest value."""
        identity = column.identity
        assert identity is not None
        options = "".join(
            f" {word} {value:d}"
            for word, value in (("START WITH", identity.start), ("INCREMENT BY", identity.increment))
            if value is not None
        )
        alter = f"ALTER TABLE {table.quoted} ALTER COLUMN {self.quote(connection, column.name)}"
        if existing.is_numbered:
            pass
        elif existing.default:
            plan.note(
                f"{table.shape.full_name}.{column.name} has a default of its own here. The source numbers the rows"
            )
            return
        elif identity.sequence is None and existing.type in _INTEGERS:
            kind = "ALWAYS" if identity.always else "BY DEFAULT"
            in_parentheses = f" ({options.strip()})" if options else ""
            plan.add(table.shape.full_name, f"{alter} ADD GENERATED {kind} AS IDENTITY{in_parentheses}")
        else:
            sequence = self._sequence(connection, table, column)
            plan.add(
                table.shape.full_name,
                f"CREATE SEQUENCE IF NOT EXISTS {sequence}{options}",
                f"{alter} SET DEFAULT nextval({_literal(connection, sequence, doubled=True)})",
            )
        plan.add(table.shape.full_name, self._set_counter(connection, table, column, existing))

    def _sequence(self, connection: Connection, table: ExistingTable, column: ColumnShape) -> str:
        assert column.identity is not None
        name = column.identity.sequence or f"{table.name}_{column.name}_seq"
        return quoted_name(connection, table.schema, name)

    def _set_counter(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn
    ) -> str:
        """Return the statement that sets a counter to the greatest value, and never back."""
        assert column.identity is not None
        name, first = self.quote(connection, column.name), column.identity.start or 1
        if column.identity.sequence is not None and not existing.is_numbered:
            sequence = _literal(connection, self._sequence(connection, table, column), doubled=True)
        elif existing.is_numbered and existing.default.startswith("nextval('"):
            # The expression as shown by the database.
            sequence = for_driver(connection, existing.default.removeprefix("nextval(").partition("::")[0])
        elif existing.type in _INTEGERS or existing.is_numbered:
            owner = _literal(connection, table.quoted, doubled=True)
            sequence = f"pg_get_serial_sequence({owner}, {_literal(connection, column.name)})"
        else:
            sequence = _literal(connection, self._sequence(connection, table, column), doubled=True)
        return (
            f"SELECT setval({sequence}, greatest_key) FROM (SELECT max({name})::bigint AS greatest_key "
            f"FROM {table.quoted}) AS present "
            f"WHERE greatest_key > coalesce(pg_sequence_last_value({sequence}::regclass), {first - 1:d})"
        )

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
            f"ALTER TABLE {table.quoted} DROP CONSTRAINT {self.quote(connection, existing.name or '')}, "
            f"ADD {self.foreign_key_sql(connection, existing, key)} DEFERRABLE INITIALLY IMMEDIATE",
        )

    def plan_key(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        planned: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Add the step that creates a foreign key."""
        definition = f"{self.foreign_key_sql(connection, planned, key)} DEFERRABLE INITIALLY IMMEDIATE"
        plan.add(table.shape.full_name, f"ALTER TABLE {table.quoted} ADD {definition}", is_optional=True)

    def rename_index(self, connection: Connection, table: ExistingTable, old: str, new: str) -> tuple[str, ...]:
        """Return the statement that gives an index another name."""
        return (f"ALTER INDEX {quoted_name(connection, table.schema, old)} RENAME TO {self.quote(connection, new)}",)


def _is_name(native: str) -> bool:
    """Return whether DDL of a type is the name of a type, without parameters and words."""
    return is_type(native) and not any(character in native for character in "()[] ")


def _literal(connection: Connection, value: str, *, doubled: bool = False) -> str:
    """Return a quoted text, ready for the driver. ``doubled``: the percent signs are doubled already."""
    quoted = "'" + value.replace("'", "''") + "'"
    return quoted if doubled else for_driver(connection, quoted)
