"""Check the documentation: links and names exist, examples are valid, the reference agrees with the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rowcast.shared.cli.app import application
from rowcast.shared.config import Settings
from support.project import ROOT
from support.prose import FORBIDDEN
from support.sources import SOURCES, sources

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("tests/*.md"), *ROOT.glob("examples/*/*.md")])
# The changelog uses the names of earlier versions.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [text for _, found, text in _FENCE.findall(page.read_text("utf-8")) if found == language]


def prose(page: Path) -> str:
    """Return the text without code and without generated parts."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    text = re.sub(r"<!-- generated.*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ {4,}\S.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"``[^`]+``|`[^`\n]+`", "", text)


def names_in_code(page: Path) -> Iterator[str]:
    yield from _CODE.findall(_FENCE.sub("", page.read_text("utf-8")))


# -- links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading)) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_page_and_a_heading_that_exist(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), link
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), link


def test_every_page_is_in_the_navigation_or_in_a_list_of_decisions() -> None:
    linked = (ROOT / "mkdocs.yml").read_text("utf-8") + (DOCS / "decisions/index.md").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.name in linked if page.parent.name == "decisions" else str(page.relative_to(DOCS)) in linked


# -- names


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_path_in_code_exists(page: Path) -> None:
    for code in names_in_code(page):
        if re.fullmatch(r"(docs|tests|examples|producer|consumer|shared)/[\w./-]+", code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_module_and_name_of_rowcast_in_code_exists(page: Path) -> None:
    imported = [f"{m}.{n}" for text in blocks(page, "python") for m, n in imports(text) if m.startswith("rowcast.")]
    for code in [*names_in_code(page), *imported]:
        if re.fullmatch(r"rowcast\.(producer|consumer|shared)[\w.]*", code):
            assert resolved(code), code


def imports(text: str) -> Iterator[tuple[str, str]]:
    for module, imported in re.findall(r"^\s*from ([\w.]+) import ([\w, ]+)", text, re.MULTILINE):
        yield from ((module, word.strip()) for word in imported.split(","))


def resolved(dotted: str) -> bool:
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_command_exists(page: Path) -> None:
    shown = [re.sub("^[$] | *#.*", "", line) for text in blocks(page, "console") for line in text.splitlines()]
    for line in [*names_in_code(page), *shown]:
        words = line.split()
        if words[:1] == ["rowcast"] and re.fullmatch(r"[a-z]+", words[1] if len(words) > 1 else ""):
            assert command_exists(words[1:]), line
        if words[:1] == ["make"] and "=" not in line and "/" not in line:
            assert set(words[1:]) <= TARGETS, line


@cache
def whole_command() -> Any:
    return typer.main.get_command(application())


def command_exists(words: list[str]) -> bool:
    command = whole_command()
    if "--" in words:
        # The other words are the command of another program.
        words = words[: words.index("--")]
    for word in words:
        if not hasattr(command, "get_command"):
            break
        if not re.fullmatch(r"[a-z]+", word):
            break
        command = command.get_command(None, word)
        if command is None:
            return False
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {w.partition("=")[0] for w in words if w.startswith("--")} <= options | {"--help"}


def test_the_map_of_the_source_names_every_folder_and_its_door() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8").partition("## The path of a row")[0]
    rooms: dict[str, str] = {}
    root = ""
    for line in text.splitlines():
        if heading := re.match(r"\| folder in `(.+?)`", line):
            root = heading[1]
        elif row := re.match(r"\| (`[^|]+`) \| [^|]+ \| ([^|]+) \|", line):
            rooms |= {f"{root}/{folder.rstrip('/')}": row[2] for folder in _CODE.findall(row[1])}
    folders = {name(p.parent) for s in SOURCES for p in s.glob("rowcast/*/*/**/__init__.py")}
    assert rooms.keys() == {folder for folder in folders if folder.count("/") > 3} - {"consumer/src/rowcast/consumer"}
    for folder, door in rooms.items():
        for module in re.findall(r"`([\w]+\.py)`", door):
            assert (ROOT / folder / module).exists(), f"{folder}/{module}"


# -- examples


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_python_example_can_be_parsed(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, name(page), "exec")


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_configuration_example_is_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROWCAST_SOURCE", raising=False)
    for text in blocks(page, "toml"):
        Settings.model_validate({"source": "shop", **tomllib.loads(text)})


# -- the reference


def test_the_generated_parts_are_up_to_date() -> None:
    generator = runpy.run_path(str(DOCS / "generate.py"))
    for path in generator["FILES"]:
        text = path.read_text("utf-8")
        assert generator["generate"](text) == text, "run: make docs-reference"


def test_the_schema_of_the_status_is_up_to_date() -> None:
    generator = runpy.run_path(str(DOCS / "generate.py"))
    assert generator["STATUS_SCHEMA"].read_text("utf-8") == generator["schema_text"](), "run: make docs-reference"


def test_every_command_is_in_the_reference() -> None:
    text = (DOCS / "reference/commands.md").read_text("utf-8")
    for command in commands(whole_command(), ()):
        assert f"<!-- generated: command {' '.join(command)} -->" in text


def commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not hasattr(command, "list_commands"):
        yield words
        return
    for word in command.list_commands(None):
        yield from commands(command.get_command(None, word), (*words, word))


# -- troubleshooting


QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_error_in_the_troubleshooting_exists_in_the_sources(quoted: str) -> None:
    for part in quoted.split("…"):
        occurs = part.strip(" '\"") in sources()
        assert occurs, part


def test_every_page_that_the_sources_refer_to_exists() -> None:
    for page in set(re.findall(r"docs/[\w/.-]+\.(?:md|json)", sources())):
        assert (ROOT / page).exists(), page


# -- prose


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_the_prose_follows_the_rule(page: Path) -> None:
    text = prose(page)
    assert not re.findall(r".{30};.{0,30}", text)
    assert not [match[0] for match in FORBIDDEN.finditer(text)]
