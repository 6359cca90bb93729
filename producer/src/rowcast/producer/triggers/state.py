"""Check whether the installed triggers still fit the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rowcast.producer.triggers.base import CURRENT_FORM, InstalledTrigger, TriggerDialect, digest
from rowcast.producer.triggers.install import triggers_on
from rowcast.producer.triggers.reflected_tables import ReflectedTables


@dataclass(frozen=True, slots=True)
class TableState:
    """Describe the triggers of one table.

    ``shape`` is the version in the lines, or None if the version is unknown. ``faults`` are the reasons to install the
    triggers again. ``unseen`` are the kinds of changes without a trigger.
    """

    table: str
    shape: str | None
    faults: Sequence[str]
    unseen: Sequence[str]


def trigger_states(connection: Connection, definitions: ReflectedTables | None = None) -> list[TableState]:
    """Return the state of each table with triggers, sorted by name.

    ``definitions`` are the current definitions of the tables. Without definitions, only the columns are compared,
    between the catalogue and the installation.
    """
    triggers = triggers_on(connection)
    return [
        TableState(
            one.full_name,
            one.marker.shape if one.marker else None,
            tuple(_faults(triggers, one, definitions)),
            tuple(triggers.unseen_changes(one.schema, one.name)),
        )
        for one in triggers.installed()
    ]


def _faults(triggers: TriggerDialect, one: InstalledTrigger, definitions: ReflectedTables | None) -> Iterator[str]:
    if lacking := [event for event in triggers.events if event not in one.events]:
        yield f"the trigger for {', '.join(lacking)} is missing or disabled"
    if one.marker is None:
        yield "the triggers are not as rowcast created them"
        return
    if one.marker.form != CURRENT_FORM:
        yield f"an older version of rowcast installed the triggers, {triggers.harm_of_older_forms}"
    yield from triggers.faults(one.schema, one.name)
    if one.marker.columns != digest(triggers.column_signature(one.schema, one.name)):
        yield "the table's columns have changed since the installation"
    elif definitions is not None:
        (table,) = definitions.read(triggers.connection, [(one.schema, one.name)])
        expected = triggers.comment_for(table)
        if one.marker.shape != expected.shape:
            yield f"the triggers write shape {one.marker.shape}, but the table has shape {expected.shape}"
        elif one.marker.text != expected.text or triggers.has_other_salts(table):
            yield "triggers installed now would write something else"
