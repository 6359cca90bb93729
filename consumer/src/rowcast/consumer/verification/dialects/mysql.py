"""Comparisons on MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, event
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect, Engine

from rowcast.consumer.verification.dialects.base import VerifyDialect

_MOST_BYTES = 16 * 1024 * 1024
"""The greatest length of a joined text. A packet may allow less."""

_ESTIMATE = sa.text(
    "SELECT table_rows FROM information_schema.tables "
    "WHERE table_schema = coalesce(:schema, database()) AND table_name = :name"
)


class MySQLVerify(VerifyDialect):
    """The SQL of MariaDB and MySQL."""

    def configure(self, engine: Engine) -> None:
        """Allow long joined texts."""

        @event.listens_for(engine, "connect")
        def allow_long_texts(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET SESSION group_concat_max_len = {_MOST_BYTES:d}")

    def are_alike(self, one: Dialect, other: Dialect) -> bool:
        """Return whether both are MariaDB or both are MySQL, because MySQL puts the members of an object in order."""
        return super().are_alike(one, other) and _is_mariadb(one) == _is_mariadb(other)

    def row_hash(self, text: ColumnElement[str]) -> ColumnElement[int]:
        """Return the first 64 bits of SHA-256. MySQL 9.6 has no MD5."""
        digits = sa.func.left(sa.func.sha2(text, sa.literal_column("256")), sa.literal_column("16"))
        number = sa.func.conv(digits, sa.literal_column("16"), sa.literal_column("10"))
        return sa.cast(number, mysql.INTEGER(unsigned=True))

    def key_hash(
        self, columns: Sequence[ColumnElement[Any]], integers: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[int]:
        """Return a checksum of 32 bits."""
        return sa.func.crc32(sa.func.concat_ws(sa.literal_column("'|'"), *columns))

    def divided(self, number: ColumnElement[Any], divisor: int) -> ColumnElement[int]:
        """Return the integer quotient."""
        return number.op("DIV")(sa.literal_column(str(divisor)))

    def joined(self, texts: ColumnElement[str]) -> ColumnElement[str]:
        """Return the texts. The server cuts a longer text, with a warning only."""
        return sa.func.group_concat(texts)

    def estimate_rows(self, connection: Connection, schema: str | None, name: str) -> int:
        """Return InnoDB's estimate."""
        return int(connection.scalar(_ESTIMATE, {"schema": schema, "name": name}) or 0)


def _is_mariadb(dialect: Dialect) -> bool:
    return bool(getattr(dialect, "is_mariadb", False))
