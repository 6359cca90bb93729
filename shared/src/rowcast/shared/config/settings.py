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
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.config.mistakes import describe_mistake, describe_syntax
from rowcast.shared.config.relay_settings import RelaySettings, WatchdogSettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.sink_settings import SinkSettings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.config.topic_settings import TopicSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.topic_names import dead_letter_topic, table_topic
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import TableShape

DEFAULT_PATH = Path("rowcast.toml")

_SECRET_KEY = re.compile(r"password|secret|\.key(\.|$)|\.pem$|token|jaas", re.IGNORECASE)
_MASK = "**********"
_SHORTEST_KEY = 16


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
            if replica.view and self.format == "debezium":
                raise ValueError(
                    f"replicas.{name}: a view needs the topics of rowcast's relay, whose events have the whole row. "
                    "Use the connector's own filters of tables and columns"
                )
            if replica.consistency == "row" and self.format != "debezium":
                _require_alone(name, replica)
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
        """Yield the secret salts of hashed columns."""
        columns = (column for table in self.tables.values() for column in table.columns.values())
        yield from (column.salt.get_secret_value() for column in columns if column.salt is not None)

    def replica(self, name: str) -> ReplicaSettings:
        """Return the settings of a replica. Raises ConfigurationError, with all known names, for an unknown name."""
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
        shown = self.model_dump(mode="json", by_alias=True)
        shown["kafka"] = {k: _MASK if _SECRET_KEY.search(k) else v for k, v in self.kafka.items()}
        if self.primary is not None:
            shown["primary"]["url"] = str(self.primary.sqlalchemy_url)
        for name, replica in self.replicas.items():
            shown["replicas"][name]["url"] = str(replica.sqlalchemy_url)
        return shown


def _require_alone(name: str, replica: ReplicaSettings) -> None:
    """Raise ValueError for a setting of the single worker that applies whole transactions."""
    refused = {"schedule": replica.schedule, "verify_every": replica.verify_every}
    set_keys = [key for key, value in refused.items() if value is not None]
    if replica.on_retype == "rebuild":
        set_keys.append("on_retype")
    if set_keys:
        raise ValueError(f'replicas.{name}: {set_keys[0]} needs consistency = "transaction". Leave it out')


def _dotted_name(name: str) -> str:
    lower = name.lower()
    # log_level is librdkafka's only property with an underscore.
    return name if "." in name else lower if lower == "log_level" else lower.replace("_", ".")


class _TomlFile(TomlConfigSettingsSource):
    """Read the file with or without the byte order mark of Windows editors."""

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
