"""Try MySQL's own types: MariaDB's types without addresses. JSON is a separate type in MySQL, and a text in MariaDB."""

from __future__ import annotations

from support.fidelity.type_case import Family
from support.fidelity.types_generic import generic
from support.fidelity.types_mariadb import alone, own_binaries, own_moments, own_numbers, own_texts


def families() -> list[Family]:
    return [*generic(), own_numbers(), own_texts(), own_binaries(), own_moments(), alone("838:59:59")]
