"""Cut a SELECT into pages by primary key: each page begins after the last key of the page before.

A page by OFFSET reads and drops all earlier rows, and skips rows after deletes of earlier rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, FromClause
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstrumentedAttribute, Session

from rowcast.shared.errors import ConfigurationError

Key = tuple[Any, ...]

_MYSQL = ("mysql", "mariadb")

# SQLAlchemy has no public way to ask a SELECT for the clauses.
_CHOSEN_BY_US = {
    "_order_by_clauses": "order_by",
    "_limit_clause": "limit",
    "_offset_clause": "offset",
    "_group_by_clauses": "group_by",
    "_distinct": "distinct",
}


class Keyset:
    """The pages of a SELECT in the order of the primary key of its first entity or table.

    Raise ConfigurationError for a SELECT that cannot be cut into pages.
    """

    def __init__(self, select: sa.Select[*tuple[Any, ...]], size: int) -> None:
        refused = [name for attribute, name in _CHOSEN_BY_US.items() if _is_set(getattr(select, attribute, None))]
        if refused:
            raise ConfigurationError(
                f"batches() sorts by primary key and limits each batch itself. Remove {', '.join(refused)} from the "
                "SELECT."
            )
        if size < 1:
            raise ConfigurationError(f"the size of a batch is at least 1 row, not {size}.")
        self._width = len(select.column_descriptions)
        self.entity, self._columns = _entity_and_key(select)
        self._select = select
        self._size = size

    def read(self, session: Session, after: Key | None) -> tuple[Sequence[Any], Key | None]:
        """Return the rows of the page after a key, and the page's last key, None for an empty page.

        The rows are entities or values if the SELECT has a single one, and SQLAlchemy's rows if not.
        """
        engine = session.get_bind(self.entity).dialect.name
        key = [_compared(column, engine) for column in self._columns]
        page = self._select.add_columns(*key).order_by(*self._columns).limit(self._size)
        result = session.execute(page if after is None else page.where(_behind(key, after, engine)))
        if self._width == 1:
            # Joined collections repeat their parent.
            rows = (result.unique() if self.entity is not None else result).all()
            return [row[0] for row in rows], tuple(rows[-1][1:]) if rows else None
        frozen = result.freeze()
        keys = frozen().columns(*range(self._width, self._width + len(key))).all()
        return frozen().columns(*range(self._width)).all(), tuple(keys[-1]) if keys else None

    def is_last(self, rows: Sequence[Any]) -> bool:
        """Return whether this page is the last."""
        return len(rows) < self._size


def _behind(key: Sequence[ColumnElement[Any]], last: Key, engine: str) -> ColumnElement[bool]:
    """Return the condition for the rows behind a key, in the form for which the engine reads a range of the index.

    MariaDB and MySQL would read the whole index for ``(a, b) > (1, 2)``. PostgreSQL would read all rows with the first
    value of the key for the other form, and each page of a large tenant would begin with the tenant's first row.
    """
    if len(key) == 1:
        return sa.and_(key[0] > last[0])
    if engine not in _MYSQL:
        values = [sa.bindparam(None, value, type_=column.type) for column, value in zip(key, last, strict=True)]
        return sa.tuple_(*key) > sa.tuple_(*values)
    steps: list[ColumnElement[bool]] = []
    for n, (column, value) in enumerate(zip(key, last, strict=True)):
        equal = [earlier == known for earlier, known in zip(key[:n], last[:n], strict=True)]
        steps.append(sa.and_(*equal, column > value))
    return sa.and_(key[0] >= last[0], sa.or_(*steps))


def _compared(column: ColumnElement[Any], engine: str) -> ColumnElement[Any]:
    """Return the expression to compare a key column in the engine's sort order."""
    if engine in _MYSQL and isinstance(column.type, sa.Enum | mysql.SET):
        # ENUM and SET sort by number and compare as text.
        return sa.cast(column, mysql.INTEGER(unsigned=True))
    return column


def _entity_and_key(select: sa.Select[*tuple[Any, ...]]) -> tuple[Any, list[ColumnElement[Any]]]:
    """Return the first entity of a SELECT, or None if the SELECT is of tables, and the columns of its primary key."""
    entity = select.column_descriptions[0].get("entity")
    if entity is not None:
        try:
            mapper = sa.inspect(entity).mapper
        except (NoInspectionAvailable, AttributeError):
            mapper = None
        if mapper is not None:
            names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
            attributes: list[InstrumentedAttribute[Any]] = [getattr(entity, name) for name in names]
            return entity, [attribute.expression for attribute in attributes]
    table: FromClause = select.get_final_froms()[0]
    key: list[ColumnElement[Any]] = [*table.primary_key]
    if not key:
        raise ConfigurationError(
            f"batches() needs a primary key to go on from, and {getattr(table, 'name', table)} has none. Select from a "
            "table or model with a primary key first."
        )
    return None, key


def _is_set(clause: Any) -> bool:
    return clause is not None and clause is not False and clause != ()
