"""The limits of each engine are predicted from the shapes of a source on another engine."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from rowcast.consumer.replica.type_limits import type_limits
from rowcast.shared.tables.shape import ColumnShape, PortableType
from support.kafka_source import column, shape

DIALECTS: dict[str, sa.Dialect] = {
    "postgresql": postgresql.dialect(),
    "mysql": mysql.dialect(),
    "sqlite": sqlite.dialect(),
}
COLUMNS = (
    column("real", "float64"),
    column("price", PortableType("decimal", precision=12, scale=2)),
    column("at", "timestamptz"),
    column("clock", "time"),
    column("flag", "boolean"),
    column("name", "text"),
)


@pytest.mark.parametrize(
    ("source", "replica", "expected"),
    [
        ("postgresql", "sqlite", {
            "NaN": ["real", "price"],
            "infinity, and years before 1 or after 9999": ["at"],
            "24:00:00": ["clock"],
        }),
        ("postgresql", "mysql", {
            "NaN": ["real", "price"],
            "infinite numbers": ["real"],
            "infinity, and years before 1 or after 9999": ["at"],
        }),
        ("mariadb", "postgresql", {
            "dates whose month or day is 0": ["at"],
            "times below 0, or of 24 hours and more": ["clock"],
            "numbers other than 0 and 1": ["flag"],
            "texts with a NUL character": ["name"],
        }),
        ("mysql", "sqlite", {"times below 0, or of 24 hours and more": ["clock"]}),
        ("sqlite", "mysql", {
            "infinite numbers": ["real"],
            "more digits after the point than the column says": ["price"],
        }),
        ("sqlite", "postgresql", {"numbers other than 0 and 1": ["flag"], "texts with a NUL character": ["name"]}),
        ("mariadb", "mysql", {}),
        ("sqlite", "sqlite", {}),
        ("postgresql", "postgresql", {}),
    ],
)  # fmt: skip
def test_the_limits_of_each_pair_of_engines(source: str, replica: str, expected: dict[str, list[str]]) -> None:
    found = type_limits([shape("thing", *COLUMNS, engine=source)], DIALECTS[replica])
    assert found == {values: [f"public.thing.{name}" for name in names] for values, names in expected.items()}


def test_texts_of_a_key_are_limited_on_mysql_where_they_do_not_fit() -> None:
    columns = [ColumnShape(name, PortableType("string", length=n)) for name, n in (("short", 255), ("long", 500))]
    fits = shape("fits", *columns, key=("short", "long"), engine="postgresql")
    cut = shape("cut", *columns, column("any", "text"), key=("short", "long", "any"), engine="postgresql")
    assert type_limits([fits, cut], DIALECTS["mysql"]) == {
        "texts longer than the column of the key": ["public.cut.long", "public.cut.any"]
    }
