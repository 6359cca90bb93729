"""Capture the program of ``rowcast instrument`` from the import of SQLAlchemy on.

Python imports this module at the start, because ``rowcast instrument`` puts the module's folder first on PYTHONPATH.
Child processes inherit the variable. The module imports only the standard library, because most child processes do not
use SQLAlchemy.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SQLALCHEMY = "sqlalchemy"


class _Watcher(MetaPathFinder):
    """Start the instrumentation after the first import of SQLAlchemy."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _SQLALCHEMY:
            return None
        # The remaining finders look for the module. The finder itself stays, because a program may look without
        # importing.
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_start(module: ModuleType) -> None:
            sys.meta_path.remove(self)
            execute(module)
            _start()

        spec.loader.exec_module = execute_and_start  # type: ignore[method-assign]
        return spec


def _start() -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    event.listen(Engine, "engine_connect", _engine_connect)


_program: Any = None


def _engine_connect(connection: Any) -> None:
    # rowcast is imported now, and not together with SQLAlchemy, because the program may import rowcast itself.
    global _program
    if _program is None:
        try:
            from rowcast.producer.instrumentation.program import start
        except ImportError as error:
            raise ImportError(
                f"rowcast instrument: rowcast cannot be imported by {sys.executable} ({error}), so the program would "
                "not be captured. Install rowcast in the environment of this Python, or start the program without "
                "rowcast instrument."
            ) from error
        _program = start()
    _program.engine_connect(connection)


def _import_next_sitecustomize() -> None:
    """Import the hidden sitecustomize module of the environment."""
    own = Path(__file__).parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != own.resolve()]
    spec = importlib.machinery.PathFinder.find_spec(__name__, others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if "ROWCAST_INSTRUMENT" in os.environ:
    if _SQLALCHEMY in sys.modules:
        _start()
    else:
        sys.meta_path.insert(0, _Watcher())
_import_next_sitecustomize()
