"""A replica gets the tables, columns, rows and masked values of its view, and stays so through every change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.checks.planned_changes import planned_changes
from rowcast.consumer.checks.replicas import replicas as replica_findings
from rowcast.consumer.migration.migrate import migrate
from rowcast.consumer.promotion.promote import PromotionOptions, promote
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.results import Difference
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.findings import Verdict
from rowcast.shared.images import RowImage
from servers import Broker
from support.command_line import rowcast
from support.kafka_source import Line, Source
from support.rebuilds import rebuilt
from support.worker_runs import NAME, Database, Primary, settings_for, work_once

KEY = "a secret of more than sixteen"
PRIMARIES = {"postgresql": "mariadb", "mariadb": "postgresql", "mysql": "postgresql", "sqlite": "postgresql"}

METADATA = sa.MetaData()
REGION = sa.Table(
    "region",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("code", sa.String(10), nullable=False, unique=True),
)
CUSTOMER = sa.Table(
    "customer",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("region_id", sa.ForeignKey("region.id")),
    sa.Column("email", sa.String(100), nullable=False, unique=True),
    sa.Column("country", sa.String(2)),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("credit", sa.Numeric(10, 2)),
    sa.Column("ssn", sa.String(11), nullable=False),
    sa.Column("phone", sa.String(20)),
    sa.Column("name", sa.String(50)),
    sa.Column("note", sa.Text),
)
ORDERS = sa.Table(
    "orders",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("customer_id", sa.ForeignKey("customer.id"), nullable=False),
    sa.Column("region_id", sa.ForeignKey("region.id")),
)


def customer(number: int, country: str | None = "DE", **values: Any) -> dict[str, Any]:
    row = {"id": number, "region_id": 1, "email": f"{number}@example.com", "country": country, "deleted": False}
    secrets = {"credit": "10.50", "ssn": f"ssn-{number}", "phone": "123", "name": "Ann", "note": "a long note"}
    return row | secrets | values


def digest(number: int) -> str:
    return hmac.new(KEY.encode(), f"{number}@example.com".encode(), hashlib.sha256).hexdigest()


class World:
    """A primary and one replica with a view. ``change`` writes rows to the primary and to the topics."""

    def __init__(self, new_database: NewDatabase, kafka: Broker, source_name: str, engine: str) -> None:
        self.engine = engine
        self.primary = Primary(new_database(PRIMARIES[engine]), METADATA)
        self.schema = self.primary.shapes["customer"].schema
        self.url = new_database(engine)
        self.replica = Database(self.url)
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.source.add(*self.primary.shapes.values())
        self.settings = self.with_view(self.view())

    def view(self, **other: Any) -> dict[str, Any]:
        schema = {"schema": "crm"} if self.engine == "postgresql" else {}
        view = {
            "without": ["ssn"],
            "name": "client",
            "rename": {"email": "mail"},
            "where": "country = 'DE' and not deleted and credit >= 10.5",
            "mask": {"email": "hash", "phone": "null", "name": "fixed:***", "note": "prefix:6"},
        }
        return {**schema, **view, **other}

    def with_view(self, view: dict[str, Any]) -> Settings:
        views = {
            f"{self.schema}.customer": view,
            f"{self.schema}.reg*": {"name": "area", "rename": {"code": "short", "codes": "never"}},
        }
        url = self.primary.engine.url.render_as_string(hide_password=False)
        return settings_for(
            self.source.name, self.source.bootstrap, self.url, url, view=views, mask_key=KEY, on_bad_row="stop"
        )

    def change(self, *changes: tuple[str, sa.Table, dict[str, Any]]) -> None:
        """Write rows with the ops ``c``, ``u`` and ``d``, in one transaction."""
        lines: list[Line] = []
        with self.primary.engine.begin() as connection:
            for op, table, row in changes:
                is_row = table.c.id == row["id"]
                connection.execute(sa.delete(table).where(is_row) if op == "d" else _write(op, table, row))
                one = self.primary.shapes[table.name]
                image = RowImage([(c.name, table.c[c.name], c.type) for c in one.columns])
                text = connection.execute(sa.select(image).select_from(table).where(is_row)).scalar()
                lines.append((op, one.full_name, {"id": row["id"]} if text is None else text))
        self.source.transaction(*lines)

    def clients(self, name: str = "client") -> list[tuple[Any, ...]]:
        place = sa.table(name, schema="crm" if self.engine == "postgresql" else None)
        names = ("id", "mail", "country", "phone", "name", "note")
        with self.replica.engine.connect() as connection:
            query: Any = sa.select(*map(sa.column, names)).select_from(place).order_by(sa.column("id"))
            return [tuple(row) for row in connection.execute(query)]

    def at_replica(self, statement: str) -> None:
        client = "crm.client" if self.engine == "postgresql" else "client"
        self.replica.execute(statement.replace("client", client))


def _write(op: str, table: sa.Table, row: dict[str, Any]) -> sa.Executable:
    return sa.insert(table).values(row) if op == "c" else sa.update(table).where(table.c.id == row["id"]).values(row)


def client(number: int) -> tuple[Any, ...]:
    return number, digest(number), "DE", None, "***", "a long"


@pytest.fixture
def world(request: pytest.FixtureRequest, new_database: NewDatabase, kafka: Broker, source_name: str) -> World:
    return World(new_database, kafka, source_name, request.param)


@pytest.mark.shared_dialect
@pytest.mark.parametrize("world", ENGINES, indirect=True)
@pytest.mark.usefixtures("short_comparisons")
def test_a_replica_follows_its_view_through_every_change(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rowcast.worker")
    world.change(
        ("c", REGION, {"id": 1, "code": "north"}),
        ("c", CUSTOMER, customer(1)),
        ("c", CUSTOMER, customer(2, "FR")),
        ("c", CUSTOMER, customer(3, None)),
        ("c", CUSTOMER, customer(4, deleted=True)),
        ("c", CUSTOMER, customer(5, credit="10.49")),
        ("c", CUSTOMER, customer(6)),
        ("c", ORDERS, {"id": 1, "customer_id": 2, "region_id": 1}),
    )
    work_once(world.settings)
    assert world.replica.state() == "consistent"
    assert world.clients() == [client(1), client(6)]
    assert world.replica.rows("area", "id", "short") == [(1, "north")]
    assert world.replica.rows("orders", "id") == [(1,)]
    inspector = sa.inspect(world.replica.engine)
    schema = "crm" if world.engine == "postgresql" else None
    columns = {c["name"]: c for c in inspector.get_columns("client", schema)}
    assert list(columns) == ["id", "region_id", "mail", "country", "deleted", "credit", "phone", "name", "note"]
    assert not columns["mail"]["nullable"]
    # The foreign key follows the renamed table. The one to the filtered table cannot exist.
    (key,) = inspector.get_foreign_keys("client", schema)
    assert (key["constrained_columns"], key["referred_table"]) == (["region_id"], "area")
    assert [key["referred_table"] for key in world.replica.foreign_keys("orders")] == ["area"]
    assert "does not have the unique key (email), because the view masks" in caplog.text
    assert f"the foreign key (customer_id) to {world.schema}.customer, because the replica does not get" in caplog.text

    # Rows move in and out of the filter, a missing row is deleted, and a key changes.
    world.change(("u", CUSTOMER, customer(1, "FR")), ("u", CUSTOMER, customer(2)))
    world.change(("d", CUSTOMER, customer(3)), ("u", CUSTOMER, customer(4)), ("u", CUSTOMER, customer(4, deleted=True)))
    world.change(("d", CUSTOMER, customer(6)), ("c", CUSTOMER, customer(7)), ("u", CUSTOMER, customer(5)))
    world.change(("u", CUSTOMER, customer(5, ssn="other", country="DE")))
    work_once(world.settings)
    assert world.clients() == [client(2), client(5), client(7)]

    result = verify(world.settings, NAME)
    assert result.equal
    lacking = "without ssn, email, phone, name, note masked, only rows where"
    assert [table.view for table in result.tables if table.view] == [
        f"{lacking} country = 'DE' and not deleted and credit >= 10.5"
    ]
    assert {table.table.rpartition(".")[2]: table.rows for table in result.tables} == {
        "customer": 3,
        "orders": 1,
        "region": 1,
    }
    world.at_replica("UPDATE client SET name = 'Ann' WHERE id = 2")
    world.at_replica("DELETE FROM client WHERE id = 5")
    world.at_replica(
        "INSERT INTO client (id, mail, country, deleted) VALUES (1, 'x', 'FR', "
        f"{'FALSE' if world.engine == 'postgresql' else '0'})"
    )
    found = [one for table in verify(world.settings, NAME).tables for one in table.differences]
    assert sorted(found, key=lambda one: str(one.key)) == [
        Difference("extra", {"id": 1}),
        Difference("different", {"id": 2}, ("name",)),
        Difference("missing", {"id": 5}),
    ]

    other = world.with_view(world.view(name="buyer", where="country = 'FR'", mask={"phone": "null"}))
    with pytest.raises(DataError, match=r"the view of table .*customer has changed: the table has another place.*reb"):
        work_once(other)
    assert [table.stop for table in migrate(other, NAME, stop=threading.Event()).tables if table.stop]
    same = world.with_view(world.view(where="country='DE'  AND NOT (deleted) and credit >= 10.5"))
    assert work_once(same).state == "consistent"
    with pytest.raises(ConfigurationError, match=r"the view of table .* has changed.*so rebuild all tables"):
        rebuilt(other, tables=["customer"])
    rebuilt(other, processes=2 if world.engine == "mariadb" else 1)
    assert [row[:3] for row in world.clients("buyer")] == [(1, "1@example.com", "FR")]
    assert not sa.inspect(world.replica.engine).has_table("client", schema)
    work_once(other)
    assert verify(other, NAME).equal
    with pytest.raises(DataError, match="its view renames"):
        promote(other, NAME, PromotionOptions(accept_partial=True), stop=threading.Event())


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_replicas_of_one_process_have_views_of_their_own(
    world: World, new_database: NewDatabase, tmp_path: Path
) -> None:
    world.change(("c", REGION, {"id": 1, "code": "north"}))
    world.change(("c", CUSTOMER, customer(1)), ("c", CUSTOMER, customer(2, "FR")))
    urls = {"de": new_database("sqlite"), "fr": new_database("postgresql"), "all": new_database("sqlite")}
    views = {
        "de": "where = \"country = 'DE'\"\nwithout = ['ssn']",
        "fr": "where = \"country = 'FR'\"\nmask = { ssn = 'prefix:3' }",
    }
    text = f'source = "{world.source.name}"\n[kafka]\n"bootstrap.servers" = "{world.source.bootstrap}"\n'
    for name, url in urls.items():
        text += f'[replicas.{name}]\nurl = "{url}"\n'
        if name in views:
            text += f'[replicas.{name}.view."{world.schema}.customer"]\n{views[name]}\n'
    (tmp_path / "rowcast.toml").write_text(text)
    result = rowcast("worker", "--all", "--once", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Database(urls["de"]).rows("customer", "id", "country") == [(1, "DE")]
    assert "ssn" not in [c["name"] for c in sa.inspect(Database(urls["de"]).engine).get_columns("customer")]
    assert Database(urls["fr"]).rows("customer", "id", "ssn") == [(2, "ssn")]
    assert Database(urls["all"]).rows("customer", "id", "ssn") == [(1, "ssn-1"), (2, "ssn-2")]


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_check_names_views_that_do_not_fit(world: World) -> None:
    url = world.primary.engine.url.render_as_string(hide_password=False)

    def faults(views: dict[str, Any]) -> list[str]:
        options = ReplicaSettings.model_validate({"url": world.url, "view": views})
        settings = settings_for(world.source.name, world.source.bootstrap, world.url, url)
        settings = settings.model_copy(update={"replicas": {NAME: options}})
        found = [one for one in replica_findings(settings) if one.verdict is Verdict.configuration]
        return [f"{one.message}: {one.hint}" for one in found]

    work_once(settings_for(world.source.name, world.source.bootstrap, world.url))
    assert faults({"public.customr": {"without": ["ssn"]}}) == [
        "the view of public.customr matches no table: Did you mean 'public.customer'?"
    ]
    assert faults({"public.customer": {"without": ["sn"]}}) == [
        "the view of public.customer names column sn, which no table has: Did you mean 'ssn'?",
        "the view of public.customer: without names column sn, which the table does not have: Did you mean 'ssn'?",
    ]
    assert faults({"public.*": {"mask": {"emial": "null"}}}) == [
        "the view of public.* names column emial, which no table has: Did you mean 'email'?"
    ]
    assert faults({"public.customer": {"where": "ssn > 1"}})[0].startswith("the view of public.customer: where: column")
    # Before a migration drops a column that the view names.
    settings = world.with_view({"without": ["ssn"]})
    settings = settings.model_copy(update={"primary": None})
    customer_shape = world.primary.shapes["customer"]
    narrower = replace(customer_shape, columns=tuple(c for c in customer_shape.columns if c.name != "ssn"))
    (finding,) = planned_changes(settings, [narrower])
    assert "without names column ssn" in finding.message
    with pytest.raises(ConfigurationError, match="the replica's engine has no schemas"):
        work_once(world.with_view({"schema": "crm"}))


@pytest.mark.parametrize("world", ["mariadb"], indirect=True)
def test_a_view_can_fill_a_table_of_the_users(world: World) -> None:
    world.replica.execute("CREATE TABLE client (id bigint PRIMARY KEY, mail varchar(100), own int DEFAULT 7)")
    view = {"columns": ["id", "email"], "name": "client", "rename": {"email": "mail"}, "where": "country = 'DE'"}
    world.change(("c", REGION, {"id": 1, "code": "north"}), ("c", CUSTOMER, customer(1)), ("c", CUSTOMER, customer(2)))
    work_once(world.with_view(view))
    world.change(("u", CUSTOMER, customer(1, "FR")), ("u", CUSTOMER, customer(2, email="new")))
    work_once(world.with_view(view))
    assert world.replica.rows("client", "id", "mail", "own") == [(2, "new", 7)]
    with pytest.raises(DataError, match="column ssn is taken now"):
        work_once(world.with_view({**view, "columns": ["id", "email", "ssn"]}))
