"""PostgreSQL is told how the outbox tables are used, by create_all and in migrations."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

import rowcast.producer.alembic  # noqa: F401  # adds the operations
from integration.relay_threads import wait_until
from rowcast.producer.outbox import outbox_tables
from rowcast.producer.relay import vacuuming
from rowcast.shared.errors import ConfigurationError

NewDatabase = Callable[[str], str]

TOLD = {
    "rowcast_outbox": {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=2000"},
    "rowcast_claim": {"autovacuum_vacuum_scale_factor=0"},
    "rowcast_lease": {"fillfactor=10"},
}


def options(connection: sa.Connection) -> dict[str, set[str]]:
    """Of the tables that have some."""
    found = connection.execute(sa.text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"))
    return {name: set(values) for name, values in found if name.startswith("rowcast_")}


def compression(connection: sa.Connection) -> str:
    of_changes = "attrelid = 'rowcast_outbox'::regclass AND attname = 'changes'"
    return str(connection.exec_driver_sql(f"SELECT attcompression FROM pg_attribute WHERE {of_changes}").scalar_one())


def assert_told(connection: sa.Connection) -> None:
    found = options(connection)
    assert found.keys() == TOLD.keys()
    assert all(TOLD[name] <= found[name] for name in TOLD)
    able = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    assert compression(connection) == ("l" if connection.exec_driver_sql(able).scalar() else "")


def test_create_all_tells(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("postgresql"))
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert_told(connection)
    engine.dispose()


def test_a_migration_tells(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("postgresql"))
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for table in outbox_tables(sa.MetaData()):
            operations.create_table(table.name, *(column._copy() for column in table.columns))
        assert options(connection) == {}
        operations.rowcast_tune_outbox()  # type: ignore[attr-defined]
        assert_told(connection)
    engine.dispose()


def test_other_engines_need_no_telling(new_database: NewDatabase) -> None:
    engine = sa.create_engine(new_database("sqlite"))
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).rowcast_tune_outbox()  # type: ignore[attr-defined]
    engine.dispose()


def test_a_migration_that_does_not_connect_says_so() -> None:
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
    with pytest.raises(ConfigurationError, match=r"asked of the server, which --sql does not connect to.*online$"):
        Operations(context).rowcast_tune_outbox()  # type: ignore[attr-defined]


def vacuums(connection: sa.Connection) -> int:
    """That somebody asked for: the server's own are counted elsewhere."""
    of_outbox = "relid = 'rowcast_outbox'::regclass"
    return int(
        connection.exec_driver_sql(f"SELECT vacuum_count FROM pg_stat_user_tables WHERE {of_outbox}").scalar_one()
    )


def test_what_is_deleted_is_vacuumed_soon(new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine(new_database("postgresql"), isolation_level="AUTOCOMMIT")
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(engine)
    monkeypatch.setattr(vacuuming, "_PAUSE_S", 0.0)
    vacuuming_ = vacuuming.Vacuuming(engine)
    with engine.connect() as connection:
        vacuuming_.look(10)
        vacuuming_.look(1_000_000)
        wait_until(lambda: vacuums(connection) == 1)
        vacuuming_.look(1_000_010)
        vacuuming_.close()
        assert vacuums(connection) == 1, "for ten events"
        assert isinstance(engine.pool, sa.QueuePool)
        assert engine.pool.checkedin() == 1
        with engine.connect() as its:
            assert its.exec_driver_sql("SHOW statement_timeout").scalar() == "0", "of the one that it has given back"
    engine.dispose()


def test_a_vacuum_that_cannot_be_harms_nobody(new_database: NewDatabase) -> None:
    """The tables are not there, or are another's; another database needs none."""
    for name in ("postgresql", "sqlite"):
        engine = sa.create_engine(new_database(name))
        vacuuming_ = vacuuming.Vacuuming(engine)
        vacuuming_.look(1_000_000)
        vacuuming_.close()
        if vacuuming_._running is not None:
            vacuuming_._running.result()
        assert (vacuuming_._running is not None) == (name == "postgresql")
        engine.dispose()


@pytest.fixture
def stranger(new_database: NewDatabase) -> Iterator[sa.Engine]:
    """A user who may read and write the outbox, and does not own it."""
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


def test_who_does_not_own_the_outbox_does_not_ask(stranger: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would log a warning each time."""
    monkeypatch.setattr(vacuuming, "_PAUSE_S", 0.0)
    asked: list[str] = []
    sa.event.listen(stranger, "before_cursor_execute", lambda _c, _u, statement, *_: asked.append(statement))
    vacuuming_ = vacuuming.Vacuuming(stranger)
    vacuuming_.look(1_000_000)
    assert vacuuming_._running is not None
    vacuuming_._running.result(60)
    vacuuming_.look(2_000_000)
    vacuuming_.close()
    assert asked == [vacuuming._MAY]
