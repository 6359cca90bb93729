"""Make row images: SQL expressions for a stored row as JSON text.

Listeners, triggers, snapshots and verify use the same expression for a table and dialect, so that their texts are
equal. ``docs/architecture.md`` describes the encodings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, types
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter

from rowcast.shared.images.base import ImageDialect
from rowcast.shared.images.masks import Masked
from rowcast.shared.images.mysql import MySQLImages
from rowcast.shared.images.postgresql import PostgreSQLImages
from rowcast.shared.images.sqlite import SQLiteImages, register_functions
from rowcast.shared.tables.shape import PortableType

__all__ = ["Concatenation", "Masked", "RowImage", "image_dialect", "register_functions"]

_DIALECTS: dict[str, type[ImageDialect]] = {
    "postgresql": PostgreSQLImages,
    "sqlite": SQLiteImages,
    "mysql": MySQLImages,
    "mariadb": MySQLImages,
}


def image_dialect(compiler: SQLCompiler) -> ImageDialect:
    """Return the expressions of the compiler's dialect."""
    return _DIALECTS[compiler.dialect.name](compiler)


class RowImage(ColumnElement[str]):
    """Compile to the JSON text of an object. ``members``: (name, value, portable type of the value)."""

    inherit_cache = False
    type = types.Text()

    def __init__(self, members: Sequence[tuple[str, ColumnElement[Any], PortableType]]) -> None:
        self.members = tuple(members)


@compiles(RowImage)
def _row_image(element: RowImage, compiler: SQLCompiler, **kw: Any) -> str:
    # Triggers bring their own images, because they run in programs without rowcast's functions.
    images = kw["images"](compiler) if "images" in kw else image_dialect(compiler)
    members = [(name, images.value(_sql_of(value, compiler, kw), type_)) for name, value, type_ in element.members]
    return images.row(members)


def _sql_of(value: ColumnElement[Any], compiler: SQLCompiler, kw: dict[str, Any]) -> str:
    sql = compiler.process(value, **kw)
    # psycopg2 writes values into the text, and PostgreSQL reads -1::text as -(1::text).
    return f"({sql})" if isinstance(value, BindParameter) else sql


class Concatenation(ColumnElement[str]):
    """Compile to texts joined end to end. Plain strings become literals. The result is NULL if a part is NULL."""

    inherit_cache = False
    type = types.Text()

    def __init__(self, *parts: str | ColumnElement[Any]) -> None:
        self.parts = parts


@compiles(Concatenation)
def _concatenation(element: Concatenation, compiler: SQLCompiler, **kw: Any) -> str:
    images = image_dialect(compiler)
    return images.concatenate(
        [images.literal(p) if isinstance(p, str) else compiler.process(p, **kw) for p in element.parts]
    )
