"""Check whether the triggers fit the captured tables, and which changes the triggers cannot see."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.capture_mode import CaptureMode, capture_modes
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.triggers.state import trigger_states
from rowcast.shared.findings import Finding, Verdict

_AREA = "primary"


def triggers(connection: Connection) -> Iterator[Finding]:
    """Yield the findings about tables captured by triggers."""
    by = capture_modes(connection, outbox_tables(sa.MetaData()).shape)
    wanted = {name for name, capturer in by.items() if capturer is CaptureMode.triggers}
    if not wanted:
        return
    found = {state.table: state for state in trigger_states(connection)}
    for name in sorted(wanted - found.keys()):
        yield Finding(
            _AREA,
            Verdict.missing,
            f"{name}: was captured by triggers, but this user sees no trigger on it",
            f"run `rowcast triggers install {name}`. On MariaDB, the user also needs TRIGGER on the table to see them",
        )
    for name in sorted(wanted & found.keys()):
        state = found[name]
        for fault in state.faults:
            yield Finding(_AREA, Verdict.missing, f"{name}: {fault}", f"run `rowcast triggers install {name}`")
        for what in state.unseen:
            yield Finding(_AREA, Verdict.warning, f"{name}: its triggers do not see {what}", _UNSEEN)
    if fit := sorted(name for name in wanted & found.keys() if not found[name].faults):
        yield Finding(_AREA, Verdict.ok, f"captured by triggers: {', '.join(fit)}")


_UNSEEN = "see docs/how-to/triggers.md, and avoid such changes or capture the table by listeners"
