"""``rowcast.toml`` and its environment variables.

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

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.events import TABLE_TOPIC, check_template, table_topic
from rowcast.shared.sections import Section, explain
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

DEFAULT_PATH = Path("rowcast.toml")

_SECRET_KEY = re.compile(r"password|secret|\.key(\.|$)|\.pem$|token|jaas", re.IGNORECASE)
_MASK = "**********"


class DatabaseSettings(Section):
    """Where a database is."""

    url: SecretStr

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("not a database URL; it looks like postgresql+psycopg://user:password@host/name") from None
        if url.get_backend_name() not in ("postgresql", "mysql", "mariadb", "sqlite"):
            raise ValueError(f"{url.get_backend_name()!r} is not supported; use postgresql, mysql, mariadb or sqlite")
        return value

    @property
    def sqlalchemy_url(self) -> URL:
        """The URL with its password, for ``create_engine``; it masks itself when printed."""
        return make_url(self.url.get_secret_value())


class PrimarySettings(DatabaseSettings):
    """The application's own database, with the outbox."""


class ReplicaSettings(DatabaseSettings):
    """One replica. ``tables`` are shell patterns over ``schema.table``."""

    tables: tuple[str, ...] = ("*",)
    consistency: Literal["transaction", "row"] = "transaction"
    batch_events: Annotated[int, Field(ge=1)] = 20_000
    """Apply at most this many events in one replica transaction (a larger source transaction stays whole)."""
    buffer_events: Annotated[int, Field(ge=1)] = 200_000
    """Pause partitions that run ahead beyond this many events waiting for their transaction's end."""

    @field_validator("consistency")
    @classmethod
    def _consistency_is_built(cls, value: str) -> str:
        if value == "row":
            raise ValueError('consistency = "row" is not available yet; use "transaction"')
        return value


class TableTopicSettings(Section):
    """How one table's topic is made; what is None is as for all tables."""

    partitions: Annotated[int, Field(ge=1)] | None = None
    replication_factor: Annotated[int, Field(ge=-1)] | None = None
    cleanup_policy: Literal["compact", "delete", "compact,delete"] = "compact"
    """With ``delete`` the topic forgets rows by time: no replica can be rebuilt from it."""
    retention_ms: Annotated[int, Field(ge=-1)] | None = None
    """For ``delete``; None: the broker's default."""
    min_compaction_lag_ms: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _is_of_use(self) -> TableTopicSettings:
        if self.retention_ms is not None and "delete" not in self.cleanup_policy:
            raise ValueError(
                'retention_ms does nothing to a topic that is only compacted: set cleanup_policy = "delete"'
            )
        if self.min_compaction_lag_ms is not None and "compact" not in self.cleanup_policy:
            raise ValueError("min_compaction_lag_ms does nothing to a topic that is not compacted")
        return self


class TopicSettings(Section):
    """What topics are called, and how those are made that do not exist yet."""

    template: str = TABLE_TOPIC
    """What the topics of tables are called; relay and workers must say the same."""
    partitions: Annotated[int, Field(ge=1)] = 1
    replication_factor: Annotated[int, Field(ge=-1)] = -1
    """-1: the broker's default."""
    min_compaction_lag_ms: Annotated[int, Field(ge=0)] = 7 * 24 * 3600 * 1000
    transaction_retention_ms: Annotated[int, Field(ge=-1)] = 7 * 24 * 3600 * 1000
    tables: dict[Annotated[str, Field(pattern=r"^[^.]+\..+$")], TableTopicSettings] = Field(default_factory=dict)
    """By ``schema.table``."""

    @field_validator("template")
    @classmethod
    def _template_is_one(cls, value: str) -> str:
        check_template(value)
        return value


class RelaySettings(Section):
    """The relay's pace, and the form of its messages. Times are milliseconds."""

    lease_ms: Annotated[int, Field(ge=500)] = 5_000
    """A standby takes over this long after the leader's last sign of life."""
    kafka_transaction_ms: Annotated[int, Field(ge=0, le=30_000)] = 100
    """Commit the Kafka transaction after this long, or when idle; 0: one per claim. Brokers end it after a minute."""
    claim_rows: Annotated[int, Field(ge=1)] = 1_000
    """Outbox rows per claim."""
    poll_min_ms: Annotated[int, Field(ge=1)] = 2
    poll_max_ms: Annotated[int, Field(ge=1)] = 100
    """Between looks at the outbox when no commit wakes the relay: the first under load, the second when idle."""
    heartbeat_ms: Annotated[int, Field(ge=0)] = 0
    """When nothing was published for this long, a heartbeat is; 0: none."""
    snapshot: Literal["initial", "never", "when_needed"] = "initial"
    """Whether rows that were there before the capture are brought over by themselves: once; never; once, and all tables
    again when Kafka has lost what it had."""
    chunk_rows: Annotated[int, Field(ge=1)] = 5_000
    """Rows that such a snapshot reads at a time."""
    format: Literal["json", "json-schema"] = "json"
    """Whether each message brings its schema along, as Kafka Connect's JsonConverter has it."""
    on_unpublishable: Literal["stop", "park"] = "stop"
    """What becomes of a transaction with a message that Kafka does not take, or a damaged outbox row: the relay stops
    before it; or it is parked in the table rowcast_parked, and the rest goes on."""


class Settings(BaseSettings):
    """Everything that ``rowcast.toml`` and the environment may say."""

    model_config = SettingsConfigDict(
        env_prefix="ROWCAST_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    source: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
    kafka: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)
    primary: PrimarySettings | None = None
    replicas: dict[str, ReplicaSettings] = Field(default_factory=dict)
    tables: dict[str, TableSettings] = Field(default_factory=dict)
    """What leaves of each table, by ``schema.table``, or by ``table`` in the default schema."""
    topics: TopicSettings = TopicSettings()
    relay: RelaySettings = RelaySettings()

    @field_validator("kafka", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        """An environment variable's name cannot hold a dot: ``BOOTSTRAP_SERVERS`` is ``bootstrap.servers``."""
        if not isinstance(value, dict):
            return value
        return {_dotted_name(str(k)): v for k, v in value.items()}

    def table(self, shape: TableShape) -> TableSettings:
        """What the configuration says of the table, by its full name or, in the default schema, its own."""
        by_name = self.tables.get(shape.name) if shape.default_schema else None
        return self.tables.get(shape.full_name) or by_name or TableSettings()

    def topic_of(self, schema: str, table: str) -> str:
        """The topic of a table's events."""
        return table_topic(self.source, schema, table, self.topics.template)

    def salts(self) -> Iterator[str]:
        """Those of the columns that are hashed: secrets."""
        columns = (column for table in self.tables.values() for column in table.columns.values())
        yield from (column.salt.get_secret_value() for column in columns if column.salt is not None)

    def replica(self, name: str) -> ReplicaSettings:
        """Raises ConfigurationError, naming those that exist, if there is no such replica."""
        if name not in self.replicas:
            known = ", ".join(sorted(self.replicas)) or "none"
            raise ConfigurationError(
                f"no replica {name!r} in the configuration (configured: {known}). "
                f"Add a [replicas.{name}] section with its url."
            )
        return self.replicas[name]

    def require_primary(self) -> PrimarySettings:
        """Raises ConfigurationError if the configuration names no primary database."""
        if self.primary is None:
            raise ConfigurationError("no primary database: set url in [primary], or ROWCAST_PRIMARY__URL.")
        return self.primary

    def require_kafka(self) -> dict[str, str | int | float | bool]:
        """Raises ConfigurationError if ``bootstrap.servers`` is not set."""
        if not self.kafka.get("bootstrap.servers"):
            raise ConfigurationError(
                'no Kafka brokers: set "bootstrap.servers" in [kafka], or ROWCAST_KAFKA__BOOTSTRAP_SERVERS.'
            )
        return dict(self.kafka)

    def masked(self) -> dict[str, Any]:
        """The settings for showing: passwords and keys are stars."""
        shown = self.model_dump(mode="json")
        shown["kafka"] = {k: _MASK if _SECRET_KEY.search(k) else v for k, v in self.kafka.items()}
        if self.primary is not None:
            shown["primary"]["url"] = str(self.primary.sqlalchemy_url)
        for name, replica in self.replicas.items():
            shown["replicas"][name]["url"] = str(replica.sqlalchemy_url)
        return shown


def _dotted_name(name: str) -> str:
    lower = name.lower()
    # Of librdkafka's names this one alone has an underscore.
    return name if "." in name else lower if lower == "log_level" else lower.replace("_", ".")


def load(path: Path | None = None) -> Settings:
    """Reads the file (default ``./rowcast.toml``, which may be absent) and the environment.

    Raises ConfigurationError, one line per mistake, each naming the key.
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
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        settings = FromFile()  # type: ignore[call-arg]  # its sources give the values
    except ValidationError as error:
        where = f"{file} or the environment" if file.is_file() else f"the environment ({file} does not exist)"
        lines = "\n".join(f"  {explain(e)}" for e in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(f"the configuration is not valid, in {where}:\n{lines}") from None
    except (OSError, tomllib.TOMLDecodeError, SettingsError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from None
    return settings
