"""A source table's shape as a definition for the replica's engine: names, columns, keys, constraints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from rowcast.consumer.dialects import ReplicaDialect
from rowcast.shared.shapes import ForeignKeyShape, TableShape
from rowcast.shared.types import engine_family, replica_type

# What the worker made bears this prefix, and only that does it ever drop.
OWN_PREFIX = "rowcast_"

# MariaDB's limit on a row without its long values, less what the others may take.
_MYSQL_ROW_BYTES = 60_000


def replica_name(schema: str, name: str, default_schema: bool, dialect: ReplicaDialect) -> tuple[str | None, str]:
    """(schema, table) on the replica: a source's default schema becomes the replica's, another one keeps its name;
    where an engine has no schemas it becomes the beginning of the table's name."""
    if default_schema:
        return None, name
    return (schema, name) if dialect.has_schemas else (None, f"{schema}_{name}")


def own_name(kind: str, *parts: object) -> str:
    """A name for a constraint or index, the same at every start, short enough for every engine."""
    return f"{OWN_PREFIX}{kind}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


class Definitions:
    """``sa.Table`` objects of all the shapes, with the constraints that can be between them."""

    def __init__(self, shapes: Iterable[TableShape], replica: ReplicaDialect, dialect: Dialect) -> None:
        self._replica = replica
        self._dialect = dialect
        self._metadata = sa.MetaData()
        self.shapes = {shape.full_name: shape for shape in shapes}
        self.tables = {name: self._table(shape) for name, shape in self.shapes.items()}
        for name, shape in self.shapes.items():
            for key in self.foreign_keys(shape):
                self.tables[name].append_constraint(self._foreign_key(shape, key))

    def _table(self, shape: TableShape) -> sa.Table:
        schema, name = replica_name(shape.schema, shape.name, shape.default_schema, self._replica)
        indexed = set(shape.primary_key).union(*shape.unique, *(key.columns for key in shape.foreign_keys))
        columns = [
            sa.Column(
                column.name,
                replica_type(column.type, shape.engine, self._dialect, key=column.name in indexed),
                nullable=column.nullable and column.name not in shape.primary_key,
                autoincrement=False,
            )
            for column in shape.columns
        ]
        if engine_family(self._dialect.name) == "mysql":
            _fit_row(columns, indexed)
        # The key's columns in the key's order, which need not be the table's.
        key = sa.PrimaryKeyConstraint(*shape.primary_key)
        options = self._replica.table_options(shape.engine, self._dialect)
        return sa.Table(name, self._metadata, *columns, key, schema=schema, **options)

    def foreign_keys(self, shape: TableShape) -> list[ForeignKeyShape]:
        """Those whose other table is replicated too, with all its rows, and has a key there that they can refer to."""
        return [key for key in shape.foreign_keys if self._can_refer(key)]

    def _can_refer(self, key: ForeignKeyShape) -> bool:
        referred = self.shapes.get(f"{key.referred_schema}.{key.referred_table}")
        # Of a table whose rows do not all leave, some that others refer to may be missing.
        if referred is None or referred.where is not None:
            return False
        columns = set(key.referred_columns)
        return any(columns == set(unique) for unique in (referred.primary_key, *referred.unique))

    def _foreign_key(self, shape: TableShape, key: ForeignKeyShape) -> sa.ForeignKeyConstraint:
        """Without actions: what a cascade did on the primary comes as events."""
        referred = self.tables[f"{key.referred_schema}.{key.referred_table}"]
        deferrable = self._replica.deferrable
        return sa.ForeignKeyConstraint(
            key.columns,
            [referred.c[name] for name in key.referred_columns],
            name=own_name("fk", shape.full_name, key),
            deferrable=True if deferrable else None,
            initially="IMMEDIATE" if deferrable else None,
        )

    def unique_indexes(self, shape: TableShape) -> list[sa.Index]:
        """One for each unique key besides the primary one; not attached to the table."""
        return [
            self._index("uq", shape, columns, unique=True)
            for columns in shape.unique
            if set(columns) != set(shape.primary_key)
        ]

    def foreign_key_indexes(self, shape: TableShape) -> list[sa.Index]:
        """So that deleting a row need not read through every table that might refer to it."""
        keys = (shape.primary_key, *shape.unique)
        wanted = dict.fromkeys(key.columns for key in self.foreign_keys(shape))
        return [
            self._index("ix", shape, columns, unique=False)
            for columns in wanted
            if not any(set(key[: len(columns)]) == set(columns) for key in keys)
        ]

    def _index(self, kind: str, shape: TableShape, columns: Sequence[str], *, unique: bool) -> sa.Index:
        table = self.tables[shape.full_name]
        detached = sa.Table(
            table.name, sa.MetaData(), *(sa.Column(c.name, c.type) for c in table.c), schema=table.schema
        )
        return sa.Index(
            own_name(kind, shape.full_name, tuple(columns)), *(detached.c[name] for name in columns), unique=unique
        )


def _fit_row(columns: Sequence[sa.Column[Any]], indexed: set[str]) -> None:
    """MariaDB limits the sum of a row's VARCHARs: the longest that no key needs become LONGTEXT until it fits."""

    def size(column: sa.Column[Any]) -> int:
        length = getattr(column.type, "length", None)
        return 4 * length if isinstance(column.type, sa.String) and length else 0

    free = sorted((c for c in columns if c.name not in indexed and size(c)), key=size, reverse=True)
    total = sum(size(c) for c in columns)
    for column in free:
        if total <= _MYSQL_ROW_BYTES:
            return
        total -= size(column)
        column.type = mysql.LONGTEXT()
