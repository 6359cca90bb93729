"""Keep a full-text index of products, with SQLite's FTS5 as the search engine.

    [sinks.search]
    use = "search_index:SearchIndex"
    options = { path = "search.db" }
    tables = ["public.products"]

    rowcast sink search

The index and the checkpoint are in one database, and change in one transaction, so that the index has each change
exactly once. A search server such as Meilisearch or OpenSearch has no such transaction. Write the documents first and
the checkpoint afterwards, into a document of its own: after a crash, the last documents are written again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from rowcast.consumer import SinkBatch


class SearchIndex:
    """A sink of the table ``products``."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.executescript(
            "CREATE TABLE IF NOT EXISTS checkpoint (stored BLOB);"
            "CREATE VIRTUAL TABLE IF NOT EXISTS products USING fts5 (name, description);"
        )

    def checkpoint(self) -> bytes | None:
        """Return what ``apply`` stored last."""
        row = self._database.execute("SELECT stored FROM checkpoint").fetchone()
        return None if row is None else row[0]

    def prepare(self, shapes: Iterable[object]) -> None:
        """Need nothing, because the index does not depend on the table's columns."""

    def apply(self, batch: SinkBatch) -> None:
        """Index the new texts of the products, and forget deleted products."""
        with self._database:
            for change in batch.changes():
                id_ = change.key["id"]
                self._database.execute("DELETE FROM products WHERE rowid = ?", (id_,))
                if change.row is not None:
                    values = (id_, change.row["name"], change.row["description"])
                    self._database.execute("INSERT INTO products (rowid, name, description) VALUES (?, ?, ?)", values)
            self._database.execute("DELETE FROM checkpoint")
            self._database.execute("INSERT INTO checkpoint VALUES (?)", (batch.checkpoint,))

    def search(self, words: str) -> list[int]:
        """Return the ids of the products with these words, the best first."""
        query = "SELECT rowid FROM products WHERE products MATCH ? ORDER BY rank"
        return [id_ for (id_,) in self._database.execute(query, (words,))]
