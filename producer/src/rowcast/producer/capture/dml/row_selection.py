"""Read the keys of the rows that an UPDATE or DELETE chooses, and restrict the statement to these rows.

A second choice could find different rows: by a LIMIT, by a volatile function, by a subquery, or because another
transaction has committed meanwhile. Therefore the statement runs with the read and locked keys in place of its own
choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import Delete, Update
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.util import immutabledict

from rowcast.producer.capture.dml import many_sets
from rowcast.producer.capture.dml.inspection import Parameters, assigned_name, assignments, new_value
from rowcast.producer.capture.dml.many_sets import conjuncts
from rowcast.producer.capture.dml.statement_tables import extra_froms, has_several_tables, is_same_table, table_of
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import Key, has_key_in, read_and_lock
from rowcast.producer.tables.stored_keys import array_type, binding

MAX_NAMED_ROWS = 500
"""The number of keys up to which a statement is restricted even if its condition needs nothing but the row itself."""
_MAX_KEYS_IN_AN_ARRAY = 1_000_000
_MAX_KEYS_OF_MANY_SETS = 10_000
"""The number of keys sent with all parameter sets of a statement, because each set must send all keys."""

_ELEMENTS_OF_ROWS = frozenset(
    ("binary", "clauselist", "expression_clauselist", "unary", "bindparam", "column", "grouping", "null", "true",
     "false", "cast", "type_coerce", "tuple", "case", "collation")
)  # fmt: skip


class RowSelection:
    """Hold how an UPDATE or DELETE chooses its rows.

    ``key_columns``: of the changed table. ``exclusive``: see ``read_and_lock``. Raises UnknownSyntaxError for a
    statement with a syntax extension that the capture does not know.
    """

    def __init__(
        self, statement: Update | Delete, key_columns: Sequence[sa.Column[Any]], dialect: Dialect, *, exclusive: bool
    ) -> None:
        self._statement = statement
        self._key_columns = key_columns
        self._dialect = dialect
        self._exclusive = exclusive
        complete = _with_orm_criteria(statement, dialect)
        self._extra_froms = extra_froms(complete)
        self._where = complete.whereclause
        self._has_several_tables = has_several_tables(complete)
        self._limit = _limit_of(statement, dialect)

    def read_keys(self, connection: Connection, sets: Parameters, options: Mapping[str, Any]) -> tuple[Key, ...]:
        """Lock the rows and return their keys. ``options``: execution options."""
        found: dict[Key, None] = {}
        for condition, parameters in many_sets.conditions(self._where, sets):
            found.update(dict.fromkeys(self._read(connection, self._key_columns, condition, parameters, options)))
        return tuple(found)

    def read_new_keys(
        self,
        connection: Connection,
        given_columns: Sequence[sa.Column[Any]],
        parameters: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[Key, Key]:
        """Lock the rows and return the new key for each key, as the UPDATE gives or computes it.

        ``given_columns``: the key columns with the types of the application's values, which the new keys have.
        """
        assert isinstance(self._statement, Update)
        assigned, columns = dict(assignments(self._statement)), self._key_columns
        after = [new_value(assigned, c, parameters, c) for c in given_columns]
        # A value is not read, because the database would return it with another type than the column's.
        computed = [
            sa.type_coerce(value, c.type).label(f"new{i}")
            for i, (c, value) in enumerate(zip(given_columns, after, strict=True))
            if isinstance(value, sa.ClauseElement)
        ]
        rows = self._read(connection, [*columns, *computed], self._where, parameters, options)
        return {row[: len(columns)]: _with_computed(after, row[len(columns) :]) for row in rows}

    def _read(
        self,
        connection: Connection,
        columns: Sequence[Any],
        where: ColumnElement[bool] | None,
        parameters: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> list[Key]:
        query = sa.select(*columns).select_from(*self._extra_froms)
        if where is not None:
            query = query.where(where)
        if self._limit is not None:
            query = query.limit(self._limit)
        table = self._key_columns[0].table
        if not self.needs_only_the_row:
            query = capture_dialect(self._dialect).read_as_update(connection, query, table)
        return read_and_lock(connection, query, table, parameters, options, exclusive=self._exclusive)

    def restrict(self, keys: Sequence[Key], set_count: int = 1) -> Any:
        """Return the statement for the rows with the given keys alone. ``read_keys`` has locked the rows.

        Return None if the statement would become too large. Then the condition depends on the row alone, and therefore
        chooses the locked rows again, and possibly new rows of another transaction. ``set_count``: the number of
        parameter sets. With several sets the condition must depend on the row alone.
        """
        dialect = capture_dialect(self._dialect)
        if self._limit is None and self.needs_only_the_row:
            if not dialect.has_row_locks:
                # An engine without row locks has a single writer.
                return self._statement
            most = _MAX_KEYS_IN_AN_ARRAY if dialect.array_parameters else MAX_NAMED_ROWS
            if len(keys) > most or (set_count > 1 and set_count * len(keys) > _MAX_KEYS_OF_MANY_SETS):
                return None
        restricted: Any = self._statement._generate()
        # Each parameter set chooses among the rows of all.
        kept = self._joins() if set_count == 1 else self._statement._where_criteria
        restricted._where_criteria = (*kept, self.names(keys, in_one_set=set_count == 1))
        return self._without_limit(restricted)

    def names(self, keys: Sequence[Key], *, in_one_set: bool) -> ColumnElement[bool]:
        """Return the condition for the rows with the keys. ``in_one_set``: the statement has one parameter set."""
        columns = self._key_columns
        if in_one_set and (len(keys) <= MAX_NAMED_ROWS or not capture_dialect(self._dialect).array_parameters):
            return has_key_in(columns, keys)
        if capture_dialect(self._dialect).array_parameters:
            # Servers limit the number of parameters.
            types = list(map(array_type, columns))
            arrays = [sa.literal([key[i] for key in keys], postgresql.ARRAY(type_)) for i, type_ in enumerate(types)]
            fields: list[sa.ColumnClause[Any]] = [sa.column(f"k{i}", type_) for i, type_ in enumerate(types)]
            rows = sa.func.unnest(*arrays).table_valued(*fields).render_derived(name="rowcast_keys")
            values = [binding(value, column.type) for value, column in zip(rows.c, columns, strict=True)]
            return sa.tuple_(*columns).in_(sa.select(*values))
        # SQLAlchemy cannot expand a list of values, nor an empty one, in a statement with many parameter sets.
        if not keys:
            return sa.false()
        literals = [[sa.literal(v, c.type) for v, c in zip(key, columns, strict=True)] for key in keys]
        if len(columns) == 1:
            return columns[0].in_([value for (value,) in literals])
        return sa.tuple_(*columns).in_([sa.tuple_(*values) for values in literals])

    def _joins(self) -> Iterator[Any]:
        """Yield the conditions on other tables, because they also choose the rows for the new values."""
        own = table_of(self._statement)
        for condition in conjuncts(self._statement.whereclause):
            if any(not is_same_table(table, own) for table in condition._from_objects):
                yield condition

    def _without_limit(self, statement: Any) -> Any:
        if getattr(statement, "_post_criteria_clause", None) is not None:
            statement._post_criteria_clause = None
        elif self._limit is not None:
            options = {**statement.kwargs, f"{self._dialect.name}_limit": None}
            # A copy shares its options with the application's statement, which must keep the LIMIT.
            statement.__dict__.pop("dialect_options")
            statement = statement.with_dialect_options(**options)
        return statement

    @property
    def has_limit(self) -> bool:
        """Return whether the statement changes only some of the rows of its condition."""
        return self._limit is not None

    @cached_property
    def needs_only_the_row(self) -> bool:
        """Return whether the condition compares nothing but values and columns of the changed row.

        Such a condition chooses the same rows again while the rows are locked.
        """
        return not self._has_several_tables and self._is_of_row(self._where)

    def needs_pinned_keys(self) -> bool:
        """Return whether the expression of the new key may give another key each time, and can be replaced.

        An expression with another column of the SET clause cannot be replaced, because MariaDB and MySQL compute with
        the new value of the column.
        """
        assert isinstance(self._statement, Update)
        assigned = dict(assignments(self._statement))
        key = {str(c.name): assigned[str(c.name)] for c in self._key_columns if str(c.name) in assigned}
        if len(key) != 1 or all(map(self._is_of_row, key.values())):
            return False
        ((name, expression),) = key.items()
        columns = (str(e.name) for e in visitors.iterate(expression) if isinstance(e, sa.ColumnClause))
        return all(column == name or column not in assigned for column in columns)

    def _is_of_row(self, expression: Any) -> bool:
        own = table_of(self._statement)
        if not isinstance(expression, sa.ClauseElement):
            return True
        return all(_is_of_row(element, own) for element in visitors.iterate(expression))


def chooses_row_by_row(statement: Update | Delete, key_columns: Sequence[sa.Column[Any]], dialect: Dialect) -> bool:
    """Return whether a statement chooses each row by ``RowSelection.needs_only_the_row``, and without a LIMIT."""
    selection = RowSelection(statement, key_columns, dialect, exclusive=False)
    return selection.needs_only_the_row and not selection.has_limit


class UnknownSyntaxError(Exception):
    """Report a syntax extension, because the extension may choose rows in a way unknown to the capture."""


def _with_computed(values: Sequence[Any], computed: Sequence[Any]) -> Key:
    """Return the values with a computed value in place of each expression."""
    left = iter(computed)
    return tuple([next(left) if isinstance(value, sa.ClauseElement) else value for value in values])


def _is_of_row(element: Any, own: Any) -> bool:
    if isinstance(element, BindParameter):
        return element.callable is None
    if isinstance(element, sa.ColumnClause):
        return is_same_table(element.table, own)
    custom = isinstance(getattr(element, "operator", None), operators.custom_op)
    return element.__visit_name__ in _ELEMENTS_OF_ROWS and not custom


def _limit_of(statement: Update | Delete, dialect: Dialect) -> Any:
    """Return the statement's LIMIT, or None. Raises UnknownSyntaxError for another syntax extension."""
    extension = getattr(statement, "_post_criteria_clause", None)
    if extension is None:
        return statement.kwargs.get(f"{dialect.name}_limit")
    limit = getattr(extension, "_limit_clause", None)
    if limit is None:
        raise UnknownSyntaxError
    return limit


def _with_orm_criteria(statement: Update | Delete, dialect: Dialect) -> Update | Delete:
    """Return the statement with the criteria that the ORM adds: single table inheritance, ``with_loader_criteria``."""
    by_the_orm = statement._propagate_attrs.get("compile_state_plugin") == "orm"
    if not by_the_orm or "_emit_update_table" in statement._annotations:
        return statement
    compiler = dialect.statement_compiler(dialect, None)
    complete: Update | Delete = statement._compile_state_factory(statement, compiler).statement
    return complete


def pin_keys(statement: Update, key_columns: Sequence[sa.Column[Any]], new_keys: Mapping[Key, Key]) -> Any:
    """Return the UPDATE with the given new key for each key, in place of its own expressions."""
    pinned = {
        str(column.name): sa.case(
            *((has_key_in(key_columns, [key]), sa.literal(new[i], column.type)) for key, new in new_keys.items()),
            else_=column,
        )
        for i, column in enumerate(key_columns)
        if new_keys
    }

    def pin(column: Any, value: Any) -> Any:
        return pinned.get(assigned_name(statement, column), value)

    clone: Any = statement._generate()
    clone._values = immutabledict({column: pin(column, value) for column, value in (statement._values or {}).items()})
    if getattr(clone, "_ordered_values", None):
        # SQLAlchemy 2.0 keeps the values of ``ordered_values()`` apart.
        clone._ordered_values = [(column, pin(column, value)) for column, value in clone._ordered_values]
    return clone
