"""What leaves of a masked column, as an SQL expression: a secret never comes as far as the outbox."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, types
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.shapes import Masking

DIGEST_FUNCTION = "rowcast_sha2"


class Masked(ColumnElement[str]):
    """What leaves in place of ``value``, which is of a character type unless a constant stands for it.

    ``length``: digests are cut to so many characters. ``salt`` is a parameter of the statement, or a literal where the
    statement is compiled to have none. All three are defined as Debezium does.
    """

    inherit_cache = False
    type = types.Text()

    def __init__(self, value: ColumnElement[Any], masking: Masking, length: int | None, salt: str | None) -> None:
        self.value = value
        self.masking = masking
        self.length = length
        self.salt = None if salt is None else sa.bindparam("rowcast_salt", salt, type_=types.Text(), unique=True)


def digest_length(algorithm: str) -> int:
    """Of ``sha256`` and its kin, in hexadecimal digits."""
    return hashlib.new(algorithm).digest_size * 2


def digest(text: str | None, bits: int) -> str | None:
    """The function that SQLite lacks."""
    return None if text is None else hashlib.new(f"sha{bits}", text.encode()).hexdigest()


@compiles(Masked)
def _masked(element: Masked, compiler: SQLCompiler, **kw: Any) -> str:
    masking = element.masking
    if masking.mask is not None:
        return compiler.render_literal_value(masking.mask, types.Text())
    value = compiler.process(element.value, **kw)
    if masking.hash is None:
        return _TRUNCATE[compiler.dialect.name](value, masking.truncate, compiler)
    assert element.salt is not None
    salt = compiler.process(element.salt, **kw)
    return _HASH[compiler.dialect.name](salt, value, masking.hash, element.length, compiler)


def _text(value: str, compiler: SQLCompiler) -> str:
    """A char's padding is a part of it, which a cast would take off."""
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


_HASH = {"postgresql": _postgresql_hash, "mysql": _mysql_hash, "mariadb": _mysql_hash, "sqlite": _sqlite_hash}
_TRUNCATE = {
    "postgresql": _postgresql_truncate,
    "mysql": _mysql_truncate,
    "mariadb": _mysql_truncate,
    "sqlite": _sqlite_truncate,
}
