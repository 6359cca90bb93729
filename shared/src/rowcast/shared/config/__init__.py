"""Read rowcast.toml and the environment into settings."""

from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings, load
from rowcast.shared.config.table_settings import TableSettings

__all__ = ["ReplicaSettings", "Settings", "TableSettings", "load"]
