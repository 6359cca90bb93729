"""The sections ``[replicas.NAME]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from rowcast.shared.config.database_settings import DatabaseSettings
from rowcast.shared.config.schedule import Schedule, ScheduleText, Seconds
from rowcast.shared.config.view_settings import ViewSettings

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
        "`row`: apply the changes of each row in their order, without transactions and without constraints between "
        "rows. Any number of workers then share the partitions, unless a connector of Debezium writes the topics. The "
        "state of the replica is then *following*, and never *consistent*.",
    )
    member_name: str | None = Field(
        default=None,
        description="Name of this worker in the Kafka consumer group (`group.instance.id`), which no other worker may "
        "have. A worker that is started again within the session timeout then gets its partitions back, and no other "
        "worker's partitions move. Set it by its variable, for example to the name of a pod of a StatefulSet.",
    )
    evolution: Evolution = Field(
        default="evolve",
        description="What the worker does with existing tables when the source's tables change. `evolve`: change them, "
        "without a loss of values. `validate`: change none, and stop with the statements that are missing. `none`: "
        "compare nothing, and write the columns that both have.",
    )
    on_retype: Literal["stop", "rebuild"] = Field(
        default="stop",
        description="What the worker does when a table has another primary key, or a column a type that it cannot be "
        "changed to. `stop`: end with the command that rebuilds the replica. `rebuild`: publish the rows of this table "
        "again, and rebuild it alone. The replica is *loading* afterwards until all tables are at the same "
        "transaction. The worker needs `[primary]`, and a relay must run.",
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

    view: dict[str, ViewSettings] = Field(
        default_factory=dict,
        description="What the replica gets of a table, by `schema.table` or by a shell pattern over it.",
    )
    mask_key: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        default=None,
        description="Secret key of at least 16 characters for the mask `hash` of a view. Replicas with the same key "
        "have the same digests. Without the key, nobody can try out values.",
    )

    @field_validator("view")
    @classmethod
    def _names_have_a_schema(cls, value: dict[str, ViewSettings]) -> dict[str, ViewSettings]:
        for table in value:
            if "." not in table and "*" not in table:
                raise ValueError(f"the view of {table} matches no table. Name it as events do: schema.{table}")
        return value

    @model_validator(mode="after")
    def _has_the_key_of_its_masks(self) -> ReplicaSettings:
        tables = [table for table, view in self.view.items() if view.needs_key]
        if tables and self.mask_key is None:
            raise ValueError(
                f"the view of {tables[0]} masks by hash, which needs a secret mask_key. Make one: openssl rand -base64 "
                "32"
            )
        return self

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
        """Return the greatest age in seconds of a commit missing because of the replica's schedule and lag."""
        rest_s = 0.0 if self.schedule is None else Schedule.parse(self.schedule).longest_gap_s()
        return rest_s + self.lag
