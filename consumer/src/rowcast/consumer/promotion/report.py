"""The output of ``rowcast promote``, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rowcast.consumer.promotion.promote import PromotionResult
from rowcast.shared.config.settings import Settings
from rowcast.shared.printable import printable

_WIDTH = 80


def report(settings: Settings, result: PromotionResult, *, dry_run: bool) -> Iterator[str]:
    """Yield the lines of the output. ``dry_run``: nothing was changed."""
    name = result.replica
    if dry_run and not result.was_done:
        # A statement is never broken, because the user may copy it.
        yield from (f"{printable(statement)};" for statement in result.statements)
        yield from _wrapped("", f"Nothing was changed: {len(result.statements)} statements, and the outbox tables.")
    elif result.was_done:
        yield from _wrapped("", f"replica {name} was promoted before. Nothing was changed.")
    else:
        yield from _wrapped(
            "", f"replica {name} is a primary now: {len(result.shapes)} tables, {len(result.statements)} statements"
        )
    if result.lost:
        yield from _wrapped("lost: ", result.lost)
    if result.notes:
        yield "left to do by hand:"
        for note in result.notes:
            yield from _wrapped("- ", printable(note))
    if dry_run:
        return
    yield "next:"
    for number, step in enumerate(_next_steps(settings, result), 1):
        yield from _wrapped(f"{number}. ", step)


def _next_steps(settings: Settings, result: PromotionResult) -> Iterator[str]:
    url = settings.replica(result.replica).sqlalchemy_url
    yield f"In the configuration, name {url} in [primary], and remove [replicas.{result.replica}]."
    yield "Point the application at this database. It may write at once."
    yield f"Begin timeline {result.timeline}: rowcast relay --new-timeline {result.timeline}"
    if topics := _changed_topics(settings, result):
        yield (
            f"Readers other than workers find the events in new topics, for example {topics[1]} in place of "
            f"{topics[0]}, because the default schema has another name."
        )
    others = [name for name in settings.replicas if name != result.replica]
    if others:
        yield f"Rebuild the other replicas, which become suspect: rowcast rebuild {others[0]}"
        for name in others[1:]:
            yield f"rowcast rebuild {name}"


def _changed_topics(settings: Settings, result: PromotionResult) -> tuple[str, str] | None:
    """Return the name of a topic before and after, or None if no topic changes."""
    for shape in result.shapes:
        if shape.default_schema and shape.schema != result.default_schema:
            return settings.topic_of(shape.schema, shape.name), settings.topic_of(result.default_schema, shape.name)
    return None


def _wrapped(mark: str, text: str) -> list[str]:
    """Return lines of at most 80 columns. A longer word, as a URL, stays whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
