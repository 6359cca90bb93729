"""A statement whose rows cannot be determined is refused, or causes a warning."""

from __future__ import annotations

import pytest

from rowcast.producer.capture.notes.strictness import CaptureWarning, StrictnessRule
from rowcast.shared.errors import CaptureError, ConfigurationError

MESSAGE = r"not captured: SQL text changes public\.item, .*: UPDATE item SET a = …\. Name the rows with .*'ignore'\)\.$"


def test_a_strict_rule_refuses() -> None:
    with pytest.raises(CaptureError, match=MESSAGE):
        StrictnessRule("raise").refuse_or_warn("public.item", "SQL text", "UPDATE item\n  SET a = 1")


def test_the_default_rule_warns() -> None:
    with pytest.warns(CaptureWarning, match=MESSAGE):
        StrictnessRule("warn").refuse_or_warn("public.item", "SQL text", "UPDATE item\n  SET a = 1")


def test_a_warning_names_the_line_of_the_application_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rule = StrictnessRule("warn")
    for _ in range(3):
        with pytest.warns(CaptureWarning) as warned:
            rule.refuse_or_warn("public.item", "SQL text", "UPDATE item SET a = 1")
        assert warned[0].filename == __file__
    assert [(record.name, record.levelname) for record in caplog.records] == [("rowcast.capture", "WARNING")]


def test_another_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="it must be 'warn' or 'raise'"):
        StrictnessRule("error")


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE t1 SET a = 'it''s', n=42, c=1.5e3 WHERE id = :x_1", "UPDATE t1 SET a = …, n=…, c=… WHERE id = :x_1"),
        ("UPDATE t SET a = 'x\\' WHERE b = 'secret'", "UPDATE t SET a = …"),
        ('UPDATE "order" SET a = "secret" WHERE b LIKE "s%"', 'UPDATE "order" SET a = … WHERE b LIKE …'),
        ("DO $a$ BEGIN UPDATE t SET a = 'secret'; END $a$", "DO …"),
        ("UPDATE t SET a = 'secret", "UPDATE t SET a = …"),
        ("SELECT %(id_1)s, $1, ?", "SELECT %(id_1)s, $1, ?"),
    ],
)
def test_texts_and_numbers_of_a_statement_are_left_out(statement: str, shown: str) -> None:
    with pytest.raises(CaptureError) as refused:
        StrictnessRule("raise").refuse_or_warn("public.item", "SQL text", statement)
    assert f"rows: {shown}. Name" in str(refused.value)
