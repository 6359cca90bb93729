"""The DDL of a type is recognized, and DDL that says more than a type is not."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import mysql, postgresql

from rowcast.shared.tables.native_types import is_type
from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tables.type_mapping import replica_type

TYPES = [
    "INTEGER", "NUMERIC(10, 2)", "NUMERIC(5,-2)", "TIMESTAMP(6) WITH TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE[]",
    "ENUM('a','b''c')", "SET('x, y','z)')", r"ENUM('a\b')", "BIGINT(20) UNSIGNED ZEROFILL", "CHAR(3) BINARY",
    "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", 'VARCHAR(5) COLLATE "de-x-icu"', "mood", "app.mood",
    '"My Type"[]', '"a""b"."c"', "INTEGER[3][]", "DOUBLE PRECISION", "BIT VARYING(5)", "INTERVAL DAY TO SECOND(3)",
    "geometry(POINT,4326)", "vector(3)", "CHARACTER VARYING(3)", "NATIONAL VARCHAR(3)", "POINT SRID 4326", "INET6",
    "UNSIGNED BIG INT",
]  # fmt: skip

OTHER_DDL = [
    "", ";", "INT;", "INT)", "INT, x INT", "INT -- x", "INT /* x */", "INT # x", "INT\0", "1", "'x'", "a.b.c",
    "TEXT, PRIMARY KEY (id)); DROP TABLE victim; CREATE TABLE evil (id INT", "TEXT DEFAULT (1)", "INT CHECK (id > 1)",
    "INT PRIMARY KEY", "INT NOT NULL", "INT GENERATED ALWAYS AS (1)", "INT REFERENCES x", "INT UNIQUE", "INT AS",
    "INT) AS SELECT 1", "VARCHAR((SELECT 1))", "VARCHAR(1 + 1)", "VARCHAR(10), x INT",
    r"ENUM('a\'), x INT, y ENUM('b')",
    '"a""; DROP TABLE x', "TEXT COLLATE x DEFAULT 1", "INT COMMENT 'x'", "INT AUTO_INCREMENT",
]  # fmt: skip


@pytest.mark.parametrize("ddl", TYPES)
def test_a_type_is_recognized(ddl: str) -> None:
    assert is_type(ddl)
    assert is_type(ddl.lower())


@pytest.mark.parametrize("ddl", OTHER_DDL)
def test_other_ddl_is_no_type_and_becomes_a_text_column(ddl: str) -> None:
    assert not is_type(ddl)
    type_ = PortableType("native", native=ddl)
    assert replica_type(type_, "postgresql", postgresql.dialect()).compile(postgresql.dialect()) == "TEXT"
    assert replica_type(type_, "mysql", mysql.dialect()).compile(mysql.dialect()) == "LONGTEXT"


@pytest.mark.parametrize("text", ["INT " + "WITH " * 9_999 + "!", "ENUM(" + "'a'," * 9_999, "INT" + " " * 9_999 + "!"])
def test_long_ddl_is_refused_without_a_search_through_all_ways(text: str) -> None:
    assert not is_type(text)
