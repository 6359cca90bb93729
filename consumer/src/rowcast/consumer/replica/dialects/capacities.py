"""Compare the capacities of columns by values, not by names of types.

A column is narrower than another if the engine would round or cut a value without an error, or refuse the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

_UNLIMITED_TEXT = 2**30
"""PostgreSQL's and SQLite's longest text. A column for longer texts counts as unlimited."""

# The digits kept unchanged by a floating-point number, by the number of bits.
_FLOAT_DIGITS = {24: 6, 53: 15}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Exact numbers from ``low`` to ``high``, with ``scale`` digits after the point."""

    low: float
    high: float
    scale: float


@dataclass(frozen=True, slots=True)
class Floats:
    """Floating-point numbers with a mantissa of these bits."""

    bits: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of limited length. ``padded``: the engine adds or removes spaces at the end."""

    characters: float
    octets: float
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    """Bytes of limited number. ``padded``: the engine adds zeros at the end."""

    octets: float
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Moments:
    """Dates, times, or both. ``digits``: the digits of a second."""

    date: bool
    time: bool
    digits: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """Lengths of time. ``digits``: the digits of a second."""

    digits: float


@dataclass(frozen=True, slots=True)
class Flags:
    """True and false."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Texts of a list."""

    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays of values. ``items``: None if the values are unknown."""

    items: Capacity | None


Capacity = Numbers | Floats | Texts | Binary | Moments | Intervals | Flags | Labels | Arrays

UNLIMITED_NUMBERS = Numbers(-inf, inf, inf)
UNLIMITED_TEXTS = Texts(_UNLIMITED_TEXT, _UNLIMITED_TEXT)
UNLIMITED_BINARY = Binary(_UNLIMITED_TEXT)


def integers(octets: int, *, unsigned: bool = False) -> Numbers:
    """Return the integers of a number of bytes."""
    count = 2 ** (8 * octets)
    return Numbers(0, count - 1, 0) if unsigned else Numbers(-count // 2, count // 2 - 1, 0)


def decimals(precision: int, scale: int, *, unsigned: bool = False) -> Numbers:
    """Return the decimals of ``precision`` digits, ``scale`` of them after the point."""
    high = 10 ** (precision - scale)
    return Numbers(0 if unsigned else -high, high, scale)


def texts(characters: int, *, padded: bool = False) -> Texts:
    """Return the texts of a number of characters. A character takes four bytes at most."""
    return Texts(characters, 4 * characters, padded)


def holds(column: Capacity, needed: Capacity) -> bool:
    """Return whether a column gives every needed value back unchanged."""
    if column == needed:
        return True
    match column, needed:
        case Numbers(), Numbers():
            return column.low <= needed.low and column.high >= needed.high and column.scale >= needed.scale
        case Numbers(), Floats():
            return column == UNLIMITED_NUMBERS
        case (Numbers(), Flags()) | (Flags(), Numbers()):
            return True
        case Floats(), Floats():
            return column.bits >= needed.bits
        case Floats(), Numbers():
            return _float_holds(column, needed)
        case Texts(), Texts():
            is_long_enough = column.characters >= needed.characters and column.octets >= needed.octets
            return is_long_enough and (needed.padded or not column.padded)
        case Texts(), Labels():
            return column.characters >= max(map(len, needed.labels), default=0)
        case Texts(), _:
            return column.characters >= _width(needed)
        case Binary(), Binary():
            return column.octets >= needed.octets and (needed.padded or not column.padded)
        case Binary(), Texts():
            return column.octets >= needed.octets and not column.padded
        case Moments(), Moments():
            return column.date >= needed.date and column.time >= needed.time and column.digits >= needed.digits
        case Intervals(), Intervals():
            return column.digits >= needed.digits
        case Labels(), Labels():
            return column.labels >= needed.labels
        case Arrays(), Arrays():
            return column.items is None or needed.items is None or holds(column.items, needed.items)
    return False


def _float_holds(column: Floats, needed: Numbers) -> bool:
    greatest = max(-needed.low, needed.high)
    if needed.scale <= 0:
        return greatest <= float(2**column.bits)
    return greatest < inf and len(str(greatest)) + needed.scale <= _FLOAT_DIGITS[column.bits] + 1


def _width(needed: Capacity) -> float:
    """Return the characters that a value takes as text."""
    match needed:
        case Numbers():
            digits = inf if inf in (needed.high, needed.scale) else len(str(needed.high)) + needed.scale + 2
            return min(digits, _UNLIMITED_TEXT)
        case Floats() | Moments():
            return 32
        case Intervals():
            return 60
        case Flags():
            return 1
        case Arrays():
            return _UNLIMITED_TEXT
        case Binary():
            return min(2 * needed.octets, _UNLIMITED_TEXT)
    return 0


@dataclass(frozen=True, slots=True)
class TypeName:
    """The parts of a type, from DDL or a catalogue. ``name`` has the words around the parameters, joined."""

    name: str
    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    is_array: bool

    def number(self, position: int, default: int) -> int:
        """Return a parameter, or the default if the type has no such parameter."""
        return self.numbers[position] if len(self.numbers) > position else default


_PARAMETERS = re.compile(r"\(((?:[^()']|'(?:[^']|'')*')*)\)")
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_ARRAY = re.compile(r"\[\d*\]")


def parse_type(ddl: str) -> TypeName:
    """Return the parts of a type's DDL. The name is in lower case, with single spaces."""
    match = _PARAMETERS.search(ddl)
    parameters = match[1] if match else ""
    outside = ddl if match is None else f"{ddl[: match.start()]} {ddl[match.end() :]}"
    labels = tuple(label.replace("''", "'") for label in _LABEL.findall(parameters))
    numbers = () if labels else tuple(int(n) for n in re.findall(r"-?\d+", parameters))
    name = " ".join(_ARRAY.sub(" ", outside).lower().split())
    return TypeName(name, numbers, labels, _ARRAY.search(outside) is not None)
