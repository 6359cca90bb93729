"""Share what MariaDB and MySQL have in common: protocol, driver and URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import DatabaseServer

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor


class MySQLProtocolServer(DatabaseServer):
    user = "root"
    _kill = "KILL CONNECTION"

    def url(self, database: str) -> str:
        return f"mysql+pymysql://{self.user}:{self.password}@{self.host}:{self.port}/{database}?charset=utf8mb4"

    def create_database(self, name: str) -> str:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            # DROP waits until no connection holds a lock on one of the tables, by default for a day.
            cursor.execute("SET lock_wait_timeout = 20")
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [name])
            for (connection_id,) in cursor.fetchall():
                self._end_connection(cursor, connection_id)
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def _end_connection(self, cursor: Cursor, connection_id: int) -> None:
        from pymysql.constants import ER
        from pymysql.err import OperationalError

        try:
            cursor.execute(f"{self._kill} {connection_id}")
        except OperationalError as error:
            # A connection may end between its listing and this statement.
            if error.args[0] != ER.NO_SUCH_THREAD:
                raise

    def _probe(self) -> None:
        self._connect().close()

    def _connect(self) -> Connection[Cursor]:
        import pymysql

        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            autocommit=True,
            connect_timeout=5,
        )
