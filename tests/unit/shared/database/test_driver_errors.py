"""Driver errors are classified by the server's error codes, in the same way for every engine."""

from __future__ import annotations

import sqlite3

import psycopg
import pymysql
import pytest
from sqlalchemy import exc

from rowcast.shared.database.driver_errors import (
    ServerFault,
    is_transient,
    server_fault,
    sqlstate,
)


def database_error(
    cause: BaseException, kind: type[exc.DBAPIError] = exc.OperationalError, *, invalidated: bool = False
) -> exc.DBAPIError:
    return kind("SELECT 1", {}, cause, connection_invalidated=invalidated)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("a message")
    error.sqlite_errorcode = code
    return error


def postgresql_error(state: str) -> BaseException:
    return psycopg.errors.lookup(state)("a message")


def mysql_error(number: int) -> BaseException:
    return pymysql.err.OperationalError(number, "a message")


@pytest.mark.parametrize(
    ("cause", "fault", "transient"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY), ServerFault.CONTENDED, True),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), ServerFault.CONTENDED, True),
        (sqlite_error(sqlite3.SQLITE_NOMEM), ServerFault.UNAVAILABLE, True),
        (sqlite_error(sqlite3.SQLITE_FULL), ServerFault.LOST, True),
        (sqlite_error(sqlite3.SQLITE_READONLY), ServerFault.READ_ONLY, True),
        (sqlite_error(sqlite3.SQLITE_ERROR), ServerFault.LASTING, False),
        (sqlite3.OperationalError("Could not decode to UTF-8"), ServerFault.LASTING, False),
        (mysql_error(1213), ServerFault.CONTENDED, True),
        (mysql_error(1205), ServerFault.CONTENDED, True),
        (mysql_error(1317), ServerFault.UNAVAILABLE, True),
        (mysql_error(1053), ServerFault.LOST, True),
        (mysql_error(2013), ServerFault.LOST, True),
        (mysql_error(1366), ServerFault.LASTING, False),
        *((mysql_error(number), ServerFault.READ_ONLY, True) for number in (1290, 1836, 1792, 1223)),
        *((mysql_error(number), ServerFault.UNAVAILABLE, True) for number in (1021, 1114, 1030, 1040, 1203, 1226)),
        *((mysql_error(number), ServerFault.TIMED_OUT, False) for number in (1969, 3024)),
        *((mysql_error(number), ServerFault.LOGIN, False) for number in (1044, 1045, 1049, 1698, 4151)),
        (postgresql_error("40P01"), ServerFault.CONTENDED, True),
        (postgresql_error("55P03"), ServerFault.CONTENDED, True),
        (postgresql_error("53200"), ServerFault.UNAVAILABLE, True),
        (postgresql_error("57P01"), ServerFault.LOST, True),
        (postgresql_error("57014"), ServerFault.TIMED_OUT, False),
        (postgresql_error("58030"), ServerFault.UNAVAILABLE, True),
        *((postgresql_error(code), ServerFault.UNAVAILABLE, True) for code in ("53100", "53300")),
        (postgresql_error("25006"), ServerFault.READ_ONLY, True),
        (postgresql_error("54000"), ServerFault.LASTING, False),
        *((postgresql_error(code), ServerFault.LOGIN, False) for code in ("28P01", "28000", "3D000")),
        (psycopg.OperationalError("connection refused"), ServerFault.LOST, True),
    ],
)
def test_each_engines_codes_have_a_fault(cause: BaseException, fault: ServerFault, transient: bool) -> None:
    error = database_error(cause)
    assert (server_fault(error), is_transient(error)) == (fault, transient)


def test_an_error_of_the_statement_is_never_transient() -> None:
    refused = database_error(postgresql_error("22001"), exc.DataError)
    assert server_fault(refused) is ServerFault.LASTING
    assert not is_transient(refused)


def test_a_lost_connection_is_transient_whatever_its_code() -> None:
    assert is_transient(database_error(sqlite_error(sqlite3.SQLITE_ERROR), invalidated=True))


def test_the_sqlstate_is_empty_where_the_server_sent_none() -> None:
    assert sqlstate(database_error(postgresql_error("40P01"))) == "40P01"
    assert sqlstate(database_error(mysql_error(1213))) == ""
