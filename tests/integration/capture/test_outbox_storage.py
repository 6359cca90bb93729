"""create_all and migrations set PostgreSQL's storage options of the outbox tables."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

import rowcast.producer.alembic  # noqa: F401  # adds the operations
from rowcast.producer.database.dialects.postgresql import MAY_VACUUM
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.relay.upkeep import vacuum
from rowcast.shared.errors import ConfigurationError
from support.relay.threads import wait_until
from support.sent_statements import sent_statements

NewDatabase = Callable[[str], str]

TOLD = {
    "rowcast_outbox": {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=2000"},
    "rowcast_claim": {"autovacuum_vacuum_scale_factor=0"},
    "rowcast_lease": {"fillfactor=10"},
}


def options(connection: sa.Connection) -> dict[str, set[str]]:
    """Return the storage options of each outbox table with options."""
    found = connection.execute(sa.text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"))
    return {name: set(values) for name, values in found if name.startswith("rowcast_")}


def compression(connection: sa.Connection) -> str:
    of_changes = "attrelid = 'rowcast_outbox'::regclass AND attname = 'changes'"
    return str(connection.exec_driver_sql(f"SELECT attcompression FROM pg_attribute WHERE {of_changes}").scalar_one())


def assert_storage_options_are_set(connection: sa.Connection) -> None:
    found = options(connection)
    assert found.keys() == TOLD.keys()
    assert all(TOLD[name] <= found[name] for name in TOLD)
    able = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    assert compression(connection) == ("l" if connection.exec_driver_sql(able).scalar() else "")


def test_create_all_sets_the_storage_options(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("postgresql"))
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert_storage_options_are_set(connection)
    engine.dispose()


def test_a_migration_sets_the_storage_options(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("postgresql"))
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for table in outbox_tables(sa.MetaData()):
            operations.create_table(table.name, *(column._copy() for column in table.columns))
        assert options(connection) == {}
        operations.rowcast_tune_outbox()  # type: ignore[attr-defined]
        assert_storage_options_are_set(connection)
    engine.dispose()


def test_other_engines_have_no_storage_options(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("sqlite"))
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).rowcast_tune_outbox()  # type: ignore[attr-defined]
    engine.dispose()


def test_a_migration_that_does_not_connect_says_so() -> None:
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
    with pytest.raises(ConfigurationError, match=r"server must be asked.*but --sql does not connect to it.*online$"):
        Operations(context).rowcast_tune_outbox()  # type: ignore[attr-defined]


def vacuums(connection: sa.Connection) -> int:
    """Return the number of requested VACUUMs. The server counts automatic VACUUMs separately."""
    of_outbox = "relid = 'rowcast_outbox'::regclass"
    return int(
        connection.exec_driver_sql(f"SELECT vacuum_count FROM pg_stat_user_tables WHERE {of_outbox}").scalar_one()
    )


def test_deleted_rows_are_vacuumed_soon(new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine(new_database("postgresql"), isolation_level="AUTOCOMMIT")
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(engine)
    monkeypatch.setattr(vacuum, "_PAUSE_S", 0.0)
    vacuuming_ = vacuum.Vacuum(engine)
    with engine.connect() as connection:
        vacuuming_.run_if_due(10)
        vacuuming_.run_if_due(1_000_000)
        wait_until(lambda: vacuums(connection) == 1)
        vacuuming_.run_if_due(1_000_010)
        vacuuming_.close()
        assert vacuums(connection) == 1, "for ten events"
        assert isinstance(engine.pool, sa.QueuePool)
        assert engine.pool.checkedin() == 1
        with engine.connect() as its:
            assert its.exec_driver_sql("SHOW statement_timeout").scalar() == "0", "of the one that it has given back"
    engine.dispose()


def test_an_impossible_vacuum_does_no_harm(new_database: NewDatabase) -> None:
    """The tables do not exist or belong to another user, or the database needs no VACUUM."""
    for name in ("postgresql", "sqlite"):
        engine = sa.create_engine(new_database(name))
        vacuuming_ = vacuum.Vacuum(engine)
        vacuuming_.run_if_due(1_000_000)
        vacuuming_.close()
        if vacuuming_._running is not None:
            vacuuming_._running.result()
        assert (vacuuming_._running is not None) == (name == "postgresql")
        engine.dispose()


@pytest.fixture
def stranger(new_database: NewDatabase) -> Iterator[sa.Engine]:
    """Create a user who may read and write the outbox but does not own the tables."""
    url, role = new_database("postgresql"), f"stranger_{uuid.uuid4().hex[:8]}"
    owner = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(owner)
    with owner.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    engine = sa.create_engine(url, connect_args={"options": f"-c role={role}"})
    yield engine
    engine.dispose()
    with owner.connect() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")


def test_a_user_without_the_outbox_tables_requests_no_vacuum(
    stranger: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would log a warning at each attempt."""
    monkeypatch.setattr(vacuum, "_PAUSE_S", 0.0)
    vacuuming_ = vacuum.Vacuum(stranger)
    with sent_statements(stranger) as sent:
        vacuuming_.run_if_due(1_000_000)
        assert vacuuming_._running is not None
        vacuuming_._running.result(60)
        vacuuming_.run_if_due(2_000_000)
        vacuuming_.close()
    assert sent == [MAY_VACUUM]
