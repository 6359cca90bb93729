"""Find DML inside common table expressions (PostgreSQL), and store the keys of the changed rows.

DML in a CTE returns rows only to the outer statement. Therefore the capture adds a CTE: an INSERT that writes no row,
because the condition is never true. Evaluating the condition stores the keys in a setting that lasts as long as the
transaction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import _truncated_label
from sqlalchemy.sql.selectable import CTE, TextualSelect

from rowcast.producer.capture.dml.statement_tables import is_same_table
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.stored_keys import reading

_WITH = re.compile(r"\s*WITH(?:\s+RECURSIVE)?\s", re.IGNORECASE)


def ctes_of(context: Any) -> list[CTE]:
    """Return the CTEs of the statement being executed. ``context``: SQLAlchemy's execution context."""
    ctes = getattr(context.compiled, "ctes", None)
    return list(ctes) if ctes else []


def named_parameters(context: Any) -> dict[str, Any]:
    """Return the parameters named by the application, without the values in the statement."""
    binds = context.compiled.binds
    return {k: v for k, v in context.compiled_parameters[0].items() if k in binds and not binds[k].unique}


def changes_rows(cte: CTE) -> bool:
    """Return whether the CTE is DML."""
    return isinstance(cte.element, UpdateBase)


def is_text(cte: CTE) -> bool:
    """Return whether the CTE is SQL text."""
    return isinstance(cte.element, TextualSelect)


def reads_through_dml(statement: Any) -> bool:
    """Return whether evaluating the statement's condition would execute DML in a CTE."""
    return any(isinstance(e, CTE) and changes_rows(e) for e in visitors.iterate(statement))


def returned_key(cte: CTE, key_columns: Sequence[sa.Column[Any]]) -> list[str] | None:
    """Return the names of the primary key columns in the CTE, or None if the CTE does not return every key column."""
    element: Any = cte.element
    if not element._returning:
        return None
    names = {
        str(column.name): str(out.name)
        for column, out in zip(element._all_selected_columns, cte.c, strict=True)
        if hasattr(column, "table") and is_same_table(column.table, key_columns[0].table)
    }
    found = [names.get(str(key.name)) for key in key_columns]
    return [name for name in found if name is not None] if None not in found else None


def name_of(cte: CTE, compiled: Any) -> str:
    """Return the name of the CTE in the compiled statement. SQLAlchemy names a CTE without a name when it compiles."""
    name: str = cte.name
    return str(compiled._truncated_identifier("alias", name) if isinstance(name, _truncated_label) else name)


def store_keys(
    sql: str,
    cte: str,
    key: Sequence[str],
    columns: Sequence[Any],
    setting: str,
    outbox: sa.Table,
    dialect: Dialect,
) -> str | None:
    """Return the statement's text with a CTE to store the keys of ``cte``'s rows in ``setting``.

    ``cte``: the name. ``key``: the names of its key columns. ``columns``: the key columns as they are read.
    ``outbox``: the table for the INSERT in the added CTE. Return None if the text does not begin with WITH.
    """
    begin = _WITH.match(sql)
    if begin is None:
        return None
    rows = sa.table(cte, *(sa.column(name) for name in key))
    values = [reading(value, column.type) for value, column in zip(rows.c, columns, strict=True)]
    arrays = sa.func.json_agg(sa.func.json_build_object(*(p for i, v in enumerate(values) for p in (f"k{i}", v))))
    keys = (
        sa.select(sa.func.coalesce(arrays.cast(sa.Text), "[]").label("changes")).select_from(rows).subquery("rowcast")
    )
    stored = sa.func.set_config(setting, keys.c.changes, True)
    nothing = sa.insert(outbox).from_select(
        ["changes"], sa.select(keys.c.changes).where(stored.is_(None)), include_defaults=False
    )
    sink = nothing.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    # RECURSIVE lets the added CTE come first and refer to a later CTE.
    return f"WITH RECURSIVE {setting.replace('.', '_')} AS ({sink}), {sql[begin.end() :]}"


def stored_keys(connection: Connection, setting: str, key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...]:
    """Return the keys in ``setting``, stored by the executed statement."""
    columns = [sa.column(f"k{i}", column.type) for i, column in enumerate(key_columns)]
    document = sa.cast(sa.func.current_setting(setting), postgresql.JSON)
    rows = sa.func.json_to_recordset(document).table_valued(*columns).render_derived(with_types=True)
    return tuple(tuple(row) for row in connection.execute(sa.select(*rows.c), execution_options=INTERNAL_STATEMENT))
