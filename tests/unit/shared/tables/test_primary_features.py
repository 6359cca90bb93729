"""The shape of a table carries counters, defaults, indexes and actions, and only where a table has them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from rowcast.shared.errors import DataError
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import IdentityShape, IndexShape, TableShape
from rowcast.shared.tables.shape_document import parse_shape
from rowcast.shared.tables.type_mapping import shape_of

POSTGRESQL, MYSQL, SQLITE = postgresql.dialect(), mysql.dialect(), sqlite.dialect()


def shape(*parts: Any, dialect: Dialect = POSTGRESQL) -> TableShape:
    metadata = sa.MetaData()
    sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True))
    found = shape_of(sa.Table("items", metadata, *parts), dialect, "public")
    assert parse_shape(found.to_json()) == found
    return found


def test_a_table_with_none_of_them_has_the_version_of_earlier_releases() -> None:
    plain = shape(sa.Column("id", sa.String(5), primary_key=True))
    document = orjson.loads(plain.to_json())
    assert not {"indexes"} & document.keys()
    assert not {"identity", "default"} & document["columns"][0].keys()
    assert plain.version == "534a9877a626"


def test_the_document_of_an_earlier_release_is_read() -> None:
    document = orjson.loads(shape(sa.Column("id", sa.Integer, primary_key=True)).to_json())
    del document["columns"][0]["identity"]
    assert parse_shape(orjson.dumps(document)).column("id").identity is None


@pytest.mark.parametrize(
    ("column", "dialect", "identity"),
    [
        (sa.Column("id", sa.Integer, primary_key=True), POSTGRESQL, IdentityShape()),
        (sa.Column("id", sa.Integer, primary_key=True), MYSQL, IdentityShape()),
        (sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), POSTGRESQL, None),
        (sa.Column("id", sa.String(9), primary_key=True), MYSQL, None),
        (sa.Column("id", sa.Integer, primary_key=True, default=lambda: 1), POSTGRESQL, None),
        (
            sa.Column("id", sa.Integer, sa.Identity(always=True, start=100, increment=10), primary_key=True),
            POSTGRESQL,
            IdentityShape(always=True, start=100, increment=10),
        ),
        (sa.Column("id", sa.Integer, sa.Identity(start=100), primary_key=True), MYSQL, IdentityShape()),
        (sa.Column("id", sa.Integer, sa.Sequence("s", start=5), primary_key=True), POSTGRESQL,
         IdentityShape(start=5, sequence="s")),
        (sa.Column("id", sa.Integer, sa.Sequence("s", start=5), primary_key=True), SQLITE, IdentityShape()),
        (
            sa.Column("id", sa.Integer, primary_key=True, server_default=sa.text("nextval('items_id_seq'::regclass)")),
            POSTGRESQL,
            IdentityShape(),
        ),
        (
            sa.Column(
                "id",
                sa.Integer,
                primary_key=True,
                autoincrement=True,
                server_default=sa.text("nextval('items_id_seq'::regclass)"),
            ),
            POSTGRESQL,
            IdentityShape(),
        ),
    ],
)  # fmt: skip
def test_a_counter_is_carried(column: sa.Column[Any], dialect: Dialect, identity: IdentityShape | None) -> None:
    assert shape(column, dialect=dialect).column("id").identity == identity


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ("new", ServerDefault("string", "new")),
        ("a\\'b", ServerDefault("string", "a\\'b")),
        (sa.text("0"), ServerDefault("number", "0")),
        (sa.func.now(), ServerDefault("now")),
        (sa.false(), ServerDefault("boolean", "false")),
        (sa.text("lower('X')"), ServerDefault("other", "lower('X')")),
        (sa.text("NULL"), None),
    ],
)
def test_a_server_default_is_carried(default: Any, expected: ServerDefault | None) -> None:
    column = sa.Column("value", sa.String(9), server_default=default)
    assert shape(sa.Column("id", sa.String(5), primary_key=True), column).column("value").default == expected


def test_indexes_are_carried_and_special_indexes_are_named() -> None:
    a, b = sa.Column("a", sa.Integer), sa.Column("b", sa.Text)
    found = shape(
        sa.Column("id", sa.String(5), primary_key=True),
        a,
        b,
        sa.Index("ix_plain", a, b, unique=True),
        sa.Index("ix_lower", sa.text("lower(b)")),
        sa.Index("ix_partial", a, postgresql_where=a > 0),
        sa.Index("ix_gin", a, postgresql_using="gin"),
        sa.Index("ix_btree", b, postgresql_using="btree", mysql_length=5),
    ).indexes
    assert found == (
        IndexShape("ix_btree", ("b",)),
        IndexShape("ix_gin", (), left_out="gin"),
        IndexShape("ix_lower", (), left_out="expression"),
        IndexShape("ix_partial", (), left_out="partial"),
        IndexShape("ix_plain", ("a", "b"), unique=True),
    )


def test_the_actions_of_a_foreign_key_are_carried_and_do_not_change_the_names_of_the_workers_constraints() -> None:
    def key(action: str | None) -> Any:
        column: sa.Column[Any] = sa.Column("parent_id", sa.ForeignKey("parents.id", ondelete=action))
        return shape(sa.Column("id", sa.String(5), primary_key=True), column).foreign_keys[0]

    assert (key("cascade").on_delete, key("RESTRICT").on_delete, key(None).on_delete) == ("CASCADE", None, None)
    assert repr(key("cascade")) == repr(key(None))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("columns", 0, "default"), {"kind": "number", "value": "0); DROP TABLE x; --"}),
        (("columns", 0, "default"), {"kind": "boolean", "value": "maybe"}),
        (("columns", 0, "identity"), {"start": "1); DROP TABLE x"}),
        (("columns", 0, "identity"), {"increment": 1.5}),
        (("indexes",), [{"name": "i", "columns": ["unknown"]}]),
        (("foreign_keys",), [{
            "columns": ["id"], "referred_schema": "public", "referred_table": "parents", "referred_columns": ["id"],
            "on_delete": "CASCADE; DROP TABLE x",
        }]),
    ],
)  # fmt: skip
def test_a_document_with_an_impossible_feature_is_refused(path: tuple[Any, ...], value: object) -> None:
    document = orjson.loads(shape(sa.Column("id", sa.Integer, primary_key=True)).to_json())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DataError):
        parse_shape(orjson.dumps(document))


def test_an_unknown_kind_of_default_is_only_shown() -> None:
    document = orjson.loads(shape(sa.Column("id", sa.Integer, primary_key=True)).to_json())
    document["columns"][0]["default"] = {"kind": "newer", "value": "x"}
    assert parse_shape(orjson.dumps(document)).columns[0].default == ServerDefault("other", "x")
