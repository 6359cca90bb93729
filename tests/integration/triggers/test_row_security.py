"""Triggers capture tables with row-level security, whatever the session sees of its own rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.verification.comparison import verify
from rowcast.producer.parking.parked import ParkedTransactions
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.snapshots.chunk_reader import ChunkReader
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape_store import newest_shapes
from support.registry import Registry
from support.trigger_shop import plain_engine
from support.worker_runs import NAME, settings_for

NewRole = Callable[..., str]

WRITE = "GRANT SELECT, INSERT, UPDATE, DELETE ON person TO {}"
POLICIES = (
    "ALTER TABLE person ENABLE ROW LEVEL SECURITY",
    # Everybody may write all rows, but sees only those of the tenant.
    "CREATE POLICY seen ON person FOR SELECT USING (email = current_setting('app.tenant', true))",
    "CREATE POLICY written ON person FOR INSERT WITH CHECK (true)",
    "CREATE POLICY changed ON person FOR UPDATE USING (true) WITH CHECK (true)",
    "CREATE POLICY deleted ON person FOR DELETE USING (true)",
)


def tenant(name: str) -> str:
    return f"SET LOCAL app.tenant = '{name}'"


@pytest.fixture
def tenants(registry: Registry) -> Registry:
    registry.execute(*POLICIES)
    return registry


def least_owner(registry: Registry, new_role: NewRole) -> str:
    """Create a role that bypasses row security, with the rights of docs/how-to/row-level-security.md."""
    return new_role("GRANT SELECT ON person TO {}", "GRANT INSERT ON rowcast_outbox TO {}", options="NOLOGIN BYPASSRLS")


@pytest.mark.parametrize("forced", [False, True])
def test_every_tenants_rows_are_captured_whatever_the_session_sees(
    tenants: Registry, new_role: NewRole, forced: bool
) -> None:
    if forced:
        tenants.execute("ALTER TABLE person FORCE ROW LEVEL SECURITY")
    tenants.install({"before": True}, owner=least_owner(tenants, new_role))
    writer = new_role(WRITE)
    tenants.execute_as(writer, tenant("a"), "INSERT INTO person VALUES (1, 'a', NULL), (2, 'a', NULL)")
    # The policy hides the new row from the session that inserts it, and the session forgets its tenant.
    tenants.execute_as(
        writer, tenant("a"), "INSERT INTO person VALUES (3, 'b', NULL)", "RESET app.tenant",
        tenant("a"), "UPDATE person SET born = '2026-01-01' WHERE id = 1", "RESET app.tenant",
    )  # fmt: skip
    # The row leaves the tenant, and cannot be seen by its own session from then on.
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
        tenants.execute_as(writer, tenant("a"), "UPDATE person SET email = 'b' WHERE id = 2")
    tenants.execute_as(writer, tenant("b"), "DELETE FROM person WHERE id IN (1, 2, 3)")
    found = [(line["op"], line["k"]["id"], (line.get("a") or line["b"])["email"]) for line in tenants.lines()]
    assert found == [("c", 1, "a"), ("c", 2, "a"), ("c", 3, "b"), ("u", 1, "a"), ("d", 3, "b")]


def test_the_tables_owner_sees_all_rows_unless_row_security_is_forced(tenants: Registry, new_role: NewRole) -> None:
    owner = new_role("GRANT ALL ON SCHEMA public TO {}", "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}")
    tenants.execute(f"ALTER TABLE person OWNER TO {owner}")
    writer = new_role(WRITE)
    with tenants.engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {owner}")
        tenants.install_on(connection)
    tenants.execute_as(writer, "INSERT INTO person VALUES (1, 'a', NULL)")
    assert [(line["op"], line["k"]["id"]) for line in tenants.lines()] == [("c", 1)]

    tenants.execute("ALTER TABLE person FORCE ROW LEVEL SECURITY")
    (fault,) = tenants.faults()
    assert f"row security hides rows of the table from {owner}" in fault
    with pytest.raises(sa.exc.ProgrammingError, match="query would be affected by row-level security policy"):
        tenants.execute_as(writer, "INSERT INTO person VALUES (2, 'a', NULL)")
    assert len(tenants.lines()) == 1, "what cannot be read is not published as deleted"


def test_an_owner_from_whom_rows_are_hidden_is_refused(tenants: Registry, new_role: NewRole) -> None:
    owner = new_role("GRANT SELECT ON person TO {}", "GRANT INSERT ON rowcast_outbox TO {}", options="NOLOGIN")
    with pytest.raises(ConfigurationError, match=rf"row security hides rows .* from {owner}.*BYPASSRLS.*--owner"):
        tenants.install(owner=owner)
    with pytest.raises(ConfigurationError, match="there is no role 'nobody_knows'"):
        tenants.install(owner="nobody_knows")


def test_row_security_that_is_switched_on_later_publishes_no_false_delete(
    registry: Registry, new_role: NewRole
) -> None:
    owner = new_role("GRANT SELECT ON person TO {}", "GRANT INSERT ON rowcast_outbox TO {}", options="NOLOGIN")
    registry.install(owner=owner)
    registry.execute("INSERT INTO person VALUES (1, 'a', NULL)", *POLICIES)
    with pytest.raises(sa.exc.ProgrammingError, match="query would be affected by row-level security policy"):
        registry.execute("UPDATE person SET email = 'b'")
    assert [line["op"] for line in registry.lines()] == ["c"]


CUT = "query would be affected by row-level security policy"


@pytest.fixture
def tenant_url(tenants: Registry, new_role: NewRole) -> sa.URL:
    """Create a role whose reads a policy cuts. Return its URL of the database, whose table has a row."""
    tenants.install()
    tenants.execute("INSERT INTO person VALUES (1, 'a', NULL)")
    role = new_role("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", options="LOGIN PASSWORD 'secret'")
    return tenants.engine.url.set(username=role, password="secret")


def test_a_retry_publishes_no_delete_of_a_row_that_a_policy_hides(tenants: Registry, tenant_url: sa.URL) -> None:
    tenants.execute(
        "INSERT INTO rowcast_parked (id, tx, ts_ms, changes, reason, parked_ms) "
        "SELECT id, tx, ts_ms, changes, 'too large', 1 FROM rowcast_outbox",
        "DELETE FROM rowcast_outbox",
        f"GRANT DELETE, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {tenant_url.username}",
    )
    primary = {"url": tenant_url.render_as_string(hide_password=False)}
    with closing(ParkedTransactions(Settings(source="registry", primary=primary))) as parked:
        (transaction,) = parked.all()
        with pytest.raises(DataError, match=f"cannot be read: {CUT}"):
            parked.retry(transaction.tx)
        assert len(parked.all()) == 1
    assert tenants.lines() == []


def test_a_snapshot_that_a_policy_would_cut_fails(tenant_url: sa.URL) -> None:
    engine = plain_engine(tenant_url)
    with Connections(engine) as connections, connections.snapshot() as connection:
        reader = ChunkReader(engine.dialect, newest_shapes(connection)["public.person"], None, TableSettings())
        with pytest.raises(sa.exc.ProgrammingError, match=CUT):
            reader.read(connection, None, 3)
    engine.dispose()


def test_verify_fails_if_a_policy_would_cut_what_is_compared(tenant_url: sa.URL, new_database: NewDatabase) -> None:
    replica = new_database("sqlite")
    with plain_engine(sa.make_url(replica)).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person (id integer PRIMARY KEY, email text, born text)")
    settings = settings_for("registry", "127.0.0.1:9", replica, tenant_url.render_as_string(hide_password=False))
    with pytest.raises(sa.exc.ProgrammingError, match=CUT):
        verify(settings, NAME, tables=["*.person"])
