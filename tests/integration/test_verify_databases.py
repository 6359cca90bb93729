"""Rows of every type arrive on every engine, and verify tells equal rows from different ones across engines."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from replicas import NAME, Database, Primary, settings_for, work_once
from rowcast.consumer.verify import Difference, VerifyResult, verify
from rowcast.shared.config import Settings
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from topics import Source

TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
ZONED = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def every_type(engine: str) -> tuple[sa.Table, list[dict[str, Any]]]:
    """A table of the generic types, and of the engine's own, with rows at their edges."""
    columns: dict[str, tuple[Any, list[Any]]] = {
        "flag": (sa.Boolean, [True, False]),
        "small": (sa.SmallInteger, [-32768, 32767]),
        "whole": (sa.Integer, [-(2**31), 2**31 - 1]),
        "big": (sa.BigInteger, [-(2**63), 2**63 - 1]),
        "real": (sa.Double, [0.1, -1.5e150]),
        "tiny": (sa.Double, [5e-324 if engine != "mariadb" else 2.2250738585072014e-308, -0.5]),
        "money": (sa.Numeric(12, 2), [Decimal("12.50"), Decimal("-9999999999.99")]),
        "name": (sa.String(40), ["", "Käthe 'O\"Neil' \\ % :x %s \t\n"]),
        "code": (sa.CHAR(4), ["ab", "abcd"]),
        "body": (sa.Text, ["x" * 5000, '🐘 ,"source":{ {"before":null,"after":{']),
        "data": (sa.LargeBinary, [b"", bytes(range(256))]),
        "day": (sa.Date, [date(1, 1, 1) if engine != "mariadb" else date(1000, 1, 1), date(9999, 12, 31)]),
        "clock": (sa.Time, [time(0), time(23, 59, 59)]),
        "at": (TIMESTAMP, [datetime(2026, 1, 1), datetime(1999, 12, 31, 23, 59, 59, 999999)]),
        "zoned": (ZONED, [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(1969, 7, 20, 1, 2, 3, 4000, tzinfo=UTC)]),
        "id_": (sa.Uuid, [uuid.UUID(int=0), uuid.UUID("123e4567-e89b-12d3-a456-426614174000")]),
        "doc": (sa.JSON, [{"b": [1, None, "ü"], "a": 1.5}, []]),
        "kind": (sa.Enum("red", "green", name="kind"), ["red", "green"]),
    }
    if engine == "postgresql":
        columns |= {
            "jb": (postgresql.JSONB, [{"z": 1, "a": {"n": 2}}, "text"]),
            "nums": (postgresql.ARRAY(sa.Integer), [[1, None, 3], []]),
            "words": (postgresql.ARRAY(sa.Text), [["a,b", '"', None], ["{}"]]),
            "span": (sa.Interval, [timedelta(days=3, hours=2, microseconds=1), timedelta(0)]),
            "anyn": (sa.Numeric, [Decimal("0.000000000000001"), Decimal("123456.5")]),
            "net": (postgresql.INET, ["10.0.0.1", "::1"]),
        }
    names = list(columns)
    table = sa.Table(
        "thing", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, type_) for name, (type_, _) in columns.items()),
    )  # fmt: skip
    edges = [{"id": i, **{name: columns[name][1][i] for name in names}} for i in (0, 1)]
    return table, [*edges, {"id": 2, **dict.fromkeys(names)}]


Replicate = Callable[[sa.MetaData, list[dict[str, Any]], sa.Table], Settings]


@pytest.fixture
def replicate(kafka: Broker, source_name: str, primary_url: str, replica_url: str) -> Replicate:
    """Makes the table on the primary, with rows, and a replica of it."""

    def make(metadata: sa.MetaData, rows: list[dict[str, Any]], table: sa.Table) -> Settings:
        primary = Primary(primary_url, metadata)
        with primary.engine.begin() as connection:
            connection.execute(sa.insert(table), rows)
        primary.publish(Source(kafka.bootstrap_servers, source_name))
        settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, primary_url)
        work_once(settings)
        return settings

    return make


def found(result: VerifyResult) -> list[Difference]:
    return [d for table in result.tables for d in table.differences]


def test_every_type_arrives_on_every_engine(replicate: Replicate, primary_url: str, replica_url: str) -> None:
    table, rows = every_type(sa.make_url(primary_url).get_backend_name())
    settings = replicate(table.metadata, rows, table)
    result = verify(settings, NAME)
    assert found(result) == []
    assert result.equal
    assert result.rows == 3


GENERIC = ("flag", "small", "whole", "big", "real", "money", "name", "code", "body", "data", "day", "at", "id_", "doc")


def test_the_applications_own_models_read_the_replica(replicate: Replicate, primary_url: str, replica_url: str) -> None:
    table, rows = every_type(sa.make_url(primary_url).get_backend_name())
    replicate(table.metadata, rows, table)
    wanted = sa.select(*(table.c[name] for name in GENERIC)).order_by(table.c.id)
    with Database(primary_url).engine.connect() as primary, Database(replica_url).engine.connect() as replica:
        ours, theirs = primary.execute(wanted).all(), replica.execute(wanted).all()
    assert [_unpadded(row) for row in theirs] == [_unpadded(row) for row in ours]


def _unpadded(row: Any) -> list[Any]:
    return [value.rstrip(" ") if isinstance(value, str) else value for value in row]


def plain() -> tuple[sa.Table, list[dict[str, Any]]]:
    table = sa.Table(
        "city",
        sa.MetaData(),
        sa.Column("country", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("people", sa.BigInteger),
    )
    names = ["Aachen", "Ä", "zürich", "Zürich", "a b", "Ab", "é"]
    return table, [{"country": c, "name": n, "people": i} for i, n in enumerate(names) for c in ("de", "ch")]


def test_verify_names_what_is_missing_extra_and_different(
    replicate: Replicate, replica_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.consumer.verify._LOOK_AGAIN_S", (0.01,))
    table, rows = plain()
    settings = replicate(table.metadata, [r for r in rows if r["name"] not in ("Zürich",)], table)
    assert verify(settings, NAME).equal
    Database(replica_url).execute(
        "DELETE FROM city WHERE country = 'de' AND name = 'Aachen'",
        "UPDATE city SET people = 99 WHERE country = 'ch' AND name = 'Aachen'",
        "INSERT INTO city (country, name, people) VALUES ('de', 'Extra', NULL)",
    )
    result = verify(settings, NAME)
    assert not result.equal
    [city] = result.tables
    assert (city.rows, city.missing, city.extra, city.different) == (12, 1, 1, 1)
    assert sorted(found(result), key=lambda d: d.kind) == [
        Difference("different", {"country": "ch", "name": "Aachen"}, ("people",)),
        Difference("extra", {"country": "de", "name": "Extra"}),
        Difference("missing", {"country": "de", "name": "Aachen"}),
    ]


def test_a_row_that_arrives_while_verify_looks_does_not_count(
    replicate: Replicate, replica_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, rows = plain()
    settings = replicate(table.metadata, rows[:4], table)
    database = Database(replica_url)
    database.execute("UPDATE city SET people = people + 100")
    looks: list[float] = []

    def arrive(seconds: float) -> None:
        looks.append(seconds)
        database.execute("UPDATE city SET people = people - 100")

    monkeypatch.setattr("rowcast.consumer.verify.time.sleep", arrive)
    assert verify(settings, NAME).equal
    assert len(looks) == 1


def test_only_the_tables_asked_for_are_compared(replicate: Replicate) -> None:
    table, rows = plain()
    other = sa.Table("other", table.metadata, sa.Column("id", sa.BigInteger, primary_key=True))
    settings = replicate(table.metadata, rows[:1], table)
    assert other.name == "other"
    assert [t.table.rpartition(".")[2] for t in verify(settings, NAME, tables=["*.ci*"]).tables] == ["city"]
    with pytest.raises(ConfigurationError, match=r"no table matches .*there are: .*city.*other"):
        verify(settings, NAME, tables=["nowhere.*"])


def test_a_primary_without_a_capture_is_told(new_database: Callable[[str], str]) -> None:
    settings = settings_for("x", "127.0.0.1:9", new_database("sqlite"), new_database("sqlite"))
    with pytest.raises(ConfigurationError, match="rowcast_shape"):
        verify(settings, NAME)
    assert threading.active_count() < 100
