"""The section ``[alerts]``: when ``rowcast alerts`` sends an alert, and where to."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from rowcast.shared.config.schedule import Seconds
from rowcast.shared.config.section import Section


class AlertSettings(Section):
    """Say when an alert fires, and who hears of it. Durations are seconds, or texts as in `5m`."""

    webhook: SecretStr | None = Field(
        default=None,
        description="Send each alert to this `https` or `http` URL, by POST as JSON. The member `text` suits Slack, "
        "Mattermost and others.",
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="Run this command for each alert, with the JSON on standard input. A variable holds a JSON list.",
    )
    log: bool = Field(default=True, description="Log each alert: WARNING when it fires, INFO when it clears.")
    every: Seconds = Field(default=15.0, ge=1, description="How often the status is read.")
    after: Seconds = Field(default=30.0, ge=0, description="How long a condition must hold before its alert fires.")
    behind: Seconds = Field(
        default=300.0,
        ge=0,
        description="A replica lacks a commit of this age, in addition to its `schedule` and `lag`. 0: no alert.",
    )
    outbox_age: Seconds = Field(
        default=60.0, ge=0, description="A commit has waited in the outbox for this long. 0: no alert."
    )
    outbox_rows: int = Field(default=100_000, ge=0, description="The outbox has this many rows. 0: no alert.")

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("not a URL. Write it like https://hooks.example.org/services/…")
        return value
