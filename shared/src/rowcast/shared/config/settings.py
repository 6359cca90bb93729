"""Read ``rowcast.toml`` and its environment variables.

Every key is also an environment variable: ``ROWCAST_`` and the key in capitals, ``__`` between levels
(``ROWCAST_PRIMARY__URL``, ``ROWCAST_REPLICAS__REPORTING__URL``, ``ROWCAST_KAFKA__BOOTSTRAP_SERVERS``). The environment
wins over the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.config.mistakes import describe_mistake, describe_syntax
from rowcast.shared.config.schedule import Schedule, ScheduleText, Seconds
from rowcast.shared.config.section import Section
from rowcast.shared.config.sink_settings import SinkSettings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.topic_names import TABLE_TOPIC, check_template, dead_letter_topic, table_topic
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import TableShape

DEFAULT_PATH = Path("rowcast.toml")

_SECRET_KEY = re.compile(r"password|secret|\.key(\.|$)|\.pem$|token|jaas", re.IGNORECASE)
_MASK = "**********"
_SHORTEST_KEY = 16


class DatabaseSettings(Section):
    """Say where a database is."""

    url: SecretStr = Field(
        description="SQLAlchemy URL of the database: `postgresql`, `mysql`, `mariadb` or `sqlite`. The application's "
        "own URL works, because an asynchronous driver is replaced by the engine's synchronous driver."
    )

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("not a database URL. Write it like postgresql+psycopg://user:password@host/name") from None
        if url.get_backend_name() not in ("postgresql", "mysql", "mariadb", "sqlite"):
            raise ValueError(f"{url.get_backend_name()!r} is not supported. Use postgresql, mysql, mariadb or sqlite")
        return value

    @property
    def sqlalchemy_url(self) -> URL:
        """Return the URL with its password, for ``create_engine``. A printed URL shows stars instead."""
        return make_url(self.url.get_secret_value())


class PrimarySettings(DatabaseSettings):
    """Describe the application's database, which holds the outbox."""


Evolution = Literal["evolve", "validate", "none"]


class ReplicaSettings(DatabaseSettings):
    """Describe a replica."""

    tables: tuple[str, ...] = Field(
        default=("*",),
        description="Shell patterns over `schema.table`, with the names that the source has. The replica gets the "
        "tables that match. A variable holds a JSON list.",
    )
    consistency: Literal["transaction", "row"] = Field(
        default="transaction",
        description="`transaction`: apply whole source transactions, in an order that respects every dependency. "
        '`row`: apply the changes of each row in their order, without transactions, for `format = "debezium"` only. '
        "The state of the replica is then *following*, and never *consistent*.",
    )
    evolution: Evolution = Field(
        default="evolve",
        description="What the worker does with existing tables when the source's tables change. `evolve`: change them, "
        "without a loss of values. `validate`: change none, and stop with the statements that are missing. `none`: "
        "compare nothing, and write the columns that both have.",
    )
    batch_events: int = Field(
        default=20_000,
        ge=1,
        description="Apply at most this many events in one replica transaction. A larger source transaction stays "
        "whole, and is collected in a temporary file.",
    )
    buffer_events: int = Field(
        default=200_000,
        ge=1,
        description="Read at most this many events ahead of the end of their transaction, then pause partitions.",
    )

    on_bad_row: Literal["stop", "dlq"] = Field(
        default="stop",
        description="What to do with a row that the replica refuses, and with an event that cannot be read. `stop`: "
        "the worker ends before it and names it. `dlq`: the worker writes it to the dead letter topic and goes on. "
        "Later events of the same rows follow it there until `rowcast dlq retry` or `drop`.",
    )
    dlq_unit: Literal["transaction", "event"] = Field(
        default="transaction",
        description="How much goes to the dead letter topic with a bad row. `transaction`: its whole transaction, so "
        "that the replica never has a part of one. `event`: the events of the row alone.",
    )
    dlq_topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] | None = Field(
        default=None,
        description="Name of the dead letter topic. Without a value: `<source>.<replica>.dlq`. The worker creates it, "
        "and Kafka keeps its messages for ever.",
    )

    lease_ms: int = Field(
        default=5_000,
        ge=1_000,
        description="How long a worker may show no sign of life before the server gives its claim away. A worker that "
        "stands by takes over this long after the active worker was suspended or lost its network, and at once after "
        "it was killed.",
    )

    verify_every: float | None = Field(
        default=None,
        ge=1,
        description="Let the active worker compare the replica with the primary this often, in seconds. `rowcast "
        "status` and the metrics show the result. The worker needs `[primary]` then.",
    )
    verify_max_rate: int = Field(
        default=20_000,
        ge=1,
        description="Read at most this many rows in a second from each database for `verify_every`.",
    )

    on_truncate: Literal["apply", "ignore"] = Field(
        default="apply",
        description="What to do with an event that empties a table (`op` `t`), as Debezium writes it. `apply`: delete "
        "all rows of the table. `ignore`: leave them. rowcast's own capture writes a delete for each row.",
    )
    schedule: ScheduleText | None = Field(
        default=None,
        description="When the worker catches up: five fields of cron, in UTC, as in `*/15 * * * *`, or an interval, as "
        "in `15m`. In between it rests, without a connection to the replica. Without a value it follows all the time.",
    )
    lag: Seconds = Field(
        default=0.0,
        ge=0,
        description="Apply nothing that was committed less than this long ago: a number of seconds, or a text as in "
        '`"1h"`. The replica is then a copy from before a mistake.',
    )
    max_rate: int | None = Field(
        default=None,
        ge=1,
        description="Let the worker apply at most this many events in a second. A larger transaction stays whole.",
    )

    @model_validator(mode="after")
    def _follows_all_the_time(self) -> ReplicaSettings:
        if self.schedule is not None and self.verify_every is not None:
            raise ValueError(
                "verify_every needs a worker that follows all the time. Leave schedule out, or run `rowcast verify` "
                "beside the schedule"
            )
        return self

    @property
    def due_after_s(self) -> float:
        """Return how old a commit may be that the replica lacks because of its schedule and its lag, in seconds."""
        rest_s = 0.0 if self.schedule is None else Schedule.parse(self.schedule).longest_gap_s()
        return rest_s + self.lag


class TableTopicSettings(Section):
    """Describe the topic of one table. None means: as for all tables."""

    partitions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of partitions. Without a value: as for all tables."
    )
    replication_factor: Annotated[int, Field(ge=-1)] | None = Field(
        default=None, description="Number of copies of each message. Without a value: as for all tables."
    )
    cleanup_policy: Literal["compact", "delete", "compact,delete"] = Field(
        default="compact",
        description="How Kafka cleans the topic. No replica can be built from a topic with `delete` once Kafka has "
        "deleted rows from it, so `delete` is for tables that only other consumers read.",
    )
    retention_ms: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="How long a topic with `delete` keeps its messages. -1: for ever. Without a value: the broker's "
        "default. Refused for a topic without `delete`.",
    )
    min_compaction_lag_ms: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="How long compaction leaves new messages alone. Without a value: as for all tables. Refused for a "
        "topic that is not compacted.",
    )

    @model_validator(mode="after")
    def _is_of_use(self) -> TableTopicSettings:
        if self.retention_ms is not None and "delete" not in self.cleanup_policy:
            raise ValueError(
                'retention_ms has no effect on a topic that is only compacted. Set cleanup_policy = "delete"'
            )
        if self.min_compaction_lag_ms is not None and "compact" not in self.cleanup_policy:
            raise ValueError("min_compaction_lag_ms has no effect on a topic that is not compacted")
        return self


class TopicSettings(Section):
    """Say how topics are named and created."""

    template: str = Field(
        default=TABLE_TOPIC,
        description="Name of a table's topic. Characters that Kafka does not allow become `_`. Relay and workers need "
        "the same template. Messages in topics with other names stay there.",
    )
    partitions: int = Field(default=1, ge=1, description="Number of partitions of each table's topic.")
    replication_factor: int = Field(
        default=-1, ge=-1, description="Number of copies of each message. -1: the broker's default."
    )
    min_compaction_lag_ms: int = Field(
        default=7 * 24 * 3600 * 1000,
        ge=0,
        description="How long compaction leaves new messages alone (default: 7 days). A worker that lags further goes "
        "back to *loading*.",
    )
    transaction_retention_ms: int = Field(
        default=7 * 24 * 3600 * 1000,
        ge=-1,
        description="How long the transaction topic keeps its messages (default: 7 days).",
    )
    tables: dict[Annotated[str, Field(pattern=r"^[^.]+\..+$")], TableTopicSettings] = Field(
        default_factory=dict,
        description="Settings of single topics, by `schema.table`. A variable holds all of them as JSON.",
    )

    @field_validator("template")
    @classmethod
    def _template_is_one(cls, value: str) -> str:
        check_template(value)
        return value


class RelaySettings(Section):
    """Set the relay's pace and the form of its messages. Times are milliseconds."""

    lease_ms: int = Field(
        default=5_000,
        ge=500,
        description="How long the lease of the leader lasts. A relay that stands by takes over this long after the "
        "leader's last heartbeat.",
    )
    kafka_transaction_ms: int = Field(
        default=100,
        ge=0,
        le=30_000,
        description="Commit the Kafka transaction after this long, or when idle. 0: after every claim. At most 30000, "
        "because brokers abort a transaction after a minute.",
    )
    claim_rows: int = Field(
        default=1_000, ge=1, description="Outbox rows in a claim. A claim ends earlier when it holds 8 MiB."
    )
    max_claims: int = Field(
        default=500,
        ge=2,
        description="Claims that Kafka has not committed. With this many, the relay claims no further rows and waits "
        "for Kafka: a relay that takes over publishes all of them again.",
    )
    alarm_rows: int = Field(
        default=1_000_000,
        ge=1,
        description="With more outbox rows than this, the relay logs an error every 30 s, `rowcast check` and `rowcast "
        "status` show the alarm, and the metric `rowcast_outbox_alarm` is 1.",
    )
    alarm_s: int = Field(
        default=600,
        ge=1,
        description="The same if the oldest outbox row is older than this, in seconds.",
    )
    poll_min_ms: int = Field(
        default=2, ge=1, description="Pause between two polls of the outbox under load, if no commit wakes the relay."
    )
    poll_max_ms: int = Field(default=100, ge=1, description="Pause between two polls of the outbox when idle.")
    heartbeat_ms: int = Field(
        default=0,
        ge=0,
        description="Publish a heartbeat to `__debezium-heartbeat.<source>` when nothing was published for this long. "
        '0: no heartbeats. Key `{"serverName": "<source>"}`, value `{"ts_ms": …}`, as Debezium writes them.',
    )
    snapshot: Literal["initial", "never", "when_needed"] = Field(
        default="initial",
        description="When the relay reads existing rows without being asked. `initial`: once for each table, after the "
        "first commit that the capture records or after triggers are installed. `never`: only for `rowcast snapshot`. "
        "`when_needed`: as `initial`, and all tables again when Kafka has lost committed events.",
    )
    chunk_rows: int = Field(
        default=5_000,
        ge=1,
        description="Rows in a chunk of a snapshot that the relay starts by itself. A chunk ends earlier when it holds "
        "8 MiB.",
    )
    format: Literal["json", "json-schema"] = Field(
        default="json",
        description="Form of the messages. `json-schema`: each message carries its schema, as Kafka Connect's "
        "JsonConverter reads it with `schemas.enable=true`. Workers read both forms, also mixed in one topic.",
    )
    on_unpublishable: Literal["stop", "park"] = Field(
        default="stop",
        description="What to do with a transaction that has a message larger than Kafka accepts, or a damaged outbox "
        "row. `stop`: the relay ends before the transaction and names it. `park`: the relay moves the whole "
        "transaction to the table `rowcast_parked` and continues.",
    )


class WatchdogSettings(Section):
    """Say when a process that does not move counts as stuck. Times are seconds."""

    stuck_after_s: float = Field(
        default=30.0,
        ge=1.0,
        description="Log the stack of a loop of the relay or worker that has not gone round for this long, and answer "
        "`/healthz` with an error. A loop whose statement the database works on, or whose thread computes, is not "
        "stuck.",
    )
    exit_after_s: float = Field(
        default=120.0,
        ge=1.0,
        description="End the process with exit code 4 when a loop has been stuck for this long. Behind a pooler that "
        "hides its sessions, make it longer than your longest statement. A relay inside an application never ends "
        "the process.",
    )


class Settings(BaseSettings):
    """Hold the whole configuration, from ``rowcast.toml`` and the environment."""

    model_config = SettingsConfigDict(
        env_prefix="ROWCAST_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    source: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$",
        description="Name of the primary: topics and events begin with it. Letters, digits, `.`, `_` and `-`, at most "
        "100, the first of them a letter, a digit or `_`. `Capture(…, source=…)` needs the same name.",
    )
    format: Literal["rowcast", "debezium"] = Field(
        default="rowcast",
        description="Who writes the topics of the source. `rowcast`: its relay. `debezium`: a connector of Debezium, "
        "and `source` is the connector's `topic.prefix`. Workers then apply its events, and there is no relay.",
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="librdkafka's properties, under their own names."
    )
    primary: PrimarySettings | None = Field(default=None, description="The application's database.")
    replicas: dict[str, ReplicaSettings] = Field(default_factory=dict, description="The replicas, by name.")
    sinks: dict[str, SinkSettings] = Field(default_factory=dict, description="The sinks of `rowcast sink`, by name.")
    tables: dict[str, TableSettings] = Field(
        default_factory=dict,
        description="What is published of each table, by `schema.table`, or by `table` in the default schema.",
    )
    signature_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="Secret keys of at least 16 characters. The relay signs the messages of the schema topic and of "
        "the transaction topic with the first key. Workers refuse such messages unless they are signed with one of "
        "the keys. A variable holds a JSON list.",
    )
    log_values: bool = Field(
        default=False,
        description="Show values and keys of rows in logs, errors, `rowcast status` and the reasons of parked "
        "transactions. Without it, messages name table, topic, partition and offset, and leave out what the database "
        "says of values.",
    )
    debezium: DebeziumSettings = Field(
        default=DebeziumSettings(), description='How the connector writes its messages, with `format = "debezium"`.'
    )
    topics: TopicSettings = Field(default=TopicSettings(), description="How topics are named and created.")
    relay: RelaySettings = Field(default=RelaySettings(), description="The relay's pace, and the form of its messages.")
    alerts: AlertSettings = Field(default=AlertSettings(), description="When `rowcast alerts` sends what to whom.")
    watchdog: WatchdogSettings = Field(
        default=WatchdogSettings(), description="When a process that does not move counts as stuck."
    )

    @model_validator(mode="after")
    def _fits_the_format(self) -> Settings:
        for name, replica in self.replicas.items():
            if replica.verify_every is not None and self.format == "debezium":
                raise ValueError(f"replicas.{name}: verify_every needs the topics of rowcast's relay. Leave it out")
            if replica.on_bad_row == "dlq" and replica.consistency == "row":
                raise ValueError(
                    f'replicas.{name}: on_bad_row = "dlq" is not available with consistency = "row" yet. Use "stop"'
                )
            if replica.consistency == "row" and self.format != "debezium":
                raise ValueError(
                    f'replicas.{name}: consistency = "row" is available for format = "debezium" only. Use "transaction"'
                )
        return self

    @field_validator("signature_keys")
    @classmethod
    def _keys_are_long(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < _SHORTEST_KEY for key in value):
            raise ValueError(f"a key has fewer than {_SHORTEST_KEY} characters. Make one: openssl rand -base64 32")
        return value

    @field_validator("kafka", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        """Replace ``BOOTSTRAP_SERVERS`` by ``bootstrap.servers``, because names of variables cannot hold a dot."""
        if not isinstance(value, dict):
            return value
        if "logger" in value:
            # The Python client takes an object here, which is no property of librdkafka.
            raise ValueError("librdkafka has no property logger. Remove it.")
        return {_dotted_name(str(k)): v for k, v in value.items()}

    def table(self, shape: TableShape) -> TableSettings:
        """Return the settings of a table: by the full name, or by the bare name in the default schema."""
        by_name = self.tables.get(shape.name) if shape.default_schema else None
        return self.tables.get(shape.full_name) or by_name or TableSettings()

    def topic_of(self, schema: str, table: str) -> str:
        """Return the topic of a table's events."""
        return table_topic(self.source, schema, table, self.topics.template)

    def salts(self) -> Iterator[str]:
        """Yield the salts of hashed columns. They are secret."""
        columns = (column for table in self.tables.values() for column in table.columns.values())
        yield from (column.salt.get_secret_value() for column in columns if column.salt is not None)

    def replica(self, name: str) -> ReplicaSettings:
        """Return the settings of a replica. Raises ConfigurationError, with all known names, if it is unknown."""
        if name not in self.replicas:
            known = ", ".join(sorted(self.replicas)) or "none"
            raise ConfigurationError(
                f"no replica {name!r} in the configuration (configured: {known})."
                f"{did_you_mean(name, self.replicas) or f' Add a [replicas.{name}] section with its url.'}"
            )
        return self.replicas[name]

    def dead_letter_topic(self, replica: str) -> str:
        """Return the dead letter topic of a replica. Raises ConfigurationError if the replica is unknown."""
        return self.replica(replica).dlq_topic or dead_letter_topic(self.source, replica)

    def require_primary(self) -> PrimarySettings:
        """Return the primary's settings. Raises ConfigurationError if the primary is not configured."""
        if self.primary is None:
            raise ConfigurationError("no primary database: set url in [primary], or ROWCAST_PRIMARY__URL.")
        return self.primary

    def require_relay(self) -> None:
        """Raise ConfigurationError if a connector of Debezium writes the topics, and not rowcast's relay."""
        if self.format == "debezium":
            raise ConfigurationError(
                f'format = "debezium": a connector of Debezium writes the topics of source {self.source!r}, and this '
                "command needs those of rowcast's relay. `rowcast worker`, `rowcast status` and `rowcast check` work "
                "with both."
            )

    def require_kafka(self) -> dict[str, str | int | float | bool]:
        """Return librdkafka's properties. Raises ConfigurationError if ``bootstrap.servers`` is not set."""
        if not self.kafka.get("bootstrap.servers"):
            raise ConfigurationError(
                'no Kafka brokers: set "bootstrap.servers" in [kafka], or ROWCAST_KAFKA__BOOTSTRAP_SERVERS.'
            )
        return dict(self.kafka)

    def masked(self) -> dict[str, Any]:
        """Return the settings with stars in place of passwords and keys, for printing."""
        shown = self.model_dump(mode="json")
        shown["kafka"] = {k: _MASK if _SECRET_KEY.search(k) else v for k, v in self.kafka.items()}
        if self.primary is not None:
            shown["primary"]["url"] = str(self.primary.sqlalchemy_url)
        for name, replica in self.replicas.items():
            shown["replicas"][name]["url"] = str(replica.sqlalchemy_url)
        return shown


def _dotted_name(name: str) -> str:
    lower = name.lower()
    # log_level is librdkafka's only property with an underscore.
    return name if "." in name else lower if lower == "log_level" else lower.replace("_", ".")


class _TomlFile(TomlConfigSettingsSource):
    """Read the file with or without the byte order mark that editors of Windows write."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"))


def load(path: Path | None = None) -> Settings:
    """Read the configuration from a file and the environment. The default file ``./rowcast.toml`` may be absent.

    Raises ConfigurationError with a line for each mistake and its key.
    """
    if path is not None and not path.is_file():
        raise ConfigurationError(f"no configuration file {path}. Name an existing one with --config.")
    file = path or DEFAULT_PATH

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _TomlFile(settings_cls, file)

    try:
        settings = FromFile()
    except ValidationError as error:
        where = f"{file} or the environment" if file.is_file() else f"the environment ({file} does not exist)"
        mistakes = error.errors(include_url=False, include_input=False)
        lines = "\n".join(f"  {describe_mistake(mistake, Settings)}" for mistake in mistakes)
        raise ConfigurationError(f"the configuration is not valid, in {where}:\n{lines}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"cannot read {file}: {describe_syntax(error, file)}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"cannot read {file}: byte {error.start:,} is not UTF-8. Save the file as UTF-8, as TOML demands."
        ) from None
    except (OSError, SettingsError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from None
    return settings
