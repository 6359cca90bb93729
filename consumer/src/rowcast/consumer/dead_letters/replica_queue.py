"""Handle the refused events of a replica for ``rowcast dlq REPLICA``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import exc

from rowcast.consumer.dead_letters.letter_changes import LetterChanges
from rowcast.consumer.dead_letters.letter_messages import letter_messages
from rowcast.consumer.dead_letters.letters import Letter, chosen, to_letters
from rowcast.consumer.dead_letters.report import report_letters, report_messages
from rowcast.consumer.dead_letters.retry import retry
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.letter_rows import has_letter_table, read_letter_events
from rowcast.consumer.replica.taken import taken_replica
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, unreachable
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.dlq")


class ReplicaQueue:
    """Handle the letters of one replica, as ``rowcast.shared.cli.dlq.DeadLetterQueue`` describes."""

    def __init__(self, settings: Settings, replica: str) -> None:
        self._settings = settings
        self._replica = replica
        self._layouts = RowLayouts(settings.replica(replica).tables)

    def print_list(self, ids: Sequence[str], *, as_json: bool) -> int:
        """Print the letters with the reasons. Return 1 if letters wait, else 0."""
        return report_letters(chosen(self._read(), ids), as_json=as_json)

    def print_whole(self, ids: Sequence[str], *, as_json: bool) -> None:
        """Print the letters with their messages."""
        letters = chosen(self._read(), ids)
        report_messages(letters, letter_messages(self._settings, letters), as_json=as_json)

    def retry(self, ids: Sequence[str]) -> int:
        """Apply letters in order, while the workers stand by. Return 1 if any is still refused, else 0."""
        with self._taken("retry") as replica:
            reader = LetterChanges(self._settings, self._replica, self._layouts)
            reader.read_shapes(replica)
            replica.prepare()
            letters = self._read()
            wanted = chosen(letters, ids)
            messages = letter_messages(self._settings, wanted)

            def settle(group: Sequence[Letter]) -> None:
                changes = list(reader.read(group, messages))
                replica.settle(_transaction(group, changes))

            result = retry(letters, wanted, settle)
        for letter in result.settled:
            _log.info("letter %s is applied, with %d events", letter.id, len(letter.events))
        for letter, reason in result.left:
            _log.error("letter %s waits: %s", letter.id, reason)
        _log.info("%d letters are applied, %d wait", len(result.settled), len(result.left))
        return 1 if result.left else 0

    def drop(self, ids: Sequence[str]) -> None:
        """Give letters up, and release their rows."""
        with self._taken("drop") as replica:
            letters = chosen(self._read(), ids)
            for letter in letters:
                replica.settle(_transaction([letter], []))
        _log.warning(
            "dropped: %s. The replica may differ from the primary now. Compare with `rowcast verify %s`, and send the "
            "rows that differ again with `rowcast verify %s --repair`",
            ", ".join(letter.id for letter in letters) or "nothing waits", self._replica, self._replica,
        )  # fmt: skip

    @contextmanager
    def _taken(self, command: str) -> Iterator[Replica]:
        whole_command = f"rowcast dlq {command} {self._replica}"
        with taken_replica(self._settings, self._replica, self._layouts, threading.Event(), whole_command) as replica:
            if replica.state not in ("loading", "consistent", "following"):
                raise DataError(
                    f"replica {self._replica!r} is {replica.state}, so its letters stay as they are. See rowcast "
                    "status."
                )
            yield replica

    def _read(self) -> list[Letter]:
        label = f"replica {self._replica!r}"
        engine = open_engine(self._settings.replica(self._replica).sqlalchemy_url, label, pooled=False)
        try:
            with engine.connect() as connection:
                if not has_letter_table(connection):
                    return []
                return to_letters(read_letter_events(connection, self._settings.source))
        except exc.DBAPIError as error:
            raise unreachable(engine, label, error) from error
        finally:
            engine.dispose()


@contextmanager
def replica_queue(settings: Settings, replica: str) -> Iterator[ReplicaQueue]:
    """Open the letters of a replica."""
    yield ReplicaQueue(settings, replica)


def _transaction(letters: Sequence[Letter], changes: list[Change]) -> Transaction:
    """Return a transaction that applies changes and removes the records of the letters. No position moves."""
    settled = [one for letter in letters for one in letter.events]
    return Transaction(letters[0].id, max(one.event.lsn for one in settled), 0, changes, settled=settled)
