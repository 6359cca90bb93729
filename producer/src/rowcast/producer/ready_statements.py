"""Statements that are executed again and again: made ready for the driver once, and sent past SQLAlchemy's events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.connections import execute_without_result, fetch
from rowcast.producer.pipelined import Pipelined


class ReadyStatement:
    """Its text, and how each parameter becomes what the driver takes."""

    def __init__(self, statement: sa.Insert | sa.Select[Any] | sa.TextClause, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._sql = str(compiled)
        self._positions = compiled.positiontup if compiled.positional else None
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        processors = {name: _processor(bind.type.dialect_impl(dialect), dialect) for name, bind in binds.items()}
        self._processors = [(name, process) for name, process in processors.items() if process is not None]
        # The salts of hashes come with the statement.
        self._own = {name: bind.value for name, bind in binds.items() if not bind.required}
        self._pipelined = Pipelined(self._sql) if dialect.driver == "psycopg" else None

    def execute(self, connection: Connection, parameters: dict[str, Any], *, commit: bool) -> None:
        """``parameters`` are made ready in place. ``commit``: the transaction may end with it, and does where that
        saves a round trip."""
        self._make_ready(parameters)
        if commit and self._pipelined is not None and self._pipelined.commit_with(connection, parameters):
            return
        execute_without_result(connection, self._sql, self._values(parameters))

    def fetch(self, connection: Connection, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows that it returns, as the driver has them; as ``execute``."""
        self._make_ready(parameters)
        return fetch(connection, self._sql, self._values(parameters))

    def _make_ready(self, parameters: dict[str, Any]) -> None:
        parameters |= self._own
        for name, process in self._processors:
            parameters[name] = process(parameters[name])

    def _values(self, parameters: dict[str, Any]) -> Any:
        return parameters if self._positions is None else tuple(parameters[name] for name in self._positions)


def _processor(type_: sa.types.TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value ready for the driver."""
    if dialect.driver.startswith("psycopg") and isinstance(type_, sa.ARRAY) and isinstance(type_.item_type, sa.Integer):
        # Of a list the driver makes the text number by number, and the server an array of another type first.
        return lambda numbers: "{" + ",".join(map(int.__repr__, numbers)) + "}"
    return type_.bind_processor(dialect)
