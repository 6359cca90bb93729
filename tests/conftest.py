"""Define the options of the tests, and load the plugins with the fixtures."""

from __future__ import annotations

import gc

import pytest
from hypothesis import is_hypothesis_test, settings

pytest_plugins = ["fixtures.servers", "fixtures.databases"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run long campaigns in full instead of a slice")
    parser.addoption("--driver", help="run the capture's matrix on another driver, by SQLAlchemy's name: psycopg2, …")


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of Hypothesis' examples.

    There is no deadline, because the time of an example depends on the machine.
    """
    settings.register_profile("rowcast", deadline=None, max_examples=1_000 if config.getoption("--campaign") else 25)
    settings.load_profile("rowcast")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test with random examples, because campaigns run more examples."""
    if is_hypothesis_test(getattr(item, "obj", None)):
        item.add_marker("campaign")


_LONGEST_FIRST = ("acceptance", "chaos", "integration", "models", "unit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders with the longest tests first, because a long file at the end would keep one process busy alone.

    Each process takes the next file after a finished file.
    """
    items.sort(key=lambda item: [folder not in item.path.parts for folder in _LONGEST_FIRST])


def pytest_collection_finish() -> None:
    """Exempt imported modules and collected tests from garbage collection.

    Each full collection would otherwise look at half a million objects that stay until the end.
    """
    gc.freeze()


@pytest.fixture(scope="session")
def campaign(pytestconfig: pytest.Config) -> bool:
    """Return whether campaigns run in full. The seeds and sizes of tests depend on the option."""
    return bool(pytestconfig.getoption("--campaign"))
