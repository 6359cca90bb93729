"""Say which JSON types the published values of a column have. ``docs/reference/types.md`` shows the types to users."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tables.type_mapping import MYSQL_FAMILY

_SCALARS = frozenset((bool, int, float, str))
_NUMBERS = frozenset((bool, int, float))
_TEXT = frozenset((str,))

_JSON_TYPES: Mapping[str, frozenset[type]] = {
    "boolean": frozenset((bool,)),
    **dict.fromkeys(("int16", "int32", "int64", "uint64"), frozenset((int,))),
    **dict.fromkeys(("float32", "float64"), frozenset((int, float, str))),
    "decimal": frozenset((str, int)),
    "array": frozenset((list, str)),
    "native": _SCALARS,
}


def json_types(type_: PortableType, engine: str) -> frozenset[type]:
    """Return Python's types of the JSON values other than null. ``engine``: the engine of the primary."""
    if is_loosely_typed(engine):
        return _JSON_TYPES.get(type_.name, _TEXT) | _SCALARS
    if type_.name == "boolean" and engine in MYSQL_FAMILY:
        # MySQL's boolean is a number.
        return _NUMBERS
    return _JSON_TYPES.get(type_.name, _TEXT)


def is_loosely_typed(engine: str) -> bool:
    """Return whether a column may hold a value of another type than the declared type, and a key may hold NULL."""
    return engine == "sqlite"


def has_one_form_of_uuids(engine: str) -> bool:
    """Return whether the engine writes each UUID in one form, whatever form the application gave."""
    return engine == "postgresql"
