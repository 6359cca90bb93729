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
        native = type_.native.upper()
        match type_.name:
            case "boolean":
                # A TINYINT holds other numbers too, which must not all become true.
                return f"JSON_EXTRACT(CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {_text(sql)} END, '$')"
            case "float32":
                # A FLOAT is written with 6 digits, which loses; as a DOUBLE it keeps all it has.
                return f"CAST({sql} AS DOUBLE)"
            case "float64" if "(" in native:
                # A DOUBLE(12, 3) is written with 3 digits after the point, which is not always the number it holds.
                return f"CAST({sql} AS DOUBLE)"
            case "int16" | "int32" | "int64" | "uint64" | "float64" | "decimal" if "ZEROFILL" in native:
                # JSON has no numbers that begin with zeros.
                return _text(f"({sql} + 0)") if type_.name == "decimal" else f"({sql} + 0)"
            case "timestamp":
                return self._iso(sql, "")
            case "timestamptz" if native.startswith("TIMESTAMP"):
                # Not by way of the session's time zone, which has the same hour twice in autumn. The zero date, which
                # is no time, has no other number than 0 either.
                utc = f"(TIMESTAMP('1970-01-01') + INTERVAL (UNIX_TIMESTAMP({sql}) * 1000000) MICROSECOND)"
                zero = self.literal("0000-00-00T00:00:00.000000Z")
                return f"CASE WHEN UNIX_TIMESTAMP({sql}) = 0 THEN {zero} ELSE {self._iso(utc, 'Z')} END"
            case "timestamptz":
                # SQLAlchemy's DateTime(timezone=True) is a DATETIME here, which holds no zone: UTC is what it must be.
                return self._iso(sql, "Z")
            case "bytes":
                return f"REPLACE(TO_BASE64({sql}), '\\n', '')"
            case "uuid":
                return self.hyphenated(_text(sql))
            case "native" if native.startswith("BIT"):
                return _text(f"CAST({sql} AS UNSIGNED)")
            case "string" | "char" | "text" | "enum" | "decimal" | "date" | "time" | "json" | "native":
                return _text(sql)
        return sql

    def _iso(self, sql: str, zone: str) -> str:
        return f"DATE_FORMAT({sql}, {self.literal('%Y-%m-%dT%H:%i:%s.%f' + zone)})"

    def concatenate(self, parts: Sequence[str]) -> str:
        return "CONCAT(" + ", ".join(parts) + ")"


def _text(sql: str) -> str:
    """Any value as text that holds every character, whatever the connection's character set is, and that has one
    collation: texts of several cannot stand in one row."""
    return f"CAST({sql} AS CHAR CHARACTER SET utf8mb4)"
