"""Install triggers in migrations with a real Alembic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from rowcast.producer import Capture
from rowcast.producer.alembic import include_name
from rowcast.producer.triggers.state import trigger_states
from rowcast.shared.errors import ConfigurationError
from support.trigger_shop import plain_engine

ENV = """
import sqlalchemy as sa
import rowcast.producer.alembic
from alembic import context
from models import metadata

if context.is_offline_mode():
    context.configure(url=context.config.get_main_option("sqlalchemy.url"), target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=metadata, include_name=rowcast.producer.alembic.include_name
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
"""

MODELS = """
import sqlalchemy as sa
from rowcast.producer import Capture

metadata = sa.MetaData()
sa.Table(
    "items", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("done", sa.Boolean),
    sa.Column("price", sa.Integer), info={"rowcast": "triggers"},
)
capture = Capture(metadata, source="migrations")
"""

FIRST = """
import sqlalchemy as sa
from alembic import op
from rowcast.producer.outbox.schema import outbox_tables

revision, down_revision = "one", None


def upgrade():
    op.create_table("items", sa.Column("id", sa.Integer, primary_key=True), sa.Column("done", sa.Boolean))
    outbox_tables(metadata := sa.MetaData())
    metadata.create_all(op.get_bind())
    op.rowcast_install_triggers("items")


def downgrade():
    op.rowcast_drop_triggers("items")
    op.drop_table("items")
"""

SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "two", "one"


def upgrade():
    op.add_column("items", sa.Column("price", sa.Integer))
    op.rowcast_install_triggers("items")
    op.execute("INSERT INTO items (id, done, price) VALUES (2, NULL, 7)")


def downgrade():
    op.rowcast_drop_triggers("items")
    op.drop_column("items", "price")
    op.rowcast_install_triggers("items")
"""


@pytest.fixture
def migrations(tmp_path: Path, primary_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    (tmp_path / "versions").mkdir()
    for name, text in {
        "env.py": ENV, "models.py": MODELS, "versions/one.py": FIRST, "versions/two.py": SECOND,
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", primary_url.replace("%", "%%"))
    return config


@pytest.fixture
def engine(primary_url: str) -> Iterator[sa.Engine]:
    engine = plain_engine(sa.make_url(primary_url))
    yield engine
    engine.dispose()


def images(engine: sa.Engine) -> list[dict[str, object]]:
    """Empty the outbox. Return the row images."""
    with engine.begin() as connection:
        texts = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars().all()
        connection.exec_driver_sql("DELETE FROM rowcast_outbox")
    return [orjson.loads(line)["a"] for text in texts for line in text.splitlines()]


def faults(engine: sa.Engine) -> list[tuple[str, ...]]:
    with engine.connect() as connection:
        return [tuple(state.faults) for state in trigger_states(connection)]


def test_up_and_down(migrations: Config, engine: sa.Engine) -> None:
    command.upgrade(migrations, "one")
    assert faults(engine) == [()]
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO items (id, done) VALUES (1, :done)"), {"done": True})
    # The models have a column that this revision lacks. The models give the types of the remaining columns.
    assert images(engine) == [{"id": 1, "done": True}]

    command.upgrade(migrations, "two")
    assert faults(engine) == [()]
    assert images(engine) == [{"id": 2, "done": None, "price": 7}]

    command.downgrade(migrations, "one")
    assert faults(engine) == [()]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE items SET id = 3 WHERE id = 1")
        connection.exec_driver_sql("DELETE FROM rowcast_outbox")
        connection.exec_driver_sql("UPDATE items SET done = NULL WHERE id = 3")
    assert images(engine) == [{"id": 3, "done": None}]

    command.downgrade(migrations, "base")
    assert faults(engine) == []


def test_a_script_without_a_database_is_refused(migrations: Config) -> None:
    with pytest.raises(ConfigurationError, match="--sql does not connect"):
        command.downgrade(migrations, "two:one", sql=True)


def test_autogenerate_leaves_what_triggers_bring_along(migrations: Config, engine: sa.Engine) -> None:
    command.upgrade(migrations, "head")
    metadata = sa.MetaData()
    sa.Table("items", metadata, autoload_with=engine)
    Capture(metadata, source="migrations")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": include_name})
        tables = [found[1].name for found in compare_metadata(context, metadata) if found[0] == "remove_table"]
    assert tables == []
