"""Where a database is, and the section ``[primary]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from rowcast.shared.config.section import Section


class DatabaseSettings(Section):
    """Say where a database is."""

    url: SecretStr = Field(
        description="SQLAlchemy URL of the database: `postgresql`, `mysql`, `mariadb` or `sqlite`. The application's "
        "own URL works, because an asynchronous driver is replaced by the engine's synchronous driver."
    )

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("not a database URL. Write it like postgresql+psycopg://user:password@host/name") from None
        if url.get_backend_name() not in ("postgresql", "mysql", "mariadb", "sqlite"):
            raise ValueError(f"{url.get_backend_name()!r} is not supported. Use postgresql, mysql, mariadb or sqlite")
        return value

    @property
    def sqlalchemy_url(self) -> URL:
        """Return the URL with its password, for ``create_engine``. A printed URL shows stars instead."""
        return make_url(self.url.get_secret_value())


class PrimarySettings(DatabaseSettings):
    """Describe the application's database, which holds the outbox."""


Evolution = Literal["evolve", "validate", "none"]
