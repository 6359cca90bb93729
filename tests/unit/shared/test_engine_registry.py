"""Dialects are found by entry point, and rowcast's own dialects also where the program has no metadata."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import tomllib
from types import ModuleType

import pytest

from rowcast.consumer.replica import dialects as replica_dialects
from rowcast.producer.database import dialects as capture_dialects
from rowcast.shared import engine_registry
from rowcast.shared.engine_registry import class_for_engine, engines_in
from support.project import ROOT

SIDES = [
    (capture_dialects.GROUP, capture_dialects.BUILT_IN),
    (replica_dialects.GROUP, replica_dialects.BUILT_IN),
]


@pytest.mark.parametrize(("group", "built_in"), SIDES)
def test_the_built_in_classes_are_those_of_the_entry_points(group: str, built_in: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"][group] == built_in


@pytest.mark.parametrize(("group", "built_in"), SIDES)
def test_a_frozen_program_without_metadata_finds_the_built_in_classes(
    group: str, built_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_metadata = {engine: class_for_engine(group, engine, built_in) for engine in built_in}
    none = importlib.metadata.EntryPoints()
    monkeypatch.setattr(engine_registry, "entry_points", lambda **_: none)
    assert {engine: class_for_engine(group, engine, built_in) for engine in built_in} == with_metadata
    assert engines_in(group, built_in) == sorted(built_in)


@pytest.mark.parametrize("package", [capture_dialects, replica_dialects])
def test_a_tool_that_follows_import_statements_finds_the_built_in_modules(package: ModuleType) -> None:
    """PyInstaller does so, and would leave out modules that are only named by a string."""
    imported = {
        f"{statement.module}.{alias.name}"
        for statement in ast.walk(ast.parse(inspect.getsource(package)))
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert {place.partition(":")[0] for place in package.BUILT_IN.values()} <= imported


def test_an_unknown_engine_has_no_class() -> None:
    assert class_for_engine(capture_dialects.GROUP, "oracle", capture_dialects.BUILT_IN) is None
