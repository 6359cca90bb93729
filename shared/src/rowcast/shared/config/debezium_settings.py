"""Describe the topics written by Debezium's connector for the source.

The names and values are those of the connector's own properties, so that a person can copy them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rowcast.shared.config.section import Section


class DebeziumSettings(Section):
    """Describe the connector. Most messages carry schemas and say all of this themselves."""

    connector: Literal["postgresql", "mysql", "mariadb"] = Field(
        default="postgresql",
        description="Which connector writes the topics. Needed for flattened events, which do not say so.",
    )
    decimal_handling_mode: Literal["precise", "double", "string"] = Field(
        default="precise", description="The connector's `decimal.handling.mode`, for messages without schemas."
    )
    time_precision_mode: Literal[
        "adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"
    ] = Field(
        default="adaptive",
        description="The connector's `time.precision.mode`, for messages without schemas. MySQL's connector takes "
        "`adaptive` for `adaptive_time_microseconds`.",
    )
    interval_handling_mode: Literal["numeric", "string"] = Field(
        default="numeric", description="The connector's `interval.handling.mode`, for messages without schemas."
    )
    binary_handling_mode: Literal["bytes", "base64", "base64-url-safe", "hex"] = Field(
        default="bytes",
        description="The connector's `binary.handling.mode`. With schemas, the worker knows a text for bytes only if "
        "the connector has `column.propagate.source.type`.",
    )
    unavailable_value_placeholder: str = Field(
        default="__debezium_unavailable_value",
        description="The connector's `unavailable.value.placeholder`: the text in place of a large value that an "
        "update has not changed. The replica keeps its value.",
    )
