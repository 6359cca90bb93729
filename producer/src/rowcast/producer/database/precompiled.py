"""Compile a statement for the driver once, and execute it many times without SQLAlchemy's events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.database.commit_pipelining import CommitPipeline
from rowcast.producer.database.raw_execution import execute_without_result, fetch


class PrecompiledStatement:
    """Hold the text of a statement, and how each parameter is converted for the driver."""

    def __init__(self, statement: sa.Insert | sa.Select[Any] | sa.TextClause, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._sql = str(compiled)
        self._positions = compiled.positiontup if compiled.positional else None
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        processors = {name: _processor(bind.type.dialect_impl(dialect), dialect) for name, bind in binds.items()}
        self._processors = [(name, process) for name, process in processors.items() if process is not None]
        # The statement itself has the values of some parameters, for example the salts of hashes.
        self._own = {name: bind.value for name, bind in binds.items() if not bind.required}
        self._pipelined = CommitPipeline(self._sql) if dialect.driver == "psycopg" else None

    def execute(self, connection: Connection, parameters: dict[str, Any], *, commit: bool) -> int:
        """Execute the statement. Return the number of rows that the driver reports. ``parameters`` are converted.

        ``commit``: also commit the transaction, if a round trip can be saved by doing both at once. Then the number is
        -1. Otherwise the transaction stays open.
        """
        self._convert(parameters)
        values = self._values(parameters)
        if commit and self._pipelined is not None and self._pipelined.commit_with(connection, values):
            return -1
        return execute_without_result(connection, self._sql, values)

    def fetch(self, connection: Connection, parameters: dict[str, Any]) -> Sequence[Any]:
        """Execute the statement and return its rows as the driver has them. ``parameters`` are converted in place."""
        self._convert(parameters)
        return fetch(connection, self._sql, self._values(parameters))

    def _convert(self, parameters: dict[str, Any]) -> None:
        parameters |= self._own
        for name, process in self._processors:
            parameters[name] = process(parameters[name])

    def _values(self, parameters: dict[str, Any]) -> Any:
        return parameters if self._positions is None else tuple(parameters[name] for name in self._positions)


def _processor(type_: sa.types.TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return the function that converts a value for the driver, or None if the value needs no conversion."""
    if dialect.driver.startswith("psycopg") and isinstance(type_, sa.ARRAY) and isinstance(type_.item_type, sa.Integer):
        # The driver would convert a list number by number, and the server would convert the array's type.
        return lambda numbers: "{" + ",".join(map(int.__repr__, numbers)) + "}"
    if isinstance(type_, sa.Boolean) and dialect.supports_native_boolean:
        # The driver takes the value as it is, and SQLAlchemy would only check it.
        return None
    return type_.bind_processor(dialect)
