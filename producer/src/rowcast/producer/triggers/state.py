"""Whether the triggers that a database has still fit its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from rowcast.producer.triggers.definitions import Definitions
from rowcast.producer.triggers.dialect import Installed, TriggerDialect, digest
from rowcast.producer.triggers.installing import triggers_on


@dataclass(frozen=True, slots=True)
class TableState:
    """One table's triggers. ``shape``: the version that their lines name, None if nobody can tell any more;
    ``faults``: why they must be installed again, none if all is well; ``unseen``: changes that they cannot see."""

    table: str
    shape: str | None
    faults: Sequence[str]
    unseen: Sequence[str]


def states(connection: Connection, definitions: Definitions | None = None) -> list[TableState]:
    """Of every table with triggers, by name.

    ``definitions``: what the triggers should be made from. Without, only the table's columns are compared, as the
    catalogue has them now and had them at the installation.
    """
    triggers = triggers_on(connection)
    return [
        TableState(
            one.full_name,
            one.marker.shape if one.marker else None,
            tuple(_faults(triggers, one, definitions)),
            tuple(triggers.unseen(one.schema, one.name)),
        )
        for one in triggers.installed()
    ]


def _faults(triggers: TriggerDialect, one: Installed, definitions: Definitions | None) -> Iterator[str]:
    if lacking := [event for event in triggers.events if event not in one.events]:
        yield f"the trigger for {', '.join(lacking)} is missing or disabled"
    if one.marker is None:
        yield "the triggers are not as rowcast made them"
        return
    if one.marker.columns != digest(triggers.columns(one.schema, one.name)):
        yield "the table's columns have changed since"
    elif definitions is not None:
        (table,) = definitions.read(triggers.connection, [(one.schema, one.name)])
        expected = triggers.marker(table)
        if one.marker.shape != expected.shape:
            yield f"they write shape {one.marker.shape}, and the table's is {expected.shape}"
        elif one.marker.text != expected.text:
            yield "what they write is not what would be installed now"
