"""SQL text on captured tables causes an error or warning before execution, unless the application gives a row hint."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from fixtures.databases import ENGINES
from integration.capture.conftest import NewShop
from rowcast.producer import Capture, CaptureWarning
from rowcast.shared.errors import CaptureError, ConfigurationError
from support.shop import Shop

UPDATE = "UPDATE tags SET name = 'changed' WHERE id = 1"

IGNORE = {"rowcast": "ignore"}

Run = Callable[..., Any]
RUNS: dict[str, Run] = {
    "text": lambda s, sql, **o: s.execute(sa.text(sql), **o),
    "text of the connection": lambda s, sql, **o: s.connection().execute(sa.text(sql), **o),
    "driver": lambda s, sql, **o: s.connection().exec_driver_sql(sql, **o),
    "options of the statement": lambda s, sql, execution_options=None: s.execute(
        sa.text(sql).execution_options(**(execution_options or {}))
    ),
}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, borrow_shop: NewShop) -> Shop:
    shop = borrow_shop(request.param, strict="raise")
    with shop.sessions() as session:
        session.add_all([shop.models.Tag(id=i, name=f"tag {i}") for i in (1, 2, 3)])
        session.commit()
    shop.take()
    return shop


@contextmanager
def transaction(shop: Shop) -> Iterator[Session]:
    with shop.sessions() as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        yield session
        session.commit()


def test_a_strict_capture_refuses_sql_text_before_it_runs(shop: Shop, run: Run) -> None:
    with transaction(shop) as session:
        with pytest.raises(CaptureError, match=r"SQL text changes \w+\.tags.*UPDATE tags SET.*rowcast='ignore'"):
            run(session, UPDATE)
        # PostgreSQL would refuse all statements after a failed statement.
        assert session.scalars(sa.select(shop.models.Tag.name).order_by(shop.models.Tag.id)).first() == "tag 1"
    assert shop.take() == []


def test_a_strict_capture_refuses_sql_text_that_gives_the_orm_its_rows(shop: Shop) -> None:
    tag = shop.models.Tag
    with transaction(shop) as session:
        for statement in (sa.text(UPDATE), sa.text(UPDATE).columns(tag.id), sa.DDL(UPDATE)):
            with pytest.raises(CaptureError, match="SQL text"):
                session.execute(statement)
        with pytest.raises(CaptureError, match="SQL text"):
            session.execute(sa.select(tag).from_statement(sa.text(UPDATE + " RETURNING *")))


def test_a_strict_capture_refuses_what_was_compiled_beforehand(shop: Shop) -> None:
    """SQLAlchemy 2.0 executes a compiled statement, and SQLAlchemy 2.1 refuses it."""
    tag = shop.models.Tag.__table__
    compiled: Any = tag.update().where(tag.c.id == 1).values(name="changed").compile(shop.engine)
    with transaction(shop) as session:
        with pytest.raises((CaptureError, exc.ObjectNotExecutableError)) as refused:
            session.connection().execute(compiled)
        if sa.__version__.startswith("2.0."):
            assert "tags" in str(refused.value)
            assert "compiled beforehand" in str(refused.value)
            named = {"rowcast": {shop.models.Tag: [1]}}
            session.connection().execute(compiled, execution_options=named)
    assert [c["k"]["id"] for c in shop.take()] == ([1] if sa.__version__.startswith("2.0.") else [])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_capture_that_is_not_strict_warns_of_sql_text_and_lets_it_run(borrow_shop: NewShop, engine: str) -> None:
    shop = borrow_shop(engine)
    with shop.sessions() as session:
        with pytest.warns(CaptureWarning, match=r"SQL text changes \w+\.tags"):
            session.execute(sa.text("INSERT INTO tags (id, name) VALUES (1, 'x')"))
        session.commit()
        assert session.scalars(sa.select(shop.models.Tag.name)).all() == ["x"]


def test_a_capture_is_quiet_about_text_that_the_application_wants_ignored(shop: Shop, run: Run) -> None:
    with transaction(shop) as session:
        run(session, UPDATE, execution_options={"rowcast": "ignore"})
    assert shop.take() == []
    with shop.sessions() as session:
        assert session.get_one(shop.models.Tag, 1).name == "changed"


@pytest.mark.parametrize(
    ("shop", "language", "step"),
    [("postgresql", "LANGUAGE sql BEGIN ATOMIC", "Name the rows"), ("mariadb", "BEGIN", "by triggers")],
    indirect=["shop"],
)
def test_a_strict_capture_refuses_a_procedure(shop: Shop, run: Run, language: str, step: str) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE PROCEDURE rename_tag() {language} {UPDATE}; END", execution_options=IGNORE)
    try:
        with transaction(shop) as session:
            refusal = rf"a procedure or .* may change captured tables.*CALL rename_tag.*{step}.*rowcast='ignore'"
            with pytest.raises(CaptureError, match=refusal):
                run(session, "CALL rename_tag()")
            named = {"rowcast": {shop.models.Tag: [1]}} if step == "Name the rows" else IGNORE
            run(session, "CALL rename_tag()", execution_options=named)
    finally:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql("DROP PROCEDURE rename_tag")
    assert [c["a"]["name"] for c in shop.take()] == (["changed"] if step == "Name the rows" else [])


def test_a_capture_ignores_a_statement_that_it_could_see(shop: Shop) -> None:
    m = shop.models
    with transaction(shop) as session:
        session.execute(sa.update(m.Tag).values(name=m.Tag.name + "!"), execution_options={"rowcast": "ignore"})
        session.add(m.Tag(id=9, name="seen"))
    assert [c["k"] for c in shop.take()] == [{"id": 9}]


@pytest.mark.parametrize("by", ["class", "table"])
def test_a_capture_of_text_whose_rows_are_named(shop: Shop, run: Run, by: str) -> None:
    what = shop.models.Tag if by == "class" else shop.models.Tag.__table__
    with transaction(shop) as session:
        run(session, UPDATE, execution_options={"rowcast": {what: [1]}})
        run(session, "DELETE FROM tags WHERE id = 2", execution_options={"rowcast": {what: (2,)}})
        insert = "INSERT INTO tags (id, name) VALUES (7, 'new'), (8, 'new too')"
        run(session, insert, execution_options={"rowcast": {what: [7, 8, 999]}})
    changes = shop.take()
    assert shop.mirror == shop.rows()
    written = {(c["op"], c["k"]["id"]) for c in changes}
    assert written - {("d", 999)} == {("u", 1), ("d", 2), ("c", 7), ("c", 8)}


def test_a_capture_of_named_rows_with_a_key_of_two_columns_and_of_two_tables(shop: Shop) -> None:
    m = shop.models
    with transaction(shop) as session:
        session.add_all([m.Reading(sensor="a", at=1, value=1.0), m.Engineer(id=1, name="e", language="c")])
    with transaction(shop) as session:
        named = {m.Reading: [("a", 1)], m.Engineer: [1]}
        session.execute(sa.text("UPDATE readings SET value = 5"), execution_options={"rowcast": named})
        session.execute(sa.text("UPDATE people SET name = 'f'"), execution_options={"rowcast": named})
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_strict_capture_refuses_text_that_changes_a_table_beyond_those_named(shop: Shop) -> None:
    with transaction(shop) as session, pytest.raises(CaptureError, match=r"changes \w+\.tags"):
        session.execute(sa.text(UPDATE), execution_options={"rowcast": {shop.models.Token: []}})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ignroe", "it must be 'ignore', or a dict"),
        (True, "it must be 'ignore', or a dict"),
        ({"tags": [1]}, "'tags' is neither a Table nor a mapped class"),
        ({"Tag": 1}, r"the keys of tags must be a list, not 1"),
        ({"Tag": "1"}, r"the keys of tags must be a list, not '1'"),
        ({"Tag": [(1, 2)]}, r"\(1, 2\) is no key of tags, whose key is \(id\)"),
        ({"Tag": [None]}, r"None is no key of tags"),
        ({"Reading": ["a"]}, r"'a' is no key of readings, whose key is \(sensor, at\)"),
    ],
)
def test_a_capture_says_what_is_wrong_with_the_option(borrow_shop: NewShop, option: Any, message: str) -> None:
    shop = borrow_shop("sqlite")
    with shop.sessions() as session:
        if isinstance(option, dict):
            option = {getattr(shop.models, name, name): keys for name, keys in option.items()}
        with pytest.raises(ConfigurationError, match=message):
            session.execute(sa.text(UPDATE), execution_options={"rowcast": option})
        assert session.scalars(sa.select(shop.models.Tag)).all() == []


def test_a_capture_says_so_if_strict_is_neither_of_its_values() -> None:
    with pytest.raises(ConfigurationError, match="strict='error': it must be 'warn' or 'raise'"):
        Capture(sa.MetaData(), source="x", strict="error")  # type: ignore[arg-type]


@pytest.mark.parametrize("shop", ["mysql"], indirect=True)
def test_a_strict_capture_refuses_an_insert_from_a_select_on_mysql(shop: Shop) -> None:
    """MySQL does not return the keys of the inserted rows."""
    tag = shop.models.Tag
    copied = sa.insert(tag).from_select(["name"], sa.select(sa.func.concat(tag.name, "!")))
    with transaction(shop) as session:
        with pytest.raises(CaptureError, match="an INSERT from a SELECT whose keys are not returned"):
            session.execute(copied)
        assert session.scalar(sa.select(sa.func.count()).select_from(tag)) == 3
    assert shop.take() == []


CHANCE = sa.func.floor(sa.func.rand() * 10_000) + 100
COMPUTED = [
    lambda tag, reading: sa.insert(reading).values([{"sensor": "a", "at": CHANCE}, {"sensor": "a", "at": 70}]),
    lambda tag, reading: mysql.insert(reading).values(sensor="a", at=CHANCE, value=1).on_duplicate_key_update(value=2),
    lambda tag, reading: mysql.insert(tag).values(id=1, name="a").on_duplicate_key_update(id=tag.c.id + 100),
]


@pytest.mark.parametrize("build", COMPUTED)
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_key_that_an_insert_computes_is_captured_or_refused(
    borrow_shop: NewShop, engine: str, build: Callable[[sa.Table, sa.Table], Any]
) -> None:
    shop = borrow_shop(engine, strict="raise")
    tag = shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(tag), {"id": 1, "name": "tag"})
    shop.take()
    try:
        with shop.engine.begin() as connection:
            connection.execute(build(tag, shop.models.Reading.__table__))
    except CaptureError:
        assert engine == "mysql"
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_key_that_an_expression_computes_from_each_parameter_set(shop: Shop) -> None:
    tag = shop.models.Tag.__table__
    insert = sa.insert(tag).values(id=sa.bindparam("number", type_=sa.Integer) + 100)
    with shop.engine.begin() as connection:
        connection.execute(insert, [{"number": n, "name": f"new {n}"} for n in (1, 2)])
    assert [change["k"] for change in shop.take()] == [{"id": 101}, {"id": 102}]


@pytest.mark.parametrize("update", [{"name": "tag 2"}, {"id": 2}])
def test_an_update_or_replace_that_deletes_other_rows_is_captured_or_refused(
    borrow_shop: NewShop, update: dict[str, Any]
) -> None:
    shop = borrow_shop("sqlite", strict="raise")
    tag = shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(tag), [{"id": n, "name": f"tag {n}"} for n in (1, 2)])
    shop.take()
    statement = sa.update(tag).prefix_with("OR REPLACE").where(tag.c.id == 1).values(update)
    with shop.engine.begin() as connection:
        if "name" in update:
            with pytest.raises(CaptureError, match="an UPDATE OR REPLACE that may delete rows"):
                connection.execute(statement)
        else:
            connection.execute(statement)
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_warning_names_the_line_that_executes_the_statement(borrow_shop: NewShop) -> None:
    shop = borrow_shop("sqlite")
    with shop.sessions() as session, pytest.warns(CaptureWarning) as warned:
        session.execute(sa.text("DELETE FROM tags"))
    assert warned[0].filename == __file__
    assert Path(__file__).read_text("utf-8").splitlines()[warned[0].lineno - 1].strip().startswith("session.execute")


def test_a_warning_under_asyncio_names_the_line_that_executes_the_statement(tmp_path: Path) -> None:
    metadata = sa.MetaData()
    sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True))
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/items.db")
    Capture(metadata, source="items").install(engine)

    async def delete_all() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            await connection.execute(sa.text("DELETE FROM item"))
        await engine.dispose()

    with pytest.warns(CaptureWarning) as warned:
        asyncio.run(delete_all())
    assert warned[0].filename == __file__
    assert "await connection.execute" in Path(__file__).read_text("utf-8").splitlines()[warned[0].lineno - 1]
