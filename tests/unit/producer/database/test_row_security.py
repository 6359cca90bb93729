"""The row that PostgreSQL does not find is read from the errors of all drivers."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import exc

from rowcast.producer.database.dialects.base import MissingRow
from rowcast.producer.database.dialects.row_security import missing_row

LINE = '{"t":"public.item","v":"a1","op":"d","k":{"id":1,"data":{"a":"x\\ny"}}}\n'
MESSAGE = f'invalid input syntax for type integer: "rowcast missing row {LINE}"'
RAISED: dict[str, Any] = {
    "psycopg": MESSAGE,
    "psycopg2": f"{MESSAGE}\nCONTEXT:  unnamed portal parameter $1 = '{{}}}}'\n",
    "asyncpg": f"<class 'asyncpg.exceptions.InvalidTextRepresentationError'>: {MESSAGE}",
    "pg8000": {"S": "ERROR", "C": "22P02", "M": MESSAGE, "F": "numutils.c"},
}


def error_of(argument: Any) -> exc.DBAPIError:
    return exc.DBAPIError("INSERT", {}, Exception(argument))


@pytest.mark.parametrize("driver", RAISED)
def test_the_missing_row_is_read_from_the_error_of_each_driver(driver: str) -> None:
    key = {"id": 1, "data": {"a": "x\ny"}}
    assert missing_row(error_of(RAISED[driver])) == MissingRow("public.item", key, hidden=False)


def test_a_hidden_row_is_distinguished_from_a_missing_row() -> None:
    found = missing_row(error_of(MESSAGE.replace("missing", "hidden")))
    assert found is not None
    assert found.hidden


@pytest.mark.parametrize("argument", ["deadlock detected", {"C": "40P01", "M": "deadlock detected"}, None])
def test_another_error_names_no_row(argument: Any) -> None:
    assert missing_row(error_of(argument)) is None
