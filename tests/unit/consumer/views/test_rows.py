"""Rows of every layout become rows of the view, or deletes."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import orjson
import pytest

from rowcast.consumer.events.change import TRUNCATE_KEY, Change
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.tombstone import Tombstone
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import DataError
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import column, shape

PERSON = shape("person", column("email", "string"), column("phone", "string"), column("age", "int32"))
PLACE = ("shop.public.person", 0)
VIEW = {
    "without": ["phone"],
    "rename": {"email": "mail"},
    "mask": {"email": "prefix:3"},
    "where": "age >= 18",
}


class Viewed:
    """A view over the shapes of one table, of which the last one is the newest."""

    def __init__(self, view: dict[str, Any], *shapes: TableShape, key: str = "k" * 16) -> None:
        layouts = RowLayouts()
        for one in shapes:
            layouts.add(one.version, one, offset=layouts.latest(one.full_name) is not None)
        settings = ReplicaSettings.model_validate(
            {"url": "sqlite://", "view": {"public.person": view}, "mask_key": key}
        )
        self.layouts = layouts
        self.view = ReplicaView(settings, layouts.latest)

    def change(self, one: TableShape | RowLayout, row: dict[str, Any] | None, number: int = 1) -> Change:
        layout = one if isinstance(one, RowLayout) else self.layouts.find(one.full_name, one.version)
        assert layout is not None
        key = orjson.dumps({"id": number})
        image = None if row is None else orjson.dumps({"id": number, **row})
        return Change(layout, key, image, 7, "1", 1, PLACE, 3, row is not None)

    def of(self, *changes: Change) -> list[Change]:
        (found,) = self.view.run(Run([Transaction("1", 9, 1, list(changes))])).transactions
        return list(found.changes)

    def row(self, one: TableShape | RowLayout, row: dict[str, Any]) -> Any:
        (found,) = self.of(self.change(one, row))
        return None if found.after is None else orjson.loads(found.after)


def test_a_row_is_taken_or_deleted_and_deletes_and_truncates_pass() -> None:
    viewed = Viewed(VIEW, PERSON)
    adult = viewed.change(PERSON, {"email": "ann@example.com", "phone": "1", "age": 18})
    child = viewed.change(PERSON, {"email": "bob@example.com", "phone": "2", "age": 17}, 2)
    unknown = viewed.change(PERSON, {"email": None, "phone": None, "age": None}, 3)
    deleted = Tombstone(*viewed.change(PERSON, None, 4))
    truncated = deleted._replace(key=TRUNCATE_KEY)
    found = viewed.of(adult, child, unknown, deleted, truncated)
    assert [change.after for change in found] == [b'{"id":1,"mail":"ann","age":18}', None, None, None, None]
    assert [change.key for change in found] == [c.key for c in (adult, child, unknown, deleted, truncated)]
    assert [change.creates for change in found] == [True, False, False, False, False]
    assert {change.layout for change in found} == {found[0].layout}
    assert found[0].layout.columns == ("id", "mail", "age")
    assert found[0].layout.shape is viewed.view.viewed(PERSON).shape
    assert isinstance(found[3], Tombstone)


def test_a_table_without_a_view_passes_unchanged() -> None:
    viewed, other = Viewed(VIEW, PERSON), RowLayout(shape("other"), ("id",))
    transaction = Transaction("1", 9, 1, [viewed.change(other, {})])
    assert viewed.view.transaction(transaction) is transaction
    # Only the place differs.
    moved = Viewed({"name": "client"}, PERSON)
    transaction = Transaction("1", 9, 1, [moved.change(PERSON, {"email": "", "phone": "", "age": 1})])
    assert moved.view.transaction(transaction) is transaction


def test_a_transaction_in_a_file_stays_in_a_file() -> None:
    viewed = Viewed(VIEW, PERSON)
    rows = ({"email": "ann@", "phone": "1", "age": age} for age in (17, 18, 19))
    spilled = SpilledChanges("1", [viewed.change(PERSON, row, n)._replace(lsn=n) for n, row in enumerate(rows, 1)])
    found = viewed.view.transaction(Transaction("1", 9, 1, spilled)).changes
    assert isinstance(found, SpilledChanges)
    assert found.counts == {"public.person": 3}
    assert [change.after for change in found] == [
        None,
        b'{"id":2,"mail":"ann","age":18}',
        b'{"id":3,"mail":"ann","age":19}',
    ]


def test_a_renamed_column_of_an_older_shape_is_masked_under_its_former_name() -> None:
    mail = replace(PERSON.column("email"), name="address", was=("email",))
    years = replace(PERSON.column("age"), name="years", was=("age",))
    newest = replace(PERSON, columns=(PERSON.column("id"), mail, years))
    viewed = Viewed({"mask": {"email": "fixed:*"}, "where": "age > 1"}, PERSON, newest)
    assert viewed.row(newest, {"address": "a", "years": 2}) == {"id": 1, "address": "*", "years": 2}
    # The phone is gone from the newest shape, and nothing says whether it would be masked.
    assert viewed.row(PERSON, {"email": "a", "phone": "1", "age": 2}) == {"id": 1, "address": "*", "years": 2}
    assert viewed.row(PERSON, {"email": "a", "phone": "1", "age": 1}) is None
    # Compaction has lost the shape of an old event.
    lost = viewed.layouts.infer("public.person", "gone", ("id", "email", "age"))
    assert viewed.row(lost, {"email": "a", "age": 2}) == {"id": 1, "address": "*", "years": 2}


@pytest.mark.parametrize(
    ("type_", "default", "where", "is_taken"),
    [
        ("boolean", ServerDefault("boolean", "false"), "not gone", True),
        ("boolean", ServerDefault("boolean", "true"), "not gone", False),
        ("boolean", None, "not gone", False),
        ("boolean", None, "gone is null", True),
        ("int32", ServerDefault("number", "5"), "gone = 5", True),
        ("string", ServerDefault("string", "x"), "gone in ('x')", True),
        ("timestamp", ServerDefault("now"), "gone is null", True),
    ],
)
def test_an_event_from_before_a_column_of_the_condition_counts_with_its_default(
    type_: str, default: ServerDefault | None, where: str, is_taken: bool
) -> None:
    added = replace(column("gone", type_), default=default)
    viewed = Viewed({"where": where}, PERSON, replace(PERSON, columns=(*PERSON.columns, added)))
    assert (viewed.row(PERSON, {"email": "a", "phone": "1", "age": 1}) is not None) == is_taken


def test_a_value_that_cannot_be_compared_names_its_event_and_not_itself() -> None:
    viewed = Viewed({"where": "email = 'x'"}, PERSON)
    with pytest.raises(DataError) as caught:
        viewed.row(PERSON, {"email": 4711, "phone": "1", "age": 1})
    assert "table public.person (topic shop.public.person, partition 0, offset 3): the view: column email" in str(
        caught.value
    )
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "value", "expected"),
    [
        ("null", "x", None),
        ("fixed:a:b", "x", "a:b"),
        ("fixed:", None, ""),
        ("prefix:2", "Käthe", "Kä"),
        ("prefix:2", None, None),
        ("hash", None, None),
    ],
)
def test_each_mask_replaces_the_value(mask: str, value: str | None, expected: str | None) -> None:
    found = Viewed({"mask": {"email": mask}}, PERSON).row(PERSON, {"email": value, "phone": "1", "age": 1})["email"]
    assert found == expected


def test_equal_values_have_equal_digests_under_one_key() -> None:
    def digest(column: str, value: Any, key: str = "k" * 16) -> Any:
        row = {"email": "", "phone": "", "age": 1, column: value}
        return Viewed({"mask": {column: "hash"}}, PERSON, key=key).row(PERSON, row)[column]

    expected = hmac.new(b"k" * 16, b"555", hashlib.sha256).hexdigest()
    assert digest("email", "555") == digest("phone", "555") == digest("age", 555) == expected
    assert digest("email", "555", "another key of 16 or more") != expected
