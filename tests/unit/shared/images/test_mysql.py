"""Test the SQL text of row images on MariaDB and MySQL. tests/integration executes the SQL on servers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from rowcast.shared.images import Concatenation, RowImage
from rowcast.shared.tables.shape import PortableType

TEXT = "CAST(x AS CHAR CHARACTER SET utf8mb4)"


def image(*members: tuple[str, PortableType]) -> str:
    made = RowImage([(name, sa.literal_column("x"), type_) for name, type_ in members])
    return str(made.compile(dialect=mysql.dialect()))


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (PortableType("int32"), "x"),
        (PortableType("int32", native="INTEGER ZEROFILL"), "(x + 0)"),
        (PortableType("float32"), "CAST(x AS DOUBLE)"),
        (PortableType("float64"), "x"),
        (PortableType("float64", native="DOUBLE(12, 3)"), "CAST(x AS DOUBLE)"),
        (PortableType("decimal"), TEXT),
        (PortableType("decimal", native="DECIMAL(5) ZEROFILL"), TEXT.replace("x", "(x + 0)", 1)),
        (PortableType("timestamp"), "DATE_FORMAT(x, '%%Y-%%m-%%dT%%H:%%i:%%s.%%f')"),
        (PortableType("timestamptz", native="DATETIME"), "DATE_FORMAT(x, '%%Y-%%m-%%dT%%H:%%i:%%s.%%fZ')"),
        (PortableType("bytes"), "REPLACE(TO_BASE64(x), _utf8mb4 X'0A', _utf8mb4 X'')"),
        (PortableType("native", native="BIT(3)"), "CAST(CAST(x AS UNSIGNED) AS CHAR CHARACTER SET utf8mb4)"),
        (PortableType("json"), TEXT),
        (PortableType("string"), TEXT),
    ],
)
def test_each_type_has_its_expression(type_: PortableType, value: str) -> None:
    assert image(("a", type_)) == f"JSON_OBJECT('a', {value})"


def test_a_boolean_is_true_or_false_only_for_1_and_0() -> None:
    assert "WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE" in image(("a", PortableType("boolean")))


def test_a_timestamp_is_read_without_the_sessions_time_zone() -> None:
    text = image(("a", PortableType("timestamptz", native="TIMESTAMP")))
    assert "UNIX_TIMESTAMP(x)" in text
    assert "'0000-00-00T00:00:00.000000Z'" in text


def test_quotes_and_percent_signs_are_escaped() -> None:
    assert image(("b'c%", PortableType("int32"))) == "JSON_OBJECT('b''c%%', x)"


def test_no_literal_depends_on_the_sql_mode() -> None:
    """NO_BACKSLASH_ESCAPES changes what a backslash is, and EMPTY_STRING_IS_NULL what '' is."""
    assert image(("a\\b", PortableType("int32"))) == "JSON_OBJECT(_utf8mb4 X'615c62', x)"
    assert str(Concatenation("").compile(dialect=mysql.dialect())) == "CONCAT(_utf8mb4 X'')"


def test_a_concatenation_joins_literals_and_columns() -> None:
    text = str(Concatenation("a", sa.literal_column("x")).compile(dialect=mysql.dialect()))
    assert text == "CONCAT('a', x)"
