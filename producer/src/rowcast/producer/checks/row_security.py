"""Check whether row-level security may hide rows of captured tables from the listeners."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.capture_mode import CaptureMode, capture_modes
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.findings import Finding, Verdict


def row_security(connection: Connection) -> Iterator[Finding]:
    """Yield a finding for each table with row-level security and capture by listeners."""
    secured = capture_dialect(connection.dialect).tables_with_row_security(connection)
    if not secured:
        return
    modes = capture_modes(connection, outbox_tables(sa.MetaData()).shape)
    for name in sorted(secured & {name for name, mode in modes.items() if mode is not CaptureMode.triggers}):
        yield Finding(
            "primary",
            Verdict.warning,
            f"{name}: its row-level security may hide rows from the listeners, which refuse every role that it binds",
            f"run `rowcast triggers install {name}`, or change the table only by roles that no policy binds",
        )
