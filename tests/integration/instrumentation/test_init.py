"""Write the configuration and the outbox of a new source."""

from __future__ import annotations

import stat
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.pool import NullPool

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import Capture, ConfigurationError, load
from rowcast.producer.alembic import include_object
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from support.command_line import rowcast

ENV = """
from alembic import context
import sqlalchemy as sa
url = context.config.get_main_option("sqlalchemy.url")
if context.is_offline_mode():
    context.configure(url=url, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
else:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()
"""


def has_whole_outbox(url: str) -> bool:
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        return not any(missing_parts(table, connection) for table in outbox_tables(sa.MetaData()))


@pytest.mark.parametrize("name", ENGINES)
def test_init_writes_a_configuration_and_creates_the_outbox(
    tmp_path: Path, new_database: NewDatabase, name: str
) -> None:
    url = new_database(name)
    result = rowcast("init", "--source", "shop", "--primary", url, "--kafka", "kafka:9092", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "created: rowcast_outbox" in result.stderr
    file = tmp_path / "rowcast.toml"
    settings = load(file)
    assert (settings.source, settings.kafka) == ("shop", {"bootstrap.servers": "kafka:9092"})
    assert settings.require_primary().url.get_secret_value() == url
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "the URL may hold a password"
    assert has_whole_outbox(url)
    written = file.read_text()
    again = rowcast("init", "--source", "other", cwd=tmp_path)
    assert again.returncode == 0
    assert "stays as it is" in again.stderr
    assert "all outbox tables exist" in again.stderr
    assert file.read_text() == written


def test_the_commented_sections_are_valid(tmp_path: Path) -> None:
    rowcast("init", "--source", "shop", "--primary", "sqlite:///x.db", "--no-tables", cwd=tmp_path)
    file = tmp_path / "rowcast.toml"
    lines = file.read_text().splitlines()
    uncommented = [line.removeprefix("# ") if "=" in line or line.startswith("# [") else line for line in lines]
    file.write_text("\n".join(uncommented).replace("capture = false               #", "#"))
    settings = load(file)
    assert settings.tables["orders"].mode == "triggers"
    assert settings.tables["customers"].columns["password"].capture is False
    assert "reporting" in settings.replicas
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "needs --source"),
        (("--source", "a b", "--primary", "sqlite:///x.db"), 2, "source: String should match"),
        (("--source", "shop", "--primary", "nothing"), 2, "primary.url: not a database URL"),
        (("--source", "shop", "--primary", "sqlite:///x.db", "--alembic", "no.ini"), 2, "no file no.ini"),
        (("--source", "shop", "--primary", "sqlite://"), 2, "a database in memory"),
        (("--source", "shop", "--primary", "sqlite:///no/x.db"), 3, "Does the folder exist"),
        (("--source", "shop", "--primary", "postgresql://shop@localhost:1/shop"), 3, "Is it running"),
    ],
)
def test_init_writes_nothing_until_its_options_are_right(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = rowcast("init", *arguments, cwd=tmp_path)
    assert result.returncode == code
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ENGINES)
def test_a_migration_creates_and_drops_the_outbox(tmp_path: Path, new_database: NewDatabase, name: str) -> None:
    url = new_database(name)
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {tmp_path}/scripts\npath_separator = os\nsqlalchemy.url = {url}\n")
    template = Path(alembic.__file__).parent / "templates/generic/script.py.mako"
    (tmp_path / "scripts" / "versions").mkdir(parents=True)
    (tmp_path / "scripts" / "env.py").write_text(ENV)
    (tmp_path / "scripts" / "script.py.mako").write_text(template.read_text())
    result = rowcast("init", "--source", "shop", "--primary", url, "--alembic", str(ini), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "alembic upgrade head" in result.stderr
    config = Config(str(ini))
    alembic.command.upgrade(config, "head")
    assert has_whole_outbox(url)
    alembic.command.downgrade(config, "base")
    assert not has_whole_outbox(url)
    if name == "sqlite":
        with pytest.raises(ConfigurationError, match="--sql does not connect"):
            alembic.command.upgrade(config, "head", sql=True)


@pytest.mark.parametrize("name", ENGINES)
def test_migrations_of_others_neither_see_nor_drop_the_outbox(new_database: NewDatabase, name: str) -> None:
    metadata = sa.MetaData()
    items = sa.Table(
        "items", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer, index=True)
    )
    capture = Capture(metadata, source="shop", outbox_in_metadata=False)
    engine = sa.create_engine(new_database(name), poolclass=NullPool)
    metadata.create_all(engine)
    capture.create_outbox(engine)
    items.append_column(sa.Column("new", sa.Integer))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object})
        # Without the function, autogenerate drops the tables.
        plain = MigrationContext.configure(connection)
        assert {change[0] for change in compare_metadata(plain, metadata)} >= {"remove_table", "add_column"}
        assert [change[0] for change in compare_metadata(context, metadata)] == ["add_column"]
