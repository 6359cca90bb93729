"""Refuse a commit on a connection that looks for tables in another schema than the engine's default."""

from __future__ import annotations

from rowcast.shared.errors import CaptureError


def changed_schema_error(where: str, default: str) -> CaptureError:
    """Return the error of a drain on a connection that has changed its schema. ``where``: the changed setting."""
    return CaptureError(
        f"the connection looks for tables without a schema in {where}, and not in {default!r} as when the engine "
        "connected, so that events would name the wrong schema. Nothing is committed. Name the schema by "
        "schema_translate_map or Table(schema=…). Or set it by SQL text on SQLAlchemy's connection, where the capture "
        "sees it, and leave it until the commit. A listener of the pool's event connect that is added with insert=True "
        "sets it before the engine reads its default schema."
    )
