"""The texts of few types follow settings of a PostgreSQL session."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.producer.database.dialects.image_settings import UnderSettings, condition_that_hold, settings_of
from rowcast.shared.tables.shape import PortableType


@pytest.mark.parametrize(
    ("type_", "settings"),
    [
        (PortableType("int32"), set()),
        (PortableType("timestamptz"), set()),
        (PortableType("float64"), {"extra_float_digits"}),
        (PortableType("array", items=PortableType("float32")), {"extra_float_digits"}),
        (PortableType("native", native="POINT"), {"extra_float_digits"}),
        (PortableType("native", native="BIT(3)"), set()),
        (PortableType("native", native="TSTZRANGE"), set()),
        (PortableType("decimal", native="MONEY"), {"lc_monetary"}),
        (
            PortableType("native", native="READING"),
            {"extra_float_digits", "datestyle", "intervalstyle", "timezone", "bytea_output"},
        ),
    ],
)
def test_a_type_follows_the_settings_of_its_output_function(type_: PortableType, settings: set[str]) -> None:
    assert set(settings_of([PortableType("text"), type_])) == settings


def test_the_settings_are_restored_in_the_same_statement() -> None:
    text = UnderSettings(sa.literal_column("x"), settings_of([PortableType("float64")]))
    sql = str(text.compile(dialect=postgresql.dialect()))
    assert sql.index("current_setting(") < sql.index("set_config('extra_float_digits', '1', true)")
    assert "set_config('extra_float_digits', rowcast_before.s0, true)" in sql


def test_the_condition_of_no_settings_is_true() -> None:
    assert condition_that_hold({}) == "true"
    assert condition_that_hold(settings_of([PortableType("float64")])) == (
        "current_setting('extra_float_digits') ~ '^[123]$'"
    )
