"""Listeners or triggers capture a table, never both, and outdated triggers are reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from rowcast.producer.triggers.install import drop, install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.producer.triggers.state import TableState, trigger_states
from rowcast.shared.errors import ConfigurationError
from servers import MySQL
from support.command_line import rowcast
from support.trigger_shop import install_on, plain_engine


class Application:
    """Hold the table `items`, and sessions with the capture."""

    def __init__(self, engine: sa.Engine, mode: str) -> None:
        class Base(DeclarativeBase):
            pass

        class Item(Base):
            __tablename__ = "items"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(sa.String(20))
            done: Mapped[bool] = mapped_column(default=False)
            __table_args__ = {"info": {"rowcast": {"mode": mode}}}  # noqa: RUF012

        self.Item, self.metadata = Item, Base.metadata
        self.capture = Capture(Base.metadata, source="modes")
        self.sessions = sessionmaker(engine)
        self.capture.install(self.sessions)

    def add(self, name: str) -> None:
        with self.sessions.begin() as session:
            session.add(self.Item(name=name))


@pytest.fixture
def engine(primary_url: str) -> Iterator[sa.Engine]:
    engine = plain_engine(sa.make_url(primary_url))
    yield engine
    engine.dispose()


def names_in_outbox(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        texts = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars()
        return [orjson.loads(line)["a"]["name"] for text in texts for line in text.splitlines()]


def state_of_items(engine: sa.Engine, metadata: sa.MetaData | None = None) -> TableState:
    with engine.connect() as connection:
        (state,) = trigger_states(connection, ReflectedTables(metadata) if metadata is not None else None)
    return state


def test_triggers_on_what_listeners_capture_are_refused(engine: sa.Engine) -> None:
    application = Application(engine, "listeners")
    application.metadata.create_all(engine)
    application.add("by listeners")
    with pytest.raises(ConfigurationError, match=r"items is captured by the listeners.*--instead-of-listeners"):
        install_on(engine, application.metadata, ["items"])
    application.add("by listeners still")
    assert names_in_outbox(engine) == ["by listeners", "by listeners still"]


def test_an_application_whose_listeners_would_capture_it_again_is_refused(engine: sa.Engine) -> None:
    Application(engine, "listeners").metadata.create_all(engine)
    install_on(engine, None, ["items"])
    application = Application(engine, "listeners")
    with pytest.raises(ConfigurationError, match=r"items is captured by triggers.*info=.*rowcast triggers drop"):
        application.add("twice")
    assert names_in_outbox(engine) == []
    (finding,) = application.capture.check(engine)
    assert "captured by triggers" in finding.message


def test_an_application_that_relies_on_triggers_which_are_not_there_is_refused(engine: sa.Engine) -> None:
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    with pytest.raises(ConfigurationError, match=r"items should be captured by triggers but has none"):
        application.add("lost")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM items").scalar() == 0


def test_changing_over_and_back(engine: sa.Engine) -> None:
    first = Application(engine, "listeners")
    first.metadata.create_all(engine)
    first.add("listeners")
    first.capture.uninstall(first.sessions)
    declared = Application(engine, "triggers")
    install_on(engine, declared.metadata, ["items"], instead_of_listeners=True)
    declared.add("triggers")
    declared.capture.uninstall(declared.sessions)
    with engine.begin() as connection:
        drop(connection, f"{connection.dialect.default_schema_name or 'main'}.items")
    Application(engine, "listeners").add("listeners again")
    assert names_in_outbox(engine) == ["listeners", "triggers", "listeners again"]
    with engine.connect() as connection:
        assert trigger_states(connection) == []
        by = connection.exec_driver_sql("SELECT DISTINCT captured_by FROM rowcast_shape").scalars().all()
        # The shape from the models equals the reflected shape.
        assert connection.exec_driver_sql("SELECT count(*) FROM rowcast_shape").scalar() == 1
    assert by == ["listeners"]


def test_triggers_of_a_changed_table_are_reported_and_renewed(engine: sa.Engine) -> None:
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    install_on(engine, application.metadata, ["items"])
    assert state_of_items(engine).faults == ()
    assert state_of_items(engine, application.metadata).faults == ()
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN price integer")
    assert state_of_items(engine).faults == ("the table's columns have changed since the installation",)
    install_on(engine, application.metadata, ["items"])
    assert state_of_items(engine).faults == ()
    application.add("renewed")
    with engine.connect() as connection:
        text = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox").scalar_one()
    assert orjson.loads(text)["a"]["price"] is None


def test_triggers_that_differ_from_the_settings_are_reported(engine: sa.Engine) -> None:
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    install_on(engine, application.metadata, ["items"])
    masked = ReflectedTables(application.metadata, {"items": {"columns": {"name": {"mask": "***"}}}})
    with engine.connect() as connection:
        (state,) = trigger_states(connection, masked)
    assert "shape" in state.faults[0]


def test_a_missing_trigger_is_reported(engine: sa.Engine) -> None:
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    install_on(engine, application.metadata, ["items"])
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE items DISABLE TRIGGER rowcast_delete")
        else:
            connection.exec_driver_sql("DROP TRIGGER rowcast_delete_items")
    assert state_of_items(engine).faults == ("the trigger for delete is missing or disabled",)


def test_masks_conditions_and_old_rows_hold_for_triggers(engine: sa.Engine) -> None:
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    columns = {"name": {"truncate": 3}, "done": False}
    settings = {"items": {"mode": "triggers", "where": "id < 100", "before": True, "columns": columns}}
    with engine.begin() as connection:
        (table,) = ReflectedTables(application.metadata, settings).read(connection, [(None, "items")])
        install(connection, table)
    false = "0" if engine.dialect.name == "sqlite" else "false"
    with engine.begin() as connection:
        for statement in (
            f"INSERT INTO items (id, name, done) VALUES (1, 'secret', {false}), (200, 'hidden', {false})",
            "UPDATE items SET name = 'public' WHERE id = 1",
            "UPDATE items SET id = 300 WHERE id = 1",
            "UPDATE items SET id = 2 WHERE id = 200",
            "DELETE FROM items WHERE id = 2",
        ):
            connection.exec_driver_sql(statement)
    with engine.connect() as connection:
        texts = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars().all()
    changes = [orjson.loads(line) for text in texts for line in text.splitlines()]
    known = [(c["op"], c["k"]["id"], c.get("b"), c.get("a")) for c in changes if c["k"]["id"] < 100]
    assert known == [
        ("c", 1, None, {"id": 1, "name": "sec"}),
        ("u", 1, {"id": 1, "name": "sec"}, {"id": 1, "name": "pub"}),
        ("d", 1, {"id": 1, "name": "pub"}, None),
        ("c", 2, None, {"id": 2, "name": "hid"}),
        ("d", 2, {"id": 2, "name": "hid"}, None),
    ]
    assert all(c["op"] == "d" and "b" not in c for c in changes if c["k"]["id"] >= 100)


def test_a_hash_that_sqlite_cannot_make_is_refused(new_database: NewDatabase) -> None:
    engine = plain_engine(sa.make_url(new_database("sqlite")))
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    settings = {"items": {"columns": {"name": {"hash": "sha256", "salt": "s"}}}}
    with engine.begin() as connection:
        (table,) = ReflectedTables(application.metadata, settings).read(connection, [(None, "items")])
        with pytest.raises(ConfigurationError, match=r"cannot hash columns of .*items.*Mask or leave out name"):
            install(connection, table)
    engine.dispose()


def test_triggers_that_fail_without_trust_in_the_schema_are_refused_and_named(new_database: NewDatabase) -> None:
    """Newer versions of SQLite trust the functions of JSON, and then the triggers work."""
    trusting = plain_engine(sa.make_url(new_database("sqlite")))
    engine = plain_engine(trusting.url)
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA trusted_schema = OFF"))
    application = Application(engine, "triggers")
    application.metadata.create_all(engine)
    definitions = ReflectedTables(application.metadata)
    with engine.begin() as connection:
        tables = definitions.read(connection, [(None, "items")])
        innocuous = "SELECT count(*) FROM pragma_function_list WHERE name = 'json_object' AND flags & 0x200000"
        trusts_json = bool(connection.exec_driver_sql(innocuous).scalar())
        with nullcontext() if trusts_json else pytest.raises(ConfigurationError, match="forbids the functions of JSON"):
            install(connection, *tables)
    with trusting.begin() as connection:
        install(connection, *tables)
    with nullcontext() if trusts_json else pytest.raises(sa.exc.OperationalError, match="unsafe use"):
        application.add("seen")
    assert names_in_outbox(engine) == (["seen"] if trusts_json else [])
    assert application.capture.check(trusting) == []
    faults = [finding.message for finding in application.capture.check(engine)], state_of_items(engine).faults
    assert ["trusted_schema = OFF forbids" in str(found) for found in faults] == [not trusts_json] * 2
    engine.dispose()
    trusting.dispose()


def test_row_security_that_hides_rows_from_the_installer_is_refused(new_database: NewDatabase) -> None:
    engine = plain_engine(sa.make_url(new_database("postgresql")))
    Application(engine, "triggers").metadata.create_all(engine)
    with engine.begin() as connection:
        for statement in (
            "CREATE ROLE rls_owner", "GRANT ALL ON SCHEMA public TO rls_owner",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO rls_owner", "ALTER TABLE items OWNER TO rls_owner",
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY", "ALTER TABLE items FORCE ROW LEVEL SECURITY",
            "SET LOCAL ROLE rls_owner",
        ):  # fmt: skip
            connection.exec_driver_sql(statement)
        with pytest.raises(
            ConfigurationError, match=r"capture public\.items: row security hides rows of the table from rls_owner"
        ):
            install(connection, *ReflectedTables().read(connection, [(None, "items")]))
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql("DROP OWNED BY rls_owner CASCADE")
        connection.exec_driver_sql("DROP ROLE rls_owner")
    engine.dispose()


def test_missing_rights_of_the_user_are_named(new_database: NewDatabase) -> None:
    url = sa.make_url(new_database("mariadb"))
    engine = plain_engine(url)
    Application(engine, "triggers").metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE OR REPLACE USER 'plain'@'%%' IDENTIFIED BY 'p'")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{url.database}`.* TO 'plain'@'%%'")
    poor = plain_engine(url.set(username="plain", password="p"))
    with pytest.raises(ConfigurationError, match=r"items in .*: .*command denied.*The user needs TRIGGER"):
        install_on(poor, None, ["items"])
    poor.dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP USER 'plain'@'%%'")
    engine.dispose()


MODELS = """
import sqlalchemy as sa
from rowcast.producer import Capture

metadata = sa.MetaData()

class Base:
    metadata = metadata

item = sa.Table(
    "items", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("done", sa.Boolean),
    info={"rowcast": "triggers"},
)
box = sa.Table(
    "boxes", metadata, sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item_id", sa.ForeignKey("items.id", ondelete="CASCADE")),
)
capture = Capture(metadata, source="commands")
"""


@pytest.fixture
def folder(tmp_path: Path, primary_url: str) -> Path:
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "rowcast.toml").write_text(f'source = "commands"\n[primary]\nurl = "{primary_url}"\n')
    create_tables(primary_url)
    return tmp_path


def create_tables(url: str) -> None:
    """Create the tables of MODELS."""
    engine = sa.create_engine(url)
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    namespace["metadata"].create_all(engine)
    engine.dispose()


def test_the_commands(folder: Path, engine: sa.Engine) -> None:
    shown = rowcast("triggers", "show", "--metadata", "models:Base", cwd=folder)
    assert (shown.returncode, "has none" in shown.stdout) == (1, True), shown
    done = rowcast("triggers", "install", "--metadata", "models:Base", cwd=folder)
    assert (done.returncode, "installed on" in done.stderr) == (0, True), done
    shown = rowcast("triggers", "show", "--metadata", "models:Base", "--json", cwd=folder)
    (state,) = orjson.loads(shown.stdout)
    assert (shown.returncode, state["table"].split(".")[1], state["faults"]) == (0, "items", [])

    refused = rowcast("triggers", "install", "boxes", "--metadata", "models:Base", cwd=folder)
    assert (refused.returncode, "captures boxes by listeners" in refused.stderr) == (2, True), refused
    done = rowcast("triggers", "install", "b*", cwd=folder)
    assert done.returncode == 0, done
    assert ("its triggers do not see" in done.stderr) is (engine.dialect.name in ("mariadb", "mysql"))

    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE boxes ADD COLUMN size integer")
    shown = rowcast("triggers", "show", "boxes", cwd=folder)
    assert (shown.returncode, "columns have changed" in shown.stdout) == (1, True), shown
    checked = rowcast("check", cwd=folder)
    assert "boxes: the table's columns have changed since" in checked.stdout, checked
    assert ("its triggers do not see rows that the foreign key" in checked.stdout) is (
        engine.dialect.name in ("mariadb", "mysql")
    )
    assert rowcast("triggers", "install", "boxes", cwd=folder).returncode == 0
    assert rowcast("triggers", "show", cwd=folder).returncode == 0

    assert rowcast("triggers", "drop", "*", cwd=folder).returncode == 0
    shown = rowcast("triggers", "show", cwd=folder)
    assert (shown.returncode, shown.stdout) == (0, "no table has triggers\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("install",), "no table is named or declared for triggers"),
        (("install", "nothing*"), "no table matches 'nothing*'"),
        (("drop", "items"), "no table matches 'items'"),
        (("install", "--metadata", "models:Nothing"), "like shop.models:Base"),
        (("install", "--metadata", "no.such.module:x"), "No module named"),
        (("install", "--metadata", "models:item.name"), "not a MetaData"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(
    tmp_path: Path, new_database: NewDatabase, arguments: tuple[str, ...], message: str
) -> None:
    url = new_database("sqlite")
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "rowcast.toml").write_text(f'source = "commands"\n[primary]\nurl = "{url}"\n')
    create_tables(url)
    result = rowcast("triggers", *arguments, cwd=tmp_path)
    assert (result.returncode, message in result.stderr) == (2, True), result


def test_mysql_is_refused_by_name(new_database: NewDatabase, mysql: MySQL, tmp_path: Path) -> None:
    """MySQL triggers cannot find out the name of the transaction."""
    url = new_database("mysql")
    (tmp_path / "rowcast.toml").write_text(f'source = "commands"\n[primary]\nurl = "{url}"\n')
    create_tables(url)

    refused = rowcast("triggers", "install", "items", cwd=tmp_path)

    assert refused.returncode == 2
    assert "need MariaDB" in refused.stderr
    assert "MySQL" in refused.stderr
    assert "Capture by listeners" in " ".join(refused.stderr.split())
