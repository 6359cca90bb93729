"""The option that names an application's MetaData."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

METADATA = ("--metadata", "ROWCAST_METADATA", "MODULE:ATTRIBUTE")
"""The option, its variable, and the form of its value."""


def load_metadata(name: str) -> sa.MetaData:
    """Import the MetaData or declarative base with this name. Raises ConfigurationError."""
    from rowcast.producer.tables.named_metadata import named_metadata

    # Modules in the working directory can be imported, as in a script.
    if "" not in sys.path:
        sys.path.insert(0, "")
    return named_metadata(name)
