"""Row images: one SQL expression per table and dialect that gives a row as JSON text, made from what is *stored*.

The same expression serves listeners, triggers, snapshots and verify. Encodings: ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, types
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.images.dialect import ImageDialect
from rowcast.shared.images.masks import Masked
from rowcast.shared.images.mysql import MySQLImages
from rowcast.shared.images.postgresql import PostgreSQLImages
from rowcast.shared.images.sqlite import SQLiteImages, register_functions
from rowcast.shared.shapes import PortableType

__all__ = ["Concatenation", "Masked", "RowImage", "image_dialect", "register_functions"]

_DIALECTS: dict[str, type[ImageDialect]] = {
    "postgresql": PostgreSQLImages,
    "sqlite": SQLiteImages,
    "mysql": MySQLImages,
    "mariadb": MySQLImages,
}


def image_dialect(compiler: SQLCompiler) -> ImageDialect:
    """The expressions of the dialect being compiled for."""
    return _DIALECTS[compiler.dialect.name](compiler)


class RowImage(ColumnElement[str]):
    """JSON text of an object with the given members: (name, value, the value's portable type)."""

    inherit_cache = False
    type = types.Text()

    def __init__(self, members: Sequence[tuple[str, ColumnElement[Any], PortableType]]) -> None:
        self.members = tuple(members)


@compiles(RowImage)
def _row_image(element: RowImage, compiler: SQLCompiler, **kw: Any) -> str:
    # Triggers run in programs that have none of rowcast's functions: they bring images of their own.
    images = kw["images"](compiler) if "images" in kw else image_dialect(compiler)
    members = [(name, images.value(compiler.process(value, **kw), type_)) for name, value, type_ in element.members]
    return images.row(members)


class Concatenation(ColumnElement[str]):
    """Texts joined end to end; plain strings are SQL literals. NULL if any of them is."""

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
