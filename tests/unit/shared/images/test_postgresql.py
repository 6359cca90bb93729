"""Test the SQL text of row images on PostgreSQL. tests/integration/fidelity executes the SQL on servers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.shared.images import Concatenation, RowImage
from rowcast.shared.tables.shape import PortableType


def image(*members: tuple[str, PortableType]) -> str:
    made = RowImage([(name, sa.literal_column("x"), type_) for name, type_ in members])
    return str(made.compile(dialect=postgresql.dialect()))


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (PortableType("int32"), "x::pg_catalog.text"),
        (PortableType("char"), "to_json(x)::pg_catalog.text"),
        (PortableType("text"), "to_json(x::pg_catalog.text)::pg_catalog.text"),
        (PortableType("float64"), "to_json(x)::pg_catalog.text"),
        (PortableType("decimal"), "'\"' || x::pg_catalog.text || '\"'"),
        (PortableType("decimal", native="MONEY"), "'\"' || x::numeric::pg_catalog.text || '\"'"),
        (PortableType("bytes"), "'\"' || replace(encode(x, 'base64'), E'\\n', '') || '\"'"),
        (PortableType("json"), "to_json(x::pg_catalog.text)::pg_catalog.text"),
        (PortableType("uuid", native="UUID"), "'\"' || x::pg_catalog.text || '\"'"),
        (PortableType("native", native="INET"), "to_json(x::pg_catalog.text)::pg_catalog.text"),
    ],
)
def test_each_type_has_its_expression(type_: PortableType, value: str) -> None:
    assert image(("a", type_)) == f"('{{\"a\":' || coalesce({value}, 'null') || '}}')"


def test_a_uuid_of_32_digits_gets_hyphens() -> None:
    assert "length(x) = 32" in image(("a", PortableType("uuid", native="CHAR(32)")))


@pytest.mark.parametrize(
    "type_",
    [
        PortableType("timestamptz"),
        PortableType("interval"),
        PortableType("native", native="TSTZRANGE"),
        PortableType("native", native="DATEMULTIRANGE"),
        PortableType("array", items=PortableType("timestamptz")),
        PortableType("array", items=PortableType("bytes")),
    ],
)
def test_values_that_follow_the_sessions_settings_are_not_cast_alone(type_: PortableType) -> None:
    text = image(("a", type_))
    assert "coalesce(to_json(x::pg_catalog.text)::pg_catalog.text, 'null')" not in text
    assert text.count("(") == text.count(")")


def test_the_names_are_escaped_for_json_sql_and_the_driver() -> None:
    """E makes the text independent of standard_conforming_strings."""
    assert image(('it\'s "50 %"', PortableType("int32"))).startswith("(E'{\"it''s \\\\\"50 %%\\\\\"\":' || ")


def test_a_wide_row_is_nested_in_halves() -> None:
    """A thousand nested calls are too deep for the server."""
    text = image(*((f"c{n}", PortableType("int32")) for n in range(1_000)))
    depth = deepest = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    assert depth == 0
    assert deepest < 20


def test_a_concatenation_joins_literals_and_columns() -> None:
    text = str(Concatenation("a'b", sa.literal_column("x")).compile(dialect=postgresql.dialect()))
    assert text == "('a''b' || x)"


def test_a_parameter_stands_in_parentheses() -> None:
    """psycopg2 writes the value into the text, and PostgreSQL reads -1::text as a negative text."""
    dialect = postgresql.psycopg2.dialect()
    made = RowImage([("id", sa.bindparam("id", -1, sa.Integer), PortableType("int32"))])
    sql = str(made.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    assert "(-1)::pg_catalog.text" in sql
