"""Who may write to a captured table cannot act with the rights of the functions' owner, nor read the salts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from rowcast.producer.triggers.install import triggers_on
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.shared.errors import ConfigurationError
from support.registry import Registry

SALT = "S3CRETSALT"
HASHED = {"columns": {"email": {"hash": "sha256", "salt": SALT}}}


WRITE = "GRANT SELECT, INSERT, UPDATE, DELETE ON person TO {}"

EVIL = (
    "CREATE FUNCTION pg_temp.evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
    "EXECUTE 'CREATE TABLE IF NOT EXISTS public.taken AS SELECT current_user AS by'; RETURN true; "
    "EXCEPTION WHEN insufficient_privilege THEN RETURN true; END $$"
)


TYPES = ("text", "json", "jsonb", "timestamptz", "interval", "name", "varchar", "int8", "numeric", "date")


def test_a_type_of_the_writer_never_stands_for_a_type_of_the_system(
    registry: Registry, new_role: Callable[..., str]
) -> None:
    registry.install({"before": True})
    writer = new_role(WRITE)
    registry.execute_as(
        writer,
        EVIL,
        *(f'CREATE DOMAIN pg_temp."{name}" AS pg_catalog.text CHECK (pg_temp.evil())' for name in TYPES),
        "INSERT INTO person VALUES (1, 'a@b', now())",
        "UPDATE person SET id = 2, email = 'c@d'",
        "DELETE FROM person",
    )
    assert registry.scalar("SELECT to_regclass('public.taken')") is None
    assert [line["op"] for line in registry.lines()] == ["c", "d", "c", "d"]


def test_a_table_of_the_writer_never_stands_for_a_table_of_the_capture(
    registry: Registry, new_role: Callable[..., str]
) -> None:
    registry.install()
    writer = new_role(WRITE)
    registry.execute_as(
        writer,
        "CREATE TEMP TABLE person (LIKE public.person)",
        "CREATE TEMP TABLE rowcast_outbox (tx text, ts_ms bigint, changes text)",
        "CREATE TEMP TABLE rowcast_new (id integer)",
        "INSERT INTO public.person VALUES (1, 'a@b', now())",
    )
    assert [line["a"]["email"] for line in registry.lines()] == ["a@b"]


def test_nobody_but_the_owner_may_call_a_function_of_triggers(registry: Registry, new_role: Callable[..., str]) -> None:
    """A trigger on a table of the caller would write false changes, and run casts of the caller's types."""
    writer = new_role(WRITE, "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {}")
    registry.install()
    with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied for function public\.rowcast_changed_person"):
        registry.execute_as(
            writer,
            "CREATE TEMP TABLE mine (id integer)",
            "CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS rowcast_new "
            "FOR EACH STATEMENT EXECUTE FUNCTION public.rowcast_changed_person()",
        )
    assert registry.faults() == ()


def test_the_triggers_of_a_renamed_table_fail_and_write_nothing_about_its_successor(registry: Registry) -> None:
    registry.install()
    registry.execute("ALTER TABLE person RENAME TO person_old", "CREATE TABLE person (LIKE person_old INCLUDING ALL)")
    with pytest.raises(sa.exc.DatabaseError, match=r"capture public\.person and no other table"):
        registry.execute("INSERT INTO person_old VALUES (1, 'a@b', now())")


def test_a_function_that_another_role_created_first_is_not_kept(
    registry: Registry, new_role: Callable[..., str]
) -> None:
    early = new_role("GRANT CREATE ON SCHEMA public TO {}")
    registry.execute_as(
        early, "CREATE FUNCTION public.rowcast_changed_person() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'"
    )
    registry.install()
    owner = "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'rowcast_changed_person'"
    assert registry.scalar(owner) == registry.scalar("SELECT current_user")


@contextmanager
def installed_by_an_older_version(registry: Registry) -> Iterator[None]:
    """Change the functions into those of version 0.2."""
    registry.install(HASHED)
    with registry.engine.begin() as connection:
        (table,) = ReflectedTables(registry.metadata, {"person": HASHED}).read(connection, [(None, "person")])
        triggers = triggers_on(connection)
        comment = str(triggers.comment_for(table)).removesuffix(" form=2")
        for statement in triggers.create_statements(table, comment)[:2]:
            triggers.execute(statement.replace("SET search_path = pg_catalog, pg_temp", "SET search_path FROM CURRENT"))
        connection.exec_driver_sql("GRANT EXECUTE ON FUNCTION rowcast_changed_person() TO PUBLIC")
    yield


def test_an_installation_of_an_older_version_is_named_and_replaced(registry: Registry) -> None:
    with installed_by_an_older_version(registry):
        older, callable_, path = registry.faults(HASHED)
    assert "older version" in older
    assert "SECURITY.md" in older
    assert "may call" in callable_
    assert "search_path" in path
    registry.install(HASHED)
    assert registry.faults(HASHED) == ()


def test_a_salt_is_in_no_text_and_only_the_owner_reads_it(registry: Registry, new_role: Callable[..., str]) -> None:
    reader = new_role(WRITE, "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}")
    registry.install(HASHED)
    registry.execute_as(reader, "INSERT INTO person VALUES (1, 'a@b', NULL)")
    expected = registry.scalar(f"SELECT encode(sha256('{SALT}a@b'), 'hex')")
    assert [line["a"]["email"] for line in registry.lines()] == [expected]
    assert not registry.scalar(f"SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%%{SALT}%%'")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied for table rowcast_salt"):
        registry.execute_as(reader, "SELECT * FROM rowcast_salt")


def test_a_missing_salt_fails_the_statement_and_another_salt_is_found(registry: Registry) -> None:
    registry.install(HASHED)
    registry.execute("UPDATE rowcast_salt SET salt = 'other'")
    assert registry.faults(HASHED) == ("triggers installed now would write something else",)
    registry.execute("DELETE FROM rowcast_salt")
    with pytest.raises(sa.exc.DatabaseError, match="no rows"):
        registry.execute("INSERT INTO person VALUES (1, 'a@b', NULL)")


def test_a_salt_table_of_a_stranger_is_refused(registry: Registry, new_role: Callable[..., str]) -> None:
    stranger = new_role("GRANT CREATE ON SCHEMA public TO {}")
    registry.execute_as(stranger, "CREATE TABLE rowcast_salt (table_name text, column_name text, salt text)")
    with pytest.raises(ConfigurationError, match=f"{stranger} owns the table public.rowcast_salt"):
        registry.install(HASHED)


def test_a_role_of_least_rights_can_own_the_functions(registry: Registry, new_role: Callable[..., str]) -> None:
    owner = new_role(options="NOLOGIN")
    writer = new_role(WRITE)
    with pytest.raises(ConfigurationError, match=rf"{owner}, which owns .* may not SELECT from the table"):
        registry.install(HASHED, owner=owner)
    registry.execute(f"GRANT SELECT (id, email, born) ON person TO {owner}")
    with pytest.raises(ConfigurationError, match=rf"{owner}, which owns .* may not INSERT into public\.rowcast_outbox"):
        registry.install(HASHED, owner=owner)
    registry.execute(f"GRANT INSERT ON rowcast_outbox TO {owner}")
    registry.install(HASHED, owner=owner)
    registry.execute_as(writer, "INSERT INTO person VALUES (1, 'a@b', now())", "UPDATE person SET id = 2")
    assert [(line["op"], line["k"]["id"]) for line in registry.lines()] == [("c", 1), ("d", 1), ("c", 2)]
    registry.install(HASHED)
    owners = "SELECT string_agg(DISTINCT pg_get_userbyid(proowner), ',') FROM pg_proc WHERE proname LIKE 'rowcast%%'"
    assert registry.scalar(owners) == owner
    registry.execute(f"REVOKE INSERT ON rowcast_outbox FROM {owner}")
    (fault,) = registry.faults(HASHED)
    assert "may not INSERT" in fault


def test_a_row_filter_whose_names_others_could_replace_is_refused(
    registry: Registry, new_role: Callable[..., str]
) -> None:
    registry.execute(
        "CREATE FUNCTION is_public(email text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT email LIKE 'p%%' $$"
    )
    creator = new_role(WRITE, "GRANT CREATE ON SCHEMA public TO {}")
    with pytest.raises(ConfigurationError, match=f"other roles could replace .*: {creator} in public"):
        registry.install({"where": "is_public(email)"})
    registry.execute(f"REVOKE CREATE ON SCHEMA public FROM {creator}")
    registry.install({"where": "is_public(email)"})
    registry.execute_as(creator, "INSERT INTO person VALUES (1, 'p', NULL), (2, 'q', NULL)")
    assert [line["k"]["id"] for line in registry.lines()] == [1]
