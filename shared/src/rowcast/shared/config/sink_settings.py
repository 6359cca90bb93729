"""The sections ``[sinks.NAME]``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rowcast.shared.config.section import Section


class SinkSettings(Section):
    """Describe a sink: something of yours that takes whole transactions."""

    use: str = Field(
        description="What makes the sink: `module:callable`, or the name of an entry point of the group "
        "`rowcast.sinks`. It is called with `options` and returns the sink. The working directory is on the path."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Named arguments for the callable. A variable holds a JSON object."
    )
    tables: tuple[str, ...] = Field(
        default=("*",), description="Shell patterns over `schema.table`. A variable holds a JSON list."
    )
    batch_events: int = Field(default=20_000, ge=1, description="Give the sink at most this many events at a time.")
    buffer_events: int = Field(
        default=200_000, ge=1, description="Read at most this many events ahead of the end of their transaction."
    )
