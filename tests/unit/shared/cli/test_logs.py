"""Test log lines, progress, stopping, and the handling of errors."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.shared import row_values
from rowcast.shared.cli import command, exit_codes, logs
from rowcast.shared.cli.progress import Figures, figures_of, progress
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError, DataError, UnreachableError

SECRET = 'p"ä%s/w'


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("rowcast")
    before = root.handlers[:], root.level, own.level
    monkeypatch.setattr(logs, "mask", logs.Mask())
    yield
    root.handlers[:], _, _ = before
    root.setLevel(before[1])
    own.setLevel(before[2])
    logging.captureWarnings(False)


def record(message: str, *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("rowcast.relay", level, "file.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_has_the_time_the_level_the_logger_the_message_and_the_extras() -> None:
    made = record("published %d", 5, events=7, topic="shop.orders")
    made.created, made.msecs = 1_763_722_321.5, 500.0
    assert json.loads(logs.JsonFormatter().format(made)) == {
        "ts": "2025-11-21T10:52:01.500Z",
        "level": "info",
        "logger": "rowcast.relay",
        "message": "published 5",
        "events": 7,
        "topic": "shop.orders",
    }


def test_a_json_line_stays_one_line_with_a_traceback_in_it() -> None:
    made = record("failed")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError (values left out, log_values = true shows them)")
    with row_values.shown_if(True):
        line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: two\nlines")


def test_an_extra_that_json_does_not_know_is_shown_as_text() -> None:
    made = record("at", url=sa.make_url("sqlite:///x.db"), pairs={1: "one"})
    assert json.loads(logs.JsonFormatter().format(made))["url"] == "sqlite:///x.db"


def test_a_text_line_ends_with_the_extras() -> None:
    line = logs.TextFormatter().format(record("published", events=7))
    assert line.endswith("INFO rowcast.relay: published events=7")


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_known_secrets_are_stars_in_messages_extras_and_tracebacks(formatter: logging.Formatter) -> None:
    logs.mask.add([SECRET])
    made = record(
        f"login with {SECRET}", password=SECRET, url=sa.make_url("x://u@h").set(password=SECRET).render_as_string(False)
    )
    try:
        raise ValueError(SECRET)
    except ValueError:
        made.exc_info = sys.exc_info()
    line = formatter.format(made)
    for form in (SECRET, json.dumps(SECRET)[1:-1], json.dumps(SECRET, ensure_ascii=False)[1:-1], "w@h"):
        assert form not in line
    if isinstance(formatter, logs.JsonFormatter):
        json.loads(line)


def test_a_password_in_any_url_is_stars_and_the_rest_is_left_alone() -> None:
    assert logs.mask("postgresql://app:hush@db/x") == "postgresql://app:***@db/x"
    innocent = '{"a":"http://host:80/x","b":"me@there","c":"k1:9092,k2:9092"}'
    assert logs.mask(innocent) == innocent


def test_a_secret_does_not_eat_parts_of_words_nor_the_fields_of_a_line() -> None:
    logs.mask.add(["e", "orders", "level"])
    assert logs.mask("the replica reorders, level 3") == "the replica reorders, *** 3"
    line = json.loads(logs.JsonFormatter().format(record("orders", level=logging.INFO, orders="level")))
    assert (line["message"], line["orders"], line["level"]) == ("***", "***", "info")


def test_a_password_that_is_a_name_too_is_stars_in_urls_and_the_name_stays_readable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rowcast.toml").write_text(
        'source = "shop"\n[primary]\nurl = "postgresql+psycopg://shop:shop@db/x"\n'
        '[replicas.r]\nurl = "mysql+pymysql://app:open-sesame@db/x"\n'
    )
    command.Invocation().settings()
    assert logs.mask("postgresql+psycopg://shop:shop@db/x") == "postgresql+psycopg://shop:***@db/x"
    assert logs.mask("topic shop.public.orders, open-sesame") == "topic shop.public.orders, ***"


def test_rowcasts_lines_are_shown_from_the_level_asked_for_others_from_warnings_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(logs.LogFormat.text, logs.LogLevel.debug)
    logging.getLogger("rowcast.relay").debug("ours")
    logging.getLogger("sqlalchemy").info("theirs")
    logging.getLogger("sqlalchemy").warning("their warning")
    output = capsys.readouterr()
    assert output.out == ""
    assert "ours" in output.err
    assert "theirs" not in output.err
    assert "their warning" in output.err


def test_a_repeated_message_of_the_kafka_client_is_logged_only_now_and_then() -> None:
    quiet = logs.RepeatFilter(seconds=30)

    def passes(text: str, at: float, name: str = "rowcast.kafka") -> logging.LogRecord | None:
        made = record(text)
        made.name, made.created = name, at
        return made if quiet.filter(made) else None

    assert passes("connect failed (after 0ms)", 0)
    assert not passes("connect failed (after 12ms)", 1)
    assert not passes("connect failed (after 0ms)", 29)
    assert passes("another reason", 29)
    later = passes("connect failed (after 0ms)", 31)
    assert later is not None
    assert logs.extras(later) == {"repeated": 2}
    assert passes("published", 0, "rowcast.relay")
    assert passes("published", 0, "rowcast.relay")


@dataclass
class _Counted:
    events: int
    table: str = "orders"
    inner: object = None


def log_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_without_a_terminal_progress_is_a_log_line_now_and_then_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(logs.LogFormat.json, logs.LogLevel.info)
    log = logging.getLogger("rowcast.test")
    with progress("counted", figures_of, log=log, log_format=logs.LogFormat.json, interval=60) as moved:
        for events in range(1000):
            moved(_Counted(events))
        assert log_lines(capsys) == []
    (line,) = log_lines(capsys)
    assert (line["message"], line["events"], line["table"]) == ("counted", 999, "orders")
    assert "inner" not in line


def test_work_without_progress_logs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogFormat.json, logs.LogLevel.info)
    with progress(
        "waited", figures_of, log=logging.getLogger("rowcast"), log_format=logs.LogFormat.json, interval=0.01
    ):
        pass
    assert log_lines(capsys) == []


def test_on_a_terminal_progress_is_a_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    monkeypatch.setattr(logs, "stderr", Console(file=screen, force_terminal=True, width=80))
    with progress(
        "compared",
        lambda n: Figures({"rows": n}, done=n, total=2000),  # type: ignore[arg-type]  # the state is a number here
        log=logging.getLogger("rowcast"),
        log_format=logs.LogFormat.text,
    ) as moved:
        moved(1234)
    assert "compared" in screen.getvalue()
    assert "1,234" in screen.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop_and_the_second_is_the_usual_one(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def database_error(reason: Exception, statement: str | None, *, lost: bool = False) -> exc.OperationalError:
    return exc.OperationalError(statement, {}, reason, connection_invalidated=lost)


def test_errors_become_the_exit_codes_of_the_documentation() -> None:
    codes = {
        ConfigurationError("x"): 2,
        UnreachableError("x"): 3,
        DataError("x"): 1,
        database_error(Exception("connection refused"), None): 3,
        database_error(Exception("gone away"), "SELECT 1", lost=True): 3,
        database_error(Exception("no such table: rowcast_outbox"), "SELECT 1"): 2,
        database_error(Exception(1146, "Table 'shop.rowcast_outbox' doesn't exist"), "SELECT 1"): 2,
    }
    assert {error: f.exit_code for error in codes if (f := exit_codes.to_failure(error))} == codes


def test_a_kafka_error_is_logged_without_its_python_form() -> None:
    from confluent_kafka import KafkaError, KafkaException

    down = exit_codes.to_failure(KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)))
    assert down is not None
    assert down.exit_code == 3
    assert "KafkaError{" not in down.message
    refused = exit_codes.to_failure(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
    assert refused is not None
    assert refused.exit_code == 2


@pytest.mark.parametrize("bug", [ZeroDivisionError(), KeyError("x"), database_error(Exception("syntax"), "SELEC 1")])
def test_a_bug_keeps_its_traceback_and_has_its_own_exit_code(
    bug: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(_invocation: command.Invocation) -> None:
        raise bug

    logs.configure(logs.LogFormat.text, logs.LogLevel.info)
    assert command._run(body, command.Invocation(), {}) == exit_codes.BUG == 70
    assert "Traceback" in capsys.readouterr().err
