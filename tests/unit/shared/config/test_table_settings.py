"""Test the settings of tables and columns: short forms, precedence, and messages about mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from rowcast.shared.config.table_settings import (
    ColumnSettings,
    TableSettings,
    read_column_settings,
    read_table_settings,
)
from rowcast.shared.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (False, TableSettings(capture=False)),
        (True, TableSettings(capture=True)),
        ("triggers", TableSettings(mode="triggers")),
        ({"before": True}, TableSettings(before=True)),
        (TableSettings(where="id > 1"), TableSettings(where="id > 1")),
    ],
)
def test_a_table_has_short_forms(value: Any, expected: TableSettings) -> None:
    assert read_table_settings(value, "a place") == expected


def test_a_column_may_be_left_out_by_a_word() -> None:
    assert read_column_settings(False, "a place") == ColumnSettings(capture=False)
    assert read_table_settings({"columns": {"note": False}}, "a place").columns["note"].capture is False


@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        ({"wher": "x"}, "wher: unknown key"),
        ("sometimes", "mode: Input should be 'listeners' or 'triggers'"),
        ({"where": ""}, "where: String should have at least 1 character"),
        ({"columns": {"email": {"mask": "x", "hash": "sha256"}}}, "columns.email: mask and hash exclude each other"),
        ({"columns": {"email": {"capture": False, "mask": "x"}}}, "columns.email: capture = false and mask exclude"),
        ({"columns": {"email": {"mask": "a\0b"}}}, "columns.email.mask: PostgreSQL cannot store a NUL character"),
        ({"columns": {"email": {"truncate": 0}}}, "columns.email.truncate: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_names_the_place_and_the_key(value: Any, mistake: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_table_settings(value, "the table 'orders'")
    first, second = str(refused.value).splitlines()
    assert first == "the table 'orders' is not valid:"
    assert second.strip().startswith(mistake)


def test_every_mistake_has_a_line() -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_column_settings({"hash": "md5", "truncate": -1}, "the column 'email'")
    assert len(str(refused.value).splitlines()) == 3


def test_settings_win_over_other_settings_key_by_key() -> None:
    ours = TableSettings(before=True, columns={"a": ColumnSettings(mask="x")})
    theirs = TableSettings(
        before=False, where="id > 1", columns={"a": ColumnSettings(truncate=3), "b": ColumnSettings(capture=False)}
    )
    assert ours.over(theirs) == TableSettings(
        before=True, where="id > 1", columns={"a": ColumnSettings(mask="x"), "b": ColumnSettings(capture=False)}
    )


def test_a_default_that_is_written_down_wins_too() -> None:
    assert TableSettings(before=False).over(TableSettings(before=True)).before is False
    assert TableSettings().over(TableSettings(before=True)).before is True


def test_a_form_replaces_the_other_form_but_not_the_salt() -> None:
    salt = SecretStr("pepper")
    assert ColumnSettings(truncate=2).over(ColumnSettings(hash="sha256", salt=salt)) == ColumnSettings(
        truncate=2, salt=salt
    )
    assert ColumnSettings(salt=salt).over(ColumnSettings(hash="sha256")) == ColumnSettings(hash="sha256", salt=salt)


def test_settings_can_be_salted_for_a_check() -> None:
    assert ColumnSettings(mask="x", salt=SecretStr("s")).salted().salt is None
    assert ColumnSettings(hash="sha256").salted().salt is not None
    assert ColumnSettings(hash="sha256", salt=SecretStr("own")).salted().salt == SecretStr("own")
