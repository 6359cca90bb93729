"""Verify finds rows by keys of several columns, for any number of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.shared.config.settings import PrimarySettings, ReplicaSettings, Settings

ROWS = 2_500


def test_a_large_table_with_a_composite_key_is_compared_on_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.consumer.verification.comparison._RECHECK_PAUSES_S", (0.01,))
    metadata = sa.MetaData()
    lines = sa.Table("lines", metadata, *(sa.Column(n, sa.Integer, primary_key=True) for n in "ab"))
    rows = [{"a": n // 10, "b": n % 10} for n in range(ROWS)]
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("primary", "replica")]
    engines = [sa.create_engine(url) for url in urls]
    Capture(metadata, source="shop").install(sessions := sessionmaker(engines[0]))
    metadata.create_all(engines[0])
    lines.create(engines[1])
    with sessions.begin() as session, engines[1].begin() as replica:
        session.execute(sa.insert(lines), rows)
        replica.execute(sa.insert(lines), rows[:-1])
    for engine in engines:
        engine.dispose()
    settings = Settings(
        source="shop", primary=PrimarySettings(url=urls[0]), replicas={"r": ReplicaSettings(url=urls[1])}
    )
    (result,) = verify(settings, "r").tables
    assert (result.rows, result.missing, result.extra, result.different) == (ROWS, 1, 0, 0)
    assert result.differences[0].key == rows[-1]
