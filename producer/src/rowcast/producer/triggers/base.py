"""Define the interface between a database engine and capture by triggers."""

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

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import RowValues
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError

# rowcast 0.2 and earlier wrote no form.
_FIRST_FORM = "1"
CURRENT_FORM = "2"
"""Increase the number when triggers installed by an earlier version must be replaced on every table."""


@dataclass(frozen=True, slots=True)
class TriggerComment:
    """Describe the triggers of a table, as a comment in the text of each trigger.

    ``shape`` is the version of the shape in the lines. ``columns`` is a digest of the table's columns in the catalogue,
    and ``text`` a digest of the CREATE statements. ``form`` is the generation of rowcast's triggers.
    """

    shape: str
    columns: str
    text: str
    form: str = CURRENT_FORM

    def __str__(self) -> str:
        return f"rowcast shape={self.shape} columns={self.columns} text={self.text} form={self.form}"

    @staticmethod
    def find(text: str) -> TriggerComment | None:
        """Return the comment in the text of a trigger or function, or None for a text without a comment."""
        found = re.search(r"rowcast shape=(\w+) columns=(\w+) text=(\w+)(?: form=(\w+))?", text)
        return TriggerComment(*found.groups(_FIRST_FORM)) if found else None


@dataclass(frozen=True, slots=True)
class InstalledTrigger:
    """Describe the installed triggers of one table.

    ``events`` are the events with an enabled trigger. ``marker`` is the common comment of all triggers, or None if a
    trigger was changed by hand.
    """

    schema: str
    name: str
    events: frozenset[str]
    marker: TriggerComment | None

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.name}"


def digest(text: str) -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class TriggerDialect(ABC):
    """Make, drop and inspect triggers on the engine of one connection. All SQL has literals instead of parameters."""

    events: ClassVar[Sequence[str]]
    """The events for which each table has a trigger."""

    harm_of_older_forms: ClassVar[str]
    """What triggers of an older form do wrong, as the end of a sentence."""

    owner: str | None = None
    """The role that owns the functions of the triggers. None: the present owner, or the installing role."""

    rights_hint: ClassVar[str] = ""
    """Which rights the installing role needs, as the last sentence of an error."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.dialect = self.literal_dialect(connection.dialect)
        self.default_schema = default_schema(connection.dialect)

    # -- what differs between engines

    @abstractmethod
    def create_statements(self, table: CapturedTable, marker: str) -> Sequence[str]:
        """Return the statements to create or replace the table's triggers. ``marker``: the comment for the text."""

    @abstractmethod
    def drop_statements(self, schema: str, name: str) -> Sequence[str]:
        """Return the statements to drop the table's triggers. Without triggers, the statements have no effect."""

    @abstractmethod
    def installed(self) -> list[InstalledTrigger]:
        """Return the installed triggers of each table."""

    @abstractmethod
    def column_signature(self, schema: str, name: str) -> str:
        """Return the table's columns and key in the catalogue, as a text in any form.

        The text changes if and only if the triggers must be created again.
        """

    @abstractmethod
    def check_supported(self, table: CapturedTable) -> None:
        """Check whether triggers can capture the table. Raises ConfigurationError with the reason if not."""

    def unseen_changes(self, schema: str, name: str) -> Iterator[str]:
        """Yield kinds of changes without a trigger, in addition to the list in docs/how-to/triggers.md."""
        return iter(())

    def faults(self, schema: str, name: str) -> Iterator[str]:
        """Yield why the installed triggers are dangerous or cannot work, apart from a changed table."""
        return iter(())

    def has_other_salts(self, table: CapturedTable) -> bool:
        """Return whether salts of the triggers differ from the settings. These salts are not in the triggers' text."""
        return False

    def choose_owner(self, role: str) -> None:
        """Let the role own the functions of the triggers. Raises ConfigurationError if the engine has no owners."""
        raise ConfigurationError(
            f"the triggers of {self.connection.dialect.name} belong to the user that installs them. Install as {role} "
            "instead of naming an owner."
        )

    def create_shared(self, table: CapturedTable) -> None:  # noqa: B027
        """Create the shared objects of all triggers, unless the database has them, and prepare for the table's."""

    def finish(self, table: CapturedTable) -> None:  # noqa: B027
        """Complete the installation after the statements of ``create_statements``."""

    @contextmanager
    def writers_kept_out(self, table: CapturedTable) -> Iterator[None]:
        """Lock out writers in the block, because a change between two CREATE TRIGGER statements would be lost."""
        yield

    # -- for all engines

    def execute(self, statement: str) -> Any:
        """Execute a statement without parameters. Percent signs and colons have no special meaning."""
        options = {**INTERNAL_STATEMENT, "no_parameters": True}
        return self.connection.exec_driver_sql(statement, execution_options=options)

    def comment_for(self, table: CapturedTable) -> TriggerComment:
        """Return the comment for newly created triggers."""
        columns = digest(self.column_signature(table.shape.schema, table.shape.name))
        return TriggerComment(table.version, columns, digest("\n".join(self.create_statements(table, ""))))

    def compile(self, element: ColumnElement[Any]) -> str:
        """Return the text of an expression, with literals instead of parameters."""
        return str(element.compile(dialect=self.dialect, compile_kwargs=self.compile_options()))

    def literal_dialect(self, dialect: Dialect) -> Dialect:
        """Return a copy of the dialect that compiles whole statements, without parameters."""
        return literal_dialect(dialect)

    def compile_options(self) -> dict[str, Any]:
        """Return SQLAlchemy's compiler options for row images."""
        return {"literal_binds": True}

    def quote(self, name: str) -> str:
        """Return an identifier, in quotes if necessary."""
        return self.dialect.identifier_preparer.quote(name)

    def literal(self, text: str) -> str:
        """Return a string literal."""
        return self.compile(sa.literal(text, sa.Text()))

    def qualified(self, schema: str, name: str) -> str:
        """Return the name with the schema, independent of the search path."""
        return f"{self.quote(schema)}.{self.quote(name)}"

    @property
    def now(self) -> str:
        """The SQL expression for the current time in milliseconds since 1970."""
        return self.compile(capture_dialect(self.dialect).now_ms())

    @property
    def outbox(self) -> str:
        """The name of the outbox with its schema."""
        return self.qualified(self.default_schema, "rowcast_outbox")

    def from_clause(self, table: CapturedTable) -> str:
        """Return the table for a FROM clause, with the alias for expressions over the columns."""
        qualified = self.qualified(table.shape.schema, table.shape.name)
        return qualified if table.table.schema else f"{qualified} AS {self.quote(table.shape.name)}"

    def values_of(self, alias: str) -> RowValues:
        """Return the values of the row with the alias, for example ``NEW`` or a transition table."""
        return lambda column: sa.literal_column(f"{alias}.{self.quote(str(column.name))}", column.type)

    def same_key(self, table: CapturedTable, alias: str) -> str:
        """Return the condition for a stored row to have the key of the row with the alias."""
        return " AND ".join(f"{self.compile(c)} = {alias}.{self.quote(str(c.name))}" for c in table.key_columns)


def trigger_name(table: str, event: str, longest: int) -> str:
    """Return the name of a trigger, for engines with trigger names unique in a schema rather than in a table."""
    name = f"rowcast_{event}_{table}"
    return name if len(name) <= longest else f"{name[: longest - 13]}_{digest(table)}"


def literal_dialect(dialect: Dialect) -> Dialect:
    """Return a copy of the dialect for text without driver parameters."""
    own = copy.copy(dialect)
    own.paramstyle = "named"
    own.positional = False
    # The preparer must not know the session's ANSI_QUOTES, because MariaDB's triggers are created without it.
    preparer: type[IdentifierPreparer] = type(dialect.identifier_preparer)
    own.identifier_preparer = preparer(own)
    return own
