"""A relay's settings for a test: its primary, the test's Kafka, a source of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rowcast.shared.config import Settings
from servers import Broker
from unit.relay_database import Primary

NewSettings: TypeAlias = Callable[..., Settings]
"""``settings_of`` for the test's Kafka and source: of a primary, and what is to be other than by default."""


def settings_of(
    kafka: Broker,
    source: str,
    primary: Primary,
    topics: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    **relay: Any,
) -> Settings:
    """``properties``: more of Kafka's; ``relay``: the section of that name."""
    return Settings(
        source=source,
        kafka={"bootstrap.servers": kafka.bootstrap_servers, **(properties or {})},
        primary={"url": primary.engine.url.render_as_string(hide_password=False)},
        topics=topics or {},
        relay=relay,
    )
