"""Describe the published part of a table: the columns, the rows, and their form.

The keys are valid in ``rowcast.toml`` (``[tables."public.orders"]``), in ``Table.info`` and ``Column.info`` under
``"rowcast"``, and in ``Capture(tables=…)``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator

from rowcast.shared.config.mistakes import describe_mistake
from rowcast.shared.config.section import Section
from rowcast.shared.errors import ConfigurationError

HashName = Literal["sha224", "sha256", "sha384", "sha512"]

_FORMS = ("capture", "mask", "truncate", "hash")


FormerNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""The former names of a table or column. A single name needs no list."""


class ColumnSettings(Section):
    """Describe a column. At most one of ``capture = false``, ``mask``, ``truncate`` and ``hash`` is allowed."""

    capture: bool = Field(default=True, description="`false`: the column is in no event and on no replica.")
    mask: str | None = Field(
        default=None,
        description="Publish this text in place of every value, NULL included. The column may have any type and "
        "becomes text. Debezium's `column.mask.with.length.chars`.",
    )
    truncate: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Publish only this many characters from the beginning of a text. Debezium's "
        "`column.truncate.to.length.chars`.",
    )
    hash: HashName | None = Field(
        default=None,
        description="`sha224`, `sha256`, `sha384` or `sha512`: publish the digest of the salt and the text, both in "
        "UTF-8, in hexadecimal digits, cut to the column's length. NULL stays NULL. Debezium's `column.mask.hash.v2`.",
    )
    salt: Annotated[SecretStr, Field(min_length=1)] | None = Field(
        default=None, description="Salt of the hash. Keep it secret, because it allows to try out values."
    )
    was: FormerNames = Field(
        default=(),
        description="The former name of a renamed column, or a list of all former names that events may have. Replicas "
        "rename the column too. Without it, they keep the former column and add a new one.",
    )

    @field_validator("mask")
    @classmethod
    def _mask_can_be_stored(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("PostgreSQL cannot store a NUL character. Choose another mask")
        return value

    @model_validator(mode="before")
    @classmethod
    def _false_is_left_out(cls, value: Any) -> Any:
        return {"capture": value} if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_form(self) -> ColumnSettings:
        forms = [name for name in ("mask", "truncate", "hash") if getattr(self, name) is not None]
        if not self.capture:
            forms.insert(0, "capture = false")
        if len(forms) > 1:
            raise ValueError(f"{' and '.join(forms)} exclude each other. Choose one")
        return self

    def salted(self) -> ColumnSettings:
        """Return the settings with a salt exactly if a salt is needed, for checks of the other settings."""
        salt = None if self.hash is None else self.salt or SecretStr("salt")
        return self.model_copy(update={"salt": salt})

    def over(self, other: ColumnSettings) -> ColumnSettings:
        """Return these settings, completed by the keys of ``other``.

        A form set here (mask, truncate, hash, capture) replaces the form of ``other``.
        """
        ours, theirs = self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True)
        if any(name in ours for name in _FORMS):
            theirs = {name: value for name, value in theirs.items() if name not in _FORMS}
        return ColumnSettings(**{**theirs, **ours})


class TableSettings(Section):
    """Describe what is published of a table."""

    capture: bool = Field(default=True, description="`false`: the table is not published.")
    mode: Literal["listeners", "triggers"] = Field(
        default="listeners",
        description="What captures the table: `listeners` in the application, or `triggers` in the database.",
    )
    where: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Row filter: an SQL condition over the row's own columns, in the primary's dialect. Only rows for "
        "which it is true are published. A row for which it becomes false is published as a delete. A row for which it "
        "becomes true is published as an update with the full row.",
    )
    before: bool = Field(
        default=False,
        description="`true`: updates and deletes carry the full before image, masked as the new one. It costs a read "
        "of each row before the statement that changes it, and the before images are in memory until the commit.",
    )
    was: FormerNames = Field(
        default=(),
        description="The former name of a renamed table, or a list of all former names that have topics. A name "
        "without a schema is in the schema of the table. Replicas rename the table too. Without it, they keep the "
        "former table and create a new one.",
    )
    columns: dict[str, ColumnSettings] = Field(
        default_factory=dict, description="Settings of columns, by the names that the database has."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        """Expand ``False`` to ``capture``, and a mode such as ``"triggers"`` to ``mode``."""
        if isinstance(value, bool):
            return {"capture": value}
        return {"mode": value} if isinstance(value, str) else value

    def over(self, other: TableSettings) -> TableSettings:
        """Return these settings, completed by the keys of ``other``."""
        merged = {name: getattr(s, name) for s in (other, self) for name in s.model_fields_set}
        columns = dict(other.columns)
        for name, column in self.columns.items():
            columns[name] = column.over(columns[name]) if name in columns else column
        return TableSettings(**{**merged, "columns": columns})


def read_table_settings(value: Any, where: str) -> TableSettings:
    """Return the settings in ``value``: a TableSettings, a mapping of keys, a bool, or a mode.

    ``where`` names the place of the value in messages. Raises ConfigurationError with a line for each mistake.
    """
    try:
        return TableSettings.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(_format_mistakes(error, TableSettings, where)) from None


def read_column_settings(value: Any, where: str) -> ColumnSettings:
    """Return the settings of a column in ``value``. Parameters and errors: see ``read_table_settings``."""
    try:
        return ColumnSettings.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(_format_mistakes(error, ColumnSettings, where)) from None


def _format_mistakes(error: ValidationError, section: type[Section], where: str) -> str:
    mistakes = error.errors(include_url=False, include_input=False)
    lines = "\n".join(f"  {describe_mistake(mistake, section)}" for mistake in mistakes)
    return f"{where} is not valid:\n{lines}"
