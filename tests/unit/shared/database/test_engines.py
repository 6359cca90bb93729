"""Open SQLite files that other connections use."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from rowcast.shared.database.engines import open_engine


def test_a_file_that_another_connection_holds_is_waited_for(tmp_path: Path) -> None:
    """The journal mode cannot change while another connection writes, and SQLite does not wait in this case."""
    path = tmp_path / "shop.db"
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.rollback)
    release.start()
    engine = open_engine(f"sqlite:///{path}", "primary", pooled=False)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    release.join()
    other.close()
