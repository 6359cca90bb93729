"""Rows that the database changes by itself when a parent goes or its key changes: ON DELETE and ON UPDATE actions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.locked_reads import is_one_of, read_locked

Key = tuple[Any, ...]

_REACHES_CHILDREN = frozenset(("CASCADE", "SET NULL", "SET DEFAULT"))
_CHUNK = 500


class Cascades:
    """What the foreign keys of a metadata do beyond the statement."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._children: dict[tuple[str | None, str], list[sa.ForeignKeyConstraint]] = {}
        for table in metadata.tables.values():
            for constraint in table.foreign_key_constraints:
                parent = constraint.referred_table
                self._children.setdefault((parent.schema, parent.name), []).append(constraint)

    def of_delete(self, table: sa.Table) -> list[sa.ForeignKeyConstraint]:
        """The foreign keys through which deleting a row of ``table`` changes others."""
        return [c for c in self._referring_to(table) if (c.ondelete or "").upper() in _REACHES_CHILDREN]

    def of_update(self, table: sa.Table, columns: Collection[str]) -> list[sa.ForeignKeyConstraint]:
        """The foreign keys through which a change of these columns, by name, of a row of ``table`` changes others."""
        return [
            constraint
            for constraint in self._referring_to(table)
            if (constraint.onupdate or "").upper() in _REACHES_CHILDREN
            and any(str(element.column.name) in columns for element in constraint.elements)
        ]

    def _referring_to(self, table: sa.Table) -> Sequence[sa.ForeignKeyConstraint]:
        return self._children.get((table.schema, table.name), ())

    def reach(
        self,
        connection: Connection,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        options: Mapping[str, Any],
        *,
        delete: bool,
    ) -> Iterator[tuple[sa.Table, tuple[Key, ...]]]:
        """The rows that change with ``keys`` of the table that ``constraints`` refer to, by table; each is locked.

        The parents must be locked already: then no child can be added to them meanwhile, and a child once read cannot
        be moved elsewhere by others. ``options``: execution options of the statement.
        """
        seen: set[tuple[sa.Table, Key]] = set()
        pending = [(constraint, keys, delete) for constraint in constraints]
        while pending:
            constraint, parent_keys, deleting = pending.pop()
            child = constraint.table
            found = []
            for key in _children(connection, constraint, parent_keys, options):
                if (child, key) not in seen:
                    seen.add((child, key))
                    found.append(key)
            if not found:
                continue
            yield child, tuple(found)
            if deleting and (constraint.ondelete or "").upper() == "CASCADE":
                pending += [(c, found, True) for c in self.of_delete(child)]
            else:
                changed = {str(c.name) for c in constraint.columns}
                pending += [(c, found, False) for c in self.of_update(child, changed)]

    def rekeys(self, constraints: Sequence[sa.ForeignKeyConstraint]) -> bool:
        """Whether an ON UPDATE through these, or through those that follow from them, changes a child's primary key."""
        seen: set[sa.ForeignKeyConstraint] = set()
        pending = list(constraints)
        while pending:
            constraint = pending.pop()
            if constraint in seen:
                continue
            seen.add(constraint)
            if into_key(constraint):
                return True
            pending += self.of_update(constraint.table, {str(c.name) for c in constraint.columns})
        return False


def into_key(constraint: sa.ForeignKeyConstraint) -> bool:
    """Whether a column of the foreign key is one of its table's primary key."""
    return any(column.primary_key for column in constraint.columns)


def _children(
    connection: Connection, constraint: sa.ForeignKeyConstraint, keys: Sequence[Key], options: Mapping[str, Any]
) -> Iterator[Key]:
    child = constraint.table
    if not child.primary_key.columns:
        return
    parent = constraint.referred_table.alias()
    joined = sa.and_(*(e.parent == parent.c[e.column.key] for e in constraint.elements))
    parent_key = [parent.c[c.key] for c in constraint.referred_table.primary_key.columns]
    for start in range(0, len(keys), _CHUNK):
        named = is_one_of(parent_key, keys[start : start + _CHUNK])
        query = sa.select(*child.primary_key.columns).join_from(child, parent, joined).where(named)
        yield from read_locked(connection, query, child, options=options)
