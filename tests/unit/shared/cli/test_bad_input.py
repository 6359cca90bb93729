"""Bad input gives a single clear message with the next step, the documented exit code, and no traceback."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.consumer.worker import main_loop
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.kafka import clients
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from support.command_line import rowcast


@pytest.fixture(autouse=True)
def _one_second_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a second where users wait 10 for a broker, because no broker ever answers in these tests."""
    reach = partial(clients.reach, timeout=1)
    monkeypatch.setattr(clients, "reach", reach)
    monkeypatch.setattr(main_loop, "reach", reach)


SECRET = "not-for-your-eyes"


def write(directory: Path, text: str) -> None:
    (directory / "rowcast.toml").write_text(text, "utf-8")


def configuration(primary: str, replica: str = "sqlite:///replica.db", kafka: str = "127.0.0.1:1") -> str:
    return (
        f'source = "shop"\n[kafka]\n"bootstrap.servers" = "{kafka}"\n"sasl.password" = "{SECRET}"\n'
        f'[primary]\nurl = "{primary}"\n[replicas.r]\nurl = "{replica}"\n'
    )


def refused(result: subprocess.CompletedProcess[str], exit_code: int, *messages: str) -> None:
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    assert SECRET not in output
    for text in messages:
        assert text in output
    assert result.returncode == exit_code, output


@pytest.mark.parametrize("command", ["check", "relay", "worker r", "verify r", "status"])
def test_every_command_refuses_a_configuration_with_an_unknown_key(tmp_path: Path, command: str) -> None:
    write(tmp_path, 'source = "shop"\nsauce = 1\n')
    refused(rowcast(*command.split(), cwd=tmp_path), 2, "sauce: unknown key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "shop"\n[relay]\nlease_ms = "soon"', "relay.lease_ms: Input should be a valid integer"),
        ('source = "shop"\n[primary]', "primary.url: missing. Set it in the file, or as ROWCAST_PRIMARY__URL"),
        ('source = "shop', "cannot read rowcast.toml"),
        ('source = "shop"\n[kafka]\nlogger = "x"', "librdkafka has no property logger"),
    ],
)
def test_wrong_type_missing_url_and_broken_file_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    refused(rowcast("check", cwd=tmp_path), 2, message)


@pytest.mark.parametrize("text", [b'source = "\xff"', 'source = "shop"'.encode("utf-16")])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "rowcast.toml").write_bytes(text)
    refused(rowcast("check", cwd=tmp_path), 2, "is not UTF-8. Save the file as UTF-8")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Nayjest/Gito#315: editors of Windows write such a file."""
    (tmp_path / "rowcast.toml").write_bytes(b'\xef\xbb\xbfsource = "shop"\n')
    assert "valid, with the source 'shop'" in rowcast("check", cwd=tmp_path).stdout
    (tmp_path / "rowcast.toml").write_bytes(b"\xef\xbb\xbfsource = shop\n")
    refused(rowcast("check", cwd=tmp_path), 2, "Did you forget the quotes?")


@pytest.mark.parametrize("folder", ["taken", "/dev/null", "/proc/none"])
def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "taken").touch()
    refused(rowcast("demo", "--directory", folder, cwd=tmp_path), 2, f"cannot use {folder}: ")


def test_an_alembic_ini_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_bytes(b"\xff\x00")
    write(tmp_path, configuration("sqlite:///primary.db"))
    refused(rowcast("init", "--alembic", "alembic.ini", cwd=tmp_path), 2, "Alembic cannot write a revision")


def test_a_timeout_without_a_number_is_refused(tmp_path: Path) -> None:
    text = configuration("sqlite:///p.db").replace("[primary]", '"transaction.timeout.ms" = "soon"\n[primary]')
    write(tmp_path, text)
    refused(rowcast("check", cwd=tmp_path), 2, "transaction.timeout.ms is not a number of milliseconds")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a\\u0000b.db",
        "sqlite:///x.db?timeout=soon",
        "mysql+pymysql://127.0.0.1:1/x?nope=1",
        "mysql+pymysql://127.0.0.1:1/x?charset=nope",
        "mysql+pymysql://127.0.0.1:1/x?connect_timeout=99999999",
        "mysql+pymysql://127.0.0.1:1/x?ssl_ca=/no/such/file",
        f"mysql+pymysql://{'h' * 300}/x",
        "mysql+pymysql://ü..ü/x",
        "postgresql+psycopg://127.0.0.1:1/x?nope=1",
        "postgresql+psycopg://[::1/x",
        "http://x",
        "oracle://x/y",
        "://",
        "",
    ],
)
@pytest.mark.parametrize("place", ["primary", "replica"])
def test_a_url_that_no_driver_can_use_is_refused(tmp_path: Path, url: str, place: str) -> None:
    urls = {"primary": "sqlite:///primary.db", "replica": "sqlite:///replica.db", place: url}
    write(tmp_path, configuration(urls["primary"], urls["replica"]))
    result = rowcast("check", cwd=tmp_path)
    refused(result, result.returncode, place)
    assert result.returncode in (2, 3), result.stdout + result.stderr


@pytest.mark.parametrize(
    ("sources", "databases", "env", "messages"),
    [
        (("shop", "shop"), ("a", "b"), {}, ["a.toml and b.toml have the same source, 'shop'", "its own source"]),
        (("shop", "stock"), ("a", "a"), {}, ["a.toml and b.toml have the same primary database", "one outbox"]),
        (("shop", "stock"), ("a", "b"), {"ROWCAST_SOURCE": "x"}, ["the same source, 'x'", "ROWCAST_SOURCE is set"]),
    ],
)
def test_two_files_that_one_relay_cannot_keep_apart_are_refused_by_name(
    tmp_path: Path, sources: tuple[str, str], databases: tuple[str, str], env: dict[str, str], messages: list[str]
) -> None:
    for name, source, database in zip(("a.toml", "b.toml"), sources, databases, strict=True):
        text = f'source = "{source}"\n[kafka]\n"bootstrap.servers" = "127.0.0.1:1"\n'
        (tmp_path / name).write_text(text + f'[primary]\nurl = "sqlite:///{database}.db"\n')
    refused(rowcast("relay", "--config=a.toml", "--config=b.toml", cwd=tmp_path, env=env), 2, *messages)


def test_without_a_primary_the_relay_says_where_to_set_one(tmp_path: Path) -> None:
    write(tmp_path, 'source = "shop"\n[kafka]\n"bootstrap.servers" = "127.0.0.1:1"\n')
    refused(rowcast("relay", "--once", cwd=tmp_path), 2, "no primary database", "ROWCAST_PRIMARY__URL")


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    refused(rowcast("check", "--config", "there.toml", cwd=tmp_path), 2, "no configuration file there.toml", "--config")


@pytest.mark.parametrize("command", ["worker", "verify"])
def test_an_unknown_replica_is_refused_with_the_known_names(tmp_path: Path, command: str) -> None:
    write(tmp_path, configuration("sqlite:///primary.db"))
    refused(rowcast(command, "reports", cwd=tmp_path), 2, "no replica 'reports'", "configured: r")


@pytest.mark.parametrize(
    ("url", "extra"),
    [("postgresql+psycopg://app:{}@127.0.0.1:{}/x", "postgresql"), ("mysql+pymysql://app:{}@127.0.0.1:{}/x", "mysql")],
)
class TestDatabase:
    @pytest.mark.parametrize("command", ["check", "relay --once", "verify r", "status"])
    def test_that_does_not_answer_is_exit_code_3(
        self, tmp_path: Path, closed_port: int, url: str, extra: str, command: str
    ) -> None:
        write(tmp_path, configuration(url.format(SECRET, closed_port)))
        result = rowcast(*command.split(), cwd=tmp_path)
        refused(result, 3, f"127.0.0.1:{closed_port}", "cannot reach the primary database", "Is it running")

    def test_without_its_driver_is_refused_with_the_pip_command(self, tmp_path: Path, url: str, extra: str) -> None:
        write(tmp_path, configuration(url.format(SECRET, 1)))
        driver = url.split("+")[1].split(":")[0]
        result = rowcast("relay", "--once", cwd=tmp_path, without=driver)
        refused(result, 2, f"the database driver '{driver}'", f"pip install '.[{extra}]'")


def test_a_replica_that_does_not_answer_is_exit_code_3(tmp_path: Path, closed_port: int) -> None:
    replica = f"postgresql+psycopg://app:{SECRET}@127.0.0.1:{closed_port}/x"
    with embedded_kafka() as brokers:
        write(tmp_path, configuration("sqlite:///primary.db", replica, brokers))
        result = rowcast("worker", "r", "--once", cwd=tmp_path)
    refused(result, 3, "cannot reach the replica 'r' database")


@pytest.mark.parametrize(("command", "extra"), [("relay", "relay"), ("worker r", "worker"), ("demo", "relay")])
def test_without_a_kafka_client_a_command_says_how_to_get_it(tmp_path: Path, command: str, extra: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/primary.db")
    metadata = sa.MetaData()
    outbox_tables(metadata)
    metadata.create_all(engine)
    engine.dispose()
    write(tmp_path, configuration("sqlite:///primary.db"))
    result = rowcast(*command.split(), cwd=tmp_path, without="confluent_kafka")
    refused(result, 2, "the Kafka client (confluent-kafka) is not installed", f"pip install '.[{extra}]'")


def test_a_kafka_that_does_not_answer_is_exit_code_3(tmp_path: Path, closed_port: int) -> None:
    write(tmp_path, configuration("sqlite:///primary.db", kafka=f"127.0.0.1:{closed_port}"))
    refused(rowcast("check", cwd=tmp_path), 3, "cannot reach Kafka", "bootstrap.servers")
    refused(rowcast("worker", "r", "--once", cwd=tmp_path), 3, "cannot reach Kafka", "bootstrap.servers")


def test_an_unknown_kafka_property_is_refused(tmp_path: Path) -> None:
    text = configuration("sqlite:///primary.db").replace('"sasl.password"', '"sasl.pass"')
    write(tmp_path, text)
    refused(rowcast("check", cwd=tmp_path), 2, "sasl.pass", "[kafka]")


def test_a_primary_without_the_outbox_tables_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "primary.db").touch()
    write(tmp_path, configuration("sqlite:///primary.db"))
    refused(rowcast("relay", "--once", cwd=tmp_path), 2, "rowcast_", "rowcast init")


def test_an_unknown_command_and_an_unknown_option_are_wrong_use(tmp_path: Path) -> None:
    refused(rowcast("relai", cwd=tmp_path), 2, "No such command 'relai'")
    refused(rowcast("relay", "--twice", cwd=tmp_path), 2, "No such option", "--twice")
    refused(rowcast("worker", cwd=tmp_path), 2, "Missing argument 'REPLICA'")


def test_the_message_is_a_json_line_where_logs_are_json(tmp_path: Path) -> None:
    import json

    result = rowcast("relay", "--log-format", "json", cwd=tmp_path)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["error"]
    assert lines[0]["exit_code"] == result.returncode == 2
    assert "source: missing" in lines[0]["message"]
