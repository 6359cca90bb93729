"""SQLAlchemy's own tests pass with a capture on their engines, except the tests that are named with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from support.sqlalchemy_suite.expected import is_expected
from support.sqlalchemy_suite.source import failures

_PARTS = {
    "orm": ["test/orm", "--ignore=test/orm/dml"],
    "orm_dml": ["test/orm/dml"],
    "sql": ["test/sql"],
    "ext": ["test/ext", "test/engine"],
    "postgresql": ["test/dialect/postgresql"],
}


def _prepare(url: str) -> str:
    """Create the schemas and extensions that the tests expect in a database."""
    if url.startswith("sqlite"):
        return "sqlite:///:memory:"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("test_schema", "test_schema_2"):
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        for name in ("hstore", "citext"):
            connection.exec_driver_sql(f"CREATE EXTENSION {name}")
    engine.dispose()
    return url


@pytest.mark.only_in_campaigns
@pytest.mark.parametrize("part", _PARTS)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_sqlalchemys_own_tests_pass_with_the_capture(
    new_database: NewDatabase, tmp_path: Path, engine: str, part: str
) -> None:
    if part == "postgresql" and engine != "postgresql":
        pytest.skip("the tests of PostgreSQL's dialect")
    found = failures(_PARTS[part], _prepare(new_database(engine)), tmp_path / "captured.xml", captured=True)
    unexpected = {name for name in found if not is_expected(name)}
    files = sorted({name.partition("::")[0] for name in unexpected})
    plain = failures(files, _prepare(new_database(engine)), tmp_path / "plain.xml", captured=False) if files else set()
    assert unexpected - plain == set()
