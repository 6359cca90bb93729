"""The output of ``rowcast migrate``."""

from __future__ import annotations

from collections.abc import Iterator

from rowcast.consumer.events.rebuild_hint import REBUILD_COMMAND, with_command
from rowcast.consumer.migration.migrate import Migration
from rowcast.consumer.migration.preview import TablePreview
from rowcast.shared.printable import printable


def report(migration: Migration) -> Iterator[str]:
    """Yield the lines of the output. A statement is never broken, because the user may copy it."""
    shown = [table for table in migration.tables if table.changes or table.kept or table.stop]
    for table in shown:
        yield printable(table.table)
        yield from _of_table(migration.replica, table)
    changes = any(table.changes for table in migration.tables)
    if migration.is_applied and changes:
        yield f"replica {migration.replica}: the changes are made"
    elif changes:
        yield f"Nothing was changed. To make the changes: rowcast migrate {migration.replica} --apply"
    else:
        yield f"replica {migration.replica} has all that the source has"


def _of_table(replica: str, table: TablePreview) -> Iterator[str]:
    for what, statements in table.changes:
        yield f"  {printable(what)}"
        yield from (f"    {printable(statement)};" for statement in statements)
    if table.stop:
        yield f"  stop: {printable(with_command(table.stop, REBUILD_COMMAND.replace('REPLICA', replica)))}"
    for column in table.kept:
        name = f"{table.table}.{column}"
        yield f"  kept: column {printable(column)}. To drop it with its values: --drop {printable(name)}"
