"""The scan finds exactly the rows that differ, for every kind of key and however the pages fall."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.consumer.verification.buckets import HashBuckets, IntegerBuckets, buckets_for
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.readers import DigestReader, ImageReader, Reader
from rowcast.consumer.verification.row_forms import RowForms
from rowcast.consumer.verification.table_scan import TableScan
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.tables.type_mapping import shape_of

ROWS = 300
INTEGER = [sa.Column("id", sa.BigInteger, primary_key=True)]
COMPOSITE = [sa.Column(n, sa.Integer, primary_key=True) for n in "ab"]
TEXT = [sa.Column("name", sa.String(20), primary_key=True)]

Key = dict[str, Any]


def integer_key(n: int) -> Key:
    return {"id": (n - 100) * 7}


def composite_key(n: int) -> Key:
    return {"a": n // 10, "b": n % 10}


def text_key(n: int) -> Key:
    return {"name": f"{'aBÄz'[n % 4]}{n}"}


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[list[ComparedDatabase]]:
    found = [ComparedDatabase(PrimarySettings(url=f"sqlite:///{tmp_path}/{name}.db"), name) for name in "pr"]
    yield found
    for database in found:
        database.close()


@pytest.mark.parametrize("reader", [DigestReader, ImageReader])
@pytest.mark.parametrize(
    ("columns", "key", "rule"),
    [(INTEGER, integer_key, IntegerBuckets), (COMPOSITE, composite_key, HashBuckets), (TEXT, text_key, HashBuckets)],
)
@pytest.mark.parametrize("page", [1, 11, 100_000])
def test_the_differing_rows_and_no_others(
    databases: list[ComparedDatabase],
    columns: list[sa.Column[Any]],
    key: Any,
    rule: type,
    reader: type[Reader],
    page: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 40 if page == 1 else ROWS
    monkeypatch.setattr(reader, "page_rows", page)
    monkeypatch.setattr("rowcast.consumer.verification.readers._MOST_IMAGE_ROWS", page)
    monkeypatch.setattr("rowcast.consumer.verification.table_scan._BATCH_ROWS", 20)
    table = sa.Table("t", sa.MetaData(), *(c._copy() for c in columns), sa.Column("n", sa.Integer))
    rows = [{**key(n), "n": n} for n in range(count)]
    changed = [*rows[1:20], {**rows[20], "n": -20}, *rows[21:], {**key(count), "n": 1}]
    for database, stored in zip(databases, (rows, changed), strict=True):
        table.metadata.create_all(database.engine)
        with database.engine.begin() as connection:
            connection.execute(sa.insert(table), stored)
    shape = shape_of(table, databases[0].engine.dialect, "main")
    tables = [
        ComparedTable(database, shape, is_replica=is_replica, settings=TableSettings())
        for database, is_replica in zip(databases, (False, True), strict=True)
    ]
    forms = RowForms(shape)
    buckets = buckets_for(tables[0], forms)
    assert type(buckets) is rule
    seen: list[int] = []
    ours, theirs = (reader(t, buckets, forms) for t in tables)
    scan = TableScan(ours, theirs, buckets, seen.append, None, threading.Event())
    found = [key for suspects in scan.suspects() for key in suspects.values()]
    assert sorted(found, key=repr) == sorted((key(0), key(20), key(count)), key=repr)
    assert sum(seen) == scan.rows == count
