"""``rowcast check`` tries the rights of its users and the limits of the engines, and leaves nothing behind."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer import checks
from rowcast.consumer.checks.rights import SCRATCH_PREFIX, rights_findings
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.worker_tables import ROWCAST_TABLE, create_tables
from rowcast.producer.checks.primary import primary
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.relay import Relay
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape
from support.command_line import rowcast

SERVERS = ["postgresql", "mariadb", "mysql"]
KEY = ColumnShape("id", PortableType("int32"), nullable=False)


def shape(name: str, *columns: ColumnShape, engine: str = "postgresql", unique: Sequence[str] = ()) -> TableShape:
    keys = (tuple(unique),) if unique else ()
    return TableShape("public", name, engine, (KEY, *columns), ("id",), unique=keys, default_schema=True)


class Server:
    """A database with an administrator, and one further user without rights."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        self.user = f"u{secrets.token_hex(4)}"
        self.is_postgresql = self.engine.dialect.name == "postgresql"
        password = "LOGIN PASSWORD 'Secret1-'" if self.is_postgresql else "IDENTIFIED BY 'Secret1-'"
        self.run(f"CREATE {'ROLE' if self.is_postgresql else 'USER'} {self.user} {password}")

    @property
    def url(self) -> str:
        """The URL of the further user."""
        mine = self.engine.url.set(username=self.user, password="Secret1-")
        return mine.render_as_string(hide_password=False)

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def grant(self, rights: str, *tables: str) -> None:
        """Grant rights to tables, or without tables to the whole database."""
        if tables:
            for table in tables:
                self.run(f"GRANT {rights} ON {table} TO {self.user}")
        elif self.is_postgresql:
            self.run(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {self.user}")
        else:
            self.run(f"GRANT {rights} ON {self.engine.url.database}.* TO {self.user}")

    def tables(self) -> list[str]:
        return sa.inspect(self.engine).get_table_names()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Server]:
    server = Server(new_database(request.param))
    yield server
    server.engine.dispose()


def of_rights(findings: Iterator[Finding]) -> Finding:
    (found,) = [finding for finding in findings if finding.message.startswith("the user ")]
    return found


def test_the_rights_of_a_worker_are_tried(server: Server) -> None:
    create_tables(server.engine, replica_dialect(server.engine.dialect.name))
    server.run("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    with server.engine.begin() as connection:
        values = {"source": "shop", "table_name": "public.item", "created": True}
        document = shape("item").to_json().decode()
        connection.execute(sa.insert(ROWCAST_TABLE).values(**values, shape=document))
    settings = Settings.model_validate({"source": "shop", "replicas": {"copy": {"url": server.url}}})

    def found() -> Finding:
        finding = of_rights(checks.replicas(settings))
        assert not [name for name in server.tables() if name.startswith(SCRATCH_PREFIX)]
        return finding

    server.grant("SELECT", "item")
    named = [finding for finding in checks.replicas(settings) if "lacks" in finding.message]
    assert [finding.verdict for finding in named] == [Verdict.missing], list(checks.replicas(settings))
    server.grant("SELECT")
    assert found().verdict is Verdict.warning
    assert f"the user {server.user} may only read" in found().message
    server.grant("INSERT, UPDATE")
    lacking = found()
    assert lacking.verdict is Verdict.missing
    assert lacking.hint == "grant them: docs/how-to/database-rights.md"
    assert "CREATE TABLE" in lacking.message
    assert "DELETE (rowcast_" in lacking.message
    assert "INSERT" not in lacking.message
    server.grant("DELETE")
    if server.is_postgresql:
        server.run(f"GRANT CREATE ON SCHEMA public TO {server.user}")
    else:
        server.grant("CREATE, DROP")
        assert "lacks rights that rowcast worker copy needs: ALTER TABLE, CREATE INDEX" in found().message
        server.grant("ALTER, INDEX")
        if not getattr(server.engine.dialect, "is_mariadb", False):
            # MariaDB does not ask for the right.
            assert found().message.endswith("needs: REFERENCES")
        server.grant("REFERENCES")
    assert (found().verdict, found().message) == (
        Verdict.ok, f"the user {server.user} has the rights that rowcast worker copy needs",
    )  # fmt: skip
    if server.is_postgresql:
        server.run(f"REVOKE DELETE ON item FROM {server.user}")
        assert found().message.endswith("needs: DELETE (item)")
        # airbytehq/airbyte#23330: a right of a role that the user is a member of.
        group = f"{server.user}_group"
        server.run(f"CREATE ROLE {group}", f"GRANT DELETE ON item TO {group}", f"GRANT {group} TO {server.user}")
        assert found().verdict is Verdict.ok


def test_the_rights_of_a_relay_are_tried(server: Server, tmp_path: Path) -> None:
    tables = outbox_tables(metadata := sa.MetaData())
    metadata.create_all(server.engine)
    server.run("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    captured = shape("item", engine=server.engine.dialect.name)
    with server.engine.begin() as connection:
        row = {"table_name": captured.full_name, "version": captured.version, "created_ms": 1, "rows_before": False}
        connection.execute(sa.insert(tables.shape).values(**row, shape=captured.to_json().decode()))
    settings = Settings.model_validate({"source": "shop", "primary": {"url": server.url}})
    (tmp_path / "rowcast.toml").write_text(f'source = "shop"\n[primary]\nurl = "{server.url}"\n')
    if server.is_postgresql:
        # A user without any right on MariaDB and MySQL does not see the tables.
        refused = rowcast("dlq", "list", "--source", cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert "a database refuses a statement: permission denied for table rowcast_parked" in refused.stderr
    own = [table.name for table in tables]
    server.grant("SELECT", *own)
    lacking = of_rights(primary(settings))
    assert lacking.verdict is Verdict.missing
    assert "SELECT (item)" in lacking.message
    server.grant("SELECT", "item")
    assert of_rights(primary(settings)).verdict is Verdict.warning
    server.grant("INSERT, UPDATE, DELETE", *(name for name in own if name != "rowcast_batch"))
    assert of_rights(primary(settings)).verdict is Verdict.ok


def test_a_table_that_the_user_may_not_see_is_not_said_to_be_missing(server: Server) -> None:
    """julien-duponchelle/python-mysql-replication#183: without rights, the catalog of MySQL shows no table."""
    tables = outbox_tables(metadata := sa.MetaData())
    metadata.create_all(server.engine)
    server.run("CREATE TABLE mine (id INTEGER PRIMARY KEY)")
    server.grant("SELECT", "mine")
    settings = Settings.model_validate({"source": "shop", "primary": {"url": server.url}})
    (about,) = [finding for finding in primary(settings) if "rowcast_outbox" in finding.message]
    assert about.message.startswith(f"the user {server.user} may not read rowcast_outbox, rowcast_shape, rowcast_lease")
    assert about.hint.startswith("grant the rights of docs/how-to/database-rights.md")
    # Only batches of the application use the other table.
    server.grant("SELECT", *(table.name for table in tables if table is not tables.batch))
    assert "the outbox tables are complete" in [finding.message for finding in primary(settings)]
    server.grant("INSERT, UPDATE, DELETE", *(table.name for table in tables if table is not tables.batch))
    engine = open_engine(server.url, "primary")
    with embedded_kafka() as bootstrap:
        kafka = {"bootstrap.servers": bootstrap}
        assert Relay(settings.model_copy(update={"kafka": kafka}), engine).run_once() == 0
    engine.dispose()


def test_a_file_that_may_not_be_written_is_only_read(tmp_path: Path) -> None:
    file = tmp_path / "replica.db"
    writable = sa.create_engine(f"sqlite:///{file}")
    create_tables(writable, replica_dialect("sqlite"))
    read_only = sa.create_engine(f"sqlite:///file:{file}?mode=ro&uri=true")

    def found(engine: sa.Engine) -> Finding:
        (finding,) = rights_findings(engine, replica_dialect("sqlite"), [], "copy", "replica 'copy'")
        return finding

    assert found(writable).verdict is Verdict.ok
    assert found(read_only).verdict is Verdict.warning
    assert "the user of this process may only read" in found(read_only).message
    assert not [name for name in sa.inspect(writable).get_table_names() if name.startswith(SCRATCH_PREFIX)]
    for each in (writable, read_only):
        each.dispose()


TEXT = PortableType("string", length=1_000)
LETTERS = "abcdefghijklm"
TOO_MUCH = {
    "too many columns": ([ColumnShape(f"c{n}", PortableType("int32"), nullable=True) for n in range(2_100)], ()),
    "a long name": ([ColumnShape("n" * 65, PortableType("int32"), nullable=True)], ()),
    "names in two cases": ([ColumnShape(n, PortableType("int32"), nullable=True) for n in ("Name", "name")], ()),
    "a long key": ([ColumnShape(n, TEXT, nullable=False) for n in LETTERS[:13]], tuple(LETTERS[:13])),
    "a wide key": ([ColumnShape(f"k{n}", KEY.type, nullable=False) for n in range(40)], [f"k{n}" for n in range(40)]),
}
REFUSED = {
    "postgresql": {"too many columns", "a long name", "a wide key"},
    # MariaDB makes a hash index of a unique key that is too long for a tree.
    "mariadb": TOO_MUCH.keys() - {"a long key"},
    "mysql": set(TOO_MUCH),
    "sqlite": {"too many columns", "names in two cases"},
}


@pytest.mark.parametrize("engine", REFUSED)
def test_tables_that_an_engine_cannot_hold_are_named(new_database: NewDatabase, engine: str) -> None:
    primary_engine = sa.create_engine(new_database("sqlite"))
    tables = outbox_tables(metadata := sa.MetaData())
    metadata.create_all(primary_engine)
    names = {f"t{n}": what for n, what in enumerate(TOO_MUCH)}
    with primary_engine.begin() as connection:
        for name, what in {**names, "small": ""}.items():
            columns, unique = TOO_MUCH.get(what, ([], ()))
            made = shape(name, *columns, unique=unique)
            row = {"table_name": made.full_name, "version": made.version, "created_ms": 1, "rows_before": False}
            connection.execute(sa.insert(tables.shape).values(**row, shape=made.to_json().decode()))
    url = new_database(engine)
    replica = sa.create_engine(url)
    with replica.begin() as connection:
        # A file of SQLite exists from the first write on.
        connection.exec_driver_sql("CREATE TABLE mine (id INTEGER PRIMARY KEY)")
    settings = Settings.model_validate(
        {
            "source": "shop",
            "primary": {"url": primary_engine.url.render_as_string(hide_password=False)},
            "replicas": {"copy": {"url": url}},
        }
    )
    found = [finding for finding in checks.replicas(settings) if finding.table]
    assert {names[finding.table.partition(".")[2]] for finding in found} == REFUSED[engine], found
    assert {finding.verdict for finding in found} == {Verdict.missing}
    assert all("Leave the table out with `tables`" in finding.hint for finding in found)
    assert sa.inspect(replica).get_table_names() == ["mine"]
    for each in (primary_engine, replica):
        each.dispose()
