"""Build the statements of the drain: INSERT … SELECT of an outbox row, whose lines the database makes from keys."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import reduce
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect

from rowcast.producer.capture.drain.missing_rows import Kind, Missing
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.precompiled import PrecompiledStatement
from rowcast.producer.outbox.line_writer import NO_LINE, gone_line, row_line
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.stored_keys import array_type, binding
from rowcast.shared.images import Concatenation

MAX_CACHED_STATEMENTS = 500
"""The number of combinations of tables whose statements are kept."""

# Literal columns, because SQLAlchemy would make parameters of plain numbers, and the drain would not fill them.
_ONE: ColumnElement[int] = sa.literal_column("1", sa.Integer)
_ZERO: ColumnElement[int] = sa.literal_column("0", sa.Integer)


class Group(NamedTuple):
    """Describe keys of one table with equal properties.

    ``size``: the number of keys. 0 means that the keys are an array of any length.
    """

    table: CapturedTable
    kind: Kind
    size: int

    @property
    def with_before_images(self) -> bool:
        """Return whether the keys come with before images. A new row has no before image."""
        return self.table.has_before_images and self.kind.existed

    def names_of_parameters(self, g: int, n: int) -> list[str]:
        """Return the parameters of the n-th key, if the group is the g-th of its statement."""
        return [f"k{g}_{c}_{n}" for c in range(len(self.table.key_columns))]


class Found(IntEnum):
    """Say what the drain finds for a key."""

    LINE = 0
    NO_LINE = 1
    """A row without anything to publish."""
    NO_ROW = 2
    TOO_LONG = 3
    """A row whose line is longer than the engine allows."""


class DrainStatements:
    """Keep the drain statements of an engine, by combination of groups."""

    def __init__(self, outbox: sa.Table, dialect: Dialect) -> None:
        self._outbox = outbox
        self._dialect = dialect
        self._engine = capture_dialect(dialect)
        self._statements: dict[tuple[tuple[Group, ...], bool, int | None], PrecompiledStatement] = {}
        self._searches: dict[tuple[Group, ...], PrecompiledStatement] = {}
        self._measures: dict[CapturedTable, PrecompiledStatement | None] = {}

    def for_groups(
        self, groups: tuple[Group, ...], *, with_context: bool, max_row_bytes: int | None = None
    ) -> PrecompiledStatement:
        """Return the statement that drains the keys of the groups, in this order.

        Its parameters: ``rowcast_complete``. ``rowcast_tx`` if the database does not know an id of the transaction.
        ``rowcast_context`` if ``with_context``. For group g of n keys ``k{g}_{c}_{n}``, column c of the n-th key, and
        ``b{g}_{n}``, the before image. For a group of any length ``k{g}_{c}`` and ``b{g}``, lists of all keys' values.

        ``max_row_bytes``: write nothing if a row is larger, and return a row if the outbox row was written. All groups
        must be of any length then.
        """
        signature = groups, with_context, max_row_bytes
        statement = self._statements.get(signature)
        if statement is None:
            if len(self._statements) > MAX_CACHED_STATEMENTS:
                self._statements.clear()
            statement = PrecompiledStatement(self._build(groups, with_context, max_row_bytes), self._dialect)
            self._statements[signature] = statement
        return statement

    def search(self, groups: tuple[Group, ...]) -> PrecompiledStatement:
        """Return a query with a column for each key: a ``Found`` as a number.

        The parameters of the keys are those of ``for_groups``, which must be no arrays.
        """
        search = self._searches.get(groups)
        if search is None:
            if len(self._searches) > MAX_CACHED_STATEMENTS:
                self._searches.clear()
            columns: list[Any] = [
                self._found(group, self._binds(g, group, n), f"b{g}_{n}")
                for g, group in enumerate(groups)
                for n in range(group.size)
            ]
            search = self._searches[groups] = PrecompiledStatement(sa.select(*columns), self._dialect)
        return search

    def _found(self, group: Group, binds: Sequence[ColumnElement[Any]], name_of_old: str) -> ColumnElement[int]:
        line = self._found_line(group, binds, _before_image(group, name_of_old))
        return sa.case(
            (sa.not_(_exists(group, binds)), _number(Found.NO_ROW)),
            (line.is_(sa.null()), _number(Found.TOO_LONG)),
            (line == NO_LINE, _number(Found.NO_LINE)),
            else_=_number(Found.LINE),
        )

    def measure(self, table: CapturedTable) -> PrecompiledStatement | None:
        """Return a query for the size of rows in bytes. Return None if the rows need not be measured.

        The parameters are arrays of the keys' values: ``k0_{c}`` for column c.
        """
        if table not in self._measures:
            row_bytes = self._row_bytes(table)
            self._measures[table] = None if row_bytes is None else self._build_measure(table, row_bytes)
        return self._measures[table]

    def _row_bytes(self, table: CapturedTable) -> ColumnElement[int] | None:
        """Return the expression for the size of a row in bytes, or None if every row is short."""
        sizes = [self._engine.measured_bytes(column, table.types[str(column.name)]) for column in table.columns]
        measured = [sa.func.coalesce(size, _ZERO) for size in sizes if size is not None]
        return reduce(operator.add, measured) if measured else None

    def _build_measure(self, table: CapturedTable, row_bytes: ColumnElement[int]) -> PrecompiledStatement:
        keys = _unnested(table, 0, [])
        size = (
            sa.select(row_bytes)
            .where(*(c == binding(key, c.type) for c, key in zip(table.stored_keys.columns, keys.c, strict=True)))
            .correlate(keys)
            .scalar_subquery()
        )
        query: sa.Select[Any] = sa.select(sa.func.sum(size)).select_from(keys)
        return PrecompiledStatement(query, self._dialect)

    def _build(self, groups: Sequence[Group], with_context: bool, max_row_bytes: int | None) -> sa.Insert:
        """Build an INSERT … SELECT of an outbox row. No row is inserted if no group has a line."""
        texts = [text for g, group in enumerate(groups) for text in self._line_texts(g, group, max_row_bytes)]
        types = [type_ for group in groups for type_ in group.table.types.values()]
        changes = self._engine.under_fixed_settings(_joined(texts), types)
        # LIMIT 1 on the single row keeps the planner from copying the text into the condition. With the copy the
        # database would make every image twice.
        tables = dict.fromkeys(group.table.table for group in groups if group.table.table.schema is None)
        lines = self._engine.placed_text(changes, list(tables), self._dialect)
        text = sa.select(lines.label("changes")).limit(_ONE).offset(_ZERO).subquery("lines")
        transaction = self._engine.transaction_id
        if transaction is None:
            transaction = sa.bindparam("rowcast_tx", type_=sa.String)
        values: dict[str, ColumnElement[Any]] = {
            "tx": transaction,
            "ts_ms": self._engine.now_ms(),
            "complete": sa.bindparam("rowcast_complete", type_=sa.Boolean),
            "changes": text.c.changes,
        }
        if with_context:
            values["context"] = sa.bindparam("rowcast_context", type_=sa.Text)
        row = sa.select(*values.values()).where(text.c.changes != NO_LINE)
        insert = self._outbox.insert().from_select(list(values), row)
        return insert if max_row_bytes is None else insert.returning(_ONE)

    def _line_texts(self, g: int, group: Group, max_row_bytes: int | None) -> Iterator[ColumnElement[str]]:
        """Yield expressions for the lines of group ``g``: one for each key, or one for an array."""
        if group.size == 0:
            yield self._array_text(g, group, max_row_bytes)
            return
        for n in range(group.size):
            binds = self._binds(g, group, n)
            old = _before_image(group, f"b{g}_{n}")
            found = self._found_line(group, binds, old)
            missing = self._missing_line(group, binds, old)
            if missing is None:
                yield found
            elif self._engine.hides_long_texts:
                # The line of an existing row may be NULL because of its length. Then the row is not missing.
                yield sa.case((_exists(group, binds), found), else_=missing)
            else:
                yield sa.func.coalesce(found, missing)

    def _binds(self, g: int, group: Group, n: int) -> list[sa.BindParameter[Any]]:
        names = group.names_of_parameters(g, n)
        return [
            sa.bindparam(name, type_=column.type)
            for name, column in zip(names, group.table.stored_keys.columns, strict=True)
        ]

    def _found_line(
        self, group: Group, binds: Sequence[ColumnElement[Any]], old: ColumnElement[str] | None
    ) -> ColumnElement[str]:
        """Return the line of the row with a key. It is NULL without a row."""
        line = _row_line(group, binds, old)
        if fits := self._fits(group.table):
            line = sa.case((sa.and_(*fits), line), else_=sa.null())
        return sa.select(line).where(*_has_key(group, binds)).scalar_subquery()

    def _fits(self, table: CapturedTable) -> list[ColumnElement[bool]]:
        """Return the conditions that no column is too long. An overlong column would be null in the image."""
        conditions = (self._engine.fits(column, table.types[str(column.name)]) for column in table.columns)
        return [condition for condition in conditions if condition is not None]

    def _missing_line(
        self, group: Group, key: Sequence[ColumnElement[Any]], old: ColumnElement[str] | None
    ) -> ColumnElement[str] | None:
        """Return the line for a key without a row. None stands for NULL, and prevents the outbox row."""
        lines: Mapping[Missing, ColumnElement[str] | None] = {
            Missing.REFUSED: None,
            Missing.DELETE: _gone_line(group, key, old),
            Missing.NOTHING: NO_LINE,
        }
        return self._engine.missing_line(
            lines[group.kind.missing], group.table.table, _gone_line(group, key, None), self._dialect
        )

    def _array_text(self, g: int, group: Group, max_row_bytes: int | None) -> ColumnElement[str]:
        """Return the expression for the lines of an array's keys. It is NULL if a row has more than ``max_row_bytes``.

        A row that is too large has no line, because the lines might be too long together.
        """
        # LATERAL with OFFSET 0 makes the planner look up each key in the index, even if the table was small when it
        # made the plan.
        columns = group.table.stored_keys.columns
        keys = _unnested(group.table, g, ["b"] if group.with_before_images else [])
        given = [binding(keys.c[f"k{c}"], column.type) for c, column in enumerate(columns)]
        old = keys.c.b if group.with_before_images else None
        line = _row_line(group, given, old)
        fits: ColumnElement[bool] = sa.true()
        row_bytes = None if max_row_bytes is None else self._row_bytes(group.table)
        if row_bytes is not None:
            fits = row_bytes <= sa.literal_column(str(max_row_bytes))
            line = sa.case((fits, line), else_=NO_LINE)
        row = (
            sa.select(line.label("line"), fits.label("fits"))
            .where(*(column == key for column, key in zip(columns, given, strict=True)))
            .correlate(keys)
            .offset(sa.literal_column("0"))
            .lateral(f"rows{g}")
        )
        line = sa.func.coalesce(row.c.line, self._missing_line(group, given, old))
        # An ORDER BY would take a tenth longer. The lines are in the order of the keys anyway, because the plan is a
        # loop over the keys.
        text: ColumnElement[str] = sa.func.coalesce(
            sa.func.string_agg(line, sa.literal_column("''")), sa.literal_column("''")
        )
        if row_bytes is not None:
            text = sa.case((sa.func.bool_and(sa.func.coalesce(row.c.fits, sa.true())), text), else_=sa.null())
        return sa.select(text).select_from(keys.outerjoin(row, sa.true())).scalar_subquery()


def _row_line(group: Group, key: Sequence[ColumnElement[Any]], old: ColumnElement[str] | None) -> ColumnElement[str]:
    """Return the line of a row that was found by the noted key.

    The found row may have a new key that only the database takes for the noted key. If the noted key may be gone, a
    delete comes before the found row's line.
    """
    line = row_line(group.table, "u" if group.kind.existed else "c", before=old)
    folding = group.table.stored_keys.folding_columns if group.kind.missing is Missing.DELETE else ()
    if not folding:
        return line
    by_column = dict(zip(group.table.key_columns, key, strict=True))
    has_noted_key = sa.and_(*(column.has_identity(by_column[column.given]) for column in folding))
    return Concatenation(sa.case((has_noted_key, NO_LINE), else_=_gone_line(group, key, old)), line)


def _gone_line(
    group: Group, values: Sequence[ColumnElement[Any]], old: ColumnElement[str] | None
) -> ColumnElement[str]:
    return gone_line(group.table, dict(zip(group.table.key_columns, values, strict=True)).__getitem__, old)


def _joined(texts: Sequence[ColumnElement[str]]) -> ColumnElement[str]:
    return texts[0] if len(texts) == 1 else Concatenation(*texts)


def _unnested(table: CapturedTable, g: int, texts: Sequence[str]) -> Any:
    """Return the keys in the arrays of group g as a table. ``texts``: the names of further arrays, of texts."""
    types = list(map(array_type, table.stored_keys.columns))
    arrays = [sa.bindparam(f"k{g}_{c}", type_=postgresql.ARRAY(type_)) for c, type_ in enumerate(types)]
    fields: list[sa.ColumnClause[Any]] = [sa.column(f"k{c}", type_) for c, type_ in enumerate(types)]
    arrays += [sa.bindparam(f"{name}{g}", type_=postgresql.ARRAY(sa.Text)) for name in texts]
    fields += [sa.column(name, sa.Text) for name in texts]
    return sa.func.unnest(*arrays).table_valued(*fields).render_derived(name=f"keys{g}")


def _before_image(group: Group, name: str) -> ColumnElement[str] | None:
    return sa.func.coalesce(sa.bindparam(name, type_=sa.Text), NO_LINE) if group.with_before_images else None


def _has_key(group: Group, binds: Sequence[ColumnElement[Any]]) -> list[ColumnElement[bool]]:
    return [column == bind for column, bind in zip(group.table.stored_keys.columns, binds, strict=True)]


def _exists(group: Group, binds: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
    return sa.exists(_ONE).where(*_has_key(group, binds))


def _number(found: Found) -> ColumnElement[int]:
    return sa.literal_column(str(int(found)), sa.Integer)
