"""Turn the shapes of source tables into definitions for the replica's engine: names, columns, keys, constraints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateSchema, CreateTable, ExecutableDDLElement

from rowcast.consumer.replica.dialects import WORKER_PREFIX, ReplicaDialect
from rowcast.consumer.replica.shared_defaults import shared_default
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import ForeignKeyShape, TableShape
from rowcast.shared.tables.type_mapping import replica_type

_LEAVE_OUT = "Leave the table out with `tables` in [replicas.NAME], or replicate to another engine."


def replica_name(shape: TableShape, dialect: ReplicaDialect) -> tuple[str | None, str]:
    """Return schema and name of a source's table on the replica. Raise ConfigurationError for an impossible schema.

    The source's default schema becomes the replica's default schema, which is None here. The name of another schema is
    kept, or becomes the beginning of the table's name if the engine has no schemas. A view may choose both names.
    """
    named, view = dialect.naming.table, shape.view
    schema, name = None if shape.default_schema else shape.schema, shape.name
    if view is not None and view.schema is not None:
        if not dialect.has_schemas:
            raise ConfigurationError(
                f"the view of {shape.full_name}: the replica's engine has no schemas. Give the table another `name` in "
                "place of `schema`."
            )
        schema = view.schema
    if view is not None and view.name is not None:
        name = view.name
    elif schema is not None and not dialect.has_schemas:
        name = f"{schema}_{name}"
    return (schema if dialect.has_schemas else None), named(name)


def constraint_name(kind: str, *parts: object, suffix: str = "") -> str:
    """Return a name for a constraint or index: the same at every start, and short enough for every engine."""
    return f"{WORKER_PREFIX}{kind}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}{suffix}"


def indexed_columns(shape: TableShape) -> set[str]:
    """Return the columns of primary, unique and foreign keys."""
    return set(shape.primary_key).union(*shape.unique, *(key.columns for key in shape.foreign_keys))


def planned_columns(shape: TableShape, replica: ReplicaDialect, dialect: Dialect) -> list[sa.Column[Any]]:
    """Return the columns that the worker gives the replica's table."""
    indexed = indexed_columns(shape)
    columns = [
        sa.Column(
            column.name,
            replica_type(column.type, shape.engine, dialect, key=column.name in indexed),
            nullable=column.nullable and column.name not in shape.primary_key,
            autoincrement=False,
        )
        for column in shape.columns
    ]
    replica.fit_key([column for column in columns if column.name in shape.primary_key])
    replica.fit_row(columns, indexed)
    for column, planned in zip(shape.columns, columns, strict=True):
        if default := shared_default(shape, column, replica, planned.type.compile(dialect=dialect)):
            planned.server_default = sa.DefaultClause(sa.literal_column(default))
    return columns


@contextmanager
def table_limits_named(shape: TableShape, replica: ReplicaDialect) -> Iterator[None]:
    """Raise ConfigurationError with the table's name if the engine refuses the table for a limit of the engine."""
    try:
        yield
    except exc.DBAPIError as error:
        if not replica.is_limit(error):
            raise
        raise ConfigurationError(
            f"the source's table {shape.full_name} ({len(shape.columns)} columns) cannot exist on the "
            f"replica's engine: {replica.reason(error).rstrip('.')}. {_LEAVE_OUT}"
        ) from error


class TableDefinitions:
    """Hold an ``sa.Table`` for each shape, and the possible foreign keys between the tables."""

    def __init__(self, shapes: Iterable[TableShape], replica: ReplicaDialect, dialect: Dialect) -> None:
        self._replica = replica
        self._dialect = dialect
        self._metadata = sa.MetaData()
        self.shapes = {shape.full_name: shape for shape in shapes}
        self._require_different_names()

    @cached_property
    def tables(self) -> dict[str, sa.Table]:
        """Return the tables by ``schema.table``. Most starts of a worker do not need them."""
        tables = {name: self._table(shape) for name, shape in self.shapes.items()}
        for name, shape in self.shapes.items():
            for key in self.foreign_keys(shape):
                tables[name].append_constraint(self._foreign_key(tables, shape, key))
        return tables

    def creation(self, shape: TableShape) -> list[ExecutableDDLElement]:
        """Return the statements to create the table of a shape, and the schema if possibly missing."""
        table = self.tables[shape.full_name]
        keys = table.foreign_key_constraints if self._replica.foreign_keys_in_table else ()
        schema = [] if table.schema is None else [CreateSchema(table.schema, if_not_exists=True)]
        return [*schema, CreateTable(table, include_foreign_key_constraints=list(keys))]

    def _require_different_names(self) -> None:
        """Raise ConfigurationError if two tables of the source would be the same table of the replica."""
        taken: dict[tuple[str | None, str], str] = {}
        for shape in self.shapes.values():
            schema, name = replica_name(shape, self._replica)
            folded = name.lower() if self._replica.folds_table_names else name
            if (other := taken.setdefault((schema, folded), shape.full_name)) != shape.full_name:
                raise ConfigurationError(
                    f"the source's tables {other} and {shape.full_name} would both be the table {name} of the replica. "
                    "Leave one of them out with `tables` in [replicas.NAME], give one another `name` in a view, or "
                    "replicate to PostgreSQL."
                )

    def _require_short_names(self, shape: TableShape, table: str) -> None:
        """Raise ConfigurationError for a name that the engine would cut or refuse."""
        longest, unit = self._replica.longest_name, self._replica.name_unit
        for name in (table, *(column.name for column in shape.columns)):
            length = len(name.encode()) if unit == "bytes" else len(name)
            if longest and length > longest:
                raise ConfigurationError(
                    f"the source's table {shape.full_name}: the name {name} has {length} {unit}, and the replica's "
                    f"engine takes {longest}. {_LEAVE_OUT}"
                )

    def _table(self, shape: TableShape) -> sa.Table:
        schema, name = replica_name(shape, self._replica)
        self._require_short_names(shape, name)
        columns = planned_columns(shape, self._replica, self._dialect)
        # The columns of the key are in the key's order, which may differ from the table's.
        key = sa.PrimaryKeyConstraint(*shape.primary_key)
        options = self._replica.table_options(shape.engine, self._dialect)
        return sa.Table(name, self._metadata, *columns, key, schema=schema, **options)

    def foreign_keys(self, shape: TableShape) -> list[ForeignKeyShape]:
        """Return the foreign keys to tables that are replicated with all rows and have a matching key."""
        return [key for key in shape.foreign_keys if self._is_possible(key)]

    def _is_possible(self, key: ForeignKeyShape) -> bool:
        referred = self.shapes.get(f"{key.referred_schema}.{key.referred_table}")
        # A table with a row filter may lack referred rows.
        if referred is None or referred.where is not None:
            return False
        columns = set(key.referred_columns)
        return any(columns == set(unique) for unique in (referred.primary_key, *referred.unique))

    def _foreign_key(
        self, tables: Mapping[str, sa.Table], shape: TableShape, key: ForeignKeyShape
    ) -> sa.ForeignKeyConstraint:
        """Return a constraint without actions, because the effects of a cascade on the primary come as events."""
        referred = tables[f"{key.referred_schema}.{key.referred_table}"]
        deferrable = self._replica.has_deferrable_foreign_keys
        return sa.ForeignKeyConstraint(
            key.columns,
            [referred.c[name] for name in key.referred_columns],
            name=constraint_name("fk", shape.full_name, key, suffix=self._replica.naming.suffix),
            deferrable=True if deferrable else None,
            initially="IMMEDIATE" if deferrable else None,
        )

    def unique_indexes(self, shape: TableShape) -> list[sa.Index]:
        """Return an index for each unique key but the primary key. The indexes are not attached to the table."""
        return [
            self._index("uq", shape, columns, unique=True)
            for columns in shape.unique
            if set(columns) != set(shape.primary_key)
        ]

    def foreign_key_indexes(self, shape: TableShape) -> list[sa.Index]:
        """Return the indexes for foreign keys. Without an index, a delete would scan the referring tables."""
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
        name = constraint_name(kind, shape.full_name, tuple(columns), suffix=self._replica.naming.suffix)
        return sa.Index(name, *(detached.c[column] for column in columns), unique=unique)
