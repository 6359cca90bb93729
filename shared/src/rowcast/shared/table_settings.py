"""What leaves the primary of a table: which columns, which rows, and in what form.

The same words stand in ``rowcast.toml`` (``[tables."public.orders"]``), in ``Table.info`` and ``Column.info`` under
``"rowcast"``, and in ``Capture(tables=…)``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.sections import Section, explain

HashName = Literal["sha224", "sha256", "sha384", "sha512"]

_FORMS = ("capture", "mask", "truncate", "hash")


class ColumnSettings(Section):
    """One column; at most one of ``capture = false``, ``mask``, ``truncate`` and ``hash``."""

    capture: bool = True
    """False: the column does not leave."""
    mask: str | None = None
    """This text leaves in place of every value, NULL included."""
    truncate: Annotated[int, Field(ge=1)] | None = None
    """The first so many characters leave."""
    hash: HashName | None = None
    """The hexadecimal digest of ``salt`` and the value leaves, cut to the column's length."""
    salt: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Secret: whoever knows it can try values."""

    @field_validator("mask")
    @classmethod
    def _mask_can_be_stored(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("PostgreSQL stores no NUL character; choose another mask")
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
            raise ValueError(f"{' and '.join(forms)} exclude each other; choose one")
        return self

    def salted(self) -> ColumnSettings:
        """With a salt if, and only if, one is needed: for looking at all else."""
        salt = None if self.hash is None else self.salt or SecretStr("salt")
        return self.model_copy(update={"salt": salt})

    def over(self, other: ColumnSettings) -> ColumnSettings:
        """These, and of ``other`` what these do not say: a form in these replaces its form."""
        ours, theirs = self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True)
        if any(name in ours for name in _FORMS):
            theirs = {name: value for name, value in theirs.items() if name not in _FORMS}
        return ColumnSettings(**{**theirs, **ours})


class TableSettings(Section):
    """One table."""

    capture: bool = True
    """False: the table does not leave."""
    mode: Literal["listeners", "triggers"] = "listeners"
    """What captures the table."""
    where: Annotated[str, Field(min_length=1)] | None = None
    """An SQL condition over the row's own columns: only rows for which it is true leave."""
    before: bool = False
    """Whether events carry the row as it was before, too."""
    columns: dict[str, ColumnSettings] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        """``False`` leaves the table out, ``"triggers"`` is its mode."""
        if isinstance(value, bool):
            return {"capture": value}
        return {"mode": value} if isinstance(value, str) else value

    def over(self, other: TableSettings) -> TableSettings:
        """These, and of ``other`` what these do not say."""
        merged = {name: getattr(s, name) for s in (other, self) for name in s.model_fields_set}
        columns = dict(other.columns)
        for name, column in self.columns.items():
            columns[name] = column.over(columns[name]) if name in columns else column
        return TableSettings(**{**merged, "columns": columns})


def read_table_settings(value: Any, where: str) -> TableSettings:
    """``value`` is a TableSettings, a mapping of its keys, a bool, or a mode. ``where``: for messages.

    Raises ConfigurationError, one line per mistake.
    """
    try:
        return TableSettings.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(_told(error, where)) from None


def read_column_settings(value: Any, where: str) -> ColumnSettings:
    """As ``read_table_settings``, of a column."""
    try:
        return ColumnSettings.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(_told(error, where)) from None


def _told(error: ValidationError, where: str) -> str:
    lines = "\n".join(f"  {explain(e)}" for e in error.errors(include_url=False, include_input=False))
    return f"{where} is not valid:\n{lines}"
