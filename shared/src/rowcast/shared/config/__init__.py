"""Read rowcast.toml and the environment into settings."""

from rowcast.shared.config.settings import ReplicaSettings, Settings, load
from rowcast.shared.config.table_settings import TableSettings

__all__ = ["ReplicaSettings", "Settings", "TableSettings", "load"]
