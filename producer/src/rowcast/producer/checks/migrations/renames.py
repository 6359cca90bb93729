"""Find the renames in migrations.

The models must name each rename too, because no event reports the rename of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from alembic.operations import BatchOperations, MigrateOperation, Operations
from alembic.operations.ops import AlterColumnOp, CreateTableOp, DropTableOp, RenameTableOp
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

from rowcast.producer.tables.captured import CapturedTables
from rowcast.shared.findings import Finding, Verdict

_Place = tuple[str | None, str]
"""Schema and name of a table. The schema is None where the migration gives none."""


@dataclass(slots=True)
class Renames:
    """The names before the migrations. ``tables``: by the present place. ``columns``: by place and present name."""

    tables: dict[_Place, str] = field(default_factory=dict)
    columns: dict[tuple[_Place, str], str] = field(default_factory=dict)

    def note(self, operation: MigrateOperation) -> None:
        """Take the next operation of the migrations."""
        match operation:
            case RenameTableOp():
                before, after = (operation.schema, operation.table_name), (operation.schema, operation.new_table_name)
                self.tables[after] = self.tables.pop(before, operation.table_name)
                moved = {key: name for key, name in self.columns.items() if key[0] == before}
                for (_, column), name in moved.items():
                    del self.columns[before, column]
                    self.columns[after, column] = name
            case AlterColumnOp() if operation.modify_name is not None:
                place = operation.schema, operation.table_name
                former = self.columns.pop((place, operation.column_name), operation.column_name)
                self.columns[place, operation.modify_name] = former
            case CreateTableOp() | DropTableOp():
                self.tables.pop((operation.schema, operation.table_name), None)


def rename_findings(
    context: MigrationContext, revisions: Sequence[Script], metadata: sa.MetaData, tables: CapturedTables
) -> Iterator[Finding]:
    """Yield the renames of revisions unknown to the models, and the unreadable revisions."""
    renames = Renames()
    for revision in revisions:
        try:
            with _recorded(context, renames):
                revision.module.upgrade()
        except Exception as error:  # noqa: BLE001  # the code of a migration may raise anything
            yield Finding(
                "models",
                Verdict.warning,
                f"migration {revision.revision} does not run without a database ({type(error).__name__}), so its "
                "renames are not checked",
                'name renamed tables and columns by was: Column(info={"rowcast": {"was": "FORMER NAME"}})',
            )
    yield from _unnamed(renames, metadata, tables)


def _unnamed(renames: Renames, metadata: sa.MetaData, tables: CapturedTables) -> Iterator[Finding]:
    for (schema, name), former in renames.tables.items():
        table = metadata.tables.get(f"{schema}.{name}" if schema else name)
        if table is None or not tables.is_captured(table) or name == former:
            continue
        if not _names(tables.settings(table).was, former):
            what = f"table {table.fullname} was {former}, says a migration, and the model does not say so"
            hint = f'without it, replicas create a new table: Table(info={{"rowcast": {{"was": "{former}"}}}})'
            yield Finding("models", Verdict.warning, what, hint, table.fullname)
    for ((schema, name), column), former in renames.columns.items():
        table = metadata.tables.get(f"{schema}.{name}" if schema else name)
        if table is None or not tables.is_captured(table) or column == former or column not in table.c:
            continue
        settings = tables.settings(table).columns.get(column)
        if settings is None or (settings.capture and former not in settings.was):
            what = f"column {table.fullname}.{column} was {former}, says a migration, and the model does not say so"
            hint = f'without it, replicas add a new column: Column(info={{"rowcast": {{"was": "{former}"}}}})'
            yield Finding("models", Verdict.warning, what, hint, table.fullname)


def _names(was: Sequence[str], former: str) -> bool:
    return any(name.rpartition(".")[2] == former for name in was)


@contextmanager
def _recorded(context: MigrationContext, renames: Renames) -> Iterator[None]:
    """Let the operations of migrations be noted in place of being executed."""

    def note(operation: MigrateOperation) -> Any:
        renames.note(operation)
        # Migrations go on with the new table.
        return operation.to_table() if isinstance(operation, CreateTableOp) else None

    @contextmanager
    def batch(table_name: str, schema: str | None = None, **_: Any) -> Iterator[BatchOperations]:
        place: Any = SimpleNamespace(table_name=table_name, schema=schema)
        of_table = BatchOperations(context, impl=place)
        of_table.invoke = note  # type: ignore[method-assign]
        yield of_table

    with Operations.context(context) as operations:
        operations.invoke = note  # type: ignore[method-assign]
        operations.batch_alter_table = batch  # type: ignore[assignment]
        yield
