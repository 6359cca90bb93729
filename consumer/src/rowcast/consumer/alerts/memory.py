"""Remember which alerts have fired, to fire and clear each alert once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rowcast.consumer.alerts.conditions import Condition


@dataclass(frozen=True, slots=True)
class Alert:
    """A message about a condition.

    ``since_s``: when the condition began, in seconds since 1970. ``clears``: the condition has ended.
    """

    condition: Condition
    since_s: float
    clears: bool = False


class AlertMemory:
    """Turn the conditions of each look into alerts. ``after_s``: how long a condition must hold before it fires."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._began: dict[tuple[str, str], float] = {}
        self._fired: dict[tuple[str, str], Alert] = {}

    def look(self, conditions: Iterable[Condition], now_s: float) -> list[Alert]:
        """Return the alerts that fire or clear now. ``now_s``: the time in seconds since 1970.

        An alert does not clear while the server with the evidence does not answer.
        """
        conditions = list(conditions)
        silent = {condition.known_from for condition in conditions if condition.is_silent}
        present = {condition.identity: condition for condition in conditions}
        # A condition absent at a look begins again.
        self._began = {identity: self._began.get(identity, now_s) for identity in present}
        alerts = [
            Alert(fired.condition, fired.since_s, clears=True)
            for identity, fired in self._fired.items()
            if identity not in present and fired.condition.known_from not in silent
        ]
        for cleared in alerts:
            del self._fired[cleared.condition.identity]
        for identity, began_s in self._began.items():
            if identity not in self._fired and now_s - began_s >= self._after_s:
                self._fired[identity] = Alert(present[identity], began_s)
                alerts.append(self._fired[identity])
        return alerts
