"""Options, and the plugins that hold the fixtures."""

from __future__ import annotations

import pytest

pytest_plugins = ["fix_servers", "fix_databases"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run long campaigns in full instead of a slice")


@pytest.fixture(scope="session")
def campaign(pytestconfig: pytest.Config) -> bool:
    """Whether campaigns run in full: the tests' seeds and sizes depend on it."""
    return bool(pytestconfig.getoption("--campaign"))
