"""Use rowcast in a Flask application, with the relay in a thread of the process. Each commit wakes the relay.

    pip install '.[relay]' flask    # in a clone of this repository
    python examples/flask/app.py path/to/rowcast.toml

The primary is `url` in `[primary]` of the configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, request
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from rowcast.producer import Capture, Settings, load, relay


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(80))


def create_app(settings: Settings) -> tuple[Flask, Capture]:
    engine = create_engine(settings.require_primary().sqlalchemy_url)
    sessions = scoped_session(sessionmaker(engine))
    capture = Capture(Base.metadata, source=settings.source)
    capture.install(sessions)
    Base.metadata.create_all(engine)
    app = Flask(__name__)

    @app.post("/pages")
    def write() -> tuple[dict[str, int], int]:
        page = Page(title=request.get_json()["title"])
        sessions.add(page)
        sessions.commit()
        return {"id": page.id}, 201

    @app.teardown_appcontext
    def close(_error: BaseException | None) -> None:
        sessions.remove()

    return app, capture


if __name__ == "__main__":
    configuration = load(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    application, its_capture = create_app(configuration)
    with relay.running(configuration, its_capture):
        application.run()
