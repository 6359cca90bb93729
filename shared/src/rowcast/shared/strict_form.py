"""Check the form of documents that other programs may have written, strictly and completely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

T = TypeVar("T")

# Every engine refuses a zero byte in a name, and PostgreSQL refuses one in any text.
Name = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00]+$")]
"""A name of a table, a column or a transaction."""

Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A number that every engine can hold, such as an lsn."""


class StrictForm(BaseModel):
    """Check types without conversions. Unknown members are left out, because a newer version may add members."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def fault_of(error: ValidationError) -> str:
    """Return the first fault in one line: the path of the member, and what is wrong with it."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(map(str, fault["loc"]))
    message = "not an object" if fault["type"] == "model_type" else fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{path}: {message}" if path else message


def checked(check: Callable[[Any], T], document: Any, refusal: str, error: type[Exception]) -> T:
    """Return ``check(document)``. Raise ``error`` with ``refusal`` and the fault if the document has another form."""
    try:
        return check(document)
    except ValidationError as invalid:
        raise error(f"{refusal}: {fault_of(invalid)}") from invalid
