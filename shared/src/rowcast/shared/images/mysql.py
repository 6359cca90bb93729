"""Row images on MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.shared.images.dialect import ImageDialect
from rowcast.shared.shapes import PortableType


class MySQLImages(ImageDialect):
    object_function = "JSON_OBJECT"

    def literal(self, text: str) -> str:
        return super().literal(text.replace("\\", "\\\\"))

    def value(self, sql: str, type_: PortableType) -> str:
        match type_.name:
            case "boolean":
                return f"JSON_EXTRACT(CASE WHEN {sql} THEN 'true' WHEN NOT {sql} THEN 'false' END, '$')"
            case "float32":
                # A FLOAT is written with 6 digits, which loses; as a DOUBLE it keeps all it has.
                return f"CAST({sql} AS DOUBLE)"
            case "timestamp":
                return self._iso(sql, "")
            case "timestamptz" if type_.native.upper().startswith("TIMESTAMP"):
                return self._iso(f"CONVERT_TZ({sql}, @@session.time_zone, '+00:00')", "Z")
            case "timestamptz":
                # SQLAlchemy's DateTime(timezone=True) is a DATETIME here, which holds no zone: UTC is what it must be.
                return self._iso(sql, "Z")
            case "bytes":
                return f"REPLACE(TO_BASE64({sql}), '\\n', '')"
            case "uuid":
                return _hyphenated(sql)
            case "native" if type_.native.upper().startswith("BIT"):
                return f"CAST(CAST({sql} AS UNSIGNED) AS CHAR)"
            case "decimal" | "date" | "time" | "json" | "native" | "enum":
                return f"CAST({sql} AS CHAR)"
        return sql

    def _iso(self, sql: str, zone: str) -> str:
        return f"DATE_FORMAT({sql}, {self.literal('%Y-%m-%dT%H:%i:%s.%f' + zone)})"

    def concatenate(self, parts: Sequence[str]) -> str:
        return "CONCAT(" + ", ".join(parts) + ")"

    def as_text(self, sql: str) -> str:
        return sql


def _hyphenated(sql: str) -> str:
    pieces = ", '-', ".join(f"SUBSTR({sql}, {a}, {n})" for a, n in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12)))
    return f"LOWER(CASE WHEN CHAR_LENGTH({sql}) = 32 THEN CONCAT({pieces}) ELSE {sql} END)"
