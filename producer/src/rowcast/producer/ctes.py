"""DML inside common table expressions, which PostgreSQL has: finding it, and having it tell the keys of its rows.

Such DML returns its rows to the outer statement alone. So one more CTE goes with it, which writes nothing: its
condition stores the keys in a setting that lasts as long as the transaction, and is never true.
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
from sqlalchemy.sql.selectable import CTE, TextualSelect

from rowcast.producer.locked_reads import OWN
from rowcast.producer.statements import Key, is_same_table

_WITH = re.compile(r"\s*WITH(?:\s+RECURSIVE)?\s", re.IGNORECASE)


def ctes_of(context: Any) -> list[CTE]:
    """The CTEs of the statement being executed."""
    ctes = getattr(context.compiled, "ctes", None)
    return list(ctes) if ctes else []


def named_parameters(context: Any) -> dict[str, Any]:
    """The parameters that the application has named; the others are in the statement itself."""
    binds = context.compiled.binds
    return {k: v for k, v in context.compiled_parameters[0].items() if k in binds and not binds[k].unique}


def changes_rows(cte: CTE) -> bool:
    """Whether it is DML."""
    return isinstance(cte.element, UpdateBase)


def is_text(cte: CTE) -> bool:
    """Whether it is written by hand."""
    return isinstance(cte.element, TextualSelect)


def reads_through_dml(statement: Any) -> bool:
    """Whether evaluating the statement's condition would execute DML."""
    return any(isinstance(e, CTE) and changes_rows(e) for e in visitors.iterate(statement))


def returned_key(cte: CTE, key_columns: Sequence[sa.Column[Any]]) -> list[str] | None:
    """The names that the primary key has in the CTE; None if it does not return it."""
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


def storing(sql: str, cte: CTE, key: Sequence[str], setting: str, outbox: sa.Table, dialect: Dialect) -> str | None:
    """The statement's text, and in it what stores the keys of the CTE's rows; None if it does not begin with WITH."""
    begin = _WITH.match(sql)
    if begin is None:
        return None
    rows = sa.table(str(cte.name), *(sa.column(name) for name in key))
    arrays = sa.func.json_agg(sa.func.json_build_object(*(p for i, c in enumerate(rows.c) for p in (f"k{i}", c))))
    keys = (
        sa.select(sa.func.coalesce(arrays.cast(sa.Text), "[]").label("changes")).select_from(rows).subquery("rowcast")
    )
    stored = sa.func.set_config(setting, keys.c.changes, True)
    nothing = sa.insert(outbox).from_select(
        ["changes"], sa.select(keys.c.changes).where(stored.is_(None)), include_defaults=False
    )
    sink = nothing.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    # RECURSIVE lets it come first, and name one that follows.
    return f"WITH RECURSIVE {setting.replace('.', '_')} AS ({sink}), {sql[begin.end() :]}"


def stored_keys(connection: Connection, setting: str, key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...]:
    """What the executed statement has stored."""
    columns = [sa.column(f"k{i}", column.type) for i, column in enumerate(key_columns)]
    document = sa.cast(sa.func.current_setting(setting), postgresql.JSON)
    rows = sa.func.json_to_recordset(document).table_valued(*columns).render_derived(with_types=True)
    return tuple(tuple(row) for row in connection.execute(sa.select(*rows.c), execution_options=OWN))
