"""Captured tables beside what the application's models say of them, on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from rowcast.producer import Capture
from rowcast.producer.checks.mismatch import mismatch
from shop import Shop


@pytest.fixture
def engine(primary_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(primary_url)
    yield engine
    engine.dispose()


def messages(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return [finding.message for finding in mismatch(connection, sa.inspect(connection))]


def captured_then_made_anew(engine: sa.Engine, *columns: sa.Column[int] | sa.Column[str] | sa.Column[bytes]) -> None:
    """The table ``things`` with these columns, as a migration would leave it."""
    metadata = sa.MetaData()
    things = sa.Table(
        "things", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9))
    )
    Capture(metadata, source="shop").install(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(things.insert().values(id=1))
    with engine.begin() as connection:
        things.drop(connection)
        sa.Table("things", sa.MetaData(), *columns).create(connection)


def test_tables_that_were_made_from_the_models_agree_with_them(engine: sa.Engine) -> None:
    shop = Shop(engine)
    with shop.sessions() as session:
        session.add(shop.models.Tag(name="x"))
        session.commit()
    assert messages(engine) == []


def test_a_column_of_another_kind_is_told(engine: sa.Engine) -> None:
    columns = sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.LargeBinary)
    captured_then_made_anew(engine, *columns)
    told = messages(engine)
    if engine.dialect.name == "sqlite":
        # Its columns hold values of any type.
        assert told == []
    else:
        (message,) = told
        assert message.endswith("things has a column name of bytes, which in the application's models is text")


def test_a_column_that_the_models_have_and_the_table_has_not_is_told(engine: sa.Engine) -> None:
    captured_then_made_anew(engine, sa.Column("id", sa.Integer, primary_key=True))
    (message,) = messages(engine)
    assert message.endswith("things has no column name, which the application's models have")


def test_a_column_that_the_table_has_and_the_models_have_not_is_told(engine: sa.Engine) -> None:
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9)), sa.Column("n", sa.Integer)
    captured_then_made_anew(engine, *columns)
    (message,) = messages(engine)
    assert message.endswith("things has a column that is not captured: n")


def test_a_renamed_column_is_told_as_one_that_is_missing_and_one_that_is_not_captured(engine: sa.Engine) -> None:
    captured_then_made_anew(engine, sa.Column("id", sa.Integer, primary_key=True), sa.Column("title", sa.String(9)))
    missing, unknown = messages(engine)
    assert missing.endswith("things has no column name, which the application's models have")
    assert unknown.endswith("things has a column that is not captured: title")


def test_a_table_that_was_dropped_is_told(engine: sa.Engine) -> None:
    captured_then_made_anew(engine, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9)))
    assert messages(engine) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE things")
    (message,) = messages(engine)
    assert message.endswith("things was captured, and is not there")


def test_another_primary_key_is_told(engine: sa.Engine) -> None:
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9), primary_key=True)
    captured_then_made_anew(engine, *columns)
    (message,) = messages(engine)
    assert message.endswith("things has the primary key (id, name), and in the application's models (id)")
