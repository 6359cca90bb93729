"""Make row images on MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.shared.images.base import ImageDialect
from rowcast.shared.tables.shape import PortableType

_LINE_FEED = "_utf8mb4 X'0A'"


class MySQLImages(ImageDialect):
    """Make the expressions of MariaDB and MySQL."""

    object_function = "JSON_OBJECT"

    def literal(self, text: str) -> str:
        # SQL modes of the session change what a backslash and '' are: NO_BACKSLASH_ESCAPES, EMPTY_STRING_IS_NULL.
        return super().literal(text) if text and "\\" not in text else f"_utf8mb4 X'{text.encode().hex()}'"

    def value(self, sql: str, type_: PortableType) -> str:
        native = type_.native.upper()
        match type_.name:
            case "boolean":
                # A TINYINT may hold numbers other than 0 and 1, and these must not become true.
                return f"JSON_EXTRACT(CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {_text(sql)} END, '$')"
            case "float32":
                # MySQL writes a FLOAT with 6 digits, which is too few. A DOUBLE keeps all digits.
                return f"CAST({sql} AS DOUBLE)"
            case "float64" if "(" in native:
                # MySQL writes a DOUBLE(12, 3) with 3 digits after the point, but the stored number may have more.
                return f"CAST({sql} AS DOUBLE)"
            case "int16" | "int32" | "int64" | "uint64" | "float64" | "decimal" if "ZEROFILL" in native:
                # JSON does not allow numbers with leading zeros.
                return _text(f"({sql} + 0)") if type_.name == "decimal" else f"({sql} + 0)"
            case "timestamp":
                return self._iso(sql, "")
            case "timestamptz" if native.startswith("TIMESTAMP"):
                # The session's time zone is not used, because it has one hour twice in autumn. UNIX_TIMESTAMP returns
                # 0 for the zero date, which is not a time, and for nothing else.
                utc = f"(TIMESTAMP('1970-01-01') + INTERVAL (UNIX_TIMESTAMP({sql}) * 1000000) MICROSECOND)"
                zero = self.literal("0000-00-00T00:00:00.000000Z")
                return f"CASE WHEN UNIX_TIMESTAMP({sql}) = 0 THEN {zero} ELSE {self._iso(utc, 'Z')} END"
            case "timestamptz":
                # SQLAlchemy's DateTime(timezone=True) is a DATETIME here, without a zone. The value must be in UTC.
                return self._iso(sql, "Z")
            case "bytes":
                return f"REPLACE(TO_BASE64({sql}), {_LINE_FEED}, {self.literal('')})"
            case "uuid":
                return self.hyphenated(_text(sql))
            case "native" if native.startswith("BIT"):
                return _text(f"CAST({sql} AS UNSIGNED)")
            case "char":
                # The SQL mode PAD_CHAR_TO_FULL_LENGTH pads the value. RTRIM gives NULL for '' in the SQL mode ORACLE.
                text = f"COALESCE(RTRIM({_text(sql)}), {self.literal('')})"
                return f"CASE WHEN {sql} IS NOT NULL THEN {text} END"
            case "string" | "text" | "enum" | "decimal" | "date" | "time" | "json" | "native":
                return _text(sql)
        return sql

    def _iso(self, sql: str, zone: str) -> str:
        return f"DATE_FORMAT({sql}, {self.literal('%Y-%m-%dT%H:%i:%s.%f' + zone)})"

    def concatenate(self, parts: Sequence[str]) -> str:
        return "CONCAT(" + ", ".join(parts) + ")"


def _text(sql: str) -> str:
    """Return a value as utf8mb4 text.

    utf8mb4 holds every character, whatever the connection's character set is. All texts of a row need one collation,
    because MySQL refuses to combine texts of several.
    """
    return f"CAST({sql} AS CHAR CHARACTER SET utf8mb4)"
