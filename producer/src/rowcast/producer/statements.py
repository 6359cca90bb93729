"""Which rows a DML statement touches, and how to learn their keys.

All use of SQLAlchemy's semi-private side (annotations of the ORM's DML, ``return_defaults``, cursor buffers) is in this
module; the capture matrix runs against SQLAlchemy 2.0 and 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import ref

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.orm.context import FromStatement
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.elements import BindParameter, BooleanClauseList, ClauseElement, ColumnElement
from sqlalchemy.sql.lambdas import StatementLambdaElement
from sqlalchemy.sql.selectable import TextualSelect

Key = tuple[Any, ...]
Parameters = Sequence[Mapping[str, Any]]


def table_of(statement: UpdateBase) -> Any:
    """The table that the statement changes.

    The ORM's bulk statements on joined inheritance name the mapped class's own table in every statement they emit; the
    table that this one is for is in their annotations.
    """
    annotations = statement._annotations
    table = annotations.get("_emit_insert_table")
    if table is None:
        table = annotations.get("_emit_update_table")
    return statement.table if table is None else table


def resolved(statement: Any) -> Any:
    """What a lambda statement stands for."""
    return statement._resolved if isinstance(statement, StatementLambdaElement) else statement


def is_text(context: Any) -> bool:
    """Whether the statement being executed was written by hand, so that nothing but its words tells what it does."""
    compiled = context.compiled
    if compiled is None:
        return True
    statement = compiled.statement
    if isinstance(statement, FromStatement):
        statement = statement.element
    return isinstance(statement, sa.TextClause | TextualSelect | sa.DDL)


def parameter_sets(multiparams: Any, params: Any) -> Parameters:
    """The statement's parameter sets, one at least, as the engine's events hand them over."""
    return multiparams or [params or {}]


class KeyCondition:
    """A WHERE that compares every key column with a parameter: ``binds`` in key order; ``exact`` if it says no more."""

    __slots__ = ("binds", "exact")

    def __init__(self, binds: tuple[BindParameter[Any], ...], exact: bool) -> None:
        self.binds = binds
        self.exact = exact

    def keys(self, sets: Parameters) -> tuple[Key, ...]:
        """The key of each parameter set."""
        return tuple(tuple(p.get(b.key, b.effective_value) for b in self.binds) for p in sets)


# The unit of work executes the same statement objects again and again. By identity: what the ORM makes of one statement
# for the several tables of a mapped class is equal to it, and hashes alike.
_conditions: dict[int, tuple[ref[UpdateBase], KeyCondition | None]] = {}


def key_condition(statement: Update | Delete, key_columns: Sequence[sa.Column[Any]]) -> KeyCondition | None:
    """The statement's condition if it names its rows by key, else None."""
    identity = id(statement)
    known = _conditions.get(identity)
    if known is not None and known[0]() is statement:
        return known[1]
    found = _find_key_condition(statement, key_columns)
    _conditions[identity] = ref(statement, lambda _: _conditions.pop(identity, None)), found
    return found


def _find_key_condition(statement: Update | Delete, key_columns: Sequence[sa.Column[Any]]) -> KeyCondition | None:
    binds: dict[str, BindParameter[Any]] = {}
    exact = True
    names = {str(c.name): c for c in key_columns}
    for part in _conjuncts(statement.whereclause):
        column, value = getattr(part, "left", None), getattr(part, "right", None)
        is_key = (
            getattr(part, "operator", None) is operators.eq
            and isinstance(column, sa.Column)
            and isinstance(value, BindParameter)
            and not value.expanding
            and names.get(str(column.name)) is not None
            and _is_same_table(column.table, key_columns[0].table)
            and column.name not in binds
        )
        if is_key:
            binds[str(column.name)] = value  # type: ignore[union-attr, assignment]
        else:
            exact = False
    if len(binds) != len(names):
        return None
    return KeyCondition(tuple(binds[name] for name in names), exact)


def _is_same_table(one: Any, other: sa.Table) -> bool:
    """The ORM's annotated tables are copies."""
    return getattr(one, "name", None) == other.name and getattr(one, "schema", None) == other.schema


def _conjuncts(where: ClauseElement | None) -> Iterable[ClauseElement]:
    if where is None:
        return
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        for clause in where.clauses:
            yield from _conjuncts(clause)
    else:
        yield where


def has_own_returning(statement: UpdateBase) -> bool:
    """Whether the application asked for RETURNING itself."""
    return bool(statement._returning)


def has_return_defaults(statement: UpdateBase) -> bool:
    """Whether the ORM asked for the changed rows' keys already."""
    return bool(getattr(statement, "_return_defaults", False))


def names_rows_by_itself(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> bool:
    """Whether SQLAlchemy will report the inserted keys without help."""
    if statement._multi_values or statement.select is not None or is_upsert(statement):
        return False
    if len(sets) == 1 or has_return_defaults(statement):
        return True
    return all(_given(statement, column, sets[0]) for column in key_columns)


def _given(statement: Insert, column: sa.Column[Any], first: Mapping[str, Any]) -> bool:
    """Whether the application or a Python-side default gives the column's value."""
    if column.key in first:
        return not isinstance(first[column.key], ClauseElement)
    if statement._values and column in statement._values:
        return isinstance(statement._values[column], BindParameter)
    default = column.default
    return default is not None and (default.is_scalar or default.is_callable)


def is_upsert(statement: Insert) -> bool:
    """ON CONFLICT, ON DUPLICATE KEY, or a prefix (OR REPLACE): the key given may not be the changed row's."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def replaces(statement: Insert) -> bool:
    """REPLACE: rows that conflict are deleted, and nothing says which they were."""
    return any("REPLACE" in str(prefix[0]).upper() for prefix in statement._prefixes)


def given_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> tuple[Key, ...] | None:
    """The keys that an INSERT's parameters name; None if they do not."""
    if statement._multi_values or statement.select is not None:
        return None
    if not all(column.key in parameters for column in key_columns for parameters in sets):
        return None
    given = [[parameters[column.key] for parameters in sets] for column in key_columns]
    if any(value is None or isinstance(value, ClauseElement) for values in given for value in values):
        return None
    return tuple(zip(*given, strict=True))


def inserted_keys(
    statement: Insert, result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], sets: Parameters
) -> tuple[Key, ...] | None:
    """The keys of inserted rows as SQLAlchemy knows them; None if one of them is not known."""
    # Where the application gave them, SQLAlchemy would still make a row object of each.
    if (given := given_keys(statement, key_columns, sets)) is not None:
        return given
    width = len(key_columns)
    keys = tuple(tuple(row) if row is not None else (None,) * width for row in result.inserted_primary_key_rows)
    return None if any(value is None for key in keys for value in key) else keys


def changes_key(statement: Update, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> bool:
    """Whether the statement sets a column of the key."""
    assigned = assignments(statement)
    return any(
        column.key in sets[0] or any(name == column.name for name, _ in assigned)
        for column in key_columns
    )  # fmt: skip


def assignments(statement: Update) -> list[tuple[str, Any]]:
    """The columns that ``values()`` sets, by name, and to what."""
    found: list[tuple[Any, Any]] = list((statement._values or {}).items())
    found += list(statement._ordered_values or []) if hasattr(statement, "_ordered_values") else []
    return [(str(getattr(column, "name", column)), value) for column, value in found]


def new_keys(
    statement: Update, key_columns: Sequence[sa.Column[Any]], sets: Parameters, old: Sequence[Key]
) -> tuple[Key, ...] | None:
    """The keys after a statement that sets key columns, one for each of ``old``; None if the database computes them."""
    assigned = dict(assignments(statement))
    keys: list[Key] = []
    for parameters, before in zip(sets, old, strict=True):
        key = []
        for column, value in zip(key_columns, before, strict=True):
            if str(column.name) in assigned:
                value = assigned[str(column.name)]
                if isinstance(value, BindParameter):
                    value = parameters.get(value.key, value.effective_value)
            elif column.key in parameters:
                value = parameters[column.key]
            if isinstance(value, ClauseElement):
                return None
            key.append(value)
        keys.append(tuple(key))
    return tuple(keys)


def returned_keys(result: CursorResult[Any], key_columns: Sequence[ColumnElement[Any]]) -> tuple[Key, ...]:
    """The keys that ``return_defaults`` brought back."""
    rows = result.returned_defaults_rows or ()
    if not rows:
        return ()
    index = rows[0]._key_to_index
    positions = [index[column] for column in key_columns]
    return tuple(tuple(row[position] for position in positions) for row in rows)


def peek_returned_keys(result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...] | None:
    """The keys in the application's own RETURNING, read without taking its rows from it; None if they are not in it."""
    metadata = result._metadata
    positions = [metadata._index_for_key(column, False) for column in key_columns]
    if any(position is None for position in positions):
        return None
    strategy = result.cursor_strategy
    rows = list(getattr(strategy, "_rowbuffer", ()))
    if not isinstance(strategy, FullyBufferedCursorFetchStrategy):
        assert result.cursor is not None
        rows += result.cursor.fetchall()
        # What the application reads from now on is this buffer.
        result.cursor_strategy = FullyBufferedCursorFetchStrategy(result.cursor, initial_buffer=rows)
    dialect = result.context.dialect
    processors = [column.type._cached_result_processor(dialect, None) for column in key_columns]
    return tuple(
        tuple(
            row[position] if process is None else process(row[position])
            for position, process in zip(positions, processors, strict=True)
        )
        for row in rows
    )


def select_keys(
    connection: Connection, statement: Update | Delete, key_columns: Sequence[sa.Column[Any]], sets: Parameters
) -> tuple[Key, ...]:
    """Reads, and locks, the keys of the rows that the statement is about to change."""
    query = sa.select(*key_columns).with_for_update(of=key_columns[0].table)
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    keys: dict[Key, None] = {}
    for parameters in sets:
        for row in connection.execute(query, dict(parameters)):
            keys[tuple(row)] = None
    return tuple(keys)


def select_rekeyed(
    connection: Connection, statement: Update, key_columns: Sequence[sa.Column[Any]], parameters: Mapping[str, Any]
) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """As select_keys, and with each old key the new one, for a statement that computes it; old ones first.

    The expressions are evaluated before the statement, on the same locked rows: one that is volatile would differ.
    """
    assigned = dict(assignments(statement))
    after = [
        sa.type_coerce(assigned.get(str(column.name), parameters.get(column.key, column)), column.type).label(f"new{i}")
        for i, column in enumerate(key_columns)
    ]
    query = sa.select(*key_columns, *after).with_for_update(of=key_columns[0].table)
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    rows = [tuple(row) for row in connection.execute(query, dict(parameters))]
    width = len(key_columns)
    return tuple(row[:width] for row in rows), tuple(row[width:] for row in rows)


def savepoint_name(connection: Connection, name: str | None) -> str:
    """The name of the savepoint that is about to be made: the event comes before SQLAlchemy has drawn it."""
    if name is not None:
        return name
    drawn: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]
    return f"sa_savepoint_{drawn + 1}"


def dml_inside(result: Any) -> list[UpdateBase]:
    """DML in the common table expressions of an executed statement."""
    compiled = getattr(result.context, "compiled", None)
    ctes = getattr(compiled, "ctes", None)
    if not ctes:
        return []
    return [cte.element for cte in ctes if isinstance(cte.element, Insert | Update | Delete)]
