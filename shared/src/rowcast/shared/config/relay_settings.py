"""The sections ``[relay]`` and ``[watchdog]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rowcast.shared.config.section import Section


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
