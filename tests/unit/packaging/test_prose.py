"""Sources, tests and pages are in plain English: no word of the list, and in sources no semicolon."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.project import ROOT, TESTS
from support.prose import FORBIDDEN, prose_of_all, without_code

SOURCES = sorted(path for side in ("producer", "consumer", "shared") for path in (ROOT / side / "src").rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(TESTS.rglob("*.md"))]

Prose = dict[Path, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def prose() -> Prose:
    return prose_of_all(SOURCES)


def words_of_the_list(prose: Prose) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {word[0]}"
        for path, found in prose.items()
        for line, text in found
        for word in FORBIDDEN.finditer(text)
    ]


def test_no_sentence_of_the_sources_uses_a_word_of_the_list(prose: Prose) -> None:
    assert words_of_the_list(prose) == []


def test_no_sentence_of_the_tests_uses_a_word_of_the_list() -> None:
    suspects = [path for path in sorted(TESTS.rglob("*.py")) if FORBIDDEN.search(path.read_text("utf-8"))]
    assert words_of_the_list(prose_of_all(suspects)) == []


def test_no_page_uses_a_word_of_the_list() -> None:
    pages = {page: list(enumerate(map(without_code, page.read_text("utf-8").splitlines()), 1)) for page in PAGES}
    assert words_of_the_list(pages) == []


def test_no_semicolon_joins_two_sentences(prose: Prose) -> None:
    joined = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:90]}"
        for path, found in prose.items()
        for line, text in found
        if ";" in text
    ]
    assert joined == []


def test_the_prose_of_a_file_is_found(tmp_path: Path) -> None:
    """A test without any text to check would always pass."""
    source = tmp_path / "module.py"
    source.write_text(
        '"""Module."""\n'
        "X = 1\n"
        '"""Attribute, with ``code; here``."""\n'
        "# Comment.\n"
        "# noqa: directive\n"
        "def f():\n"
        '    """Function."""\n'
        '    raise ValueError(f"error {X} again")\n'
        '    _log.warning("log %s", "part")\n'
        '    Option("--x", help="help")\n'
        '    execute("SELECT 1; SELECT 2")\n'
    )
    assert {text for _, text in prose_of_all([source])[source]} == {
        "Module.", "Attribute, with .", "# Comment.", "Function.", "error ", " again", "log %s", "part", "help",
    }  # fmt: skip
