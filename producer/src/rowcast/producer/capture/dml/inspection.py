"""Inspect DML statements: the kind of statement, the keys in the parameters and conditions, and the returned columns.

The capture uses semi-private parts of SQLAlchemy: annotations of the ORM's DML, ``return_defaults`` and cursor buffers.
In this folder, the modules that do so are ``inspection``, ``insert_inspection``, ``unique_conflicts``,
``statement_tables``, ``results``, ``fast_path`` and ``ctes``. The capture matrix runs against SQLAlchemy 2.0 and 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ref

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.orm.context import FromStatement
from sqlalchemy.schema import DefaultGenerator
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.ddl import ExecutableDDLElement
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, ClauseElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.lambdas import StatementLambdaElement
from sqlalchemy.sql.selectable import TextualSelect

from rowcast.producer.capture.dml.many_sets import conjuncts
from rowcast.producer.capture.dml.statement_tables import is_same_table, table_of
from rowcast.producer.database.row_locks import Key

Parameters = Sequence[Mapping[str, Any]]


def resolved(statement: Any) -> Any:
    """Return the statement that a lambda statement stands for, or the statement itself."""
    if not isinstance(statement, StatementLambdaElement):
        return statement
    # The ORM annotates the lambda statement, for example with the way of synchronizing the session.
    return statement._resolved._annotate(statement._annotations) if statement._annotations else statement._resolved


# A tuple, because a union would be built again for every statement.
_TEXT_TYPES = (sa.TextClause, TextualSelect, sa.DDL)
_INSPECTED_TYPES = (sa.SelectBase, UpdateBase, FunctionElement, DefaultGenerator, ExecutableDDLElement)


def is_text(context: Any) -> bool:
    """Return whether the statement being executed is SQL text.

    Constructs that SQLAlchemy does not have, compiled by the application's own code, count as text. ``context``:
    SQLAlchemy's execution context.
    """
    return context.compiled is None or _is_text(context.compiled)


def _is_text(compiled: Any) -> bool:
    statement = compiled.statement
    if isinstance(statement, FromStatement):
        statement = statement.element
    return isinstance(statement, _TEXT_TYPES) or not isinstance(statement, _INSPECTED_TYPES)


def computes_default(context: Any) -> bool:
    """Return whether SQLAlchemy executes the default of a column now, before the statement of ``context``."""
    return not hasattr(context, "parameters")


def is_single_statement(compiled: Any) -> bool:
    """Return whether SQLAlchemy has compiled the statement from constructs without DDL, CTEs and ``set_config``.

    Then the statement itself shows all its effects.
    """
    if compiled is None:
        return False
    try:
        single: bool = compiled._rowcast_single
    except AttributeError:
        # Every execution asks. Therefore the answer is kept on the compiled statement, which SQLAlchemy caches.
        shows_all = isinstance(compiled, SQLCompiler) and not _is_text(compiled)
        single = shows_all and not getattr(compiled, "ctes", None) and "set_config" not in str(compiled)
        compiled._rowcast_single = single
    return single


def dml_of(statement: Any) -> UpdateBase | None:
    """Return the DML of a statement, or None.

    The ORM may wrap DML in a statement to make objects of returned rows.
    """
    if isinstance(statement, UpdateBase):
        return statement
    if isinstance(statement, FromStatement) and isinstance(statement.element, UpdateBase):
        return statement.element
    return None


def with_dml(statement: Any, dml: UpdateBase) -> Any:
    """Return the statement with ``dml`` in place of the present DML."""
    if isinstance(statement, UpdateBase):
        return dml
    if statement.element is not dml:
        statement = statement._clone()
        statement.element = dml
    return statement


def parameter_sets(multiparams: Any, params: Any) -> Parameters:
    """Return the statement's parameter sets, at least one, from the arguments of the engine's events."""
    return multiparams or [params or {}]


class KeyCondition:
    """Hold a WHERE that compares every key column with a parameter, and may have more conditions.

    ``binds``: the parameters, in the order of the key columns.
    """

    __slots__ = ("_names", "binds")

    def __init__(self, binds: tuple[BindParameter[Any], ...]) -> None:
        self.binds = binds
        self._names = [bind.key for bind in binds]

    def key(self, parameters: Mapping[str, Any]) -> Key:
        """Return the key in a parameter set."""
        try:
            return tuple(map(parameters.__getitem__, self._names))
        except KeyError:
            return tuple([parameters.get(bind.key, bind.effective_value) for bind in self.binds])

    def keys(self, sets: Parameters) -> tuple[Key, ...]:
        """Return the key of each parameter set."""
        return tuple(map(self.key, sets))


# The unit of work executes the same statement objects again and again. The dictionary is keyed by identity, because the
# statements that the ORM makes for the several tables of a class are equal and have the same hash.
_conditions: dict[int, tuple[ref[UpdateBase], KeyCondition | None]] = {}


def key_condition(statement: Update | Delete, key_columns: Sequence[sa.Column[Any]]) -> KeyCondition | None:
    """Return the statement's condition if the condition names the rows by key, else None."""
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
    for part in conjuncts(statement.whereclause):
        column, value = getattr(part, "left", None), getattr(part, "right", None)
        is_key = (
            getattr(part, "operator", None) is operators.eq
            and isinstance(column, sa.ColumnClause)
            and isinstance(value, BindParameter)
            and not value.expanding
            and value.callable is None
            and names.get(str(column.name)) is not None
            and is_same_table(column.table, key_columns[0].table)
            and column.name not in binds
        )
        if is_key:
            binds[str(column.name)] = value  # type: ignore[union-attr, assignment]
    if len(binds) != len(names):
        return None
    return KeyCondition(tuple(binds[name] for name in names))


def has_own_returning(statement: UpdateBase) -> bool:
    """Return whether the statement has a RETURNING of the application."""
    return bool(statement._returning)


def has_return_defaults(statement: UpdateBase) -> bool:
    """Return whether the ORM has already asked for values of the changed rows."""
    return bool(getattr(statement, "_return_defaults", False))


def assignments(statement: Update) -> list[tuple[str, Any]]:
    """Return the columns that ``values()`` sets, as pairs of a name and a value or expression."""
    found: list[tuple[Any, Any]] = list((statement._values or {}).items())
    found += list(statement._ordered_values or []) if hasattr(statement, "_ordered_values") else []
    return [(assigned_name(statement, column), value) for column, value in found]


def assigned_name(statement: Insert | Update, column: Any) -> str:
    """Return the name of a column that a statement sets, from the column or its key."""
    if isinstance(column, str):
        column = table_of(statement).columns.get(column, column)
    while isinstance(column, BinaryExpression):
        # The statement sets an element or a slice of an array: values({table.c.numbers[2:3]: …}).
        column = column.left
    return str(getattr(column, "name", column))


def new_keys(
    statement: Update, key_columns: Sequence[sa.Column[Any]], sets: Parameters, old: Sequence[Key]
) -> tuple[Key, ...] | None:
    """Return the new key for each key of ``old``, or None if the database computes new keys."""
    assigned = dict(assignments(statement))
    keys: list[Key] = []
    for parameters, before in zip(sets, old, strict=True):
        values = zip(key_columns, before, strict=True)
        key = tuple([new_value(assigned, column, parameters, value) for column, value in values])
        if any(isinstance(value, ClauseElement) for value in key):
            return None
        keys.append(key)
    return tuple(keys)


_unassigned = object()


def new_value(assigned: Mapping[str, Any], column: sa.Column[Any], parameters: Mapping[str, Any], before: Any) -> Any:
    """Return the value that an UPDATE gives to a column, the expression that computes the value, or ``before``.

    The column itself stands for a value that is not known beforehand.

    ``assigned``: the ``assignments`` of the statement.
    """
    # SQLAlchemy lets a parameter take precedence over values().
    if column.key in parameters:
        return parameters[column.key]
    value = assigned.get(str(column.name), _unassigned)
    if value is _unassigned:
        return _value_by_itself(column, before)
    if isinstance(value, BindParameter) and value.callable is None:
        return parameters.get(value.key, value.effective_value)
    return value


def assigned_columns(statement: Update, sets: Parameters) -> set[str]:
    """Return the names of the columns set by the statement, or changed by the database along with the statement."""
    table = table_of(statement)
    names = {str(c.key): str(c.name) for c in table.columns}
    # Parameters of the condition are no columns of the table.
    assigned = {name for name, _ in assignments(statement)} | {names[k] for k in sets[0] if k in names}
    return assigned | {str(c.name) for c in table.columns if changes_by_itself(c)}


def _value_by_itself(column: Any, before: Any) -> Any:
    if not changes_by_itself(column):
        return before
    default = column.onupdate
    is_known = isinstance(default, sa.ColumnDefault) and (default.is_scalar or default.is_clause_element)
    return default.arg if is_known else column


def changes_by_itself(column: Any) -> bool:
    """Return whether an UPDATE may change the column without naming the column."""
    # A column of ``sa.table()`` has no defaults.
    if not isinstance(column, sa.Column):
        return False
    # A computed column is its own ``server_onupdate``.
    return column.onupdate is not None or column.server_onupdate is not None


def min_rows_in_a_batch(dialect: Dialect, parameters: Mapping[str, Any]) -> int:
    """Return how many rows of an INSERT with many parameter sets SQLAlchemy puts into one statement, at least."""
    limit = dialect.insertmanyvalues_max_parameters // max(1, len(parameters))
    return min(dialect.insertmanyvalues_page_size, limit)
