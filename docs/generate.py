"""Write the parts of ``docs/reference`` that come from the code: commands, the configuration's keys, a JSON schema.

A generated part stands between ``<!-- generated: KIND NAME -->`` and ``<!-- end -->``. All other text is written by
hand and stays as it is.

    python docs/generate.py            write the files
    python docs/generate.py --check    exit with 1 if a file is not up to date
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import annotated_types
import typer.main
from pydantic.fields import FieldInfo

from rowcast.shared.cli.app import application
from rowcast.shared.cli.status_document import status_schema
from rowcast.shared.config import settings, table_settings
from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.config.relay_settings import RelaySettings, WatchdogSettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.section import Section
from rowcast.shared.config.sink_settings import SinkSettings
from rowcast.shared.config.topic_settings import TableTopicSettings, TopicSettings
from rowcast.shared.config.view_settings import ViewSettings

REFERENCE = Path(__file__).parent / "reference"
FILES = (REFERENCE / "commands.md", REFERENCE / "configuration.md")
STATUS_SCHEMA = REFERENCE / "status.schema.json"

_PART = re.compile(r"(<!-- generated: (?P<kind>\w+) (?P<name>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

# The levels of the configuration file: the class of each, and the prefix of its keys in the environment. None: the keys
# have no variables of their own.
SECTIONS: dict[str, tuple[type[Any], str | None]] = {
    "source": (settings.Settings, ""),
    "primary": (PrimarySettings, "PRIMARY__"),
    "replicas": (ReplicaSettings, "REPLICAS__NAME__"),
    "replicas.view": (ViewSettings, None),
    "tables": (table_settings.TableSettings, "TABLES__NAME__"),
    "columns": (table_settings.ColumnSettings, "TABLES__NAME__COLUMNS__COLUMN__"),
    "topics": (TopicSettings, "TOPICS__"),
    "topics.tables": (TableTopicSettings, None),
    "relay": (RelaySettings, "RELAY__"),
    "alerts": (AlertSettings, "ALERTS__"),
    "sinks": (SinkSettings, "SINKS__NAME__"),
    "watchdog": (WatchdogSettings, "WATCHDOG__"),
    "debezium": (DebeziumSettings, "DEBEZIUM__"),
}


def generate(text: str) -> str:
    """Return the page with its generated parts written again."""

    def part(match: re.Match[str]) -> str:
        body = "\n".join(_KINDS[match["kind"]](match["name"]))
        return f"{match[1]}\n{body}\n\n{match[4]}"

    return _PART.sub(part, text)


# -- configuration


def _section(name: str) -> Iterator[str]:
    section, prefix = SECTIONS[name]
    keys = [(field.alias or key, field) for key, field in section.model_fields.items() if not _is_section(field)]
    if prefix is None:
        for key, field in keys:
            yield f"* `{key}` (default: {_default(field)}): {_meaning(field)}"
        return
    yield "| key | variable | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, field in keys:
        yield f"| `{key}` | `ROWCAST_{prefix}{key.upper()}` | {_default(field)} | {_meaning(field)} |"


def _is_section(field: FieldInfo) -> bool:
    """Return whether the key holds further keys, which have a table of their own."""
    kind = str(field.annotation)
    return "Settings" in kind or (kind.startswith("dict") and "Any" not in kind) or isinstance(field.default, Section)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None:
        return "`{}`"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return str(value)


def _meaning(field: FieldInfo) -> str:
    limits = [limit for limit in _limits(field) if limit]
    return " ".join([field.description or "", *limits]).replace("|", "\\|")


def _limits(field: FieldInfo) -> Iterator[str]:
    """Yield the smallest and the largest allowed value, if the field has such limits."""
    for constraint in field.metadata:
        if isinstance(constraint, annotated_types.Ge) and constraint.ge not in (0, -1):
            yield f"Minimum {constraint.ge}."
        if isinstance(constraint, annotated_types.Le):
            yield f"Maximum {constraint.le}."


# -- commands


def _command(name: str) -> Iterator[str]:
    """Yield what ``--help`` shows, less the options that every command takes."""
    command = _find(name)
    yield from inspect.cleandoc(command.help or "").splitlines()
    yield ""
    parameters = [p for p in command.params if getattr(p, "rich_help_panel", None) != "Every command"]
    yield from _parameters([p for p in parameters if p.name != "help"])


def _common(_name: str) -> Iterator[str]:
    yield from _parameters([p for p in _find("relay").params if getattr(p, "rich_help_panel", "") == "Every command"])


def _find(name: str) -> Any:
    command: Any = typer.main.get_command(application())
    context: Any = None
    for word in name.split():
        command = command.get_command(context, word)
    return command


def _parameters(parameters: list[Any]) -> Iterator[str]:
    if not parameters:
        return
    yield "| option | variable | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for parameter in parameters:
        variable = f"`{parameter.envvar}`" if parameter.envvar else ""
        meaning = _unmarked(getattr(parameter, "help", None) or "").replace("|", "\\|")
        yield f"| `{_spelling(parameter)}` | {variable} | {_option_default(parameter)} | {meaning} |"


def _unmarked(text: str) -> str:
    """Take out the escapes of rich's markup."""
    return text.replace("\\[", "[")


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    if isinstance(parameter.default, Enum):
        return f"{names} {'|'.join(member.value for member in type(parameter.default))}".replace("|", "\\|")
    return f"{names} {parameter.metavar or 'N'}"


def _option_default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False:
        return ""
    if value is True:
        return f"`{parameter.opts[0]}`"
    return f"`{getattr(value, 'value', value)}`"


_KINDS: dict[str, Callable[[str], Iterator[str]]] = {"section": _section, "command": _command, "options": _common}


def schema_text() -> str:
    """Return the JSON schema of ``rowcast status --json`` as text."""
    return json.dumps(status_schema(), indent=2) + "\n"


def main() -> int:
    outdated = []
    pages = {path: generate(path.read_text("utf-8")) for path in FILES}
    for path, new in {**pages, STATUS_SCHEMA: schema_text()}.items():
        if path.exists() and path.read_text("utf-8") == new:
            continue
        outdated.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(new, "utf-8")
    if "--check" not in sys.argv:
        print("written:", ", ".join(outdated) or "nothing, all was up to date")
        return 0
    if outdated:
        print(f"not up to date: {', '.join(outdated)}. Run: make docs-reference", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
