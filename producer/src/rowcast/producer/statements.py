"""Which rows a DML statement touches, and how to learn their keys.

All use of SQLAlchemy's semi-private side (annotations of the ORM's DML, ``return_defaults``, cursor buffers) is in this
module, and in ``connections``, ``pipelined``, ``inserts``, ``results``, ``plain``, ``ctes`` and ``outbox``; the capture
matrix runs against SQLAlchemy 2.0 and 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import ref

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm.context import FromStatement
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Delete, Update, UpdateBase
from sqlalchemy.sql.elements import BindParameter, BooleanClauseList, ClauseElement
from sqlalchemy.sql.lambdas import StatementLambdaElement
from sqlalchemy.sql.selectable import TextualSelect

from rowcast.producer.locked_reads import read_locked

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


# Tuples: a union would be made anew for every statement.
_TEXTS = (sa.TextClause, TextualSelect, sa.DDL)


def is_text(context: Any) -> bool:
    """Whether the statement being executed was written by hand, so that nothing but its words tells what it does."""
    return context.compiled is None or _is_written_by_hand(context.compiled)


def _is_written_by_hand(compiled: Any) -> bool:
    statement = compiled.statement
    if isinstance(statement, FromStatement):
        statement = statement.element
    return isinstance(statement, _TEXTS)


def is_one_alone(compiled: Any) -> bool:
    """Whether a statement is one that SQLAlchemy has made, without CTEs: all that there is to see is the statement."""
    if compiled is None:
        return False
    try:
        alone: bool = compiled._rowcast_alone
    except AttributeError:
        # Kept with the compiled statement, which SQLAlchemy keeps: it is asked for at every execution.
        alone = compiled._rowcast_alone = not _is_written_by_hand(compiled) and not getattr(compiled, "ctes", None)
    return alone


def dml_of(statement: Any) -> UpdateBase | None:
    """The DML that a statement is, or whose RETURNING the ORM makes objects of; None if it is neither."""
    if isinstance(statement, UpdateBase):
        return statement
    if isinstance(statement, FromStatement) and isinstance(statement.element, UpdateBase):
        return statement.element
    return None


def with_dml(statement: Any, dml: UpdateBase) -> Any:
    """The statement with this in place of its DML."""
    if isinstance(statement, UpdateBase):
        return dml
    if statement.element is not dml:
        statement = statement._clone()
        statement.element = dml
    return statement


def parameter_sets(multiparams: Any, params: Any) -> Parameters:
    """The statement's parameter sets, one at least, as the engine's events hand them over."""
    return multiparams or [params or {}]


class KeyCondition:
    """A WHERE that compares every key column with a parameter, and may say more: ``binds`` in key order."""

    __slots__ = ("_names", "binds")

    def __init__(self, binds: tuple[BindParameter[Any], ...]) -> None:
        self.binds = binds
        self._names = [bind.key for bind in binds]

    def keys(self, sets: Parameters) -> tuple[Key, ...]:
        """The key of each parameter set."""
        try:
            return tuple([tuple([parameters[name] for name in self._names]) for parameters in sets])
        except KeyError:
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
    names = {str(c.name): c for c in key_columns}
    for part in _conjuncts(statement.whereclause):
        column, value = getattr(part, "left", None), getattr(part, "right", None)
        is_key = (
            getattr(part, "operator", None) is operators.eq
            and isinstance(column, sa.Column)
            and isinstance(value, BindParameter)
            and not value.expanding
            and names.get(str(column.name)) is not None
            and is_same_table(column.table, key_columns[0].table)
            and column.name not in binds
        )
        if is_key:
            binds[str(column.name)] = value  # type: ignore[union-attr, assignment]
    if len(binds) != len(names):
        return None
    return KeyCondition(tuple(binds[name] for name in names))


def is_same_table(one: Any, other: Any) -> bool:
    """Whether two tables have the same name: the ORM's annotated ones are copies."""
    return bool(
        getattr(one, "name", None) == other.name and getattr(one, "schema", None) == getattr(other, "schema", None)
    )


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


def assignments(statement: Update) -> list[tuple[str, Any]]:
    """The columns that ``values()`` sets, by name, and to what."""
    found: list[tuple[Any, Any]] = list((statement._values or {}).items())
    found += list(statement._ordered_values or []) if hasattr(statement, "_ordered_values") else []
    return [(str(getattr(column, "name", column)), value) for column, value in found]


def assigns_values(statement: Update, columns: Sequence[sa.Column[Any]], parameters: Mapping[str, Any]) -> bool:
    """Whether the statement sets one of the columns to a value, rather than to an expression."""
    assigned = dict(assignments(statement))
    values = [assigned.get(str(c.name), parameters.get(str(c.key))) for c in columns]
    return any(v is not None and (isinstance(v, BindParameter) or not isinstance(v, ClauseElement)) for v in values)


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


def assigned_columns(statement: Update, sets: Parameters) -> set[str]:
    """The names of the columns that the statement sets."""
    table = table_of(statement)
    by_key = {str(c.key): str(c.name) for c in table.columns}
    # The parameters of a condition are not among the table's columns.
    return {name for name, _ in assignments(statement)} | {by_key[k] for k in sets[0] if k in by_key}


def other_tables_changed(statement: Update) -> dict[sa.Table, set[str]]:
    """The tables that an UPDATE of several, which MySQL has, changes beside its own, with the columns that it sets."""
    own = table_of(statement)
    found: dict[sa.Table, set[str]] = {}
    for column in statement._values or {}:
        if isinstance(column, sa.Column) and not is_same_table(column.table, own):
            found.setdefault(column.table, set()).add(str(column.name))
    return found


def returns_keys_by_default(statement: UpdateBase, key_columns: Sequence[sa.Column[Any]]) -> bool:
    """Whether what the ORM has asked for already includes the keys of the table that is changed."""
    asked: Sequence[Any] = statement._return_defaults_columns or ()
    return all(any(c.name == k.name and is_same_table(c.table, k.table) for c in asked) for k in key_columns)


def select_keys(
    connection: Connection,
    statement: Update | Delete,
    key_columns: Sequence[sa.Column[Any]],
    sets: Parameters,
    options: Mapping[str, Any],
) -> tuple[Key, ...]:
    """Reads, and locks, the keys of the rows that the statement is about to change."""
    query = _where(sa.select(*key_columns), statement)
    table = key_columns[0].table
    return tuple(dict.fromkeys(k for p in sets for k in read_locked(connection, query, table, p, options)))


def select_rekeyed(
    connection: Connection,
    statement: Update,
    key_columns: Sequence[sa.Column[Any]],
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """As select_keys, and with each old key the new one, for a statement that computes it; old ones first.

    The expressions are evaluated before the statement, on the same locked rows: one that is volatile would differ.
    """
    assigned = dict(assignments(statement))
    after = [
        sa.type_coerce(assigned.get(str(column.name), parameters.get(column.key, column)), column.type).label(f"new{i}")
        for i, column in enumerate(key_columns)
    ]
    query = _where(sa.select(*key_columns, *after), statement)
    rows = read_locked(connection, query, key_columns[0].table, parameters, options)
    width = len(key_columns)
    return tuple(row[:width] for row in rows), tuple(row[width:] for row in rows)


def _where(query: sa.Select[Any], statement: Update | Delete) -> sa.Select[Any]:
    return query if statement.whereclause is None else query.where(statement.whereclause)


def rows_in_a_batch(dialect: Dialect, parameters: Mapping[str, Any]) -> int:
    """How many rows of an INSERT with many parameter sets go into one statement, at least."""
    most = dialect.insertmanyvalues_max_parameters // max(1, len(parameters))
    return min(dialect.insertmanyvalues_page_size, most)
