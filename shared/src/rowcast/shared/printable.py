"""Show texts of messages and of databases to people."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text without characters that a terminal would obey."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
