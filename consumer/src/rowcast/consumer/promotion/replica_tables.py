"""Read the present tables of a replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector

from rowcast.consumer.promotion.dialects import PromotionDialect
from rowcast.consumer.promotion.existing_table import ExistingForeignKey, ExistingIndex, ExistingTable
from rowcast.consumer.replica.dialects import ReplicaDialect, quoted_name
from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.consumer.replica.table_definitions import TableDefinitions, constraint_name, replica_name
from rowcast.consumer.replica.table_records import TableRecords
from rowcast.shared.tables.primary_features import carried_action
from rowcast.shared.tables.shape import ForeignKeyShape, TableShape


def existing_tables(
    connection: Connection, source: str, replica: ReplicaDialect, dialect: PromotionDialect
) -> Iterator[ExistingTable]:
    """Yield the replica's tables of the source."""
    recorded = TableRecords(source).read(connection).values()
    definitions = TableDefinitions((shape for shape, _ in recorded), replica, connection.dialect)
    inspector = sa.inspect(connection)
    for shape, created in recorded:
        schema, name = replica_name(shape, replica)
        columns = dialect.read_columns(connection, schema, name) if inspector.has_table(name, schema) else {}
        if not columns:
            continue
        quoted = quoted_name(connection, schema, name)
        yield ExistingTable(
            shape,
            schema,
            name,
            quoted,
            created,
            columns,
            tuple(inspector.get_pk_constraint(name, schema)["constrained_columns"]),
            tuple(_indexes(inspector, schema, name)),
            tuple(_foreign_key(connection, key) for key in inspector.get_foreign_keys(name, schema)),
            {
                key: _planned_key(connection, definitions, shape, key, replica)
                for key in definitions.foreign_keys(shape)
            },
            frozenset(_columns_with_null(connection, quoted, shape, columns)),
        )


def _planned_key(
    connection: Connection, definitions: TableDefinitions, shape: TableShape, key: ForeignKeyShape,
    replica: ReplicaDialect,
) -> ExistingForeignKey:  # fmt: skip
    referred = definitions.shapes[f"{key.referred_schema}.{key.referred_table}"]
    schema, name = replica_name(referred, replica)
    own_name = constraint_name("fk", shape.full_name, key)
    quoted = quoted_name(connection, schema, name)
    return ExistingForeignKey(own_name, key.columns, quoted, key.referred_columns, None, None)


def _indexes(inspector: Inspector, schema: str | None, name: str) -> Iterator[ExistingIndex]:
    for index in inspector.get_indexes(name, schema):
        yield ExistingIndex(index["name"], tuple(index["column_names"]), bool(index["unique"]))
    for key in inspector.get_unique_constraints(name, schema):
        yield ExistingIndex(None, tuple(key["column_names"]), unique=True)


def _foreign_key(connection: Connection, key: Any) -> ExistingForeignKey:
    options = key.get("options", {})
    return ExistingForeignKey(
        key["name"],
        tuple(key["constrained_columns"]),
        quoted_name(connection, key["referred_schema"], key["referred_table"]),
        tuple(key["referred_columns"]),
        carried_action(options.get("ondelete")),
        carried_action(options.get("onupdate")),
    )


def _columns_with_null(
    connection: Connection, quoted: str, shape: TableShape, columns: dict[str, ExistingColumn]
) -> Iterator[str]:
    """Yield the columns with NULL in a row that are to become NOT NULL."""
    for column in shape.columns:
        if column.nullable or column.name not in columns or not columns[column.name].nullable:
            continue
        name = quoted_name(connection, None, column.name)
        if connection.exec_driver_sql(f"SELECT 1 FROM {quoted} WHERE {name} IS NULL LIMIT 1").first() is not None:
            yield column.name
