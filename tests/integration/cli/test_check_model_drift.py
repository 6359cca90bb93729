"""Compare captured tables with the application's models, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.producer import Capture
from rowcast.producer.checks.model_drift import model_drift
from support.shop import Shop


@pytest.fixture
def engine(primary_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(primary_url)
    yield engine
    engine.dispose()


def messages(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return [finding.message for finding in model_drift(connection, sa.inspect(connection))]


def test_tables_that_were_made_from_the_models_agree_with_them(engine: sa.Engine) -> None:
    shop = Shop(engine)
    with shop.sessions() as session:
        session.add(shop.models.Tag(name="x"))
        session.commit()
    assert messages(engine) == []


def id_() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True)


def name() -> sa.Column[str]:
    return sa.Column("name", sa.String(9))


def migrated() -> dict[str, tuple[list[sa.Column[Any]], list[str]]]:
    """Return tables by name: the columns after a migration, and the findings.

    Before the migration, each table has the columns `id` and `name`.
    """
    return {
        "retyped": (
            [sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.LargeBinary)],
            ["has a column name of bytes, but the application's models have text"],
        ),
        "narrowed": ([id_()], ["has no column name, which the application's models have"]),
        "widened": ([id_(), name(), sa.Column("n", sa.Integer)], ["has a column that is not captured: n"]),
        "renamed": (
            [id_(), sa.Column("title", sa.String(9))],
            ["has no column name, which the application's models have", "has a column that is not captured: title"],
        ),
        "dropped": ([], ["was captured, but does not exist any more"]),
        "rekeyed": (
            [id_(), sa.Column("name", sa.String(9), primary_key=True)],
            ["has the primary key (id, name), but (id) in the application's models"],
        ),
        "as_before": ([id_(), name()], []),
    }


def test_every_difference_is_reported(engine: sa.Engine) -> None:
    """Capture the tables, and create each again with other columns, as a migration would."""
    metadata = sa.MetaData()
    migrations = migrated()
    tables = [sa.Table(table, metadata, id_(), name()) for table in migrations]
    Capture(metadata, source="shop").install(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        for table in tables:
            connection.execute(table.insert().values(id=1))
    assert messages(engine) == []
    with engine.begin() as connection:
        for table in tables:
            table.drop(connection)
            columns, _ = migrations[table.name]
            if columns:
                sa.Table(table.name, sa.MetaData(), *columns).create(connection)
    expected = {table: found for table, (_, found) in migrations.items()}
    if engine.dialect.name == "sqlite":
        # A SQLite column holds values of any type.
        expected["retyped"] = []
    found_messages = messages(engine)
    for table_name, findings in expected.items():
        about = [message.partition(f"{table_name} ")[2] for message in found_messages if f"{table_name} " in message]
        assert about == findings
    assert len(found_messages) == sum(map(len, expected.values()))
