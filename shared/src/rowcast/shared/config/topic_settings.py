"""The section ``[topics]``: how topics are named and created."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rowcast.shared.config.section import Section
from rowcast.shared.kafka.topic_names import TABLE_TOPIC, check_template


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
