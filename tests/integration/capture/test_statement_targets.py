"""Capture statements that name their table otherwise than by the mapped table: by an alias, or by another object.

Migrations, reflection, pandas and ``sa.table()`` make table objects of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.expression import ClauseElement, Executable

from fixtures.databases import ENGINES, NewDatabase
from integration.capture.conftest import NewShop
from rowcast.producer import CaptureError, CaptureWarning, ConfigurationError
from rowcast.shared.database.schema_names import default_schema
from support.sent_statements import sent_statements
from support.shop import Models, Shop, shop_engine

Named = Callable[[sa.Table, sa.Engine], Any]


def _other_table(table: sa.Table, engine: sa.Engine) -> sa.Table:
    return sa.Table(table.name, sa.MetaData(), *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in table.c))


def _without_a_primary_key(table: sa.Table, engine: sa.Engine) -> sa.Table:
    return sa.Table(table.name, sa.MetaData(), *(sa.Column(c.name, c.type) for c in table.c))


def _reflected_in_the_default_schema(table: sa.Table, engine: sa.Engine) -> sa.Table:
    return sa.Table(table.name, sa.MetaData(), schema=default_schema(engine.dialect), autoload_with=engine)


def _light(table: sa.Table, engine: sa.Engine) -> sa.TableClause:
    return sa.table(table.name, *(sa.column(c.name, c.type) for c in table.c))


def _light_without_types(table: sa.Table, engine: sa.Engine) -> sa.TableClause:
    return sa.table(table.name, *(sa.column(c.name) for c in table.c))


def _spelled_otherwise(table: sa.Table, engine: sa.Engine) -> sa.Table:
    """Spell names in upper case, where the database takes them for the same. The keys of the columns stay."""
    engine_name = engine.dialect.name
    columns = [
        sa.Column(
            c.name if engine_name == "postgresql" else c.name.upper(), c.type, key=c.key, primary_key=c.primary_key
        )
        for c in table.c
    ]
    return sa.Table(table.name.upper() if engine_name == "sqlite" else table.name, sa.MetaData(), *columns)


OTHERS = [
    _other_table,
    _without_a_primary_key,
    _reflected_in_the_default_schema,
    _light,
    _light_without_types,
    _spelled_otherwise,
]


@pytest.fixture
def filled(shop: Shop) -> Shop:
    m = shop.models
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(m.Tag.__table__), [{"name": f"tag {n}"} for n in range(1, 9)])
        connection.execute(
            sa.insert(m.Reading.__table__), [{"sensor": "a", "at": n, "value": n / 2} for n in range(1, 9)]
        )
    shop.take()
    return shop


def assert_captured(shop: Shop, *statements: Any) -> None:
    """Execute each statement in a transaction, and check that the outbox has all its changes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statement in statements:
            with shop.engine.begin() as connection:
                connection.execute(statement)
            changes = shop.take(strict=True)
            assert changes, statement
            assert shop.mirror == shop.rows(), statement


def changes_of(tags: Any, readings: Any) -> list[Any]:
    """Return changes that find rows by key and by a condition, and changes of the key."""
    return [
        sa.update(tags).where(tags.c.id == 2).values(name="by key"),
        sa.update(tags).where(tags.c.name == "tag 3").values(name="by a condition"),
        sa.update(readings).where(readings.c.value > 3.4).values(value=readings.c.value + 1),
        sa.update(readings).where(readings.c.sensor == "a", readings.c.at == 1).values(at=101),
        sa.update(readings).where(readings.c.value == 1.0).values(at=readings.c.at + 100),
        sa.delete(tags).where(tags.c.id == 4),
        sa.delete(tags).where(tags.c.name == "tag 5"),
        sa.delete(readings).where(readings.c.value < 2),
    ]


@pytest.mark.parametrize("named", OTHERS)
def test_changes_through_another_object_of_the_table(filled: Shop, named: Named) -> None:
    m = filled.models
    tags, readings = named(m.Tag.__table__, filled.engine), named(m.Reading.__table__, filled.engine)
    assert_captured(filled, *changes_of(tags, readings))


@pytest.mark.parametrize("engine_name", ENGINES)
def test_keys_of_columns_that_are_not_their_names(new_database: NewDatabase, engine_name: str) -> None:
    metadata = sa.MetaData()
    parents = sa.Table(
        "parents",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, key="number"),
        sa.Column("code", sa.String(10), unique=True, key="letters"),
    )
    to_parent = sa.ForeignKey("parents.letters", onupdate="CASCADE")
    sa.Table("children", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("code", to_parent))
    shop = Shop(shop_engine(new_database(engine_name)), cast(Models, SimpleNamespace(metadata=metadata)))
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(parents), [{"number": n, "letters": str(n)} for n in range(1, 5)])
        connection.execute(sa.insert(metadata.tables["children"]), [{"id": n, "code": str(n)} for n in range(1, 5)])
    shop.take()
    by_key, by_code = parents.c.number == sa.bindparam("which"), parents.c.letters == sa.bindparam("code")
    updates: list[tuple[Any, Any]] = [
        (sa.update(parents).where(by_key).values(letters="one"), {"which": 1}),
        (sa.update(parents).where(by_key), [{"which": 2, "letters": "two"}, {"which": 3, "letters": "three"}]),
        (sa.update(parents).where(by_key).values(number=41), {"which": 4}),
        (sa.update(parents).where(by_key), {"which": 41, "number": 42}),
        (sa.update(parents).where(by_code).values(number=43), {"code": "4"}),
        (sa.update(parents).where(by_code).values(number=parents.c.number + 1), {"code": "4"}),
    ]
    for update, parameters in updates:
        with shop.engine.begin() as connection:
            connection.execute(update, parameters)
        assert shop.take()
        assert shop.mirror == shop.rows()
    shop.engine.dispose()


def test_a_table_is_captured_from_the_import_of_its_model_on(new_database: NewDatabase) -> None:
    metadata = sa.MetaData()
    shop = Shop(shop_engine(new_database("sqlite")), cast(Models, SimpleNamespace(metadata=metadata)))
    light = sa.table("late", sa.column("id"))
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE late (id INTEGER PRIMARY KEY)")
        connection.execute(sa.insert(light).values(id=1))
        connection.execute(sa.delete(light))
    sa.Table("late", metadata, sa.Column("id", sa.Integer, primary_key=True))
    assert_captured(shop, sa.insert(light).values(id=2))
    shop.engine.dispose()


def test_a_foreign_key_to_a_model_that_is_not_imported_yet(new_database: NewDatabase) -> None:
    metadata = sa.MetaData()
    item = sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True))
    shop = Shop(shop_engine(new_database("sqlite")), cast(Models, SimpleNamespace(metadata=metadata)))
    sa.Table(
        "part", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("late_id", sa.ForeignKey("late.id"))
    )
    shop.capture.uninstall(shop.sessions)
    shop.capture.install(shop.sessions)
    with shop.sessions() as session:
        session.execute(sa.insert(item).values(id=1))
        with pytest.raises(ConfigurationError, match=r"'part' has a foreign key .*'late'.* Import the module"):
            session.commit()
    sa.Table("late", metadata, sa.Column("id", sa.Integer, primary_key=True))
    metadata.create_all(shop.engine)
    assert_captured(shop, sa.insert(item).values(id=2))
    shop.engine.dispose()


def test_changes_through_an_alias(filled: Shop) -> None:
    m = filled.models
    changes = changes_of(m.Tag.__table__.alias("x"), m.Reading.__table__.alias("y"))
    if getattr(filled.engine.dialect, "is_mariadb", False):
        # MariaDB has no alias in a DELETE of one table.
        changes = [change for change in changes if isinstance(change, sa.Update)]
    assert_captured(filled, *changes)


def test_an_update_through_an_alias_of_the_class(filled: Shop) -> None:
    other = aliased(filled.models.Tag)
    with filled.sessions.begin() as session:
        session.execute(
            sa.update(other).where(other.name == "tag 6").values(name="six"),
            execution_options={"synchronize_session": False},
        )
    assert len(filled.take()) == 1
    assert filled.mirror == filled.rows()


@pytest.mark.parametrize("named", OTHERS)
def test_inserts_through_another_object_of_the_table(filled: Shop, named: Named) -> None:
    m = filled.models
    tags, readings = named(m.Tag.__table__, filled.engine), named(m.Reading.__table__, filled.engine)
    inserts: list[Any] = [
        sa.insert(readings).values(sensor="b", at=1, value=0.5),
        sa.insert(tags).values(id=20, name="key given"),
        sa.insert(tags).values(name="key drawn"),
        sa.insert(tags).values([{"name": "one of two"}, {"name": "two of two"}]),
    ]
    if filled.engine.dialect.insert_returning:
        inserts.append(sa.insert(tags).values(name="key returned").returning(tags.c.id))
        inserts.append(sa.insert(tags).from_select(["name"], sa.select(sa.literal("selected"))))
    assert_captured(filled, *inserts)
    with filled.engine.begin() as connection:
        connection.execute(sa.insert(readings), [{"sensor": "c", "at": n, "value": None} for n in (1, 2)])
        connection.execute(sa.insert(tags), [{"name": "x"}, {"name": "y"}])
    assert len(filled.take()) == 4
    assert filled.mirror == filled.rows()


@pytest.fixture(params=["mariadb", "mysql"])
def strict(request: pytest.FixtureRequest, borrow_shop: NewShop) -> Shop:
    return borrow_shop(request.param, strict="raise")


def test_an_update_of_a_join_is_refused_without_a_hint(strict: Shop) -> None:
    people, engineers = strict.models.Person.__table__, strict.models.Engineer.__table__
    joined = people.join(engineers, people.c.id == engineers.c.id)
    update = sa.update(joined).values({people.c.name: "x"})
    with (
        strict.engine.connect() as connection,
        pytest.raises(CaptureError, match=r"an UPDATE of a join changes \S+\.people"),
    ):
        connection.execute(update)
    hints: list[Any] = ["ignore", {people: []}]
    for hint in hints:
        with strict.engine.connect() as connection:
            connection.execute(update, execution_options={"rowcast": hint})


def test_an_upsert_through_a_table_object_without_the_unique_constraints_is_refused(borrow_shop: NewShop) -> None:
    """MySQL returns no keys, so that the capture must read the conflicting rows."""
    strict = borrow_shop("mysql", strict="raise")
    tags = _other_table(strict.models.Tag.__table__, strict.engine)
    upsert = mysql.insert(tags).values(id=1, name="x").on_duplicate_key_update(name="x")
    with strict.engine.connect() as connection, pytest.raises(CaptureError, match="without the table's unique"):
        connection.execute(upsert)


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_an_upsert_through_a_table_object_without_a_key_looks_for_no_row(borrow_shop: NewShop, engine: str) -> None:
    shop = borrow_shop(engine)
    tags = _without_a_primary_key(shop.models.Tag.__table__, shop.engine)
    rows = [{"id": n, "name": f"tag {n}"} for n in (1, 2)]
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(shop.models.Tag.__table__), [{"id": n, "name": f"old {n}"} for n in (1, 2, 9)])
    shop.take()
    with warnings.catch_warnings(), shop.engine.begin() as connection:
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CaptureWarning)
        connection.execute(mysql.insert(tags).values(rows).on_duplicate_key_update(name=sa.func.upper(tags.c.name)))
    assert {change["k"]["id"] for change in shop.take()} <= {1, 2}


def test_the_default_schema_is_not_moved_by_a_map_of_tables_without_a_schema(borrow_shop: NewShop) -> None:
    shop = borrow_shop("postgresql", strict="raise")
    tags = _reflected_in_the_default_schema(shop.models.Tag.__table__, shop.engine)
    with shop.engine.begin() as connection:
        connection.execute(
            sa.insert(tags).values(name="x"), execution_options={"schema_translate_map": {None: "elsewhere"}}
        )
    assert [change["t"] for change in shop.take()] == ["public.tags"]
    assert shop.mirror == shop.rows()


def test_a_delete_that_joins_another_table_is_one_statement_on_postgresql(borrow_shop: NewShop) -> None:
    shop = borrow_shop("postgresql")
    tags, readings = shop.models.Tag.__table__, shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.delete(tags))
        with sent_statements(connection) as sent:
            connection.execute(sa.delete(tags).where(tags.c.id == readings.c.at))
    assert [sql.split()[0] for sql in sent] == ["DELETE"], "the keys are read before"


def test_a_delete_that_joins_another_table(borrow_shop: NewShop) -> None:
    shop = borrow_shop("mariadb")
    tags, readings = shop.models.Tag.__table__, shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(tags), [{"id": n, "name": str(n)} for n in (1, 2, 3)])
        connection.execute(sa.insert(readings).values(sensor="a", at=2))
    shop.take()
    assert_captured(shop, sa.delete(tags).where(tags.c.id == readings.c.at, readings.c.sensor == "a"))


class _InsertFromSelect(Executable, ClauseElement):
    """A construct of the application, which SQLAlchemy cannot inspect."""

    inherit_cache = False

    def __init__(self, table: sa.Table, select: sa.Select[Any]) -> None:
        self.table = table
        self.select = select


@compiles(_InsertFromSelect)
def _compile(element: _InsertFromSelect, compiler: Any, **options: Any) -> str:
    table = compiler.process(element.table, asfrom=True, **options)
    return f"INSERT INTO {table} (name) {compiler.process(element.select, **options)}"


def test_a_construct_of_the_application_is_treated_as_text(shop: Shop) -> None:
    statement = _InsertFromSelect(shop.models.Tag.__table__, sa.select(sa.literal("x", literal_execute=True)))
    with shop.engine.connect() as connection, pytest.warns(CaptureWarning, match=r"SQL text changes \S+\.tags"):
        connection.execute(statement)


def _with_a_comment(
    connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    return f"{sql} -- request 1", parameters


def test_statements_that_a_listener_of_the_application_ends_with_a_comment(filled: Shop) -> None:
    tags = filled.models.Tag.__table__
    filled.capture.uninstall(filled.sessions)
    sa.event.listen(filled.engine, "before_cursor_execute", _with_a_comment, retval=True)
    filled.capture.install(filled.sessions)
    try:
        changes: list[Any] = [
            sa.update(tags).where(tags.c.name == "tag 2").values(name="x"),
            sa.insert(tags).values([{"name": "y"}, {"name": "z"}]),
            sa.delete(tags).where(tags.c.name == "tag 3"),
        ]
        if filled.engine.dialect.insert_returning:
            changes.append(sa.insert(tags).values(name="v").returning(tags.c.name))
            changes.append(sa.delete(tags).where(tags.c.name == "tag 4").returning(tags.c.name))
        assert_captured(filled, *changes)
    finally:
        sa.event.remove(filled.engine, "before_cursor_execute", _with_a_comment)


def test_dml_in_a_common_table_expression_without_a_name(borrow_shop: NewShop) -> None:
    shop = borrow_shop("postgresql", strict="raise")
    tags = shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(tags), [{"name": "a"}, {"name": "b"}])
    shop.take()
    changed = sa.update(tags).where(tags.c.name == "b").values(name="c").returning(tags.c.id).cte()
    assert_captured(shop, sa.select(changed.c.id))


@pytest.mark.parametrize("synchronize", ["fetch", "evaluate", False])
def test_an_orm_update_by_a_lambda_statement_refreshes_the_objects(shop: Shop, synchronize: Any) -> None:
    tag = shop.models.Tag
    with shop.sessions.begin() as session:
        loaded = tag(name="a")
        session.add(loaded)
        session.flush()
        update = sa.lambda_stmt(lambda: sa.update(tag).where(tag.name == "a").values(name="b"))
        session.execute(update, execution_options={"synchronize_session": synchronize})
        assert loaded.name == ("a" if synchronize is False else "b")
    shop.take()
    assert shop.mirror == shop.rows()
