"""Row-level security of PostgreSQL never makes a false delete, and hides no change: the listeners refuse the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from rowcast.producer.checks.row_security import row_security
from rowcast.shared.errors import CaptureError
from support.item_programs import NAMES, STATEMENTS, execute, folded, item_table, stored
from support.lent_shops import empty_tables

METADATA = sa.MetaData()
ITEM = item_table(METADATA)
PART = sa.Table(
    "part",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.ForeignKey("item.id", ondelete="CASCADE")),
)
OWNER = sa.Table("owner", METADATA, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
PET = sa.Table(
    "pet",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner_id", sa.ForeignKey("owner.id", ondelete="CASCADE")),
    sa.Column("tenant", sa.String(10)),
)
"""A table with policies whose parent has none."""
Capture(METADATA, source="shop")  # It adds the tables of rowcast.

_POLICIES = [
    statement
    for table, column in (("item", "name"), ("pet", "tenant"))
    for statement in (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON {table} USING ({column} = current_setting('app.tenant', true)) WITH CHECK (true)",
    )
]
REFUSED = r"row-level security of public\.{} is active for the current role.*rowcast triggers install public\.{}"


@pytest.fixture(scope="module")
def database(new_lasting_database: NewDatabase) -> Iterator[tuple[sa.Engine, str]]:
    """Create a database whose owner is not bound by its policies, and a role that is bound."""
    engine = sa.create_engine(new_lasting_database("postgresql"))
    tenant = f"tenant_{engine.url.database}"
    with engine.begin() as connection:
        METADATA.create_all(connection)
        for statement in (
            *_POLICIES,
            f"CREATE ROLE {tenant}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {tenant}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {tenant}",
        ):
            connection.exec_driver_sql(statement)
    yield engine, tenant
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {tenant}")
        connection.exec_driver_sql(f"DROP ROLE {tenant}")
    engine.dispose()


class Tenants:
    """Hold the engine with a new capture, and the role of the tenants."""

    def __init__(self, engine: sa.Engine, role: str) -> None:
        self.engine, self.role = engine, role
        self.capture = Capture(METADATA, source="shop")
        self.capture.install(engine)

    def become(self, connection: sa.Connection, tenant: str | None) -> None:
        """Let a tenant's policies bind the rest of the transaction, or no policies."""
        role = "NONE" if tenant is None else self.role
        connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
        connection.exec_driver_sql(f"SET LOCAL app.tenant = '{tenant or ''}'")

    def seed(self) -> None:
        with self.engine.begin() as connection:
            rows = [{"id": i, "n": i, "name": name} for i, name in enumerate("abab")]
            connection.execute(sa.insert(ITEM), rows)
            connection.execute(sa.insert(OWNER), {"id": 1})
            connection.execute(sa.insert(PET), {"id": 1, "owner_id": 1, "tenant": "b"})

    def copy(self) -> dict[int, dict[str, Any]]:
        """Return the items as the outbox has them. Raises KeyError for a false delete."""
        with self.engine.begin() as connection:
            return folded(connection, ITEM, METADATA.tables["rowcast_outbox"])

    def stored(self) -> dict[int, dict[str, Any]]:
        with self.engine.begin() as connection:
            return stored(connection, ITEM)


@pytest.fixture
def tenants(database: tuple[sa.Engine, str]) -> Iterator[Tenants]:
    tenants = Tenants(*database)
    yield tenants
    tenants.capture.uninstall(tenants.engine)
    empty_tables(tenants.engine, METADATA.sorted_tables)
    tenants.engine.dispose()


Change = Callable[[sa.Connection], Any]
CHANGES: dict[str, Change] = {
    "update by condition": lambda c: c.execute(sa.update(ITEM).where(ITEM.c.n < 9).values(n=100)),
    "update by key": lambda c: c.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=100)),
    "insert": lambda c: c.execute(sa.insert(ITEM), {"id": 9, "name": "zzz"}),
    "inserts": lambda c: c.execute(sa.insert(ITEM).values([{"id": 9, "name": "zzz"}, {"id": 10, "name": "a"}])),
    "delete": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.id == 1)),
    "row hint": lambda c: c.execute(
        sa.text("UPDATE item SET n = 5 WHERE id IN (1, 2)"), execution_options={"rowcast": {ITEM: [1, 2]}}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_statement_whose_rows_may_be_hidden_is_refused_before_it_runs(tenants: Tenants, change: str) -> None:
    tenants.seed()
    before = tenants.stored()
    with tenants.engine.begin() as connection:
        # The same statements have been executed by a role that no policy binds.
        CHANGES[change](connection)
        connection.get_transaction().rollback()  # type: ignore[union-attr]
    with tenants.engine.connect() as connection:
        tenants.become(connection, "a")
        with pytest.raises(CaptureError, match=REFUSED.format("item", "item")):
            CHANGES[change](connection)
        connection.commit()
    assert tenants.stored() == tenants.copy() == before


def test_a_cascade_into_hidden_rows_is_refused(tenants: Tenants) -> None:
    tenants.seed()
    with tenants.engine.connect() as connection:
        tenants.become(connection, "a")
        with pytest.raises(CaptureError, match=REFUSED.format("pet", "pet")):
            connection.execute(sa.delete(OWNER).where(OWNER.c.id == 1))


def test_a_role_whose_rows_are_not_hidden_is_captured(tenants: Tenants) -> None:
    tenants.seed()
    for change in CHANGES.values():
        with tenants.engine.begin() as connection:
            change(connection)
            connection.exec_driver_sql("DELETE FROM item WHERE id > 8", execution_options={"rowcast": {ITEM: [9, 10]}})
        assert tenants.copy() == tenants.stored()


HIDING: dict[str, Change] = {
    "an update of a few rows": lambda c: c.execute(sa.update(ITEM).where(ITEM.c.n < 9).values(n=100)),
    "an update of one row": lambda c: c.execute(sa.update(ITEM).where(ITEM.c.id == 1).values(n=100)),
    "an insert": lambda c: c.execute(sa.insert(ITEM), {"id": 9, "name": "zzz"}),
    "a delete": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.id == 1)),
    "deletes": lambda c: c.execute(sa.delete(ITEM).where(ITEM.c.n < 3)),
    "an update that missed some keys": lambda c: c.execute(
        sa.update(ITEM).where(ITEM.c.id == sa.bindparam("key")), [{"key": 1, "n": 7}, {"key": 99, "n": 7}]
    ),
    "a row inserted and deleted": lambda c: (
        c.execute(sa.insert(ITEM), {"id": 9, "name": "b"}),
        c.execute(sa.delete(ITEM).where(ITEM.c.id == 9)),
    ),
}


@pytest.mark.parametrize("hiding", HIDING)
def test_rows_hidden_since_the_statement_are_refused_at_the_commit(tenants: Tenants, hiding: str) -> None:
    tenants.seed()
    before = tenants.stored()
    for _ in range(7):
        # psycopg prepares the drain's statement, and sends it together with COMMIT.
        with tenants.engine.begin() as connection:
            HIDING[hiding](connection)
            connection.get_transaction().rollback()  # type: ignore[union-attr]
    with tenants.engine.connect() as connection:
        HIDING[hiding](connection)
        tenants.become(connection, "a")
        with pytest.raises(CaptureError, match=REFUSED.format("item", "item")):
            connection.commit()
    assert tenants.stored() == tenants.copy() == before


def findings(tenants: Tenants, *grants: str) -> list[tuple[str, str, str]]:
    """Return what the check says for a new role with these rights."""
    engine = sa.create_engine(tenants.engine.url, poolclass=sa.pool.StaticPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE ROLE checked")
            connection.exec_driver_sql("GRANT ALL ON rowcast_outbox, rowcast_shape TO checked")
            for grant in grants:
                connection.exec_driver_sql(f"GRANT {grant} TO checked")
            connection.commit()
            connection.exec_driver_sql("SET ROLE checked")
            connection.commit()
            return [(found.table, found.message, found.hint) for found in tenants.capture.check(engine)]
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("RESET ROLE")
            connection.exec_driver_sql("DROP OWNED BY checked")
            connection.exec_driver_sql("DROP ROLE checked")
        engine.dispose()


def test_the_check_names_the_tables_whose_rows_are_hidden(tenants: Tenants) -> None:
    found = findings(tenants, "SELECT ON ALL TABLES IN SCHEMA public")
    assert [(table, hint.split(",")[0]) for table, message, hint in found if "row-level security" in message] == [
        ("public.item", "run `rowcast triggers install public.item`"),
        ("public.pet", "run `rowcast triggers install public.pet`"),
    ]
    assert tenants.capture.check(tenants.engine) == []


def test_rowcast_check_names_the_tables_with_row_level_security(tenants: Tenants) -> None:
    tenants.seed()
    with tenants.engine.connect() as connection:
        found = list(row_security(connection))
    assert [finding.hint.split(",")[0] for finding in found] == [
        "run `rowcast triggers install public.item`",
        "run `rowcast triggers install public.pet`",
    ]


def test_the_check_names_the_rights_that_a_role_lacks(tenants: Tenants) -> None:
    assert findings(tenants, "SELECT ON part") == findings(tenants)
    rights = {
        ("INSERT ON part",): "GRANT SELECT (id, item_id) ON public.part to the role",
        ("UPDATE ON part", "SELECT (id) ON part"): "GRANT SELECT (item_id) ON public.part to the role",
        ("SELECT, DELETE ON part",): "GRANT UPDATE (id) ON public.part to the role, because locking needs it",
        ("SELECT, DELETE, UPDATE (id) ON part",): None,
        ("SELECT, INSERT ON part",): None,
    }
    for grants, hint in rights.items():
        of_part = [found[2] for found in findings(tenants, *grants) if found[0] == "public.part"]
        assert of_part == ([] if hint is None else [hint])


def test_the_check_names_the_rights_on_the_outbox(tenants: Tenants) -> None:
    engine = sa.create_engine(tenants.engine.url, poolclass=sa.pool.StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"REVOKE ALL ON rowcast_outbox, rowcast_shape FROM {tenants.role}")
        connection.exec_driver_sql(f"GRANT SELECT ON rowcast_shape TO {tenants.role}")
        connection.exec_driver_sql(f"SET ROLE {tenants.role}")
        connection.commit()
        hints = [found.hint for found in tenants.capture.check(engine) if (found.table or "").startswith("rowcast")]
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql(f"GRANT ALL ON rowcast_outbox, rowcast_shape TO {tenants.role}")
        connection.commit()
    engine.dispose()
    assert sorted(hints) == [
        "GRANT INSERT ON rowcast_outbox to the role",
        "GRANT INSERT, UPDATE ON rowcast_shape to the role",
    ]


STATEMENT = st.one_of(
    st.tuples(st.just("become"), st.one_of(st.none(), NAMES)),
    st.tuples(st.just("savepoint"), st.booleans()),
    *STATEMENTS,
)


@pytest.mark.campaign
@given(st.lists(st.lists(STATEMENT, max_size=6), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_program_is_published_as_it_is_stored_or_refused(
    tenants: Tenants, transactions: list[list[tuple[Any, ...]]]
) -> None:
    empty_tables(tenants.engine, [table for table in METADATA.sorted_tables if table.name != "rowcast_shape"])
    tenants.seed()
    for statements in transactions:
        event(run(tenants, statements))
        assert tenants.copy() == tenants.stored()


def run(tenants: Tenants, statements: list[tuple[Any, ...]]) -> str:
    """Run the statements in a transaction. An error rolls back to the last savepoint, or everything."""
    with tenants.engine.connect() as connection:
        try:
            for statement in statements:
                if statement[0] == "become":
                    tenants.become(connection, statement[1])
                elif statement[0] == "savepoint":
                    nested = connection.begin_nested()
                    connection.execute(sa.update(ITEM).values(n=ITEM.c.n + 1))
                    if statement[1]:
                        nested.rollback()
                    else:
                        nested.commit()
                else:
                    execute(connection, ITEM, statement)
            connection.commit()
        except CaptureError:
            return "refused"
        except sa.exc.IntegrityError:
            return "rolled back"
    return "committed"
