"""Check that the public API breaks only on purpose: the recorded baseline names every change."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
from collections.abc import Callable

import pytest

from api.public_api import BASELINE, MODULES, Description, breaks, describe_in_own_process


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Description:
    return describe_in_own_process(tmp_path_factory.mktemp("api"))


def test_nothing_that_users_rely_on_has_changed(described: Description) -> None:
    changed = list(breaks(json.loads(BASELINE.read_text()), described))
    assert changed == [], "the public API breaks; if that is intended, name it in CHANGELOG.md and `make api-baseline`"


def test_the_baseline_knows_every_public_name(described: Description) -> None:
    unrecorded = described.keys() - json.loads(BASELINE.read_text()).keys()
    assert unrecorded == set(), "new public names: record them with `make api-baseline`"


@pytest.mark.parametrize("module", MODULES)
def test_every_exported_name_can_be_imported(module: str) -> None:
    imported = importlib.import_module(module)
    for name in getattr(imported, "__all__", ()):
        assert hasattr(imported, name), f"{module}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_dir_and_help_know_every_exported_name(module: str) -> None:
    """Also those that are imported at their first use. The module is loaded again, because a test may have used it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert {*getattr(loaded, "__all__", ())} <= {*dir(loaded)}


def _remove_a_name(api: Description) -> None:
    del api["rowcast.consumer.verify"]


def _remove_a_parameter(api: Description) -> None:
    del api["rowcast.consumer.verify"]["parameters"][1]


def _require_a_parameter(api: Description) -> None:
    api["rowcast.producer.load"]["parameters"][0]["required"] = True


def _add_a_required_parameter(api: Description) -> None:
    new = {"name": "new", "kind": "keyword-only", "type": "int", "required": True}
    api["rowcast.producer.load"]["parameters"].append(new)


def _swap_parameters(api: Description) -> None:
    api["rowcast.producer.relay.running"]["parameters"].reverse()


def _change_what_is_returned(api: Description) -> None:
    api["rowcast.producer.load"]["returns"] = "dict"


def _remove_a_method(api: Description) -> None:
    del api["rowcast.producer.Capture"]["members"]["on_commit"]


def _remove_a_base(api: Description) -> None:
    api["rowcast.producer.MissingExtraError"]["bases"].clear()


def _change_an_attribute(api: Description) -> None:
    api["rowcast.producer.Finding"]["members"]["message"]["type"] = "bytes"


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (_remove_a_name, "rowcast.consumer.verify is gone"),
        (_remove_a_parameter, "rowcast.consumer.verify: the parameter replica is gone"),
        (_require_a_parameter, "rowcast.producer.load: required of path was False, and is True"),
        (_add_a_required_parameter, "rowcast.producer.load: the parameter new is new and has no default"),
        (
            _swap_parameters,
            "rowcast.producer.relay.running: the parameters have another order: on_progress, capture, settings",
        ),
        (_change_what_is_returned, "rowcast.producer.load returned Settings, and returns dict"),
        (_remove_a_method, "rowcast.producer.Capture.on_commit is gone"),
        (_remove_a_base, "rowcast.producer.MissingExtraError is no longer a ConfigurationError"),
        (_change_an_attribute, "rowcast.producer.Finding.message was of type str, and is of type bytes"),
    ],
)
def test_a_break_is_named(described: Description, break_it: Callable[[Description], None], named: str) -> None:
    broken = copy.deepcopy(described)
    break_it(broken)
    assert list(breaks(described, broken)) == [named]
    assert list(breaks(described, described)) == []
