"""An Alembic project gives its models and the renames of its migrations without a database."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import Script

from rowcast.producer.checks.migrations.environment import read_project
from rowcast.producer.checks.migrations.renames import rename_findings
from rowcast.producer.tables.captured import CapturedTables
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Verdict

MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
key = lambda: sa.Column("id", sa.Integer, primary_key=True)
sa.Table("purchase", metadata, key(), sa.Column("title", sa.String(20)))
sa.Table("named", metadata, key(), sa.Column("size", sa.Integer, info={"rowcast": {"was": "width"}}),
         sa.Column("hidden", sa.Integer, info={"rowcast": False}), info={"rowcast": {"was": ["thing", "old"]}})
sa.Table("audit", metadata, key(), info={"rowcast": False})
"""
FIRST = """
def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
    op.create_table("thing", sa.Column("id", sa.Integer, primary_key=True), sa.Column("w", sa.Integer))
    op.create_table("log", sa.Column("id", sa.Integer, primary_key=True))
"""
RENAMES = """
def upgrade():
    tag = op.create_table("tag", sa.Column("id", sa.Integer, primary_key=True))
    op.bulk_insert(tag, [{"id": 1}])
    op.execute(tag.insert())
    op.alter_column("orders", "name", new_column_name="label")
    op.rename_table("orders", "sale")
    op.rename_table("thing", "named")
    op.rename_table("log", "audit")
    with op.batch_alter_table("named") as batch:
        batch.alter_column("width", new_column_name="size")
        batch.alter_column("secret", new_column_name="hidden")
        batch.add_column(sa.Column("more", sa.Integer))
"""
MORE_RENAMES = """
def upgrade():
    op.rename_table("sale", "purchase")
    op.alter_column("purchase", "label", new_column_name="title", existing_type=sa.String(20))
"""
WITH_ROWS = """
def upgrade():
    op.get_bind().execute(sa.text("SELECT 1")).all()
"""


TWO_DATABASES = """
import sqlalchemy as sa
from alembic import context
for metadata in (sa.MetaData(), sa.MetaData()):
    context.configure(dialect_name="sqlite", target_metadata=metadata)
    context.run_migrations()
"""


class Project:
    """An Alembic project with its generic template, and a database."""

    def __init__(self, folder: Path, models: str) -> None:
        self.ini = folder / "alembic.ini"
        self.config = Config(str(self.ini))
        alembic.command.init(self.config, str(folder / "migrations"))
        (folder / "migrated_models.py").write_text(models)
        self.env = folder / "migrations" / "env.py"
        given = "import migrated_models\ntarget_metadata = migrated_models.metadata"
        self.env.write_text(self.env.read_text().replace("target_metadata = None", given))
        self.url = f"sqlite:///{folder}/primary.db"
        self.ini.write_text(self.ini.read_text().replace("driver://user:pass@localhost/dbname", self.url))

    def add(self, body: str) -> str:
        """Write the next revision. Return its id."""
        script = alembic.command.revision(self.config, message="next")
        assert isinstance(script, Script)
        path = Path(script.path)
        path.write_text(path.read_text().partition("def upgrade")[0] + body)
        return script.revision

    def stamp(self, revision: str) -> sa.Engine:
        """Let the database be at a revision. Alembic's own command would change the logging of the tests."""
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision}')")
        return engine


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "migrated_models", raising=False)
    return Project(tmp_path, MODELS)


def test_renames_of_pending_migrations_must_be_in_the_models(project: Project) -> None:
    engine = project.stamp(project.add(FIRST))
    root = logging.getLogger()
    handlers, logger = root.handlers[:], logging.getLogger("rowcast.relay")
    for body in (RENAMES, MORE_RENAMES, WITH_ROWS):
        project.add(body)
    found = read_project(project.ini)
    assert set(found.metadata.tables) == {"purchase", "named", "audit"}
    assert root.handlers == handlers
    assert not logger.disabled
    with engine.connect() as connection:
        revisions = found.pending(connection)
    assert len(revisions) == 3
    findings = list(rename_findings(found.context, revisions, found.metadata, CapturedTables(found.metadata)))
    assert {finding.verdict for finding in findings} == {Verdict.warning}
    unread = f"migration {revisions[-1].revision} does not run without a database (AttributeError)"
    assert [finding.message for finding in findings] == [
        f"{unread}, so its renames are not checked",
        "table purchase was orders, says a migration, and the model does not say so",
        "column purchase.title was name, says a migration, and the model does not say so",
    ]


def test_a_project_that_cannot_be_read_is_refused_with_the_reason(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file"):
        read_project(tmp_path / "none.ini")
    found = read_project(project.ini)
    with (
        project.stamp("abcdef").connect() as connection,
        pytest.raises(ConfigurationError, match="the primary is at revision abcdef"),
    ):
        found.pending(connection)
    text = project.env.read_text()
    project.env.write_text(text.replace("migrated_models.metadata", "None"))
    with pytest.raises(ConfigurationError, match="gives no target_metadata"):
        read_project(project.ini)
    project.env.write_text(TWO_DATABASES)
    with pytest.raises(ConfigurationError, match="migrates several databases"):
        read_project(project.ini)
    project.env.write_text("raise RuntimeError('only online')")
    with pytest.raises(ConfigurationError, match=r"RuntimeError: only online.*rowcast check --metadata"):
        read_project(project.ini)
