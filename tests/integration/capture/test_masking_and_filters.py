"""Masks, left out columns and row filters apply in the outbox, in the topics, on the replica and for verify."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.outbox.line_writer import row_line
from rowcast.producer.relay.main_loop import Relay
from rowcast.producer.tables.captured import CapturedTables
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.table_settings import read_table_settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import register_functions
from servers import Broker
from support.lent_shops import empty_tables
from support.worker_runs import NAME, Database, settings_for, work_once

SECRET = "Käthe's 4111-1111 %s \\ secret 😀"
SALT = "pepper'%\\ü"

CONFIGURED: dict[str, Any] = {
    "person": {
        "columns": {
            "card": {"mask": "**'%s\\**"},
            "age": {"mask": "?"},
            "email": {"hash": "sha256", "salt": SALT},
            "initials": {"hash": "sha512", "salt": SALT},
            "diary": {"truncate": 5},
            "kind": {"truncate": 2},
            "password": False,
        }
    },
    "diagnosis": False,
    "post": {"where": "status <> 'draft' AND status NOT LIKE 'x%'"},
}


def models() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table(
        "person",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("card", sa.String(60), unique=True),
        sa.Column("age", sa.Integer),
        sa.Column("email", sa.String(80), unique=True),
        sa.Column("initials", sa.CHAR(6)),
        sa.Column("diary", sa.Text),
        sa.Column("kind", sa.Enum("guest", "staff", name="person_kind")),
        sa.Column("password", sa.String(60), nullable=False, unique=True),
    )
    sa.Table(
        "diagnosis",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text),
    )
    sa.Table(
        "post",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("status", sa.String(10)),
        sa.Column("diagnosis_id", sa.ForeignKey("diagnosis.id")),
    )
    sa.Table(
        "comment",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("post_id", sa.ForeignKey("post.id"), nullable=False),
    )
    return metadata


MODELS = models()


class App:
    """Hold an application with a capture on the engine.

    ``created``: the tables exist already.
    """

    def __init__(
        self, url: str, tables: dict[str, Any], metadata: sa.MetaData = MODELS, *, created: bool = False
    ) -> None:
        self.metadata = metadata
        self.tables = self.metadata.tables
        self.engine = open_engine(url, "primary", pooled=False)
        self.capture = Capture(self.metadata, source="shop", tables=tables)
        self.sessions = sessionmaker(self.engine)
        self.capture.install(self.sessions)
        if not created:
            self.metadata.create_all(self.engine, checkfirst=False)

    def run(self, *statements: Any) -> None:
        """Execute the statements in one transaction."""
        with self.sessions.begin() as session:
            for statement in statements:
                session.execute(statement)

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        self.run(*(sa.insert(self.tables[table]).values(row) for row in rows))

    def outbox(self) -> str:
        """Return all lines of the outbox."""
        with self.engine.connect() as connection:
            column = self.tables["rowcast_outbox"].c
            return "".join(connection.scalars(sa.select(column.changes).order_by(column.id)))

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.outbox().splitlines()]


NewApp = Callable[..., App]


@pytest.fixture(scope="module")
def url_with_tables(new_lasting_database: NewDatabase) -> NewDatabase:
    """Return a function that returns the URL of an engine's database, in which all tables exist."""

    @cache
    def url_of(engine: str) -> str:
        url = new_lasting_database(engine)
        App(url, {})
        return url

    return url_of


@pytest.fixture(params=ENGINES)
def new_app(request: pytest.FixtureRequest, url_with_tables: NewDatabase) -> Iterator[NewApp]:
    """Return a function that creates an application on empty tables, once for each engine."""
    url = url_with_tables(request.param)
    made: list[App] = []

    def make(tables: dict[str, Any] | None = None, metadata: sa.MetaData = MODELS) -> App:
        made.append(App(url, tables or {}, metadata, created=True))
        return made[-1]

    yield make
    for app in made:
        empty_tables(app.engine, app.metadata.sorted_tables)


PERSON = {
    "id": 1, "card": SECRET, "age": 41, "email": SECRET, "initials": "kä", "diary": "Dear 😀iary " + SECRET,
    "kind": "staff", "password": SECRET,
}  # fmt: skip
EMPTY = {"id": 2, "password": "x"}


def digest(name: str, value: str) -> str:
    return hashlib.new(name, (SALT + value).encode()).hexdigest()


def test_a_secret_never_reaches_the_outbox(new_app: NewApp) -> None:
    app = new_app(CONFIGURED)
    app.insert("person", PERSON, EMPTY)
    app.insert("diagnosis", {"id": 1, "text": SECRET})
    text = app.outbox()
    assert "4111" not in text
    assert SALT not in text
    padded = "kä    " if app.engine.dialect.name == "postgresql" else "kä"
    assert [line["a"] for line in app.lines()] == [
        {
            "id": 1,
            "card": "**'%s\\**",
            "age": "?",
            "email": digest("sha256", SECRET),
            "initials": digest("sha512", padded)[:6],
            "diary": "Dear ",
            "kind": "st",
        },
        {"id": 2, "card": "**'%s\\**", "age": "?", "email": None, "initials": None, "diary": None, "kind": None},
    ]


def test_truncation_counts_characters(new_app: NewApp) -> None:
    app = new_app({"person": {"columns": {"diary": {"truncate": 2}}}})
    app.insert("person", {"id": 1, "password": "x", "diary": "😀ä€"})
    assert app.lines()[0]["a"]["diary"] == "😀ä"


def test_the_settings_in_info_have_equal_effects(new_app: NewApp) -> None:
    metadata = models()
    metadata.tables["diagnosis"].info["rowcast"] = False
    metadata.tables["post"].info["rowcast"] = {"where": "status <> 'draft'"}
    person = metadata.tables["person"]
    person.info["rowcast"] = {"columns": {"password": False}}
    person.c.card.info["rowcast"] = {"mask": "#"}
    person.c.email.info["rowcast"] = {"hash": "sha256"}
    app = new_app({"person": {"columns": {"email": {"salt": SALT}, "card": {"truncate": 1}}}}, metadata)
    app.insert("person", PERSON)
    app.insert("diagnosis", {"id": 1, "text": SECRET})
    app.insert("post", {"id": 1, "status": "draft"}, {"id": 2, "status": "out"})
    row, post = (line["a"] for line in app.lines())
    assert "password" not in row
    assert row["email"] == digest("sha256", SECRET)
    assert row["card"] == "K", "the configuration takes precedence over info"
    assert post["id"] == 2


def test_a_row_is_published_while_the_row_filter_is_true(new_app: NewApp) -> None:
    app = new_app(CONFIGURED)
    post = app.tables["post"]

    def change(id_: int, **values: Any) -> None:
        app.run(sa.update(post).where(post.c.id == id_).values(**values))

    app.insert("post", {"id": 1, "status": "draft"}, {"id": 2, "status": "out"}, {"id": 3, "status": None})
    app.insert("post", *({"id": n, "status": "draft" if n % 2 else "out"} for n in range(10, 14)))
    change(1, status="out")
    change(2, status="draft")
    change(2, status="xyz")
    app.run(sa.delete(post).where(post.c.id == 2))
    app.insert("post", {"id": 20, "status": "draft"})
    app.run(sa.update(post).where(post.c.id == 20).values(status="out"), sa.delete(post).where(post.c.id == 20))
    assert [(line["op"], line["k"]["id"], line.get("a", {}).get("status")) for line in app.lines()] == [
        ("c", 2, "out"), ("c", 10, "out"), ("c", 12, "out"), ("u", 1, "out"), ("d", 2, None), ("d", 2, None),
        ("d", 2, None), ("d", 20, None),
    ]  # fmt: skip


def test_a_transaction_without_published_rows_writes_no_outbox_row(new_app: NewApp) -> None:
    app = new_app(CONFIGURED)
    app.insert("post", {"id": 1, "status": "draft"})
    app.insert("diagnosis", {"id": 1, "text": SECRET})
    assert app.outbox() == ""


@pytest.fixture(params=["postgresql to mariadb", "mariadb to sqlite", "sqlite to postgresql"])
def pipeline(
    request: pytest.FixtureRequest, new_database: NewDatabase, source_name: str, kafka: Broker
) -> tuple[App, Settings]:
    primary, replica = (new_database(engine) for engine in request.param.split(" to "))
    settings = settings_for(source_name, kafka.bootstrap_servers, replica, primary)
    tables = {name: read_table_settings(value, name) for name, value in CONFIGURED.items()}
    return App(primary, CONFIGURED), settings.model_copy(update={"tables": tables})


def carry(app: App, settings: Settings) -> None:
    Relay(settings, app.engine).run_once()
    work_once(settings)


def test_replica_and_verify_follow_masks_and_filters(pipeline: tuple[App, Settings]) -> None:
    app, settings = pipeline
    post = app.tables["post"]
    app.insert("diagnosis", {"id": 7, "text": SECRET})
    app.insert("person", PERSON, EMPTY, {"id": 3, "password": "y", "age": 3, "kind": "guest", "diary": "", "card": ""})
    app.insert("post", {"id": 1, "status": "draft"}, {"id": 2, "status": "out", "diagnosis_id": 7})
    app.insert("comment", {"id": 1, "post_id": 1}, {"id": 2, "post_id": 2})
    carry(app, settings)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    assert replica.state() == "consistent"
    assert [row[0] for row in replica.rows("post", "id")] == [2]
    assert [row[0] for row in replica.rows("comment", "id")] == [1, 2]
    assert not sa.inspect(replica.engine).has_table("diagnosis")
    assert replica.rows("person", "id", "card", "age", "email")[0] == (1, "**'%s\\**", "?", digest("sha256", SECRET))
    found = verify(settings, NAME)
    assert found.equal, found
    assert {t.table.partition(".")[2]: t.rows for t in found.tables} == {"person": 3, "post": 1, "comment": 2}
    app.run(sa.update(post).values(status=sa.case((post.c.id == 1, "out"), else_="draft")))
    carry(app, settings)
    assert [row[0] for row in replica.rows("post", "id")] == [1]
    assert verify(settings, NAME).equal
    # Verify finds different rows, and rows that must not exist.
    replica.execute("UPDATE person SET email = 'abc' WHERE id = 1", "INSERT INTO post (id, status) VALUES (2, 'draft')")
    differences = {t.table.partition(".")[2]: t.differences for t in verify(settings, NAME).tables if not t.equal}
    assert [(d.kind, d.columns) for d in differences["person"]] == [("different", ("email",))]
    assert [(d.kind, d.key) for d in differences["post"]] == [("extra", {"id": 2})]
    with pytest.raises(ConfigurationError, match=r"column email of .*person is published .* Set salt in \[tables"):
        verify(settings.model_copy(update={"tables": {}}), NAME)
    replica.engine.dispose()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"person": {"columns": {"id": {"mask": "x"}}}},
            "column 'id' of table 'person' is masked, but belongs to the pri",
        ),
        (
            {"person": {"columns": {"id": False}}},
            "column 'id' of table 'person' is left out, but belongs to the primary",
        ),
        ({"person": {"columns": {"id": {"truncate": 3}}}}, "column 'id' of table 'person' is truncated"),
        ({"person": {"columns": {"id": {"hash": "sha256", "salt": "s"}}}}, "column 'id' of table 'person' is hashed"),
        ({"person": {"columns": {"emial": False}}}, "name a column 'emial', which it does not have"),
        ({"perso": {"before": True}}, "names the table 'perso', which the metadata does not have"),
        ({"other.persons": False}, "names the table 'other.persons', which the metadata does not have"),
        (
            {"person": {"columns": {"email": {"hash": "sha256"}}}},
            "column 'email' of table 'person' has a hash without a salt",
        ),
        (
            {"person": {"columns": {"email": {"mask": "x", "salt": "s"}}}},
            "'email' of table 'person' has .*a salt without a hash",
        ),
    ],
)
def test_settings_that_cannot_be_applied_are_refused_at_install(tables: dict[str, Any], message: str) -> None:
    capture = Capture(models(), source="shop", tables=tables)
    with pytest.raises(ConfigurationError, match=message):
        capture.install(sessionmaker(sa.create_engine("sqlite://")))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"person": {"columns": {"email": {"mask": "x", "truncate": 2}}}},
            "columns.email: mask and truncate exclude each other",
        ),
        (
            {"person": {"columns": {"email": {"hash": "md5", "salt": "s"}}}},
            "columns.email.hash: Input should be 'sha224', 'sha256'",
        ),
        (
            {"person": {"columns": {"email": {"truncate": 0}}}},
            "columns.email.truncate: Input should be greater than or equal",
        ),
        ({"person": {"wher": "1=1"}}, "the settings of table 'person' is not valid:\n  wher: unknown key"),
    ],
)
def test_settings_without_meaning_are_refused_at_once(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Capture(models(), source="shop", tables=tables)


def test_an_invalid_condition_fails_the_first_commit_by_name(new_app: NewApp) -> None:
    app = new_app({"post": {"where": "statuss = 1"}})
    with pytest.raises(ConfigurationError, match=r"the row filter of table \S+\.post, where = 'statuss = 1': "):
        app.insert("person", PERSON)
    with app.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(app.tables["person"])) == 0


def test_check_reports_settings_that_cannot_apply(new_app: NewApp) -> None:
    app = new_app({"post": {"where": "statuss = 1"}})
    assert [(f.table, "statuss" in f.message) for f in app.capture.check(app.engine)] == [("post", True)]
    tables: dict[str, dict[str, Any]] = {
        "elsewhere.post": {"before": True},
        "person": {"columns": {"age": {"truncate": 1}, "id": False}},
    }
    found = Capture(models(), source="x", tables=tables).check(app.engine)
    assert {f.table: f.message.split(".")[0] for f in found} == {
        "post": "the configuration names the table 'elsewhere",
        "person": "column 'id' of table 'person' is left out, but belongs to the primary key, by which consumers find "
        "the row",
    }


def test_a_capture_takes_source_and_tables_from_the_settings(new_database: NewDatabase) -> None:
    tables = {"person": read_table_settings({"columns": {"card": {"mask": "#"}}}, "person")}
    settings = Settings(source="other", tables=tables)
    metadata = models()
    capture = Capture.from_settings(metadata, settings)
    assert capture.source == "other"
    engine = open_engine(new_database("sqlite"), "primary", pooled=False)
    sessions = sessionmaker(engine)
    capture.install(sessions)
    metadata.create_all(engine)
    with sessions.begin() as session:
        session.execute(sa.insert(metadata.tables["person"]).values(PERSON))
    with engine.connect() as connection:
        (changes,) = connection.scalars(sa.select(metadata.tables["rowcast_outbox"].c.changes))
    assert orjson.loads(changes)["a"]["card"] == "#"
    engine.dispose()


@pytest.mark.parametrize("primary_url", ["mariadb", "sqlite"], indirect=True)
def test_a_row_trigger_writes_the_same_line(primary_url: str) -> None:
    """The lines are expressions over any row, with literals where the drain has parameters."""
    settings = {"where": "status <> 'draft'", "before": True, "columns": {"status": {"truncate": 3}}}
    app = App(primary_url, {"post": settings})
    app.capture.uninstall(app.sessions)
    table = app.tables["post"]
    dialect = app.engine.dialect
    with app.engine.connect() as connection:
        captured = CapturedTables(app.metadata, {"post": settings}).captured_table(
            table, dialect, connection.dialect.default_schema_name or "main"
        )

    def of(row: str) -> Callable[[sa.Column[Any]], sa.ColumnElement[Any]]:
        return lambda column: sa.literal_column(f"{row}.{column.name}", column.type)

    line = row_line(captured, "u", of("NEW"), of("OLD"))
    sql = str(line.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace("%%", "%")
    with app.engine.begin() as connection:
        if dialect.name == "sqlite":
            register_functions(connection.connection.dbapi_connection)
        connection.exec_driver_sql("CREATE TABLE log (n INTEGER, line TEXT)")
        connection.exec_driver_sql("INSERT INTO post (id, status) VALUES (1, 'draft'), (2, 'out there')")
        trigger = f"INSERT INTO log VALUES (NEW.id, {sql});".replace("%", "%%" if dialect.name != "sqlite" else "%")
        connection.exec_driver_sql(f"CREATE TRIGGER t AFTER UPDATE ON post FOR EACH ROW BEGIN {trigger} END")
        connection.exec_driver_sql("UPDATE post SET status = 'public' WHERE id = 1")
        connection.exec_driver_sql("UPDATE post SET status = 'draft' WHERE id = 2")
        lines = [orjson.loads(text) for text in connection.exec_driver_sql("SELECT line FROM log ORDER BY n").scalars()]
    assert [(one["op"], one["k"], one.get("b"), one.get("a")) for one in lines] == [
        ("u", {"id": 1}, None, {"id": 1, "status": "pub", "diagnosis_id": None}),
        ("d", {"id": 2}, {"id": 2, "status": "out", "diagnosis_id": None}, None),
    ]
