"""Test keys that are equal in MariaDB's collation, for replicas that compare byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from rowcast.producer import Capture
from servers import DatabaseServer


@pytest.fixture
def engine(new_database: Any, mariadb: DatabaseServer) -> Iterator[sa.Engine]:
    engine = sa.create_engine(new_database("mariadb"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("type_", [sa.String(20), sa.CHAR(20)])
def test_a_key_by_another_name_is_the_rows_own(engine: sa.Engine, type_: Any) -> None:
    metadata = sa.MetaData()
    table = sa.Table("thing", metadata, sa.Column("k", type_, primary_key=True), sa.Column("v", sa.Integer))
    Capture(metadata, source="test").install(engine)
    metadata.create_all(engine)
    copy: dict[str, int] = {}

    def commit(statement: Any, *rows: dict[str, Any]) -> dict[str, int]:
        """Execute a statement, and play the captured changes into a copy that compares byte by byte."""
        with engine.begin() as connection:
            connection.execute(statement, rows or None)
        outbox = metadata.tables["rowcast_outbox"]
        with engine.begin() as connection:
            for text in connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all():
                for change in map(orjson.loads, text.splitlines()):
                    if change["op"] == "d":
                        copy.pop(change["k"]["k"], None)
                    else:
                        copy[change["k"]["k"]] = change["a"]["v"]
            connection.execute(outbox.delete())
            stored = {row.k: row.v for row in connection.execute(sa.select(table))}
        assert copy == stored
        return stored

    commit(sa.insert(table), {"k": "a", "v": 1}, {"k": "b", "v": 1}, {"k": "ends ", "v": 1})
    assert commit(sa.update(table).where(table.c.k == "B").values(v=2))["b"] == 2
    assert commit(sa.update(table).where(table.c.k == "a").values(k="A", v=3)).keys() >= {"A"}
    commit(sa.update(table).where(table.c.k == "ends").values(v=4))
    assert commit(sa.delete(table).where(table.c.k == "B")).keys().isdisjoint({"b", "B"})
    assert commit(sa.delete(table).where(table.c.k.in_(["á", "ends"]))) == {}
