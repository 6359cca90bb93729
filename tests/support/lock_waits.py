"""Wait until work waits for a lock of another transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

_LOOK_S = 0.12
"""InnoDB renews its table of transactions only for sessions that have not read the table for a tenth of a second."""
_GIVE_UP_S = 30

_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
_IN_SESSION = {"postgresql": " AND pid = %s", "mysql": " AND trx_mysql_thread_id = %s"}


def wait_until_something_waits(engine: sa.Engine) -> None:
    """Wait until any transaction on the server waits for a lock."""
    looks = sa.create_engine(engine.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    deadline = time.monotonic() + _GIVE_UP_S
    with looks.connect() as look:
        while not look.exec_driver_sql(_WAITING[look.dialect.name]).scalar_one():
            assert time.monotonic() < deadline, "no transaction waits for a lock"
            time.sleep(_LOOK_S)


class InBackground:
    """Run work in a background thread. Return when the work is done or waits for a lock."""

    def __init__(self, connection: Connection, work: Callable[[], Any]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        looks = sa.create_engine(connection.engine.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with looks.connect() as look:
            number = _number_in_the_database(connection)
            self._thread.start()
            self.waits = self._comes_to_wait(look, number)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # ``join`` raises it
            self._error = error

    def _comes_to_wait(self, look: Connection, number: int) -> bool:
        """Return True when the database reports that the work waits for a lock, False when the work is done."""
        deadline = time.monotonic() + _GIVE_UP_S
        while True:
            self._thread.join(_LOOK_S)
            if not self._thread.is_alive():
                return False
            name = look.dialect.name
            if look.exec_driver_sql(_WAITING[name] + _IN_SESSION[name], (number,)).scalar_one():
                return True
            assert time.monotonic() < deadline, "it is not done, and waits for no lock"

    def join(self) -> None:
        self._thread.join(_GIVE_UP_S)
        assert not self._thread.is_alive(), "it still waits for a lock"
        if self._error is not None:
            raise self._error


def _number_in_the_database(connection: Connection) -> int:
    driver: Any = connection.connection.dbapi_connection
    return int(driver.info.backend_pid if connection.dialect.name == "postgresql" else driver.thread_id())
