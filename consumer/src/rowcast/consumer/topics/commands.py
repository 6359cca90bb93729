"""Define ``rowcast trace``, and ``rowcast topics``: list, tail, search, show. Heavy imports happen in a command."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from rowcast.shared.cli.command import Invocation, command, command_group
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.topics")

topics = command_group("topics", "Look into the topics of the source: list, tail, search and show events.")

_LIMIT = 100

TableOption = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        envvar="ROWCAST_TABLE",
        metavar="PATTERN",
        help="Only tables that match, as in orders or public.ord*. May be repeated.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="ROWCAST_KEY",
        metavar="VALUES",
        help="Only this row: the key's values with commas between them, as in 42 or 7,en, or a JSON object.",
    ),
]
TransactionOption = Annotated[
    str | None,
    typer.Option("--transaction", envvar="ROWCAST_TRANSACTION", metavar="TX", help="Only events of this transaction."),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        envvar="ROWCAST_SINCE",
        metavar="TIME",
        help="Only events since then: 90s, 10m, 2h or 3d ago, or a date and time, which is UTC without a zone.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print a JSON object for each event.")]


@topics.command("list")
@command()
def list_(invocation: Invocation, table: TableOption = None, as_json: JsonOption = False) -> None:
    """List the topics of the source, with the first and the last offset of each partition."""
    from rowcast.consumer.topics.report import print_topics
    from rowcast.consumer.topics.source_topics import source_topics
    from rowcast.shared.kafka.topic_names import marker_topic, schema_topic, transaction_topic

    settings = invocation.relay_settings()
    with source_topics(settings, table or ("*",)) as found:
        others = [name(settings.source) for name in (transaction_topic, schema_topic, marker_topic)]
        print_topics(found.topics, found.ends(), others, as_json=as_json)


@topics.command("tail")
@command()
def tail(
    invocation: Invocation,
    table: TableOption = None,
    key: KeyOption = None,
    transaction: TransactionOption = None,
    last: Annotated[
        int, typer.Option("--last", envvar="ROWCAST_LAST", min=0, metavar="N", help="Begin with this many events.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the last events, and then each new event until Ctrl-C.

    Events are shown when Kafka has committed them. Times are UTC.
    """
    from rowcast.consumer.topics.report import print_record
    from rowcast.consumer.topics.search import last_records
    from rowcast.consumer.topics.selection import Selection
    from rowcast.consumer.topics.source_topics import source_topics

    selection = Selection(tuple(table or ("*",)), key, transaction)
    with stop_on_signals() as stop, source_topics(invocation.relay_settings(), selection.tables, follows=True) as found:
        ends = {place: end for place, (_, end) in found.ends().items()}
        for record in last_records(found, selection, last):
            print_record(record, as_json=as_json)
        for message in found.from_now_on(ends, stop):
            record_or_none = selection.record_of(message)
            if record_or_none is not None:
                print_record(record_or_none, as_json=as_json)


@topics.command("search")
@command()
def search(
    invocation: Invocation,
    table: TableOption = None,
    key: KeyOption = None,
    transaction: TransactionOption = None,
    since: SinceOption = None,
    limit: Annotated[
        int,
        typer.Option("--limit", envvar="ROWCAST_LIMIT", min=1, metavar="N", help="Show this many events, the newest."),
    ] = _LIMIT,
    as_json: JsonOption = False,
) -> int:
    """Search the topics up to their present ends, and show the events in the order of their commits.

    Compaction removes all events of a row but the last. Exit code 1: no event was found.
    """
    from rowcast.consumer.topics.report import print_record
    from rowcast.consumer.topics.search import search as find
    from rowcast.consumer.topics.selection import Selection, parse_since
    from rowcast.consumer.topics.source_topics import source_topics

    selection = Selection(tuple(table or ("*",)), key, transaction, 0 if since is None else parse_since(since))
    with source_topics(invocation.relay_settings(), selection.tables) as found:
        result = find(found, selection, limit)
    for record in result.newest:
        print_record(record, as_json=as_json)
    if result.found > len(result.newest):
        _log.warning("%d events were found, the last %d are shown: --limit", result.found, len(result.newest))
    _log.info("searched %d records", result.read)
    return 0 if result.found else 1


@topics.command("show")
@command()
def show(
    invocation: Invocation,
    place: Annotated[
        list[str],
        typer.Argument(
            metavar="TOPIC:PARTITION:OFFSET...",
            envvar="ROWCAST_PLACE",
            help="Records, as `rowcast topics search` and the errors of workers name them.",
        ),
    ],
) -> None:
    """Show everything about records as JSON, with long values whole."""
    from rowcast.consumer.topics.report import print_whole
    from rowcast.consumer.topics.search import parse_place, record_at

    places = [parse_place(one) for one in place]
    if not places:
        raise ConfigurationError("name a record as TOPIC:PARTITION:OFFSET.")
    settings = invocation.relay_settings()
    for one in places:
        print_whole(record_at(settings, *one))


@command()
def trace(
    invocation: Invocation,
    table: Annotated[
        str, typer.Argument(metavar="TABLE", envvar="ROWCAST_TABLE", help="The table, as in public.orders or orders.")
    ],
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            envvar="ROWCAST_KEY",
            help="The key's values with commas between them, as in 42 or 7,en, or a JSON object.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the steps as JSON.")] = False,
) -> int:
    """Follow a row from the primary through outbox and topic to each replica, and say where it is stuck.

    Exit code 0: the row has arrived everywhere. 1: it has not, or a replica has another row.
    """
    from rowcast.consumer.topics.report import print_trace
    from rowcast.consumer.topics.trace import trace as follow

    return print_trace(list(follow(invocation.relay_settings(), table, key)), as_json=as_json)
