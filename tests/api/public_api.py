"""Describe the public API, and find the names that a change breaks.

    python -m api.public_api [FILE]

The command writes the baseline, or the description into FILE. Run it in tests/, or run `make api-baseline`. The
description is read from the source without importing the packages. ``public_api.json`` holds the baseline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

from servers.paths import REPOSITORY

BASELINE = Path(__file__).with_name("public_api.json")

MODULES = ("rowcast.producer", "rowcast.producer.alembic", "rowcast.producer.relay", "rowcast.consumer")
MORE_NAMES = ("rowcast.producer.relay.metrics.RelayMetrics",)
"""Documented names outside of ``MODULES``."""

Description = dict[str, Any]


def describe() -> Description:
    """Return the public names with their kinds, parameters, types and members."""
    sources = [str(REPOSITORY / side / "src") for side in ("producer", "consumer", "shared")]
    loader = griffe.GriffeLoader(search_paths=sources, allow_inspection=False)
    loader.load("rowcast", try_relative_path=False)
    loader.resolve_aliases(external=False)
    found: Description = {}
    for module in MODULES:
        exported = loader.modules_collection[module]
        for name in exported.exports or [name for name, member in exported.members.items() if _is_public(member)]:
            found[f"{module}.{name}"] = _describe(exported[str(name)])
    for name in MORE_NAMES:
        found[name] = _describe(loader.modules_collection[name])
    return dict(sorted(found.items()))


def _is_public(member: griffe.Object | griffe.Alias) -> bool:
    return not member.is_alias and not member.name.startswith("_") and (member.is_class or member.is_function)


def _describe(member: griffe.Object | griffe.Alias) -> Description:
    target = member.final_target if isinstance(member, griffe.Alias) else member
    if isinstance(target, griffe.Function):
        return _function(target)
    if isinstance(target, griffe.Class):
        return _class(target)
    return {"kind": "attribute", "type": str(getattr(target, "annotation", None))}


def _function(function: griffe.Function) -> Description:
    bound = isinstance(function.parent, griffe.Class) and "staticmethod" not in function.labels
    parameters = list(function.parameters)[1 if bound else 0 :]
    return {
        "kind": "function",
        "parameters": [
            {
                "name": parameter.name,
                "kind": parameter.kind.value if parameter.kind else "",
                "type": str(parameter.annotation),
                "required": parameter.default is None,
            }
            for parameter in parameters
            if not parameter.name.startswith("_")
        ],
        "returns": str(function.returns),
    }


def _class(class_: griffe.Class) -> Description:
    members: Description = {}
    for name, member in class_.all_members.items():
        hidden = name.startswith("_") and name != "__init__"
        if hidden or name in ("model_config", "exit_code") or (member.is_alias and not member.inherited):
            continue
        # pydantic's validators are methods of the class, but private by name.
        members[name] = _describe(member)
    return {
        "kind": "class",
        "bases": [str(base) for base in class_.bases],
        "members": dict(sorted(members.items())),
    }


def breaks(old: Description, new: Description) -> Iterator[str]:
    """Yield a line for each incompatible change between the old and the new description."""
    for name, before in old.items():
        if name not in new:
            yield f"{name} is gone"
        else:
            yield from _changes(name, before, new[name])


def _changes(name: str, old: Description, new: Description) -> Iterator[str]:
    if old["kind"] != new["kind"]:
        yield f"{name} was a {old['kind']}, and is a {new['kind']}"
    elif old["kind"] == "function":
        yield from _function_changes(name, old, new)
    elif old["kind"] == "class":
        for base in old["bases"]:
            if base not in new["bases"]:
                yield f"{name} is no longer a {base}"
        for member, before in old["members"].items():
            if member not in new["members"]:
                yield f"{name}.{member} is gone"
            else:
                yield from _changes(f"{name}.{member}", before, new["members"][member])
    elif old["type"] != new["type"]:
        yield f"{name} was of type {old['type']}, and is of type {new['type']}"


def _function_changes(name: str, old: Description, new: Description) -> Iterator[str]:
    parameters = {parameter["name"]: parameter for parameter in new["parameters"]}
    before = {parameter["name"]: parameter for parameter in old["parameters"]}
    for parameter in old["parameters"]:
        now = parameters.get(parameter["name"])
        if now is None:
            yield f"{name}: the parameter {parameter['name']} is gone"
            continue
        for what in ("kind", "type", "required"):
            if parameter[what] != now[what]:
                yield f"{name}: {what} of {parameter['name']} was {parameter[what]}, and is {now[what]}"
    for parameter in new["parameters"]:
        if parameter["name"] not in before and parameter["required"] and "variadic" not in parameter["kind"]:
            yield f"{name}: the parameter {parameter['name']} is new and has no default"
    kept = [n for n in before if n in parameters and before[n]["kind"] != "keyword-only"]
    order = [n for n in parameters if n in kept]
    if kept != order:
        yield f"{name}: the parameters have another order: {', '.join(order)}"
    if old["returns"] != new["returns"]:
        yield f"{name} returned {old['returns']}, and returns {new['returns']}"


def describe_in_own_process(folder: Path) -> Description:
    """Return ``describe()`` of another process. ``folder`` gets a file.

    Hypothesis parses sources in a thread of the test process, and CPython 3.11 fails with a SystemError where two
    threads of a process parse at the same time.
    """
    written = folder / "public_api.json"
    subprocess.run([sys.executable, "-m", "api.public_api", written], cwd=REPOSITORY / "tests", check=True)
    found: Description = json.loads(written.read_text())
    return found


def main() -> None:
    """Write the description into the file that the command line names, or into the baseline."""
    written = Path(sys.argv[1]) if sys.argv[1:] else BASELINE
    written.write_text(json.dumps(describe(), indent=1) + "\n")


if __name__ == "__main__":
    main()
