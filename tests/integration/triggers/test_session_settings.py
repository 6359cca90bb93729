"""No setting of a session changes what triggers write."""

from __future__ import annotations

import contextlib

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from integration.triggers.conftest import ENGINES
from support.session_settings import SETTINGS, create_table, insert_row
from support.triggered_tables import triggered_tables

RESET = {"postgresql": "RESET ALL", "mariadb": "SET time_zone = DEFAULT, sql_mode = DEFAULT", "sqlite": "SELECT 1"}


# SQLAlchemy reflects no type for these columns.
UNKNOWN = ("place", "reading")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_session_setting_changes_a_row_image(new_database: NewDatabase, engine: str) -> None:
    settings = {"item": {"before": True}}
    with triggered_tables(new_database(engine), *create_table(engine, *UNKNOWN), settings=settings) as tables:
        for n, setting in enumerate(SETTINGS[engine]):
            first, second, third = (insert_row(engine, 3 * n + i, *UNKNOWN) for i in range(3))
            tables.execute(
                first, second, third, setting, f"UPDATE item SET n = 2 WHERE id = {3 * n + 1}",
                f"DELETE FROM item WHERE id = {3 * n + 2}", third, RESET[engine],
            )  # fmt: skip
            assert tables.copied() == tables.stored(), setting
        changes = tables.changes()
    images = [image for change in changes for image in (change.get("a"), change.get("b")) if image]
    kinds = {str({**image, "id": 0, "n": 0}) for image in images}
    assert len(kinds) == 1, "the rows differ in id and n alone"


def test_a_program_that_does_not_trust_the_schema_is_captured_or_fails(new_database: NewDatabase) -> None:
    """Older versions of SQLite forbid the functions of JSON in triggers then."""
    with triggered_tables(new_database("sqlite"), "CREATE TABLE item (id integer PRIMARY KEY)") as tables:
        with contextlib.suppress(sa.exc.OperationalError):
            tables.execute("PRAGMA trusted_schema = OFF", "INSERT INTO item VALUES (1)")
        assert tables.copied() == tables.stored()
