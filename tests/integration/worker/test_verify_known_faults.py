"""Faults that other tools for comparing databases had, tried on verify and on its repair."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from fixtures.databases import NewDatabase
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.repair import repair_differences
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.database.engines import open_engine
from servers import Broker
from support.worker_runs import NAME, settings_for, work_once

LARGE = 30_000

_BINARY = sa.String(20).with_variant(mysql.VARCHAR(20, collation="utf8mb4_bin"), "mysql", "mariadb")

# Hyphens, case, padding and characters that collations sort and compare differently.
WORDS = ["a-b", "ab", "a b", "A", "a", "B", "Ä", "z", "中文", "中-文", "_", "-", "NULL", "0"]


def new_tables() -> dict[str, sa.Table]:
    columns: dict[str, list[sa.Column[Any]]] = {
        "words": [sa.Column("word", _BINARY, primary_key=True), sa.Column("n", sa.Integer)],
        "only_key": [sa.Column("a", _BINARY, primary_key=True), sa.Column("b", _BINARY, primary_key=True)],
        "links": [
            sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("two", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("source", sa.Integer),
        ],
        "notes": [
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("note", sa.Text),
            sa.Column("share", sa.Double),
        ],
    }
    metadata = sa.MetaData()
    return {name: sa.Table(name, metadata, *of_table) for name, of_table in columns.items()}


def rows() -> dict[str, list[dict[str, Any]]]:
    return {
        "words": [{"word": word, "n": n} for n, word in enumerate(WORDS)],
        "only_key": [{"a": one, "b": other} for one in WORDS[:5] for other in WORDS[:5]],
        "links": [{"one": n, "two": n % 3, "source": n} for n in range(20)],
        "notes": [
            {"id": 0, "note": None, "share": None},
            {"id": 1, "note": "NULL", "share": 0.0},
            {"id": 2, "note": "", "share": 0.1 + 0.2},
            {"id": 3, "note": "x" * LARGE, "share": 5e-300},
            *({"id": n, "note": f"{n}" * (LARGE // 8), "share": n / 7} for n in range(4, 9)),
        ],
    }


@pytest.mark.parametrize(
    ("primary", "replica"), [("postgresql", "mariadb"), ("mariadb", "mariadb"), ("postgresql", "postgresql")]
)
def test_faults_of_other_tools(
    kafka: Broker, new_database: NewDatabase, primary: str, replica: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The large rows do not fit into a joined text, and the database cuts it.
    monkeypatch.setattr("rowcast.consumer.verification.dialects.mysql._MOST_BYTES", LARGE // 2)
    source = f"known-{uuid.uuid4().hex[:8]}"
    settings = settings_for(source, kafka.bootstrap_servers, new_database(replica), new_database(primary))
    ours = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    theirs = open_engine(settings.replica(NAME).sqlalchemy_url, "replica", pooled=False)
    tables = new_tables()
    metadata = tables["words"].metadata
    Capture(metadata, source=source).install(ours)
    metadata.create_all(ours)
    with ours.begin() as connection:
        for name, values in rows().items():
            connection.execute(sa.insert(tables[name]), values)
    Relay(settings, ours).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal
    with theirs.begin() as connection:
        for statement in changes(tables):
            connection.execute(statement)
    result = verify(settings, NAME)
    assert [(t.table.partition(".")[2], t.missing, t.extra, t.different) for t in result.tables] == [
        ("links", 0, 0, 2),
        ("notes", 0, 0, 5),
        ("only_key", 1, 1, 0),
        ("words", 1, 1, 1),
    ]
    repair_differences(settings, NAME, result, dry_run=False, wait_s=0)
    Relay(settings, ours).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal


def changes(tables: dict[str, sa.Table]) -> list[Any]:
    """Return what a careless comparison takes for equal, and a careless repair does not heal."""
    words, only_key, links, notes = (tables[name] for name in ("words", "only_key", "links", "notes"))
    return [
        # A checksum of rows without their keys, and an XOR of columns, do not see a swap.
        sa.update(links).where(links.c.one == 4).values(source=7),
        sa.update(links).where(links.c.one == 7).values(source=4),
        # NULL and 'NULL', NULL and '', NULL and 0, and the last bit of a float.
        sa.update(notes).where(notes.c.id == 0).values(note="NULL", share=0.0),
        sa.update(notes).where(notes.c.id == 1).values(note=None, share=None),
        sa.update(notes).where(notes.c.id == 2).values(note=None, share=0.3),
        # The last character of a value that is too large for one checksum.
        sa.update(notes).where(notes.c.id == 3).values(note="x" * (LARGE - 1) + "y"),
        sa.update(notes).where(notes.c.id == 8).values(note="8" * (LARGE // 8 - 1)),
        sa.delete(only_key).where(only_key.c.a == "a-b", only_key.c.b == "A"),
        sa.insert(only_key).values(a="中文", b="-"),
        sa.delete(words).where(words.c.word == "a-b"),
        sa.insert(words).values(word="a-B", n=1),
        sa.update(words).where(words.c.word == "中文").values(n=-1),
    ]
