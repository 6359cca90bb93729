"""The messages and transactions that a worker leaves out: ``rowcast worker --skip``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rowcast.consumer.events.position import Partition
from rowcast.shared.errors import ConfigurationError

# A topic's name has no colon, and neither has a transaction's id.
_MESSAGE = re.compile(r"([A-Za-z0-9._-]+):(\d+):(\d+)")


class Skips:
    """Know what to leave out: transactions by id, and messages by topic, partition and offset."""

    def __init__(self, targets: Iterable[str] = ()) -> None:
        """Parse the values of ``--skip``. Raise ConfigurationError for a value of another form."""
        self.transactions: set[str] = set()
        self._offsets: dict[Partition, set[int]] = {}
        for target in targets:
            if match := _MESSAGE.fullmatch(target):
                topic, number, offset = match.groups()
                self._offsets.setdefault((topic, int(number)), set()).add(int(offset))
            elif target and ":" not in target:
                self.transactions.add(target)
            else:
                raise ConfigurationError(
                    f"--skip {target}: give the id of a transaction, or TOPIC:PARTITION:OFFSET of a message"
                )

    def offsets(self, partition: Partition) -> set[int]:
        """Return the offsets to leave out of a partition."""
        return self._offsets.get(partition, set())


def transactions_of(ids: Iterable[str]) -> Iterator[str]:
    """Yield the values of ``--skip-transaction``. Raise ConfigurationError for a value that is no id."""
    for id_ in ids:
        if not id_ or ":" in id_:
            raise ConfigurationError(
                f"--skip-transaction {id_}: give the id of a transaction. To leave out a message: --skip {id_}"
            )
        yield id_


NO_SKIPS = Skips()
