"""Rows that the database changes by itself when a parent goes or its key changes: ON DELETE and ON UPDATE actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

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

    def of(self, table: sa.Table, *, delete: bool) -> list[sa.ForeignKeyConstraint]:
        """The foreign keys through which deleting (or re-keying) a row of ``table`` changes others."""
        return [
            constraint
            for constraint in self._children.get((table.schema, table.name), ())
            if ((constraint.ondelete if delete else constraint.onupdate) or "").upper() in _REACHES_CHILDREN
        ]

    def reach(
        self, connection: Connection, table: sa.Table, keys: Sequence[Key], *, delete: bool
    ) -> Iterator[tuple[sa.Table, tuple[Key, ...]]]:
        """The rows that will change with ``keys`` of ``table``, by table; each is read ``FOR UPDATE``.

        The parents must be locked already: then no child can be added to them meanwhile, and a child once read cannot
        be moved elsewhere by others.
        """
        seen: set[tuple[sa.Table, Key]] = {(table, key) for key in keys}
        pending: list[tuple[sa.Table, Sequence[Key], bool]] = [(table, keys, delete)]
        while pending:
            parent, parent_keys, deleting = pending.pop()
            for constraint in self.of(parent, delete=deleting):
                child = constraint.table
                found = []
                for key in self._children_of(connection, constraint, parent_keys):
                    if (child, key) not in seen:
                        seen.add((child, key))
                        found.append(key)
                if not found:
                    continue
                yield child, tuple(found)
                if deleting and (constraint.ondelete or "").upper() == "CASCADE":
                    pending.append((child, found, True))
                elif set(constraint.columns) & _referred_columns(self._children.get((child.schema, child.name), ())):
                    pending.append((child, found, False))

    def _children_of(
        self, connection: Connection, constraint: sa.ForeignKeyConstraint, keys: Sequence[Key]
    ) -> Iterator[Key]:
        child = constraint.table
        if not child.primary_key.columns:
            return
        parent = constraint.referred_table.alias()
        joined = sa.and_(*(e.parent == parent.c[e.column.key] for e in constraint.elements))
        parent_key = [parent.c[c.key] for c in constraint.referred_table.primary_key.columns]
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            named = (
                parent_key[0].in_([k[0] for k in chunk]) if len(parent_key) == 1 else sa.tuple_(*parent_key).in_(chunk)
            )
            query = sa.select(*child.primary_key.columns).join_from(child, parent, joined).where(named)
            for row in connection.execute(query.with_for_update(of=child)):
                yield tuple(row)


def _referred_columns(constraints: Sequence[sa.ForeignKeyConstraint]) -> set[sa.Column[Any]]:
    return {element.column for constraint in constraints for element in constraint.elements}
