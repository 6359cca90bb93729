"""What the configuration's sections have in common: their base, and how a mistake in one is told."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable; an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: Any) -> str:
    """One of pydantic's ``errors()`` in a line that names the key."""
    location = [str(part) for part in error["loc"]]
    name = ".".join(location) or "(root)"
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{name}: unknown key. Take it out, or see docs/reference/configuration.md for the keys there are."
    if kind == "missing":
        variable = "ROWCAST_" + "__".join(location).upper()
        return f"{name}: missing. Set it in the file, or as {variable}."
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"
