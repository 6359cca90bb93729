"""Decode the rows and keys of a table's events, and check names and types of the values meanwhile.

A decoder refuses exactly what ``value_types`` refuses, and some rare values more. ``read_change`` then reads the
message. The checks run in the decoder's C code, which takes a third of the time of parsing and then looking at each
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, Union

import msgspec
import orjson

# An integer outside of this range is a floating point number for orjson, which reads the row for SQLite and MySQL.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class RowDecoders:
    """The decoders of one layout. ``row_types`` and ``key_types``: the types that fit, by column."""

    def __init__(self, row_types: Mapping[str, Iterable[type]], key_types: Mapping[str, Iterable[type]]) -> None:
        self._row_types = row_types
        self._key_types = key_types
        self._members = {name: _member(place) for place, name in enumerate(row_types)}

    # Later, because most tables of a large database have no event in the first minutes.
    @cached_property
    def _rows(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(list[_form(self._row_types)])  # type: ignore[misc]

    @cached_property
    def _keys(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(_form(self._key_types))

    @cached_property
    def _key_of_row(self) -> Callable[[Any], Any]:
        return attrgetter(*(self._members[name] for name in self._key_types))

    @cached_property
    def _key_of_key(self) -> Callable[[Any], Any]:
        return attrgetter(*map(_member, range(len(self._key_types))))

    def row_keys(self, images: Iterable[bytes]) -> list[Any]:
        """Return the key of each row image. Raise ValueError if a row has other columns or types.

        ``images``: each a single JSON value.
        """
        return list(map(self._key_of_row, self._decoded_rows(images)))

    def _decoded_rows(self, images: Iterable[bytes]) -> list[Any]:
        rows: list[Any] = self._rows.decode(b"[" + b",".join(images) + b"]")
        return rows

    def row_values(self, images: Iterable[bytes], names: Iterable[str]) -> list[tuple[Any, ...]]:
        """Return the values of these columns for each row image. Raise ValueError as ``row_keys`` does."""
        rows, members = self._decoded_rows(images), [self._members[name] for name in names]
        if len(members) == 1:
            return [(value,) for value in map(attrgetter(*members), rows)]
        return list(map(attrgetter(*members), rows))

    def keys(self, keys: Sequence[bytes]) -> list[Any]:
        """Return the key of each message key. Raise ValueError if a key has other columns, types or order."""
        decoded = list(map(self._key_of_key, map(self._keys.decode, keys)))
        names = tuple(self._key_types)
        # The bytes of a key identify the row, so the order counts.
        if len(names) > 1 and set(map(tuple, map(orjson.loads, keys))) != {names}:
            raise ValueError("the columns of a key are not in the order of the primary key")
        return decoded


def _member(place: int) -> str:
    # A column may have any name.
    return f"c{place}"


def _form(types: Mapping[str, Iterable[type]]) -> type[msgspec.Struct]:
    """Return a structure with exactly the members of ``types``."""
    members = {_member(place): name for place, name in enumerate(types)}
    fields = [(member, _union(types[name])) for member, name in members.items()]
    return msgspec.defstruct("Row", fields, rename=members, forbid_unknown_fields=True, gc=False)


def _union(types: Iterable[type]) -> Any:
    return Union[tuple(_INTEGER if type_ is int else type_ for type_ in types)]  # noqa: UP007  # made at runtime
