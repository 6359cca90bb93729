"""Errors travel to other processes, as from a worker of Celery or multiprocessing."""

from __future__ import annotations

import pickle

import pytest

from rowcast.shared import errors
from rowcast.shared.errors import MissingExtraError, RowcastError

CLASSES = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, RowcastError)]


@pytest.mark.parametrize(
    "error", [MissingExtraError("psycopg", "postgresql"), *(c("why") for c in CLASSES if c is not MissingExtraError)]
)
def test_an_error_can_be_pickled(error: RowcastError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
