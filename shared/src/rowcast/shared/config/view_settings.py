"""The sections ``[replicas.NAME.view."schema.table"]``: what a replica gets of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator

from rowcast.shared.config.section import Section
from rowcast.shared.tables.own_tables import is_rowcast_table

_Name = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00]+$")]

MASKS = "`hash`, `null`, `fixed:TEXT` and `prefix:COUNT`"
_MASK = re.compile(r"hash|null|fixed:[^\x00]*|prefix:[1-9][0-9]{0,8}", re.DOTALL)


class ViewSettings(Section):
    """Describe what a replica gets of a table."""

    # The settings are also built from other settings, by the names of the attributes.
    model_config = ConfigDict(populate_by_name=True)

    columns: tuple[_Name, ...] | None = Field(
        default=None,
        description="Take these columns only, by the names that the source has. Without a value: all columns.",
    )
    without: tuple[_Name, ...] = Field(
        default=(),
        description="Take all columns but these. A column that the source adds later is taken. Not together with "
        "`columns`.",
    )
    name: _Name | None = Field(
        default=None, description="Name of the table in the replica. Without a value: the name at the source."
    )
    schema_: _Name | None = Field(
        default=None,
        alias="schema",
        description="Schema of the table in the replica, which the worker creates. PostgreSQL only.",
    )
    rename: Mapping[str, _Name] = Field(
        default_factory=dict,
        description='Names of columns in the replica, as in `{ email = "mail" }`. Columns of the primary key keep '
        "their names.",
    )
    where: Annotated[str, Field(min_length=1, max_length=10_000)] | None = Field(
        default=None,
        description="Take only the rows for which this condition is true, as in `country = 'DE' and not deleted`. The "
        "worker evaluates it, and it never becomes SQL.",
    )
    mask: Mapping[str, str] = Field(
        default_factory=dict,
        description="What to write in place of the values of columns, by the names that the source has: `hash`, "
        "`null`, `fixed:TEXT` or `prefix:COUNT`.",
    )

    @field_validator("name")
    @classmethod
    def _is_no_name_of_rowcast(cls, value: str | None) -> str | None:
        if value is not None and is_rowcast_table(value):
            raise ValueError(f"{value!r} would be a table of rowcast. Choose another name")
        return value

    @field_validator("mask")
    @classmethod
    def _masks_are_known(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for column, mask in value.items():
            if _MASK.fullmatch(mask) is None:
                raise ValueError(f"column {column} has the unknown mask {mask!r}. The masks are {MASKS}")
        return value

    @model_validator(mode="after")
    def _chooses_columns_once(self) -> ViewSettings:
        if self.columns is not None and self.without:
            raise ValueError("columns and without exclude each other. Choose one")
        names = list(self.rename.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rename gives two columns the name {', '.join(twice)}. Choose another name for one")
        return self

    @property
    def needs_key(self) -> bool:
        """Return whether a mask needs the secret key of the replica."""
        return "hash" in self.mask.values()
