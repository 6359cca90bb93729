"""The sources are in plain English: no word of the list, and a single thought in each sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.project import ROOT
from support.prose import FORBIDDEN, prose_of_all

SOURCES = sorted(path for side in ("producer", "consumer", "shared") for path in (ROOT / side / "src").rglob("*.py"))


Prose = dict[Path, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def prose() -> Prose:
    return prose_of_all(SOURCES)


def test_no_sentence_uses_a_word_of_the_list(prose: Prose) -> None:
    words = [
        f"{path.relative_to(ROOT)}:{line}: {word[0]}"
        for path, found in prose.items()
        for line, text in found
        for word in FORBIDDEN.finditer(text)
    ]
    assert words == []


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
