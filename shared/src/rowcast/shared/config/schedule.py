"""Read durations, and when a worker with a schedule begins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Annotated, Any

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_GAPS = 50


def seconds_of(value: Any) -> Any:
    """Return the seconds of a text like ``90s``, ``15m``, ``1h`` or ``2d``. Return a value other than text unchanged.

    Raise ValueError for an invalid text.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    found = _DURATION.fullmatch(text)
    if found is not None:
        return float(found[1]) * _SECONDS[found[2]]
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{value!r} is no duration. Write a number of seconds, or a text such as 90s, 15m, 1h or 2d"
        ) from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Moments at which work begins. ``text``: five fields of cron, in UTC, or an interval like ``15m``."""

    text: str
    interval_s: float | None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a schedule. Raise ValueError if the text is neither form, or never begins."""
        if len(text.split()) < 5:
            interval_s = seconds_of(text)
            if not 1 <= interval_s < math.inf:
                raise ValueError("an interval is a second at least")
            return cls(text, interval_s)
        try:
            next(CronSim(text, datetime.now(UTC)))
        except CronSimError as error:
            raise ValueError(f"{text!r} is no cron expression of five fields: {str(error).lower()}") from None
        except StopIteration:
            raise ValueError(f"{text!r} names a day that never comes") from None
        return cls(text, None)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first moment of the schedule after ``moment``."""
        return next(self._moments(moment))

    def longest_gap_s(self) -> float:
        """Return the longest time between two of the next moments, in seconds."""
        moments = islice(self._moments(datetime.now(UTC)), _GAPS)
        return max((later - earlier).total_seconds() for earlier, later in pairwise(moments))

    def _moments(self, after: datetime) -> Iterator[datetime]:
        if self.interval_s is None:
            return CronSim(self.text, after)
        return self._intervals(after, timedelta(seconds=self.interval_s))

    @staticmethod
    def _intervals(after: datetime, interval: timedelta) -> Iterator[datetime]:
        while True:
            after += interval
            yield after


def _require_schedule(text: str) -> str:
    Schedule.parse(text)
    return text


Seconds = Annotated[float, BeforeValidator(seconds_of), Field(allow_inf_nan=False)]
"""A duration in seconds, as a number or as a text with a unit."""

ScheduleText = Annotated[str, AfterValidator(_require_schedule)]
"""The text of a ``Schedule``."""
