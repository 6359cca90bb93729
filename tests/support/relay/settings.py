"""Build a relay's settings for a test from a primary, the test's Kafka and a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rowcast.shared.config.settings import Settings
from servers import Broker
from support.relay.primary import Primary

NewSettings: TypeAlias = Callable[..., Settings]
"""``settings_of`` with the test's Kafka and source. The caller passes a primary, and settings besides the defaults."""


def settings_of(
    kafka: Broker,
    source: str,
    primary: Primary,
    topics: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    **relay: Any,
) -> Settings:
    """Return the settings of a relay.

    ``properties``: further properties of the Kafka clients. ``relay``: settings of the section ``[relay]``.
    """
    return Settings(
        source=source,
        kafka={"bootstrap.servers": kafka.bootstrap_servers, **(properties or {})},
        primary={"url": primary.engine.url.render_as_string(hide_password=False)},
        topics=topics or {},
        relay=relay,
    )
