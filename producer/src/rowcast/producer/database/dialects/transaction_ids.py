"""Read and use the transaction ids of triggers on MariaDB and SQLite.

All outbox rows of a transaction share an id in ``tx``. PostgreSQL's triggers write ``txid_current()``. The triggers of
MariaDB and SQLite read the id from database objects, which the installation of triggers creates: see
``triggers.mariadb`` and ``triggers.sqlite``. Listeners read the id from these objects, too, because a transaction may
change tables of both capture modes.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT

TRANSACTION_TABLE = "rowcast_transaction"
"""On MariaDB, a table without rows. On SQLite, a table whose single row holds the token."""

DISPLACED_TABLE = "rowcast_displaced"
"""On SQLite, the rows to be deleted by REPLACE without firing a trigger. Empty between statements."""

TRANSACTION_FUNCTION = "rowcast_transaction_id"
"""On MariaDB, the function for InnoDB's number of the transaction."""

NEW_TOKEN = "lower(hex(randomblob(16)))"

USE_TOKEN = (
    f"UPDATE {TRANSACTION_TABLE} SET tx = CASE used WHEN 1 THEN {NEW_TOKEN} ELSE tx END, used = 1 "
    "WHERE used = 0 OR tx <> (SELECT tx FROM rowcast_outbox ORDER BY id DESC LIMIT 1)"
)
"""On SQLite, run this before a row is written under the token.

If the last outbox row has a different id, the token belongs to an earlier transaction, and the statement replaces the
token.
"""

_SEAL = f"UPDATE {TRANSACTION_TABLE} SET tx = {NEW_TOKEN}, used = 0 WHERE used = 1"

_row = sa.table(TRANSACTION_TABLE, sa.column("tx", sa.String), sa.column("used", sa.Integer))

TOKEN = sa.select(_row.c.tx).scalar_subquery()
"""On SQLite, the token under which rows may still be written."""


def innodb_id(connection: Connection) -> str:
    """Return the id of the current transaction on MariaDB, as triggers write it."""
    statement = sa.text(f"SELECT {TRANSACTION_FUNCTION}()")
    return str(connection.execute(statement, execution_options=INTERNAL_STATEMENT).scalar_one())


def use_token(connection: Connection) -> str:
    """Return the token under which an SQLite trigger would write now, and mark it as used."""
    connection.execute(sa.text(USE_TOKEN), execution_options=INTERNAL_STATEMENT)
    statement = sa.text(f"SELECT tx FROM {TRANSACTION_TABLE}")
    return str(connection.execute(statement, execution_options=INTERNAL_STATEMENT).scalar_one())


def seal_token(connection: Connection) -> None:
    """Replace the SQLite token if rows were written under it, because these rows now form a whole transaction."""
    connection.execute(sa.text(_SEAL), execution_options=INTERNAL_STATEMENT)


def has_token(connection: Connection) -> bool:
    """Return whether an SQLite database has a token, because triggers are or were installed."""
    found = sa.text(f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TRANSACTION_TABLE}'")
    return connection.execute(found).first() is not None


def token_is_used(connection: Connection) -> bool:
    """Return whether rows may have been written under the current SQLite token."""
    return bool(connection.execute(sa.select(_row.c.used)).scalar_one())
