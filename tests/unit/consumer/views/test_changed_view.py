"""A filled table notices another view, and no migration of the source counts as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rowcast.consumer.replica.evolution.shape_changes import require_compatible
from rowcast.consumer.views.changed_view import require_same_view
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_recorded_shape, parse_shape
from support.kafka_source import column, shape

PERSON = shape("person", column("email", "string"), column("phone", "string"), column("age", "int32"))
VIEW = {"without": ["phone"], "mask": {"email": "hash"}, "where": "age > 1", "name": "client"}
WIDER = replace(PERSON, columns=(*PERSON.columns, column("city", "string")))
NARROWER = replace(PERSON, columns=tuple(c for c in PERSON.columns if c.name != "phone"))


def recorded(view: dict[str, Any] | None, one: TableShape = PERSON, key: str = "k" * 16) -> TableShape:
    views = {} if view is None else {"public.person": view}
    settings = ReplicaSettings.model_validate({"url": "sqlite://", "view": views, "mask_key": key})
    (found,) = ReplicaView(settings, {one.full_name: one}.get).shapes([one])
    return parse_recorded_shape(found.to_json())


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (VIEW, {**VIEW, "name": "person"}, "the table has another place"),
        (VIEW, {**VIEW, "schema": "crm"}, "the table has another place"),
        (VIEW, {**VIEW, "where": "age > 2"}, "where is another condition"),
        (VIEW, {**VIEW, "where": None}, "where is another condition"),
        (VIEW, {**VIEW, "without": []}, "column phone is taken now"),
        (VIEW, {**VIEW, "without": ["phone", "age"]}, "column age is left out now"),
        (VIEW, {**VIEW, "mask": {}}, "column email has another mask"),
        (VIEW, {**VIEW, "mask": {"email": "fixed:x"}}, "column email has another mask"),
        (VIEW, {**VIEW, "rename": {"email": "mail"}}, "column email has another name"),
        (None, {"rename": {"email": "mail"}}, "column email has another name"),
        (None, {"without": ["phone"]}, "column phone is left out now"),
        ({"without": ["phone"]}, None, "column phone is taken now"),
        (VIEW, None, "the table has another place"),
    ],
)
def test_another_view_is_refused(before: dict[str, Any] | None, after: dict[str, Any] | None, change: str) -> None:
    with pytest.raises(DataError, match=f"the view of table public.person has changed: {change}.*rowcast rebuild"):
        require_same_view(recorded(before), recorded(after))


def test_another_key_is_another_mask_and_is_not_recorded() -> None:
    one = recorded(VIEW, key="a secret key of more than 16")
    assert b"a secret key" not in one.to_json()
    with pytest.raises(DataError, match="column email has another mask"):
        require_same_view(one, recorded(VIEW))


@pytest.mark.parametrize(
    ("before", "after", "newest"),
    [
        (VIEW, VIEW, WIDER),
        (VIEW, {**VIEW, "where": "(age  >  1)"}, PERSON),
        (VIEW, {**VIEW, "where": '"age">1.0'}, PERSON),
        # The source has dropped the column, and the view does not name it any more.
        (VIEW, {**VIEW, "without": []}, NARROWER),
        (None, {}, WIDER),
        (None, {"columns": ["id", "email", "phone", "age"]}, WIDER),
    ],
)
def test_a_migration_of_the_source_changes_no_view(
    before: dict[str, Any] | None, after: dict[str, Any], newest: TableShape
) -> None:
    require_same_view(recorded(before), recorded(after, newest))


def test_another_type_of_a_masked_column_needs_no_rebuild() -> None:
    mask = {"mask": {"email": "fixed:x", "phone": "hash"}}
    columns = {"email": column("email", "json"), "phone": column("phone", "int64")}
    retyped = replace(PERSON, columns=tuple(columns.get(one.name, one) for one in PERSON.columns))
    before, after = recorded(mask), recorded(mask, retyped)
    require_same_view(before, after)
    require_compatible([(before, after)])


def test_the_schema_topic_cannot_choose_a_view() -> None:
    document = recorded(VIEW).to_json()
    assert b'"client"' in document
    assert parse_shape(document).view is None
    assert parse_recorded_shape(document).view is not None
    # A shape without a view has the version that it had before there were views.
    assert b"view" not in PERSON.to_json()
