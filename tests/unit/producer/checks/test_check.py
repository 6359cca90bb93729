"""Test the findings of ``rowcast check`` on SQLite and an embedded Kafka, line by line, and the exit code."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from support.command_line import rowcast


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int | None]


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    with embedded_kafka() as address:
        yield address


@pytest.fixture
def place(tmp_path: Path, brokers: str) -> Path:
    (tmp_path / "rowcast.toml").write_text(
        f'source = "shop"\n[kafka]\n"bootstrap.servers" = "{brokers}"\n'
        f'[primary]\nurl = "sqlite:///{tmp_path}/primary.db"\n[replicas.r]\nurl = "sqlite:///{tmp_path}/replica.db"\n'
    )
    return tmp_path


@pytest.fixture
def engine(place: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{place}/primary.db")
    yield engine
    engine.dispose()


def captured(engine: sa.Engine) -> sessionmaker[Session]:
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source="shop").install(sessions)
    Base.metadata.create_all(engine)
    return sessions


def findings(place: Path, exit_code: int) -> list[tuple[str, str, str]]:
    result = rowcast("check", "--json", cwd=place)
    assert "Traceback" not in result.stderr
    document = json.loads(result.stdout)
    assert document["exit_code"] == result.returncode == exit_code, result.stdout
    assert document["ok"] == (exit_code == 0)
    return [(f["area"], f["verdict"], f["message"]) for f in document["findings"]]


def test_check_says_where_to_begin_before_anything_exists(place: Path) -> None:
    found = findings(place, 1)
    assert found[0][:2] == ("configuration", "ok")
    assert ("primary", "missing", f"there is no file {place}/primary.db") in found
    # The worker creates the file, so that the user need not do anything.
    assert ("replica 'r'", "warning", "there is no file yet") in found
    assert not (place / "primary.db").exists()


def test_missing_outbox_tables_are_named_with_the_way_to_make_them(place: Path, engine: sa.Engine) -> None:
    Base.metadata.tables["orders"].create(engine)
    result = rowcast("check", cwd=place)
    assert result.returncode == 1
    words = " ".join(result.stdout.split())
    for name in ("outbox", "shape", "lease", "claim", "snapshot", "parked", "batch", "relay"):
        assert f"primary: table rowcast_{name} does not exist" in words
    # Eight findings share a hint.
    assert words.count("capture.create_outbox(engine), or an Alembic migration") == 1


def test_the_findings_stand_in_columns(place: Path) -> None:
    lines = rowcast("check", cwd=place).stdout.splitlines()[:-1]
    starts = {re.match(r"\w+ +[^:]+: +", line).end() for line in lines if not line.startswith(" ")}  # type: ignore[union-attr]
    assert len(starts) == 1
    hints = [line for line in lines if line.startswith(" ")]
    assert hints
    assert all(line.startswith(" " * 14 + "→ ") for line in hints)
    assert len(hints) == len(set(hints))


def test_a_column_that_the_outbox_lacks_is_named(place: Path, engine: sa.Engine) -> None:
    captured(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rowcast_shape DROP COLUMN rows_before")
    assert ("primary", "missing", "table rowcast_shape has no column rows_before") in findings(place, 1)


def test_an_outbox_that_no_capture_has_written_to_is_reported(place: Path, engine: sa.Engine) -> None:
    captured(engine)
    assert ("primary", "missing", "no capture has written yet") in findings(place, 1)


def test_rows_from_before_the_capture_are_reported_by_table(place: Path, engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO orders (id) VALUES (1), (2)")
    with captured(engine).begin() as session:
        session.add_all([Order(id=3), Invoice(id=1)])
    missing = [message for area, verdict, message in findings(place, 1) if verdict == "missing"]
    assert missing == ["main.orders: rows from before the capture are not all in the topics"]


def test_tables_that_differ_from_the_models_are_reported(place: Path, engine: sa.Engine) -> None:
    with captured(engine).begin() as session:
        session.add_all([Order(id=1), Invoice(id=1)])
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE invoices DROP COLUMN total")
        connection.exec_driver_sql("ALTER TABLE orders ADD COLUMN note TEXT")
    found = findings(place, 1)
    missing = "main.invoices has no column total, which the application's models have"
    assert ("primary", "missing", missing) in found
    assert ("primary", "warning", "main.orders has a column that is not captured: note") in found
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE invoices")
    assert ("primary", "warning", "main.invoices was captured, but does not exist any more") in findings(place, 0)


def test_check_ends_with_0_and_warnings_when_everything_exists(place: Path, engine: sa.Engine) -> None:
    with captured(engine).begin() as session:
        session.add(Order(id=1))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE audit (id INTEGER PRIMARY KEY)")
    found = findings(place, 0)
    assert ("primary", "ok", "captured: main.invoices, main.orders") in found
    assert ("primary", "warning", "not captured: main.audit") in found
    assert any(area == "Kafka" and verdict == "warning" and "embedded" in message for area, verdict, message in found)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ("[tables.order]", '[tables."order"]: there is no such table'),
        ('[tables."other.orders"]', '[tables."other.orders"]: there is no such table'),
        (
            '[tables."main.orders"]\nwhere = "idd > 1"',
            "row filter of table main.orders, where = 'idd > 1': no such column: idd",
        ),
        (
            "[tables.orders.columns]\nid = false",
            "column 'id' of table 'orders' is left out, but belongs to the primary",
        ),
        ("[tables.orders.columns]\nnote = false", "name a column 'note', which it does not have"),
        (
            "[tables.invoices.columns.total]\ntruncate = 3",
            "column 'total' of table main.invoices cannot be truncated, because",
        ),
    ],
)
def test_table_settings_that_cannot_apply_are_reported(
    place: Path, engine: sa.Engine, tables: str, expected: str
) -> None:
    with captured(engine).begin() as session:
        session.add(Order())
    with (place / "rowcast.toml").open("a") as file:
        file.write(f"\n{tables}\n")
    found = [message for _, verdict, message in findings(place, 2) if verdict == "configuration"]
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ('[tables.orders]\nwhere = "id > 1"', "uses another row filter"),
        ('[tables.invoices.columns]\ntotal = { mask = "?" }', "masks its column total differently"),
        ("[tables.invoices.columns]\ntotal = false", "publishes its column total"),
        ("[tables.invoices]\nbefore = true\n[tables.invoices.columns.total]\ncapture = true", None),
    ],
)
def test_a_capture_that_differs_from_the_configuration_is_reported(
    place: Path, engine: sa.Engine, tables: str, expected: str | None
) -> None:
    with captured(engine).begin() as session:
        session.add(Order())
    with (place / "rowcast.toml").open("a") as file:
        file.write(f"\n{tables}\n")
    found = [
        message for area, verdict, message in findings(place, 0 if expected is None else 1) if verdict == "missing"
    ]
    assert [f for f in found if "capture" in f] == ([] if expected is None else [found[0]])
    assert expected is None or expected in found[0]


def test_a_mistaken_environment_variable_is_a_warning(place: Path) -> None:
    options = {"ROWCAST_LOG_LEVEL": "info", "ROWCAST_CHUNK_SIZE": "10", "ROWCAST_DLQ_SOURCE": "1"}
    result = rowcast("check", cwd=place, env={"ROWCAST_PRIMRAY__URL": "sqlite:///x.db", **options})
    assert "no setting has the environment variable ROWCAST_PRIMRAY__URL\n" in result.stdout


@pytest.mark.parametrize(
    ("without", "exit_code", "verdict"), [(None, 3, "unreachable"), ("psycopg", 2, "configuration")]
)
def test_check_continues_after_a_server_that_does_not_answer(
    place: Path, closed_port: int, without: str | None, exit_code: int, verdict: str
) -> None:
    primary = f"postgresql+psycopg://app:hush@127.0.0.1:{closed_port}/x"
    result = rowcast("check", "--json", cwd=place, env={"ROWCAST_PRIMARY__URL": primary}, without=without)
    assert result.returncode == exit_code
    assert "hush" not in result.stdout + result.stderr
    found = {(f["area"], f["verdict"]) for f in json.loads(result.stdout)["findings"]}
    assert {("primary", verdict), ("Kafka", "ok"), ("replica 'r'", "warning")} <= found


def test_a_clock_that_is_wrong_is_named(place: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    Base.metadata.create_all(engine)
    assert "its clock is" not in rowcast("check", cwd=place).stdout
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 61)
    words = " ".join(rowcast("check", cwd=place).stdout.split())
    assert "primary: its clock is 61 s behind this machine's" in words
