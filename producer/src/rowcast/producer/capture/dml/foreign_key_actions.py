"""Find the rows changed by the database through ON DELETE and ON UPDATE actions of foreign keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.capture.dml.self_references import find_descendants, refers_to_own_table
from rowcast.producer.database.row_locks import KEYS_PER_STATEMENT, Key, has_key_in, read_and_lock
from rowcast.producer.tables.stored_keys import key_column, stored_key_columns

_CHANGING_ACTIONS = frozenset(("CASCADE", "SET NULL", "SET DEFAULT"))


class ForeignKeyActions:
    """Know the actions of a metadata's foreign keys, and find the rows that the actions change."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._referring: dict[tuple[str | None, str], list[sa.ForeignKeyConstraint]] = {}
        for table in metadata.tables.values():
            for constraint in table.foreign_key_constraints:
                parent = _referred_table(constraint)
                if parent is not None:
                    self._referring.setdefault((parent.schema, parent.name), []).append(constraint)

    def of_delete(self, table: sa.TableClause) -> list[sa.ForeignKeyConstraint]:
        """Return the foreign keys through which deleting a row of ``table`` changes other rows."""
        return [c for c in self.referring_to(table) if (c.ondelete or "").upper() in _CHANGING_ACTIONS]

    def of_update(self, table: sa.TableClause, columns: Collection[str]) -> list[sa.ForeignKeyConstraint]:
        """Return the foreign keys through which an UPDATE of ``columns`` in ``table`` changes other rows.

        ``columns``: names of columns.
        """
        return [
            constraint
            for constraint in self.referring_to(table)
            if (constraint.onupdate or "").upper() in _CHANGING_ACTIONS
            and any(str(element.column.name) in columns for element in constraint.elements)
        ]

    def referring_to(self, table: sa.TableClause) -> Sequence[sa.ForeignKeyConstraint]:
        """Return the foreign keys that refer to ``table``."""
        return self._referring.get((table.schema, table.name), ())

    def find_rows(
        self,
        connection: Connection,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        options: Mapping[str, Any],
        *,
        delete: bool,
        before_reading: Callable[[sa.Table], None],
    ) -> Iterator[tuple[sa.Table, tuple[Key, ...]]]:
        """Lock the rows that change with the parents ``keys`` through ``constraints``, and yield their keys by table.

        The parents must be locked already. Then other transactions can neither add a child nor move a child to another
        parent. ``options``: execution options of the statement. ``delete``: the parents are deleted, not updated.
        ``before_reading`` is called with each table before its rows are read.
        """
        seen: set[tuple[sa.Table, Key]] = set()
        steps = [(constraint, keys, delete) for constraint in constraints]
        while steps:
            constraint, parent_keys, deleting = steps.pop()
            child = constraint.table
            before_reading(child)
            cascades = deleting and (constraint.ondelete or "").upper() == "CASCADE"
            further = self.of_update(child, {str(c.name) for c in constraint.columns})
            exclusive = cascades or bool(further) or is_in_primary_key(constraint)
            find_children = partial(_find_children, connection, constraint, options=options, exclusive=exclusive)
            recurses = cascades and refers_to_own_table(constraint)
            found = []
            for key in (
                find_descendants(connection, constraint, parent_keys, find_children, options)
                if recurses
                else find_children(parent_keys)
            ):
                if (child, key) not in seen:
                    seen.add((child, key))
                    found.append(key)
            if not found:
                continue
            yield child, tuple(found)
            if cascades:
                steps += [(c, found, True) for c in self.of_delete(child) if not (recurses and c is constraint)]
            else:
                steps += [(c, found, False) for c in further]

    def change_child_keys(self, constraints: Sequence[sa.ForeignKeyConstraint]) -> bool:
        """Return whether ON UPDATE through ``constraints`` changes the key of a child or of a child's child."""
        seen: set[sa.ForeignKeyConstraint] = set()
        steps = list(constraints)
        while steps:
            constraint = steps.pop()
            if constraint in seen:
                continue
            seen.add(constraint)
            if is_in_primary_key(constraint):
                return True
            steps += self.of_update(constraint.table, {str(c.name) for c in constraint.columns})
        return False


def _referred_table(constraint: sa.ForeignKeyConstraint) -> sa.Table | None:
    """Return the referred table, or None if the program has not imported its model yet."""
    try:
        return constraint.referred_table
    except exc.NoReferenceError:
        return None


def is_in_primary_key(constraint: sa.ForeignKeyConstraint) -> bool:
    """Return whether a column of the foreign key belongs to the primary key of its own table."""
    return any(column.primary_key for column in constraint.columns)


def _find_children(
    connection: Connection,
    constraint: sa.ForeignKeyConstraint,
    keys: Sequence[Key],
    *,
    options: Mapping[str, Any],
    exclusive: bool,
) -> Iterator[Key]:
    child = constraint.table
    if not child.primary_key.columns:
        return
    query, parent = sa.select(*stored_key_columns(child, connection.dialect)), None
    parent_key = _columns_with_parent_keys(constraint, connection.dialect)
    if parent_key is None:
        parent = constraint.referred_table.alias()
        # SQLite compares by the collation of the left side, and a foreign key by the collation of the parent.
        joined = sa.and_(*(parent.c[e.column.key] == e.parent for e in constraint.elements))
        query = query.join_from(child, parent, joined)
        parent_key = stored_key_columns(constraint.referred_table, connection.dialect, parent)
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        named = query.where(has_key_in(parent_key, keys[start : start + KEYS_PER_STATEMENT]))
        yield from read_and_lock(connection, named, child, options=options, locked=parent, exclusive=exclusive)


def _columns_with_parent_keys(constraint: sa.ForeignKeyConstraint, dialect: Dialect) -> list[Any] | None:
    """Return the child's columns with the parent's primary key, in the order of the key.

    With these columns the parents need not be read. Return None if the foreign key refers to other columns, or if a
    collation or rounding may make different keys equal.
    """
    parents = {e.column: e.parent for e in constraint.elements}
    key_columns = list(constraint.referred_table.primary_key.columns)
    if parents.keys() != set(key_columns):
        return None
    kinds = {key_column(column, dialect).kind for pair in parents.items() for column in pair}
    return [parents[column] for column in key_columns] if kinds <= {int, uuid.UUID} else None
