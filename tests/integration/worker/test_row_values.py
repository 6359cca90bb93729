"""No value and no key of a row reaches a log line or an error, on any engine, unless ``log_values`` is set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.shared import row_values
from rowcast.shared.database.driver_messages import first_line, message, one_line
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tracebacks import format_error, format_traceback
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, settings_for, work_once

SECRET = "SECRET-4711"
# The parts of a value that pretend to be the end of a message.
SLY = f"""{SECRET}' for key "x" {SECRET}' for key 'SECRET' {SECRET}"""
PERSON = shape(
    "person",
    column("id", "int32", nullable=False),
    column("email", PortableType("string", length=90)),
    column("n", "int32"),
    column("d", "date"),
)

TABLES = {
    "postgresql": (
        "CREATE TABLE person (id int PRIMARY KEY, email varchar(90) UNIQUE NOT NULL, n int CHECK (n < 99), d date)",
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE unique_violation USING MESSAGE = 'no ' || NEW.email; END $$"
        ),
        "CREATE TABLE refused (id int PRIMARY KEY, email text)",
        "CREATE TRIGGER t BEFORE INSERT ON refused FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
    "mysql": (
        "CREATE TABLE person (id int PRIMARY KEY, email varchar(90) UNIQUE NOT NULL, n int, d date, CHECK (n < 99))",
        "CREATE TABLE refused (id int PRIMARY KEY, email text)",
        (
            "CREATE TRIGGER t BEFORE INSERT ON refused FOR EACH ROW "
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'SECRET-4711'"
        ),
    ),
    "sqlite": (
        "CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE NOT NULL, n int CHECK (n < 99), d text) STRICT",
        "CREATE TABLE refused (id int PRIMARY KEY, email text)",
        "CREATE TRIGGER t BEFORE INSERT ON refused BEGIN SELECT RAISE(ABORT, 'SECRET-4711'); END",
    ),
}
INSERT = "INSERT INTO person (id, email, n, d) VALUES (:id, :email, :n, :d)"
ROW = {"id": 1, "email": "a", "n": 1, "d": "2026-01-01"}
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "a duplicate": (INSERT, {"email": SLY}, {"postgresql": "person_email_key", "mysql": "email", "sqlite": "email"}),
    "a check": (INSERT, {"n": 4711}, {"postgresql": "person_n_check", "mysql": "person", "sqlite": "n < 99"}),
    "null": (INSERT, {"email": None}, {"postgresql": "email", "mysql": "email"}),
    "a long text": (INSERT, {"email": SECRET * 20}, {"mysql": "email", "postgresql": "character varying(90)"}),
    "no number": (INSERT, {"n": SECRET}, {"mysql": "n", "postgresql": "integer", "sqlite": "person.n"}),
    "no date": (INSERT, {"d": SECRET}, {"mysql": "d", "postgresql": "date"}),
    "SQL": (f"INSERT INTO person VALUES ('{SECRET}' 'x' :id)", {}, {"postgresql": "syntax error"}),
    "a trigger": ("INSERT INTO refused VALUES (1, :email)", {"email": SECRET}, {"": "raised an error"}),
}


@pytest.fixture
def database(replica_url: str) -> Iterator[Database]:
    database = Database(replica_url)
    name = database.engine.dialect.name
    database.execute(*TABLES[family(name)])
    yield database
    database.engine.dispose()


def family(name: str) -> str:
    return "mysql" if name in ("mysql", "mariadb") else name


def engines_of(database: Database) -> Iterator[sa.Engine]:
    """Yield an engine for each driver that a URL may name."""
    yield database.engine
    drivers = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+mysqlconnector", "mariadb": "mysql+mysqlconnector"}
    if driver := drivers.get(database.engine.dialect.name):
        engine = sa.create_engine(database.engine.url.set(drivername=driver))
        yield engine
        engine.dispose()


def errors(engine: sa.Engine) -> Iterator[tuple[str, exc.DBAPIError]]:
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM person")
        connection.execute(sa.text(INSERT), {**ROW, "id": 2, "email": SLY})
    for name, (statement, values, _) in REFUSED.items():
        try:
            with engine.begin() as connection:
                parameters = ROW | values
                connection.execute(sa.text(statement), {n: parameters[n] for n in re.findall(r":(\w+)", statement)})
        except exc.DBAPIError as error:
            yield name, error


def test_a_drivers_message_names_columns_and_constraints_and_no_value(database: Database) -> None:
    shown = 0
    for engine in engines_of(database):
        refused = dict(errors(engine))
        assert {"a duplicate", "a check", "null", "SQL", "a trigger"} <= refused.keys()
        for name, error in refused.items():
            for form in (message, first_line, one_line, format_error, format_traceback):
                assert "4711" not in (text := form(error)), (engine.url, name, form, text)
                assert "SECRET" not in text
            wanted = REFUSED[name][2]
            assert wanted.get(family(engine.dialect.name), wanted.get("", "")) in message(error), message(error)
            with row_values.shown_if(True):
                shown += "4711" in one_line(error)
    assert shown >= 1


@pytest.mark.shared_dialect
@pytest.mark.parametrize("log_values", [False, True])
def test_a_refused_row_names_its_offset_and_its_values_only_if_they_are_logged(
    database: Database, kafka: Broker, source_name: str, log_values: bool, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("INSERT INTO person (id, email) VALUES (5, '" + SECRET + "')")
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(PERSON)
    settings = settings_for(source_name, kafka.bootstrap_servers, database.engine.url.render_as_string(False))
    settings = settings.model_copy(update={"log_values": log_values})
    work_once(settings)
    source.transaction(("c", "person", {"id": 4711, "email": SECRET, "n": 1, "d": None}))
    with pytest.raises(DataError) as refused:
        work_once(settings)
    text = str(refused.value) + caplog.text + format_traceback(refused.value)
    assert "partition 0, offset 0" in text
    assert "table public.person" in text
    assert ('"id":4711' in str(refused.value)) is log_values
    if not log_values:
        assert "4711" not in text
