"""Rows of every type arrive on every engine, and verify compares rows across engines."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.results import Difference, VerifyResult
from rowcast.consumer.verification.settlement import Settled, Settlement
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.kafka_source import Source
from support.worker_runs import NAME, Database, Primary, settings_for, work_once

TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
ZONED = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def every_type(engine: str) -> tuple[sa.Table, list[dict[str, Any]]]:
    """Return a table of generic types and of the engine's own types, with rows of extreme values."""
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


def cities() -> tuple[sa.Table, list[dict[str, Any]]]:
    """Return a table whose keys collations order in different ways, with rows."""
    table = sa.Table(
        "city",
        sa.MetaData(),
        sa.Column("country", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("people", sa.BigInteger),
    )
    names = ["Aachen", "Ä", "zürich", "a b", "Ab", "é"]
    return table, [{"country": c, "name": n, "people": i} for i, n in enumerate(names) for c in ("de", "ch")]


@pytest.fixture(scope="module", params=ENGINES)
def primary_url(request: pytest.FixtureRequest, new_lasting_database: NewDatabase) -> str:
    return new_lasting_database(request.param)


@pytest.fixture(scope="module", params=ENGINES)
def replica_url(request: pytest.FixtureRequest, new_lasting_database: NewDatabase, primary_url: str) -> str:
    """Create a replica of the primary ``primary_url``. Another primary gets another replica."""
    return new_lasting_database(request.param)


@pytest.fixture(scope="module")
def source(kafka: Broker, primary_url: str) -> Source:
    """Publish the tables of a primary: `thing`, `city`, `river` with the rows of `city`, and `other` without rows.

    Tests change only `city` and `river` on replicas, one test each.
    """
    metadata = sa.MetaData()
    (thing, things), (city, rows) = every_type(sa.make_url(primary_url).get_backend_name()), cities()
    filled = {thing.to_metadata(metadata): things, city.to_metadata(metadata): rows}
    filled[city.to_metadata(metadata, name="river")] = rows
    sa.Table("other", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
    primary = Primary(primary_url, metadata)
    with primary.engine.begin() as connection:
        for table, values in filled.items():
            connection.execute(sa.insert(table), values)
    source = Source(kafka.bootstrap_servers, f"verify-{uuid.uuid4().hex[:8]}")
    primary.publish(source)
    return source


@pytest.fixture(scope="module")
def settings(source: Source, primary_url: str, replica_url: str) -> Settings:
    """Fill a replica, once for each pair of engines."""
    settings = settings_for(source.name, source.bootstrap, replica_url, primary_url)
    work_once(settings)
    return settings


def found(result: VerifyResult) -> list[Difference]:
    return [d for table in result.tables for d in table.differences]


def test_every_type_arrives_on_every_engine(settings: Settings) -> None:
    result = verify(settings, NAME, tables=["*.thing"])
    assert found(result) == []
    assert result.equal
    assert result.rows == 3


GENERIC = ("flag", "small", "whole", "big", "real", "money", "name", "code", "body", "data", "day", "at", "id_", "doc")


@pytest.mark.usefixtures("settings")
def test_the_applications_own_models_read_the_replica(primary_url: str, replica_url: str) -> None:
    table, _ = every_type(sa.make_url(primary_url).get_backend_name())
    wanted = sa.select(*(table.c[name] for name in GENERIC)).order_by(table.c.id)
    with Database(primary_url).engine.connect() as primary, Database(replica_url).engine.connect() as replica:
        ours, theirs = primary.execute(wanted).all(), replica.execute(wanted).all()
    assert [_unpadded(row) for row in theirs] == [_unpadded(row) for row in ours]


def _unpadded(row: Any) -> list[Any]:
    return [value.rstrip(" ") if isinstance(value, str) else value for value in row]


def test_verify_names_what_is_missing_extra_and_different(settings: Settings, replica_url: str) -> None:
    assert verify(settings, NAME, tables=["*.city"]).equal
    Database(replica_url).execute(
        "DELETE FROM city WHERE country = 'de' AND name = 'Aachen'",
        "UPDATE city SET people = 99 WHERE country = 'ch' AND name = 'Aachen'",
        "INSERT INTO city (country, name, people) VALUES ('de', 'Extra', NULL)",
    )
    result = verify(settings, NAME, tables=["*.city"])
    assert not result.equal
    [city] = result.tables
    assert (city.rows, city.missing, city.extra, city.different) == (12, 1, 1, 1)
    assert sorted(found(result), key=lambda d: d.kind) == [
        Difference("different", {"country": "ch", "name": "Aachen"}, ("people",)),
        Difference("extra", {"country": "de", "name": "Extra"}),
        Difference("missing", {"country": "de", "name": "Aachen"}),
    ]


def test_a_row_that_arrives_while_verify_looks_does_not_count(
    settings: Settings, replica_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(replica_url)
    database.execute("UPDATE river SET people = people + 100")
    settle, looks = Settlement.settle, []

    def arrive(settlement: Settlement, suspects: Iterable[dict[str, Any]]) -> Settled:
        looks.append(len(keys := list(suspects)))
        database.execute("UPDATE river SET people = people - 100")
        return settle(settlement, keys)

    monkeypatch.setattr(Settlement, "settle", arrive)
    assert verify(settings, NAME, tables=["*.river"]).equal
    assert looks == [12]


@pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_only_the_tables_asked_for_are_compared(settings: Settings) -> None:
    assert [t.table.rpartition(".")[2] for t in verify(settings, NAME, tables=["*.th*"]).tables] == ["thing"]
    with pytest.raises(ConfigurationError, match=r"no table matches .*the tables .*city.*other"):
        verify(settings, NAME, tables=["nowhere.*"])


def test_a_primary_without_a_capture_is_refused(new_database: NewDatabase) -> None:
    settings = settings_for("x", "127.0.0.1:9", new_database("sqlite"), new_database("sqlite"))
    with pytest.raises(ConfigurationError, match="rowcast_shape"):
        verify(settings, NAME)
    assert threading.active_count() < 100
