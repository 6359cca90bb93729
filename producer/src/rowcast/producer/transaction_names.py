"""By which name the outbox rows of one transaction know each other, where triggers write some of them.

PostgreSQL has one, ``txid_current()``. MariaDB's and SQLite's triggers make one with what their installation leaves in
the database, and the capture's listeners use the same: one transaction may write both ways. See ``triggers.mysql`` and
``triggers.sqlite``.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.locked_reads import OWN

TABLE = "rowcast_transaction"
"""MariaDB: empty, and never otherwise. SQLite: one row with the token."""

DISPLACED = "rowcast_displaced"
"""SQLite: rows that the statement at work may delete unseen; empty otherwise."""

FUNCTION = "rowcast_transaction_id"
"""MariaDB: InnoDB's number of the transaction."""

NEW_TOKEN = "lower(hex(randomblob(16)))"

USE_TOKEN = (
    f"UPDATE {TABLE} SET tx = CASE used WHEN 1 THEN {NEW_TOKEN} ELSE tx END, used = 1 "
    "WHERE used = 0 OR tx <> (SELECT tx FROM rowcast_outbox ORDER BY id DESC LIMIT 1)"
)
"""SQLite: before a row is written under the token. Where others have written since, their transaction lies between."""

_SEAL = f"UPDATE {TABLE} SET tx = {NEW_TOKEN}, used = 0 WHERE used = 1"

_row = sa.table(TABLE, sa.column("tx", sa.String), sa.column("used", sa.Integer))

token = sa.select(_row.c.tx).scalar_subquery()
"""SQLite: the token under which somebody may still write."""


def name(connection: Connection) -> str | None:
    """The transaction's name, as triggers would write it now; None where the outbox's writers need none."""
    match connection.dialect.name:
        case "mariadb" | "mysql":
            statement = sa.text(f"SELECT {FUNCTION}()")
        case "sqlite":
            connection.execute(sa.text(USE_TOKEN), execution_options=OWN)
            statement = sa.text(f"SELECT tx FROM {TABLE}")
        case _:
            return None
    return str(connection.execute(statement, execution_options=OWN).scalar_one())


def seal(connection: Connection) -> None:
    """SQLite: nothing more is written under the token that has been used."""
    connection.execute(sa.text(_SEAL), execution_options=OWN)


def has_token(connection: Connection) -> bool:
    """Whether an SQLite database has, or had, triggers."""
    found = sa.text(f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'")
    return connection.execute(found).first() is not None


def token_is_used(connection: Connection) -> bool:
    """Whether rows may have been written under the token."""
    return bool(connection.execute(sa.select(_row.c.used)).scalar_one())
