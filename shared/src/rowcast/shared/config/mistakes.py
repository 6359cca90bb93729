"""Describe mistakes in a configuration: the key, the mistake, and the probable meaning."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from rowcast.shared.suggestions import did_you_mean

_WITHOUT_QUOTES = re.compile(r"""\s*(?P<key>[\w."'-]+)\s*=\s*[A-Za-z_/.~]""")
_LINE = re.compile(r"at line (\d+)")


def describe_mistake(error: Any, section: type[BaseModel]) -> str:
    """Return a line with the key and the mistake. ``error``: one item of pydantic's ``errors()`` for ``section``."""
    location = [str(part) for part in error["loc"]]
    name = ".".join(location) or "(root)"
    kind = error["type"]
    if kind == "extra_forbidden":
        meant = did_you_mean(location[-1], _known_keys(section, location[:-1]))
        return f"{name}: unknown key.{meant or ' Remove it.'} docs/reference/configuration.md lists the known keys."
    if kind == "missing":
        variable = "ROWCAST_" + "__".join(location).upper()
        return f"{name}: missing. Set it in the file, or as {variable}."
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"


def describe_syntax(error: tomllib.TOMLDecodeError, file: Path) -> str:
    """Describe a mistake in the TOML of a file. The value is left out, because a value may hold a password."""
    found = _LINE.search(str(error))
    lines = file.read_text("utf-8-sig").splitlines()
    if found is not None and int(found[1]) <= len(lines):
        without = _WITHOUT_QUOTES.match(lines[int(found[1]) - 1])
        if without is not None:
            return f'{error}. Did you forget the quotes? Write {without["key"]} = "…"'
    return str(error)


def _known_keys(section: type[BaseModel], location: Sequence[str]) -> Iterable[str]:
    """Return the keys of the section at ``location``."""
    inner: type[BaseModel] | None = section
    rest = list(location)
    while rest and inner is not None:
        field = inner.model_fields.get(rest.pop(0))
        annotation = None if field is None else field.annotation
        if rest and _is_mapping(annotation):
            rest.pop(0)
        inner = _section_in(annotation)
    return () if inner is None else (field.alias or name for name, field in inner.model_fields.items())


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first section in an annotation, for example in ``dict[str, Section]`` or ``Section | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)
