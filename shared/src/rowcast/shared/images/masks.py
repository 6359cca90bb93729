"""Mask columns by SQL expressions, so that a secret never reaches the outbox."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, types
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.images.base import ImageDialect
from rowcast.shared.images.mysql import MySQLImages
from rowcast.shared.images.postgresql import PostgreSQLImages
from rowcast.shared.tables.shape import Masking

DIGEST_FUNCTION = "rowcast_sha2"


class Masked(ColumnElement[str]):
    """Compile to the masked form of ``value``, which has a character type unless the mask is a constant.

    ``length``: the most characters of a digest. ``salt``: the salt as a text or as an expression. A text is a parameter
    of the statement, or a literal in a statement compiled without parameters. Constant, prefix and hash are the same as
    Debezium's.
    """

    inherit_cache = False
    type = types.Text()

    def __init__(
        self, value: ColumnElement[Any], masking: Masking, length: int | None, salt: str | ColumnElement[str] | None
    ) -> None:
        self.value = value
        self.masking = masking
        self.length = length
        if isinstance(salt, str):
            salt = sa.bindparam("rowcast_salt", salt, type_=types.Text(), unique=True)
        self.salt = salt


def digest_length(algorithm: str) -> int:
    """Return the length of a digest in hexadecimal digits. ``algorithm``: ``sha224`` to ``sha512``."""
    return hashlib.new(algorithm).digest_size * 2


def digest(text: str | None, bits: int) -> str | None:
    """Return the hexadecimal digest. rowcast registers this function on SQLite."""
    return None if text is None else hashlib.new(f"sha{bits}", text.encode()).hexdigest()


@compiles(Masked)
def _masked(element: Masked, compiler: SQLCompiler, **kw: Any) -> str:
    masking = element.masking
    if masking.mask is not None:
        images = _IMAGES.get(compiler.dialect.name)
        if images is not None:
            return images(compiler).literal(masking.mask)
        return compiler.render_literal_value(masking.mask, types.Text())
    value = compiler.process(element.value, **kw)
    if masking.hash is None:
        return _TRUNCATE[compiler.dialect.name](value, masking.truncate, compiler)
    assert element.salt is not None
    salt = compiler.process(element.salt, **kw)
    return _HASH[compiler.dialect.name](salt, value, masking.hash, element.length, compiler)


def _text(value: str, compiler: SQLCompiler) -> str:
    """Return the text of a value. A cast would remove the padding of a char, and the padding is part of the value."""
    percent = "%%" if compiler.preparer._double_percents else "%"
    return f"format('{percent}s', {value})"


def _postgresql_hash(salt: str, value: str, name: str, length: int | None, compiler: SQLCompiler) -> str:
    digits = f"encode({name}(convert_to({salt} || {_text(value, compiler)}, 'UTF8')), 'hex')"
    return f"CASE WHEN {value} IS NOT NULL THEN left({digits}, {length}) END"


def _postgresql_truncate(value: str, length: int | None, compiler: SQLCompiler) -> str:
    return f"CASE WHEN {value} IS NOT NULL THEN left({_text(value, compiler)}, {length}) END"


def _mysql_hash(salt: str, value: str, name: str, length: int | None, _: SQLCompiler) -> str:
    return f"LEFT(SHA2(CONVERT(CONCAT({salt}, {value}) USING utf8mb4), {name.removeprefix('sha')}), {length})"


def _mysql_truncate(value: str, length: int | None, _: SQLCompiler) -> str:
    return f"LEFT({value}, {length})"


def _sqlite_hash(salt: str, value: str, name: str, length: int | None, _: SQLCompiler) -> str:
    return f"substr({DIGEST_FUNCTION}({salt} || {value}, {name.removeprefix('sha')}), 1, {length})"


def _sqlite_truncate(value: str, length: int | None, _: SQLCompiler) -> str:
    return f"substr({value}, 1, {length})"


# The literals of these engines do not depend on the session's settings.
_IMAGES: dict[str, type[ImageDialect]] = {
    "postgresql": PostgreSQLImages,
    "mysql": MySQLImages,
    "mariadb": MySQLImages,
}
_HASH = {"postgresql": _postgresql_hash, "mysql": _mysql_hash, "mariadb": _mysql_hash, "sqlite": _sqlite_hash}
_TRUNCATE = {
    "postgresql": _postgresql_truncate,
    "mysql": _mysql_truncate,
    "mariadb": _mysql_truncate,
    "sqlite": _sqlite_truncate,
}
