"""What triggers are on an engine: the statements that make and drop them, and what the catalogue says of them."""

from __future__ import annotations

import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import IdentifierPreparer

from rowcast.producer.locked_reads import OWN
from rowcast.producer.predicates import Values
from rowcast.producer.tables import CapturedTable
from rowcast.shared.types import MYSQL_FAMILY


@dataclass(frozen=True, slots=True)
class Marker:
    """What a table's triggers were made for, as a comment in their text.

    ``shape``: the version of the shape that their lines name; ``columns``: a digest of the table's columns as the
    catalogue had them; ``text``: a digest of the statements that made them.
    """

    shape: str
    columns: str
    text: str

    def __str__(self) -> str:
        return f"rowcast shape={self.shape} columns={self.columns} text={self.text}"

    @staticmethod
    def find(text: str) -> Marker | None:
        """The marker in a trigger's or a function's text."""
        found = re.search(r"rowcast shape=(\w+) columns=(\w+) text=(\w+)", text)
        return Marker(*found.groups()) if found else None


@dataclass(frozen=True, slots=True)
class Installed:
    """The triggers that a table has. ``events``: those that are there and enabled, of the engine's ``events``;
    ``marker``: None if somebody has changed them by hand."""

    schema: str
    name: str
    events: frozenset[str]
    marker: Marker | None

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.name}"


def digest(text: str) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class TriggerDialect(ABC):
    """Triggers on the engine of one connection. All SQL is whole: literals, no parameters."""

    events: ClassVar[Sequence[str]]
    """Each has a trigger."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.dialect = _literal(connection.dialect)
        self.default_schema = connection.dialect.default_schema_name or "main"

    # -- what each engine says

    @abstractmethod
    def create(self, table: CapturedTable, marker: str) -> Sequence[str]:
        """The statements that make the table's triggers, or make them anew. ``marker`` stands in them as a comment."""

    @abstractmethod
    def drop(self, schema: str, name: str) -> Sequence[str]:
        """The statements that drop a table's triggers, those that are there."""

    @abstractmethod
    def installed(self) -> list[Installed]:
        """The triggers that the database has, by table."""

    @abstractmethod
    def columns(self, schema: str, name: str) -> str:
        """The table's columns and key as the catalogue has them, in a text of any form: equal if nothing has
        changed that matters to triggers."""

    @abstractmethod
    def refuse(self, table: CapturedTable) -> None:
        """Raises ConfigurationError, with the reason, if this table cannot be captured by triggers."""

    def unseen(self, schema: str, name: str) -> Iterator[str]:
        """What changes of this table its triggers cannot see, beyond what docs/capture.md says of all tables."""
        return iter(())

    def prepare(self) -> None:  # noqa: B027
        """Makes what the triggers of all tables share, where it is not there."""

    @contextmanager
    def alone(self, table: CapturedTable) -> Iterator[None]:
        """Keeps writers away from the table: none may come between two of its triggers."""
        yield

    # -- for all engines

    def run(self, statement: str) -> Any:
        """Runs a whole statement: percent signs and colons in it are themselves."""
        options = {**OWN, "no_parameters": True}
        return self.connection.exec_driver_sql(statement, execution_options=options)

    def marker(self, table: CapturedTable) -> Marker:
        """What triggers made now would be marked with."""
        columns = digest(self.columns(table.shape.schema, table.shape.name))
        return Marker(table.version, columns, digest("\n".join(self.create(table, ""))))

    def sql(self, element: ColumnElement[Any]) -> str:
        """The expression's text, whole."""
        return str(element.compile(dialect=self.dialect, compile_kwargs=self.compile_options()))

    def compile_options(self) -> dict[str, Any]:
        """For the row images."""
        return {"literal_binds": True}

    def quote(self, name: str) -> str:
        """An identifier, quoted if it must be."""
        return self.dialect.identifier_preparer.quote(name)

    def literal(self, text: str) -> str:
        """A string literal."""
        return self.sql(sa.literal(text, sa.Text()))

    def qualified(self, schema: str, name: str) -> str:
        """The name that holds whatever the search path is."""
        return f"{self.quote(schema)}.{self.quote(name)}"

    @property
    def outbox(self) -> str:
        """The outbox, qualified."""
        return self.qualified(self.default_schema, "rowcast_outbox")

    def source(self, table: CapturedTable) -> str:
        """The table for a FROM, under the name by which expressions over its own columns call it."""
        qualified = self.qualified(table.shape.schema, table.shape.name)
        return qualified if table.table.schema else f"{qualified} AS {self.quote(table.shape.name)}"

    def of(self, alias: str) -> Values:
        """The values that a row has under this alias (``NEW``, a transition table's)."""
        return lambda column: sa.literal_column(f"{alias}.{self.quote(str(column.name))}", column.type)

    def same_key(self, table: CapturedTable, alias: str) -> str:
        """The condition that the table's own row has the key of the row under this alias."""
        return " AND ".join(f"{self.sql(c)} = {alias}.{self.quote(str(c.name))}" for c in table.key_columns)


def trigger_name(table: str, event: str, longest: int) -> str:
    """Where triggers' names belong to the schema rather than to the table."""
    name = f"rowcast_{event}_{table}"
    return name if len(name) <= longest else f"{name[: longest - 13]}_{digest(table)}"


def _literal(dialect: Dialect) -> Dialect:
    """The same dialect for text that no driver looks through for parameters."""
    own = copy.copy(dialect)
    own.paramstyle = "named"
    own.positional = False
    # Without the session's ANSI_QUOTES and NO_BACKSLASH_ESCAPES: MariaDB's triggers are made without them.
    preparer: type[IdentifierPreparer] = type(dialect.identifier_preparer)
    own.identifier_preparer = preparer(own)
    if own.name in MYSQL_FAMILY:
        own._backslash_escapes = True  # type: ignore[attr-defined]
    return own
