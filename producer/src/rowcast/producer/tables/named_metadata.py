"""Import the MetaData that an option names: ``shop.models:Base``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa

from rowcast.shared.errors import ConfigurationError


def named_metadata(name: str) -> sa.MetaData:
    """Return the MetaData, or the MetaData of the declarative base, with this name.

    Raises ConfigurationError if the module cannot be imported, or if the attribute is missing or of another kind.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = _module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"--metadata {name}: {error}. Write it like shop.models:Base, with a module that can be imported from here."
        ) from error
    found = getattr(found, "metadata", found)
    if not isinstance(found, sa.MetaData):
        raise ConfigurationError(f"--metadata {name} is {type(found).__name__}, not a MetaData or a declarative base.")
    return found


def _module(name: str) -> ModuleType:
    """Return the module. The program that runs as ``__main__`` is not imported a second time."""
    main = sys.modules.get("__main__")
    if main is not None and name not in sys.modules and _is_main(name, main):
        return main
    return importlib.import_module(name)


def _is_main(name: str, main: ModuleType) -> bool:
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return bool(spec.name == name)
    file = getattr(main, "__file__", None)
    if file is None:
        return False
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None and Path(found.origin).resolve() == Path(file).resolve()
