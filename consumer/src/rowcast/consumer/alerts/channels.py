"""Where alerts go: the log, a command, a webhook. An undelivered alert is sent again later."""

from __future__ import annotations

import logging
import subprocess
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import orjson

from rowcast.consumer.alerts.memory import Alert
from rowcast.shared.config.alert_settings import AlertSettings

_log = logging.getLogger("rowcast.alerts")

_WEBHOOK_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 60.0
_MOST_WAITING = 1_000


class UndeliveredError(Exception):
    """An alert could not be delivered. The text says why."""


Channel = Callable[[str, Alert], None]
"""Deliver one alert of a source. Raise UndeliveredError if that fails."""


def document(source: str, alert: Alert) -> bytes:
    """Return the JSON of an alert, for webhooks and commands."""
    condition = alert.condition
    return orjson.dumps(
        {
            "text": text(source, alert),
            "state": "cleared" if alert.clears else "firing",
            "source": source,
            "kind": condition.kind,
            "subject": condition.subject,
            "message": condition.message,
            "since": datetime.fromtimestamp(alert.since_s, UTC).isoformat(timespec="seconds"),
        }
    )


def text(source: str, alert: Alert) -> str:
    """Return an alert in one line."""
    condition = alert.condition
    what = f"{condition.subject} of source {source}: {condition.kind}"
    return f"cleared: {what}" if alert.clears else f"{what}: {condition.message}"


def log(source: str, alert: Alert) -> None:
    """Log an alert."""
    _log.log(logging.INFO if alert.clears else logging.WARNING, "%s", text(source, alert))


def webhook(url: str) -> Channel:
    """Return the channel that sends alerts to a URL. The URL is a secret, and no message shows the URL."""

    def post(source: str, alert: Alert) -> None:
        request = urllib.request.Request(  # the settings allow http and https alone
            url, document(source, alert), {"Content-Type": "application/json", "User-Agent": "rowcast"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_WEBHOOK_TIMEOUT_S):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise UndeliveredError(f"the webhook answered {error.code} {error.reason}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise UndeliveredError(f"the webhook does not answer: {reason}") from None

    return post


def command(arguments: Sequence[str]) -> Channel:
    """Return the channel that runs a command, with the JSON of the alert on standard input."""

    def run(source: str, alert: Alert) -> None:
        try:
            ended = subprocess.run(
                arguments, input=document(source, alert), capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise UndeliveredError(f"{arguments[0]} was ended after {_COMMAND_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise UndeliveredError(f"{arguments[0]} cannot be started: {error.strerror}") from None
        if ended.returncode != 0:
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            said = f": {lines[-1]}" if lines else ""
            raise UndeliveredError(f"{arguments[0]} ended with exit code {ended.returncode}{said}")

    return run


def channels(settings: AlertSettings) -> list[Channel]:
    """Return the channels of the configuration."""
    found: list[Channel] = [log] if settings.log else []
    if settings.command:
        found.append(command(settings.command))
    if settings.webhook is not None:
        found.append(webhook(settings.webhook.get_secret_value()))
    return found


class Delivery:
    """Deliver alerts in order. An undelivered alert stays first in the line of its channel."""

    def __init__(self, source: str, channels: Sequence[Channel], warn: Callable[[str], None] = _log.warning) -> None:
        self._source = source
        self._lines: list[tuple[Channel, deque[Alert]]] = [(one, deque(maxlen=_MOST_WAITING)) for one in channels]
        self._warn = warn

    def send(self, alerts: Sequence[Alert]) -> bool:
        """Deliver the waiting alerts, then these alerts. Return whether all are delivered."""
        for channel, waiting in self._lines:
            waiting.extend(alerts)
            while waiting:
                try:
                    channel(self._source, waiting[0])
                except UndeliveredError as error:
                    self._warn(f"{len(waiting)} alerts wait, because {error}")
                    break
                waiting.popleft()
        return not any(waiting for _, waiting in self._lines)
