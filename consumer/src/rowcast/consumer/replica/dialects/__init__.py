"""Adapt the replica to each engine. ``base.ReplicaDialect`` describes the duties of a class.

The classes are registered in the entry point group ``rowcast.replica_dialects``, by SQLAlchemy's name of the engine.
Any package can add an engine.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rowcast.consumer.replica.dialects.base import (
    LOCK_S,
    WORKER_PREFIX,
    Fault,
    OrphanError,
    ReplicaDialect,
    TouchedKeys,
)
from rowcast.consumer.replica.dialects.naming import LIVE, TableNaming
from rowcast.consumer.replica.dialects.quoting import for_driver, for_people, quoted_name
from rowcast.consumer.replica.dialects.replica_table import Loosening, ReplicaColumn, ReplicaTable, TableName
from rowcast.consumer.replica.dialects.value_limits import PlannedColumn, ValueLimit
from rowcast.shared.engine_registry import class_for_engine, engines_in
from rowcast.shared.errors import ConfigurationError

if TYPE_CHECKING:
    # PyInstaller and similar tools find modules by import statements, and not by the names in BUILT_IN.
    from rowcast.consumer.replica.dialects import mysql, postgresql, sqlite  # noqa: F401

__all__ = [
    "GROUP",
    "LIVE",
    "LOCK_S",
    "WORKER_PREFIX",
    "Fault",
    "Loosening",
    "OrphanError",
    "PlannedColumn",
    "ReplicaColumn",
    "ReplicaDialect",
    "ReplicaTable",
    "TableName",
    "TableNaming",
    "TouchedKeys",
    "ValueLimit",
    "for_driver",
    "for_people",
    "quoted_name",
    "replica_dialect",
]

GROUP = "rowcast.replica_dialects"

BUILT_IN = {
    "postgresql": "rowcast.consumer.replica.dialects.postgresql:PostgreSQLReplica",
    "mysql": "rowcast.consumer.replica.dialects.mysql:MySQLReplica",
    "mariadb": "rowcast.consumer.replica.dialects.mysql:MySQLReplica",
    "sqlite": "rowcast.consumer.replica.dialects.sqlite:SQLiteReplica",
}
"""The same entries as in pyproject.toml. See ``class_for_engine``."""


def replica_dialect(name: str, naming: TableNaming = LIVE) -> ReplicaDialect:
    """Return a new dialect object for SQLAlchemy's name of an engine.

    Raise ConfigurationError if no installed package has a dialect for the engine.
    """
    dialect = _dialect_class(name)()
    dialect.naming = naming
    return dialect


@cache
def _dialect_class(name: str) -> type[ReplicaDialect]:
    dialect: type[ReplicaDialect] | None = class_for_engine(GROUP, name, BUILT_IN)
    if dialect is not None:
        return dialect
    raise ConfigurationError(
        f"a replica cannot be on the engine {name!r}. Use one of {', '.join(engines_in(GROUP, BUILT_IN))}, or install "
        f"a package that registers a dialect for the engine in the entry point group {GROUP}."
    )
