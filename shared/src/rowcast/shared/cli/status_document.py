"""The document of ``rowcast status --json``. Both sides fill their parts, and the JSON schema is in the reference."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """The base of all parts. A key that the schema does not name is a mistake of rowcast."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoAnswer(_Part):
    """A server that does not answer."""

    error: str = Field(description="Why the server does not answer.")


class OutboxDocument(_Part):
    """The outbox and the relays of the source. Times are by the database's clock."""

    rows: int = Field(description="Outbox rows, claimed rows included.")
    bytes: int = Field(description="About the length of the changes in these rows, in bytes.")
    oldest_ms: int | None = Field(description="Age of the first row in milliseconds. Null without rows.")
    owner: str | None = Field(description="The relay that leads, or led last. Null before the first relay.")
    epoch: int = Field(description="The number of takeovers.")
    expires_in_ms: int = Field(description="Milliseconds until the lease ends. 0 if no relay leads.")
    lsn: int = Field(description="All events up to here are published and deleted from the outbox.")
    next_lsn: int = Field(description="The next lsn to be claimed.")
    leading: bool = Field(description="Whether a relay leads.")
    standbys: list[str] = Field(description="The relays that stand by.")
    parked: int = Field(description="The number of parked transactions.")
    alarm: str | None = Field(description="The alarm of alarm_rows or alarm_s. Null if there is none.")


class SnapshotDocument(_Part):
    """A snapshot that runs, or has failed and was not repeated since."""

    table: str = Field(description="The full name of the table.")
    state: Literal["requested", "running", "paused", "failed"] = Field(description="How far it is.")
    rows: int = Field(description="Rows that are published.")
    reason: str | None = Field(description="Why it failed. Null if it did not.")


class VerifiedDocument(_Part):
    """The last comparison of all tables with the primary."""

    at_ms: int = Field(description="When it ended, in milliseconds since 1970.")
    verdict: str = Field(description="equal, different, behind or nothing compared.")
    rows: int = Field(description="Compared rows.")
    differing: int = Field(description="Rows that differed.")


class DeadLettersDocument(_Part):
    """What a replica refused, and what follows it."""

    transactions: int = Field(description="Transactions that wait in the dead letter topic, whole or in part.")
    events: int = Field(description="Events that wait there.")
    oldest_ms: int | None = Field(description="Since when the first waits, as a time since 1970. Null if none waits.")


class ReplicaDocument(_Part):
    """The state and the lag of one replica. Times since 1970 are in milliseconds."""

    state: (
        Literal["waiting", "loading", "consistent", "following", "suspect", "stopped", "promoting", "promoted"] | None
    ) = Field(description="The state. Null if no worker has run yet.")
    reason: str | None = Field(description="Why the replica is stopped or suspect, or null.")
    since_ms: int = Field(description="Since when, as a time since 1970.")
    workers: int | None = Field(description="Running workers. Null if Kafka does not show the consumer group.")
    worker_hosts: list[str] = Field(description="The host of each running worker.")
    worker_partitions: list[list[str]] = Field(
        description="The partitions of each running worker, as `topic:number`, if the workers share them."
    )
    owner: str | None = Field(description="The worker that applied last, or a group of workers.")
    epoch: int = Field(description="The number of takeovers.")
    lsn: int = Field(description="The lsn of the transaction applied last.")
    tx: str | None = Field(description="The id of the transaction applied last.")
    applied_ts_ms: int = Field(description="When this transaction was committed, as a time since 1970.")
    records: int = Field(description="Records in the topics that are not applied.")
    records_per_s: float | None = Field(description="Records applied in a second. Null if nothing waits.")
    behind_ms: int = Field(description="Age of the oldest commit that is not visible in the replica, or 0.")
    outbox_read: bool = Field(description="Whether behind_ms includes the commits in the primary's outbox.")
    verified: VerifiedDocument | None = Field(description="The last comparison, or null.")
    dead_letters: DeadLettersDocument = Field(description="What waits in the replica's dead letter topic.")
    topics: dict[str, int] = Field(description="Records that are not applied, by topic.")


class StatusDocument(_Part):
    """What ``rowcast status --json`` prints."""

    source: str = Field(description="The name of the source.")
    ok: bool = Field(description="Whether everything is all right.")
    problems: list[str] = Field(description="What is not all right, each with the next step.")
    outbox: OutboxDocument | NoAnswer | None = Field(description="Null without a primary in the configuration.")
    snapshots: list[SnapshotDocument] = Field(
        default=[], description="Snapshots that run or have failed. Absent if the primary does not answer."
    )
    replicas: dict[str, ReplicaDocument | NoAnswer] = Field(description="The replicas by name.")


def status_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **StatusDocument.model_json_schema(mode="validation"),
    }
