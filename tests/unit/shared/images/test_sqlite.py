"""Row images on SQLite have exactly the stored numbers."""

from __future__ import annotations

import orjson
import pytest
import sqlalchemy as sa

from rowcast.shared.images import RowImage, register_functions
from rowcast.shared.tables.shape import PortableType


@pytest.mark.parametrize(
    "value",
    # For numbers far from 1, SQLite's own text has only 15 digits.
    [9.592517905036811e-296, -4.4466690752718696e-305, 5e-324, 1.7976931348623157e308, 0.1, -12.5, 1e22, 0.0],
)
def test_a_real_in_a_decimal_column_is_the_same_real_afterwards(value: float) -> None:
    table = sa.table("t", sa.column("a"))
    image = RowImage([("a", table.c.a, PortableType("decimal"))])
    with sa.create_engine("sqlite://").connect() as connection:
        register_functions(connection.connection.dbapi_connection)
        connection.exec_driver_sql("CREATE TABLE t (a NUMERIC)")
        connection.exec_driver_sql("INSERT INTO t VALUES (?)", (value,))
        text = connection.execute(sa.select(image).select_from(table)).scalar_one()
    assert float(orjson.loads(text)["a"]) == value
