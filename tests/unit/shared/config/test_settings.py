"""Test the settings in ``rowcast.toml`` and the environment, and the messages about mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.config.relay_settings import RelaySettings, WatchdogSettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings, load
from rowcast.shared.config.sink_settings import SinkSettings
from rowcast.shared.config.table_settings import ColumnSettings, TableSettings
from rowcast.shared.config.topic_settings import TopicSettings
from rowcast.shared.errors import ConfigurationError
from support.project import REFERENCE

WHOLE = """
source = "shop"

[kafka]
"bootstrap.servers" = "127.0.0.1:9092"
"sasl.password" = "kafka-secret"
"ssl.key.password" = "key-secret"
"linger.ms" = 5

[primary]
url = "postgresql+psycopg://app:primary-secret@db/shop"

[replicas.reporting]
url = "mysql+pymysql://rep:replica-secret@other/reports"
tables = ["public.orders", "public.cust*"]

[replicas.files]
url = "sqlite:////tmp/replica.db"

[tables."public.orders"]
where = "status <> 'draft'"
before = true

[tables."public.orders".columns]
note = false
card = { mask = "****" }
email = { hash = "sha256", salt = "salt-secret" }

[tables.log]
capture = false

[relay]
lease_ms = 8000
"""


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove files and environment variables of the machine from the test's view."""
    for name in [n for n in os.environ if n.startswith("ROWCAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def configuration(text: str) -> Settings:
    Path("rowcast.toml").write_text(text, "utf-8")
    return load()


def mistake(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configuration(text)
    return str(caught.value)


def test_every_section_is_read() -> None:
    settings = configuration(WHOLE)
    assert settings.source == "shop"
    assert settings.kafka["linger.ms"] == 5
    assert settings.require_primary().sqlalchemy_url.password == "primary-secret"
    assert settings.replica("reporting").tables == ("public.orders", "public.cust*")
    assert settings.replica("files").tables == ("*",)
    assert settings.relay.lease_ms == 8000
    orders = settings.tables["public.orders"]
    assert (orders.where, orders.before, orders.columns["note"].capture) == ("status <> 'draft'", True, False)
    assert (orders.columns["card"].mask, orders.columns["email"].hash) == ("****", "sha256")
    assert not settings.tables["log"].capture


def test_a_salt_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_TABLES", '{"public.orders": {"columns": {"email": {"salt": "from-outside"}}}}')
    monkeypatch.setenv("ROWCAST_TABLES__LOG__COLUMNS__TEXT__SALT", "too")
    settings = configuration(WHOLE)
    assert set(settings.salts()) == {"from-outside", "too"}
    assert settings.tables["public.orders"].columns["email"].hash == "sha256"


def test_what_is_left_out_has_its_default() -> None:
    settings = configuration('source = "shop"')
    assert settings.relay.kafka_transaction_ms == 100
    assert settings.topics.partitions == 1
    assert settings.replicas == {}


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_SOURCE", "other")
    monkeypatch.setenv("ROWCAST_PRIMARY__URL", "sqlite:///other.db")
    monkeypatch.setenv("ROWCAST_RELAY__LEASE_MS", "9000")
    settings = configuration(WHOLE)
    assert settings.source == "other"
    assert settings.require_primary().sqlalchemy_url.database == "other.db"
    assert settings.relay.lease_ms == 9000


def test_one_key_of_a_replica_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_REPLICAS__REPORTING__URL", "sqlite:///r.db")
    settings = configuration(WHOLE)
    assert settings.replica("reporting").sqlalchemy_url.get_backend_name() == "sqlite"
    assert settings.replica("reporting").tables == ("public.orders", "public.cust*")
    assert set(settings.replicas) == {"reporting", "files"}


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_SOURCE", "shop")
    monkeypatch.setenv("ROWCAST_KAFKA__BOOTSTRAP_SERVERS", "k:9092")
    monkeypatch.setenv("ROWCAST_PRIMARY__URL", "sqlite:///p.db")
    monkeypatch.setenv("ROWCAST_REPLICAS__R1__URL", "sqlite:///r.db")
    settings = load()
    assert settings.require_kafka()["bootstrap.servers"] == "k:9092"
    assert settings.replica("r1").sqlalchemy_url.database == "r.db"


def test_a_kafka_property_from_the_environment_joins_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    settings = configuration(WHOLE)
    assert settings.kafka["bootstrap.servers"] == "elsewhere:9092"
    assert settings.kafka["linger.ms"] == 5


def test_an_option_of_the_command_line_is_no_unknown_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_LOG_FORMAT", "json")
    monkeypatch.setenv("ROWCAST_CONFIG", "rowcast.toml")
    assert configuration(WHOLE).source == "shop"


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = configuration(WHOLE)
    shown = f"{settings!r} {settings} {settings.masked()} {settings.model_dump_json()}"
    # Only masked() masks Kafka's properties. All output uses masked().
    assert "primary-secret" not in shown
    assert "replica-secret" not in shown
    assert "salt-secret" not in shown
    assert "kafka-secret" not in str(settings.masked())
    assert "key-secret" not in str(settings.masked())
    assert settings.masked()["primary"]["url"] == "postgresql+psycopg://app:***@db/shop"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "shop"\nsauce = 1', "sauce: unknown key. Did you mean 'source'?"),
        ('source = "shop"\n[replica.r]\nurl = "x"', "replica: unknown key. Did you mean 'replicas'?"),
        ('source = "shop"\n[replicas.r]\nurl = "sqlite:///r.db"\ntabels = []', "Did you mean 'tables'?"),
        ('source = "shop"\nxyz = 1', "xyz: unknown key. Remove it."),
        ("source = shop", '(at line 1, column 10). Did you forget the quotes? Write source = "…"'),
        ('source = "shop"\n[primary]\nurl = "sqlite:///p.db"\nuser = "x"', "primary.user: unknown key"),
        ('source = "shop"\n[relay]\nlease = 1', "relay.lease: unknown key"),
        ('source = "shop"\n[relay]\nlease_ms = "soon"', "relay.lease_ms: Input should be a valid integer"),
        ('source = "shop"\n[replicas.r]\nurl = 5', "replicas.r.url: Input should be a valid string"),
        ('source = "shop"\n[replicas.r]\ntables = ["*"]', "replicas.r.url: missing"),
        ('source = "shop"\n[primary]', "primary.url: missing. Set it in the file, or as ROWCAST_PRIMARY__URL"),
        ('source = "shop"\n[primary]\nurl = "shop.db"', "primary.url: not a database URL"),
        ('source = "shop"\n[primary]\nurl = "oracle://x/y"', "primary.url: 'oracle' is not supported"),
        ('source = "the shop"', "source: String should match"),
        ('[primary]\nurl = "sqlite:///p.db"', "source: missing. Set it in the file, or as ROWCAST_SOURCE"),
        ('source = "shop', "cannot read rowcast.toml: "),
        ('source = "shop"\n[topics]\ntemplate = "{source}.{schema}"', "topics.template: without {table} all tables"),
        ('source = "shop"\n[topics]\ntemplate = "{db}.{table}"', "topics.template: a topic's name is made of {source}"),
        ('source = "shop"\n[topics]\ntemplate = "{source}/{table}"', "topics.template: Kafka allows no '/' in a topic"),
        (
            'source = "shop"\n[topics]\ntemplate = "{source"',
            "topics.template: '{source' is not a template: expected '}'",
        ),
        ('source = "shop"\n[topics.tables.orders]\npartitions = 3', "topics.tables.orders.[key]: String should match"),
        (
            'source = "shop"\n[topics.tables."a.b"]\nretention_ms = 3',
            "topics.tables.a.b: retention_ms has no effect on a topic that is only compacted",
        ),
        ('source = "shop"\n[tables.t]\nwhen = "x"', "tables.t.when: unknown key"),
        (
            'source = "shop"\n[tables.t.columns]\nc = { hash = "md5" }',
            "tables.t.columns.c.hash: Input should be 'sha224'",
        ),
        ('source = "shop"\n[tables.t.columns]\nc = { mask = "x", truncate = 1 }', "c: mask and truncate exclude each"),
    ],
)
def test_a_mistake_is_named_by_its_key(text: str, message: str) -> None:
    assert message in mistake(text)


def test_all_mistakes_are_reported_at_once() -> None:
    message = mistake('sauce = 1\n[primary]\nurl = "shop.db"')
    assert {"sauce:", "source:", "primary.url:"} <= set(message.split())


def test_no_mistake_shows_a_password() -> None:
    message = mistake(
        'source = "shop"\n[primary]\nurl = "oracle://app:primary-secret@db/x"\nurrl = "a:primary-secret@b"'
    )
    assert "primary-secret" not in message


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match=r"no configuration file elsewhere\.toml"):
        load(Path("elsewhere.toml"))


def test_an_unknown_replica_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"no replica 'report'.*files, reporting.*Did you mean 'reporting'"):
        configuration(WHOLE).replica("report")
    with pytest.raises(ConfigurationError, match=r"Add a \[replicas.x\] section"):
        configuration(WHOLE).replica("x")


def test_a_value_without_quotes_is_not_repeated_because_it_may_be_secret() -> None:
    assert "hunter2" not in mistake('source = "shop"\n[primary]\nurl = postgresql://shop:hunter2@db/shop\n')


def test_what_a_command_needs_is_asked_for_by_name() -> None:
    settings = configuration('source = "shop"')
    with pytest.raises(ConfigurationError, match=r"ROWCAST_PRIMARY__URL"):
        settings.require_primary()
    with pytest.raises(ConfigurationError, match=r"ROWCAST_KAFKA__BOOTSTRAP_SERVERS"):
        settings.require_kafka()


def test_the_reference_names_every_key_its_variable_and_its_default() -> None:
    text = (REFERENCE / "configuration.md").read_text("utf-8")
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            key, variable, default, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            rows[variable.strip("`")] = (key.strip("`"), default)
    sections: dict[str, type[BaseModel]] = {
        "TOPICS": TopicSettings,
        "RELAY": RelaySettings,
        "ALERTS": AlertSettings,
        "SINKS__NAME": SinkSettings,
        "WATCHDOG": WatchdogSettings,
        "DEBEZIUM": DebeziumSettings,
        "REPLICAS__NAME": ReplicaSettings,
        "TABLES__NAME": TableSettings,
        "TABLES__NAME__COLUMNS__COLUMN": ColumnSettings,
    }
    for prefix, section in sections.items():
        for name, field in section.model_fields.items():
            if (prefix, name) in (("TABLES__NAME", "columns"), ("TOPICS", "tables"), ("REPLICAS__NAME", "view")):
                continue  # These settings are separate sections.
            key, default = rows.pop(f"ROWCAST_{prefix}__{name.upper()}")
            assert key == name
            if field.is_required():
                expected = "required"
            else:
                value = field.get_default(call_default_factory=True)
                expected = "none" if value is None else json.dumps(value)
            assert default.split(" (")[0].strip("`") == expected, key
    top_level = {"ROWCAST_SOURCE", "ROWCAST_FORMAT", "ROWCAST_LOG_VALUES", "ROWCAST_SIGNATURE_KEYS"}
    assert set(rows) == {*top_level, "ROWCAST_PRIMARY__URL", "ROWCAST_KAFKA__BOOTSTRAP_SERVERS"}


@pytest.mark.parametrize(
    ("key", "value"), [("schedule", "15m"), ("verify_every", 60), ("on_retype", "rebuild"), ("on_bad_row", "dlq")]
)
def test_workers_that_share_a_replica_have_no_settings_of_a_single_worker(key: str, value: object) -> None:
    replica = {"url": "sqlite://", "consistency": "row"}
    assert Settings.model_validate({"source": "shop", "replicas": {"a": replica}}).replicas["a"].consistency == "row"
    with pytest.raises(ValidationError, match=rf"replicas\.a: .*{key}"):
        Settings.model_validate({"source": "shop", "replicas": {"a": replica | {key: value}}})
