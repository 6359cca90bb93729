"""Options, and the plugins that hold the fixtures."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["fix_servers", "fix_databases"]

# How long an example takes is the machine's affair.
settings.register_profile("rowcast", deadline=None)
settings.load_profile("rowcast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run long campaigns in full instead of a slice")


_LONGEST_FIRST = ("acceptance", "integration", "unit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes, each takes the next file when it is done with one: none waits for another's at the end."""
    items.sort(key=lambda item: [folder not in item.path.parts for folder in _LONGEST_FIRST])


@pytest.fixture(scope="session")
def campaign(pytestconfig: pytest.Config) -> bool:
    """Whether campaigns run in full: the tests' seeds and sizes depend on it."""
    return bool(pytestconfig.getoption("--campaign"))
