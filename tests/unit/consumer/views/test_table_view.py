"""A view fits a table, or is refused with the key of the configuration, the column and the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.table_definitions import TableDefinitions
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import IndexShape, TableShape
from support.kafka_source import column, shape

CITY = shape("city", column("name", "string"), column("mayor", "text"), unique=[("name",)])
PERSON = replace(
    shape(
        "person",
        column("email", "string", nullable=False),
        column("phone", "string"),
        column("credit", "decimal"),
        column("data", "json"),
        column("city_id"),
        unique=[("email",), ("phone",)],
        refers=[("city_id", "city")],
    ),
    indexes=(
        IndexShape("a", ("phone", "email")),
        IndexShape("b", ("city_id",)),
        IndexShape("c", (), left_out="partial"),
    ),
)
SHAPES = {one.full_name: one for one in (CITY, PERSON)}


def view_of(views: dict[str, dict[str, Any]], shapes: dict[str, TableShape] | None = None) -> ReplicaView:
    settings = ReplicaSettings.model_validate({"url": "sqlite://", "view": views, "mask_key": "k" * 16})
    return ReplicaView(settings, (shapes or SHAPES).get, warns=True)


def viewed(view: dict[str, Any], one: TableShape = PERSON, **others: dict[str, Any]) -> TableShape:
    return view_of({one.full_name: view, **others}, {**SHAPES, one.full_name: one}).viewed(one).shape


@pytest.mark.parametrize(
    ("view", "fault"),
    [
        ({"without": ["id"]}, "column id belongs to the primary key, which finds the row of each event"),
        ({"columns": ["email"]}, "column id belongs to the primary key"),
        ({"mask": {"id": "fixed:x"}}, "column id belongs to the primary key, which cannot be masked"),
        ({"rename": {"id": "number"}}, "column id belongs to the primary key, which keeps its names"),
        ({"without": ["emial"]}, "without names column emial, which the table does not have. Did you mean 'email'?"),
        ({"columns": ["id", "fone"]}, "columns names column fone, which the table does not have. Did you mean 'phone'"),
        ({"mask": {"ssn": "null"}}, "mask names column ssn, which the table does not have"),
        ({"without": ["phone"], "mask": {"phone": "null"}}, "mask names column phone, which the replica does not take"),
        (
            {"without": ["phone"], "rename": {"phone": "x"}},
            "rename names column phone, which the replica does not take",
        ),
        ({"rename": {"email": "Phone"}}, "rename: email would have the name Phone, as column phone has"),
        ({"rename": {"email": "ID"}}, "rename: email would have the name ID, as column id has"),
        ({"mask": {"email": "null"}}, "column email is NOT NULL, so the mask null is not possible. Use fixed:"),
        ({"mask": {"credit": "hash"}}, "column credit has the type decimal, which the mask hash does not take"),
        ({"mask": {"city_id": "prefix:3"}}, "column city_id has the type int64, which the mask prefix:3 does not take"),
        ({"where": "country = 'DE'"}, "where names column country, which the table does not have"),
        ({"where": "phone < 'x'"}, "where: column phone (string) has no order that all engines share"),
        ({"where": "data = 'x'"}, "where: values of column data (json) do not compare"),
        ({"where": "phone = 'x"}, "where: character 9"),
    ],
)
def test_an_impossible_view_is_refused(view: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        viewed(view)
    assert f"the view of public.person: {fault}" in str(caught.value)


def test_the_shape_has_the_taken_columns_and_the_constraints_that_hold() -> None:
    view = {"without": ["data"], "rename": {"phone": "tel", "city_id": "town"}, "mask": {"email": "hash"}}
    found = view_of({"public.person": view, "public.c*": {"rename": {"mayor": "head"}}}).viewed(PERSON)
    assert [c.name for c in found.shape.columns] == ["id", "email", "tel", "credit", "town"]
    assert found.shape.column("email").type.length == 64
    assert not found.shape.column("email").nullable
    assert found.shape.unique == (("tel",),)
    assert [key.columns for key in found.shape.foreign_keys] == [("town",)]
    assert [index.columns for index in found.shape.indexes] == [("town",), ()]
    assert found.left_out == ("the unique key (email), because the view masks or leaves out a column",)
    assert found.shape.full_name == "public.person"


@pytest.mark.parametrize(
    ("city", "reason"),
    [({"where": "name = 'x'"}, "does not get all rows there"), ({"mask": {"mayor": "null"}}, None)],
)
def test_a_table_without_a_view_loses_the_foreign_keys_that_cannot_hold(
    city: dict[str, Any], reason: str | None
) -> None:
    found = view_of({"public.city": city}).viewed(PERSON)
    assert [reason in text for text in found.left_out if reason] == ([True] if reason else [])
    assert bool(found.shape.foreign_keys) == (reason is None)


def test_a_pattern_passes_over_columns_that_a_table_does_not_have() -> None:
    views = view_of({"public.*": {"without": ["mayor", "data"], "mask": {"phone": "null"}}})
    assert [c.name for c in views.viewed(CITY).shape.columns] == ["id", "name"]
    assert [c.name for c in views.viewed(PERSON).shape.columns] == ["id", "email", "phone", "credit", "city_id"]


def test_a_name_that_matches_nothing_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    views = view_of({"public.persons": {"without": ["data"]}, "public.*": {"mask": {"fone": "null"}}})
    for _ in range(2):
        views.shapes([CITY, PERSON])
    assert caplog.messages == [
        "the view of public.persons matches no table. Did you mean 'public.person'?",
        "the view of public.* names column fone, which no table has. Did you mean 'phone'?",
    ]


def test_two_tables_with_one_name_are_refused() -> None:
    views = view_of({"public.city": {"name": "thing"}, "public.person": {"name": "Thing"}})
    shapes = views.shapes([CITY, PERSON])
    with pytest.raises(ConfigurationError, match=r"would both be the table Thing of the replica.*`name` in a view"):
        TableDefinitions(shapes, replica_dialect("sqlite"), sqlite.dialect())


def test_a_condition_of_a_pattern_must_fit_each_table() -> None:
    with pytest.raises(ConfigurationError, match=r"the view of public\.city: where names column credit"):
        view_of({"public.*": {"where": "credit > 0"}}).viewed(CITY)


def test_the_own_name_wins_over_a_pattern_and_two_patterns_are_refused() -> None:
    own: dict[str, dict[str, Any]] = {"public.city": {"columns": ["id"]}, "public.*": {"name": "x"}, "*": {"name": "y"}}
    assert [c.name for c in view_of(own).viewed(CITY).shape.columns] == ["id"]
    with pytest.raises(ConfigurationError, match=r"the view of public.person: both public.\* and \* match"):
        view_of(own).viewed(PERSON)


def test_a_former_name_of_a_renamed_column_counts() -> None:
    mail = replace(PERSON.column("email"), name="mail", was=("email",))
    renamed = replace(PERSON, columns=(PERSON.column("id"), mail), unique=(), foreign_keys=(), indexes=())
    found = viewed({"mask": {"email": "fixed:x"}, "rename": {"email": "address"}, "where": "email = 'a'"}, renamed)
    assert [c.name for c in found.columns] == ["id", "address"]
    assert found.columns[1].was == ()
    assert found.columns[1].masking is not None
