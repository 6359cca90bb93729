"""Define ``rowcast replay``. Heavy imports happen when the command runs."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from rowcast.consumer.topics.commands import KeyOption, SinceOption, TableOption, TransactionOption
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.replay")


@command()
def replay(
    invocation: Invocation,
    table: TableOption = None,
    key: KeyOption = None,
    transaction: TransactionOption = None,
    since: SinceOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            envvar="ROWCAST_REPLAY_UNTIL",
            metavar="TIME",
            help="Only transactions committed by then, in the forms of --since.",
        ),
    ] = None,
    to_prefix: Annotated[
        str | None,
        typer.Option(
            "--to-prefix",
            envvar="ROWCAST_TO_PREFIX",
            metavar="NAME",
            help="Write to the topics of a source NAME, which a worker can read, in place of standard output.",
        ),
    ] = None,
    to_topic: Annotated[
        str | None,
        typer.Option(
            "--to-topic",
            envvar="ROWCAST_TO_TOPIC",
            metavar="TOPIC",
            help="Write the events to one topic, in place of standard output.",
        ),
    ] = None,
    allow_gaps: Annotated[
        bool,
        typer.Option(
            "--allow-gaps",
            envvar="ROWCAST_ALLOW_GAPS",
            help="Write also what is left of a transaction of which compaction has removed events.",
        ),
    ] = False,
) -> int:
    """Write the transactions of a range of the topics again, whole and in the order of their commits.

    Standard output gets a JSON object for each event, as from `rowcast topics search --json`. Exit code 1: there was
    no such transaction, or one of them lacks events.
    """
    from rowcast.consumer.replay.json_lines import to_standard_output
    from rowcast.consumer.replay.one_topic import to_one_topic
    from rowcast.consumer.replay.replay import NewOutput
    from rowcast.consumer.replay.replay import replay as write
    from rowcast.consumer.replay.span import WantedTransactions
    from rowcast.consumer.replay.topic_output import to_topics
    from rowcast.consumer.topics.selection import Selection, parse_since

    settings = invocation.relay_settings()
    selection = Selection(tuple(table or ("*",)), key)
    wanted = WantedTransactions(
        0 if since is None else parse_since(since), None if until is None else parse_since(until), transaction
    )
    if to_prefix is not None and to_topic is not None:
        raise ConfigurationError("--to-prefix and --to-topic exclude each other. Choose one.")
    output: NewOutput = to_standard_output
    if to_prefix is not None:
        output = to_topics(settings, to_prefix)
    elif to_topic is not None:
        output = to_one_topic(settings, to_topic)
    with stop_on_signals() as stop:
        result = write(settings, selection, wanted, output, allow_gaps=allow_gaps, stop=stop)
        is_stopped = stop.is_set()
    _log.info("%d events of %d transactions", result.events, result.transactions)
    return 1 if is_stopped or result.lacking or not result.transactions else 0
