"""The statements of the drain: INSERT … SELECT of one outbox row, whose changes the database makes of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect

from rowcast.producer.clock import now_ms
from rowcast.producer.likened import exactly, likened_columns
from rowcast.producer.outbox_lines import gone_line, row_line
from rowcast.producer.ready_statements import ReadyStatement
from rowcast.producer.tables import CapturedTable
from rowcast.shared.images import Concatenation

MOST_STATEMENTS = 500
"""How many combinations of tables are remembered."""

# In literals: a parameter of SQLAlchemy's own would be one that this module does not fill.
_ONE: ColumnElement[int] = sa.literal_column("1", sa.Integer)
_NONE: ColumnElement[int] = sa.literal_column("0", sa.Integer)


class Group(NamedTuple):
    """Keys of one table that share an op. ``size`` 0 means an array of any length."""

    table: CapturedTable
    existed: bool
    size: int

    @property
    def with_old_rows(self) -> bool:
        """A row that is new was none before."""
        return self.table.before and self.existed


class DrainStatements:
    """Those of one engine, each made once: what drains keys of these groups, in this order."""

    def __init__(self, outbox: sa.Table, dialect: Dialect) -> None:
        self._outbox = outbox
        self._dialect = dialect
        self._own_transaction_id = dialect.name == "postgresql"
        self._made: dict[tuple[tuple[Group, ...], bool], ReadyStatement] = {}

    def of(self, groups: tuple[Group, ...], *, with_context: bool) -> ReadyStatement:
        """With these parameters: ``rowcast_complete``; ``rowcast_tx`` where the database does not name transactions;
        ``rowcast_context``; of group g ``k{g}_{c}_{n}``, column c of its n-th key, and ``b{g}_{n}``, the old row, or
        ``k{g}_{c}`` and ``b{g}`` of all its keys."""
        signature = groups, with_context
        made = self._made.get(signature)
        if made is None:
            if len(self._made) > MOST_STATEMENTS:
                self._made.clear()
            made = self._made[signature] = ReadyStatement(self._statement(groups, with_context), self._dialect)
        return made

    def _statement(self, groups: Sequence[Group], with_context: bool) -> sa.Insert:
        """INSERT … SELECT of one outbox row, if any of the groups has a change to tell."""
        parts = [part for g, group in enumerate(groups) for part in self._parts(g, group)]
        # LIMIT, of the one row there is: otherwise the planner copies the text into the condition, and every image is
        # made twice.
        text = sa.select(_joined(parts).label("changes")).limit(_ONE).offset(_NONE).subquery("lines")
        transaction = (
            sa.cast(sa.func.txid_current(), sa.String)
            if self._own_transaction_id
            else sa.bindparam("rowcast_tx", type_=sa.String)
        )
        values: dict[str, ColumnElement[Any]] = {
            "tx": transaction,
            "ts_ms": now_ms(self._dialect),
            "complete": sa.bindparam("rowcast_complete", type_=sa.Boolean),
            "changes": text.c.changes,
        }
        if with_context:
            values["context"] = sa.bindparam("rowcast_context", type_=sa.Text)
        row = sa.select(*values.values()).where(text.c.changes != sa.literal_column("''"))
        return self._outbox.insert().from_select(list(values), row)

    def _parts(self, g: int, group: Group) -> Iterator[ColumnElement[str]]:
        columns = group.table.key_columns
        if group.size == 0:
            yield self._array_part(g, group)
            return
        for n in range(group.size):
            binds = [sa.bindparam(f"k{g}_{c}_{n}", type_=column.type) for c, column in enumerate(columns)]
            old = sa.bindparam(f"b{g}_{n}", type_=sa.Text) if group.with_old_rows else None
            gone = _gone_line(group, binds, old)
            line = _row_line(group, old)
            likened = likened_columns(group.table, self._dialect) if group.existed else ()
            if likened:
                # The row that is found may have another key by now, which only the collation takes for this one.
                texts = [(column, binds[columns.index(column)]) for column in likened]
                others = sa.or_(*(exactly(group.table, c, c) != exactly(group.table, c, bind) for c, bind in texts))
                line = Concatenation(sa.case((others, gone), else_=sa.literal_column("''")), line)
            found = (
                sa.select(line)
                .where(*(column == bind for column, bind in zip(columns, binds, strict=True)))
                .scalar_subquery()
            )
            yield sa.func.coalesce(found, gone)

    def _array_part(self, g: int, group: Group) -> ColumnElement[str]:
        # LATERAL with OFFSET 0 keeps the planner at one index look-up a key, whatever it thought of the table's size
        # when it made the plan.
        columns = group.table.key_columns
        arrays = [sa.bindparam(f"k{g}_{c}", type_=postgresql.ARRAY(column.type)) for c, column in enumerate(columns)]
        names = [f"k{c}" for c in range(len(columns))]
        fields: list[sa.ColumnClause[Any]] = [sa.column(n, c.type) for n, c in zip(names, columns, strict=True)]
        if group.with_old_rows:
            arrays.append(sa.bindparam(f"b{g}", type_=postgresql.ARRAY(sa.Text)))
            fields.append(sa.column("b", sa.Text))
        keys = sa.func.unnest(*arrays).table_valued(*fields).render_derived(name=f"keys{g}")
        given = [keys.c[name] for name in names]
        old = keys.c.b if group.with_old_rows else None
        row = (
            sa.select(_row_line(group, old).label("line"))
            .where(*(column == key for column, key in zip(columns, given, strict=True)))
            .correlate(keys)
            .offset(sa.literal_column("0"))
            .lateral(f"rows{g}")
        )
        line = sa.func.coalesce(row.c.line, _gone_line(group, given, old))
        # In the order of the keys, as one loop over them can only be: to sort the lines would take a tenth longer.
        text = sa.func.string_agg(line, sa.literal_column("''"))
        return (
            sa.select(sa.func.coalesce(text, sa.literal_column("''")))
            .select_from(keys.outerjoin(row, sa.true()))
            .scalar_subquery()
        )


def _row_line(group: Group, old: ColumnElement[str] | None) -> ColumnElement[str]:
    return row_line(group.table, "u" if group.existed else "c", before=old)


def _gone_line(
    group: Group, values: Sequence[ColumnElement[Any]], old: ColumnElement[str] | None
) -> ColumnElement[str]:
    """What to write for a key without a row: a delete if the row was there before the transaction, else nothing."""
    if not group.existed:
        return sa.literal_column("''")
    return gone_line(group.table, dict(zip(group.table.key_columns, values, strict=True)).__getitem__, old)


def _joined(parts: Sequence[ColumnElement[str]]) -> ColumnElement[str]:
    return parts[0] if len(parts) == 1 else Concatenation(*parts)
