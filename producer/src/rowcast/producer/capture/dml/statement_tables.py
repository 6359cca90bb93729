"""Find the tables of a DML statement, whichever object stands for a table.

A statement may name a captured table by the mapped table, by an alias, or by another table object.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import Delete, Update, UpdateBase
from sqlalchemy.sql.selectable import AliasedReturnsRows

from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.stored_keys import typed_column


def table_of(statement: UpdateBase) -> Any:
    """Return the table that the statement changes.

    With joined inheritance the ORM emits a bulk statement for each table of the class. Every such statement names the
    class's own table, and has the really changed table in its annotations.
    """
    annotations = statement._annotations
    table = annotations.get("_emit_insert_table")
    if table is None:
        table = annotations.get("_emit_update_table")
    return statement.table if table is None else table


def unaliased(table: Any) -> Any:
    """Return the table that an alias, or an alias of an alias, stands for."""
    while isinstance(table, AliasedReturnsRows):
        table = table.element
    return table


def is_aliased(statement: UpdateBase) -> bool:
    """Return whether the statement names its table by an alias."""
    return isinstance(table_of(statement), AliasedReturnsRows)


def own_key_columns(statement: UpdateBase, table: CapturedTable) -> tuple[sa.Column[Any], ...]:
    """Return the key columns of the captured table as columns of the table object that the statement names.

    The object may be an alias, or another object for the same table: a reflected table, the table of a migration,
    ``sa.table()``. It may lack columns of the key. Columns of the captured table would bring a second table into the
    statement.
    """
    own = table_of(statement)
    # An annotated copy of the ORM is equal to its table.
    if own == table.table:
        return table.key_columns
    columns = {table.own_name(str(column.name)): column for column in own.columns}
    return tuple(_own_column(own, columns.get(str(key.name)), key) for key in table.key_columns)


def _own_column(table: Any, column: Any, key: sa.Column[Any]) -> Any:
    """Return the table's own column for a key column, with the type of the key column if it has none."""
    if column is None or isinstance(column.type, sa.types.NullType):
        column = sa.column(str(key.name), key.type)
        column.table = table
    return column


def own_stored_columns(table: CapturedTable, own: tuple[sa.Column[Any], ...]) -> tuple[Any, ...]:
    """Return ``StoredKeys.columns`` of the captured table as columns of the table object that has ``own``."""
    stored = table.stored_keys.columns
    if stored is table.key_columns:
        return own
    pairs = zip(own, stored, strict=True)
    return tuple(key if isinstance(s, sa.Column) else typed_column(s, key.table, s.type) for key, s in pairs)


def is_same_table(one: Any, other: Any) -> bool:
    """Return whether two tables have the same name. Their objects may differ, because the ORM annotates copies."""
    name = getattr(one, "name", None)
    # A join has no name.
    return (
        name is not None
        and bool(name == getattr(other, "name", None))
        and bool(getattr(one, "schema", None) == getattr(other, "schema", None))
    )


def has_several_tables(statement: Update | Delete) -> bool:
    """Return whether the statement joins other tables to the changed table. Tables of a subquery do not count."""
    own, where = table_of(statement), statement.whereclause
    joined = [*extra_froms(statement), *(() if where is None else where._from_objects)]
    return any(not is_same_table(table, own) for table in joined)


def extra_froms(statement: Update | Delete) -> tuple[Any, ...]:
    """Return the tables in ``using()`` of a DELETE. SQLAlchemy 2.1 added ``using()``."""
    froms: tuple[Any, ...] = getattr(statement, "_extra_froms", ())
    return froms


def other_tables_changed(statement: UpdateBase) -> dict[sa.Table, set[str]]:
    """Return the further tables changed by a MySQL multi-table UPDATE, each with the set columns."""
    own = table_of(statement)
    found: dict[sa.Table, set[str]] = {}
    if "_emit_update_table" in statement._annotations:
        # The ORM emits a statement for each table of a class, and each has the values of all tables.
        return found
    for column in getattr(statement, "_values", None) or {}:
        # The ORM names the columns in SET by the mapped table, even if the statement has an alias of it.
        names_own = is_same_table(getattr(column, "table", None), own)
        if isinstance(column, sa.Column) and not names_own and not is_same_table(column.table, unaliased(own)):
            found.setdefault(column.table, set()).add(str(column.name))
    return found
