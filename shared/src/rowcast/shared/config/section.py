"""Define the base of the configuration's sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Serve as the base of all sections. Sections are immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)
