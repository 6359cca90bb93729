"""`rowcast check --metadata` says before a migration what each replica will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.checks.planned_changes import planned_changes
from rowcast.producer import Capture
from rowcast.producer.checks.planned_shapes import planned_shapes
from rowcast.producer.relay import Relay
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.findings import Verdict
from servers import Broker
from support.command_line import environment, rowcast
from support.worker_runs import NAME, settings_for, work_once

MODELS = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
"""


ENV = """
from alembic import context
from shop_models import metadata
assert context.is_offline_mode()
context.configure(dialect_name="sqlite", target_metadata=metadata)
context.run_migrations()
"""
MIGRATION = """
from alembic import op
revision, down_revision = "one", None
def upgrade():
    op.alter_column("item", "label", new_column_name="name")
"""


def models(*columns: sa.Column[int] | sa.Column[str]) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
    return metadata


@pytest.mark.parametrize("engine", ["mariadb"])
def test_what_each_replica_will_do(
    engine: str, kafka: Broker, source_name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database("sqlite")
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database(engine), url)
    primary = open_engine(url, "primary", pooled=False)
    before = models(sa.Column("name", sa.String(20), nullable=False), sa.Column("n", sa.Integer, unique=True))
    capture = Capture(before, source=source_name)
    capture.create_outbox(primary)
    before.create_all(primary)
    capture.install(primary)
    with primary.begin() as connection:
        connection.execute(sa.insert(before.tables["item"]), {"id": 1, "name": "a", "n": 1})
    Relay(settings, primary).run_once()
    work_once(settings)

    def found(after: sa.MetaData, **options: str) -> list[tuple[Verdict, str]]:
        replica = ReplicaSettings(url=settings.replicas[NAME].url, **options)
        asked = settings.model_copy(update={"replicas": {NAME: replica}})
        return [(f.verdict, f.message) for f in planned_changes(asked, planned_shapes(asked, after))]

    assert found(before) == []
    migrated = models(sa.Column("title", sa.String(20)), sa.Column("n", sa.Integer))
    sa.Table("tag", migrated, sa.Column("id", sa.Integer, primary_key=True))
    changes = found(migrated)
    assert [verdict for verdict, _ in changes] == [Verdict.ok, Verdict.warning, Verdict.ok]
    assert "main.item: column title added, NOT NULL of column name dropped, index rowcast_uq_" in changes[0][1]
    assert "main.item: name will be kept" in changes[1][1]
    assert changes[2][1].endswith("main.tag: table created")
    assert found(migrated, evolution="validate")[0][0] is Verdict.missing
    assert found(migrated, evolution="none")[0][0] is Verdict.warning
    renamed = models(sa.Column("title", sa.String(20), info={"rowcast": {"was": "name"}}), sa.Column("n", sa.Integer))
    assert "column name renamed to title" in found(renamed)[0][1]
    moved = sa.MetaData()
    columns: list[sa.Column[Any]] = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("title", sa.String(20))]
    sa.Table("thing", moved, *columns, info={"rowcast": {"was": ["item"]}})
    ((_, message), _) = found(moved)
    assert "main.thing: column title added, " in message
    assert "table main.item renamed to main.thing" in message
    ((verdict, message),) = found(models(sa.Column("name", sa.Integer), sa.Column("n", sa.Integer, unique=True)))
    assert verdict is Verdict.missing
    assert "the worker will stop: column name of table main.item has changed from string to int32" in message
    retyped = models(sa.Column("name", sa.Integer), sa.Column("n", sa.Integer, unique=True))
    ((verdict, message),) = found(retyped, on_retype="rebuild")
    assert verdict is Verdict.ok
    assert "will be rebuilt by a snapshot after the migration: main.item, because column name" in message

    (tmp_path / "shop_models.py").write_text(MODELS)
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[primary]\nurl = "{url}"\n[replicas.copy]\nurl = "{settings.replicas[NAME].url.get_secret_value()}"\n'
    )
    result = rowcast("check", "--metadata", "shop_models:metadata", cwd=tmp_path, env=environment())
    assert "will change with the models: main.item: NOT NULL of column name dropped" in result.stdout

    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = migrations\nprepend_sys_path = .\npath_separator = os\n"
    )
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    (tmp_path / "migrations" / "versions" / "one.py").write_text(MIGRATION)
    result = rowcast("check", "--alembic", "alembic.ini", cwd=tmp_path, env=environment())
    assert "will change with the models: main.item: NOT NULL of column name dropped" in result.stdout, result.stderr
    assert "column item.name was label, says a migration" in result.stdout
