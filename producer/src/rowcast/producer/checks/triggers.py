"""Do the triggers still fit the tables that they capture, and what can they not see?"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.capturing import Capturer, capturers
from rowcast.producer.outbox import outbox_tables
from rowcast.producer.triggers.state import states
from rowcast.shared.parts import Finding, Verdict

_AREA = "primary"


def triggers(connection: Connection) -> Iterator[Finding]:
    """The findings about tables that triggers capture; none where there are none."""
    by = capturers(connection, outbox_tables(sa.MetaData()).shape)
    wanted = {name for name, capturer in by.items() if capturer is Capturer.triggers}
    if not wanted:
        return
    found = {state.table: state for state in states(connection)}
    for name in sorted(wanted - found.keys()):
        yield Finding(
            _AREA,
            Verdict.missing,
            f"{name}: was captured by triggers, and this user sees none on it",
            f"rowcast triggers install {name}; on MariaDB a user without TRIGGER on the table sees none either",
        )
    for name in sorted(wanted & found.keys()):
        state = found[name]
        for fault in state.faults:
            yield Finding(_AREA, Verdict.missing, f"{name}: {fault}", f"rowcast triggers install {name}")
        for what in state.unseen:
            yield Finding(_AREA, Verdict.warning, f"{name}: its triggers do not see {what}", _UNSEEN)
    if fit := sorted(name for name in wanted & found.keys() if not found[name].faults):
        yield Finding(_AREA, Verdict.ok, f"captured by triggers: {', '.join(fit)}")


_UNSEEN = "capture the table by listeners, or let the application do what the foreign key does"
