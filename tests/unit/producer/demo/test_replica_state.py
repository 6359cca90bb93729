"""The demo reads a replica whose tables a worker is just creating."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.producer.demo.replica_state import ReplicaState


@pytest.mark.parametrize("created", range(len(METADATA.sorted_tables) + 1))
def test_there_is_no_lag_until_the_worker_has_created_its_tables(tmp_path: Path, created: int) -> None:
    primary, replica = (sa.create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("primary", "replica"))
    with primary.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE rowcast_lease (source TEXT, next_lsn INTEGER)")
        connection.exec_driver_sql("INSERT INTO rowcast_lease VALUES ('demo', 5)")
    with replica.begin() as connection:
        for table in METADATA.sorted_tables[:created]:
            table.create(connection)
    assert ReplicaState(primary, replica, "demo").lag() is None
    primary.dispose()
    replica.dispose()
