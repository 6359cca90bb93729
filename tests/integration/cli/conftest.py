"""Provide a working directory for tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import Broker


@pytest.fixture
def place(tmp_path: Path, kafka: Broker, source_name: str) -> Path:
    """Configure a primary and a replica `r` on SQLite, and a real Kafka. Return the folder of the configuration."""
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[primary]\nurl = "sqlite:///{tmp_path}/primary.db"\n[replicas.r]\nurl = "sqlite:///{tmp_path}/replica.db"\n'
    )
    return tmp_path
