"""Define the base of the configuration's sections, and describe a mistake in a section."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Serve as the base of all sections. Sections are immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def describe_mistake(error: Any) -> str:
    """Return a line with the key and the mistake. ``error``: one item of pydantic's ``errors()``."""
    location = [str(part) for part in error["loc"]]
    name = ".".join(location) or "(root)"
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{name}: unknown key. Remove it, or see docs/reference/configuration.md for the known keys."
    if kind == "missing":
        variable = "ROWCAST_" + "__".join(location).upper()
        return f"{name}: missing. Set it in the file, or as {variable}."
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"
