"""One module an engine; ``dialect`` says what each must do."""

from __future__ import annotations

from rowcast.consumer.dialects.dialect import Fault, ReplicaDialect, ReplicaTable, StoredColumn, quoted_name
from rowcast.consumer.dialects.mysql import MySQLReplica
from rowcast.consumer.dialects.postgresql import PostgreSQLReplica
from rowcast.consumer.dialects.sqlite import SQLiteReplica

__all__ = ["Fault", "ReplicaDialect", "ReplicaTable", "StoredColumn", "quoted_name", "replica_dialect"]

_DIALECTS: dict[str, type[ReplicaDialect]] = {
    "postgresql": PostgreSQLReplica,
    "sqlite": SQLiteReplica,
    "mysql": MySQLReplica,
    "mariadb": MySQLReplica,
}


def replica_dialect(name: str) -> ReplicaDialect:
    """A fresh dialect object for SQLAlchemy's dialect name; configuration has refused other names."""
    return _DIALECTS[name]()
