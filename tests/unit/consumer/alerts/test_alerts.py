"""Each condition has an alert, which fires once and clears once, and none is lost on the way."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from rowcast.consumer.alerts.channels import Delivery, UndeliveredError, channels, command, webhook
from rowcast.consumer.alerts.conditions import Condition, conditions
from rowcast.consumer.alerts.memory import Alert, AlertMemory
from rowcast.shared.cli.status_document import StatusDocument
from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings

OUTBOX: dict[str, Any] = {
    "rows": 0, "bytes": 0, "oldest_ms": None, "owner": "a", "epoch": 1, "expires_in_ms": 1, "lsn": 1, "next_lsn": 2,
    "leading": True, "standbys": [], "parked": 0, "alarm": None,
}  # fmt: skip
REPLICA: dict[str, Any] = {
    "state": "consistent", "reason": None, "since_ms": 0, "workers": 1, "worker_hosts": [], "owner": "b", "epoch": 1,
            "worker_partitions": [],
    "lsn": 1, "tx": "1", "applied_ts_ms": 1, "records": 0, "records_per_s": None, "behind_ms": 0, "outbox_read": True,
    "verified": None, "topics": {}, "dead_letters": {"transactions": 0, "events": 0, "oldest_ms": None},
}  # fmt: skip


def status(outbox: dict[str, Any] | None = None, replica: dict[str, Any] | None = None, **parts: Any) -> StatusDocument:
    """Return a status without a fault but these. ``parts``: whole parts of the document."""
    outbox, replica = OUTBOX | (outbox or {}), REPLICA | (replica or {})
    document = {"outbox": outbox, "replicas": {"copy": replica}, **parts}
    document |= {"outbox": document.pop("primary", document["outbox"])}
    return StatusDocument.model_validate({"source": "shop", "ok": True, "problems": [], **document})


def settings(**replica: Any) -> Settings:
    options = ReplicaSettings.model_validate({"url": "sqlite://", **replica})
    return Settings(source="shop", replicas={"copy": options}, alerts=AlertSettings(behind=300.0))


LETTERS = {"transactions": 2, "events": 5, "oldest_ms": 1}
VERIFIED = {"at_ms": 1, "verdict": "different", "rows": 9, "differing": 2}
SNAPSHOT = {"table": "public.orders", "state": "failed", "rows": 3, "reason": "no such column"}


@pytest.mark.parametrize(
    ("found", "kind", "subject", "message"),
    [
        (status({"rows": 3, "leading": False}), "no relay", "the outbox", "no relay leads, and 3 rows wait"),
        (status({"rows": 1, "oldest_ms": 61_000}), "outbox age", "the outbox", "has waited for 1 min 1 s"),
        (status({"rows": 100_000}), "outbox rows", "the outbox", "100,000 rows wait"),
        (status({"parked": 2}), "parked transactions", "the outbox", "2 transactions are parked"),
        (status(snapshots=[SNAPSHOT]), "snapshot failed", "table public.orders", "no such column"),
        (status(primary={"error": "no answer"}), "primary unreachable", "the primary", "no answer"),
        (status(replicas={"copy": {"error": "gone"}}), "replica unreachable", "replica copy", "gone"),
        (status(replica={"state": "stopped", "reason": "a row"}), "replica stopped", "replica copy", "a row"),
        (status(replica={"state": "suspect", "reason": "restored"}), "replica suspect", "replica copy", "restored"),
        (status(replica={"workers": 0, "records": 7}), "no worker", "replica copy", "no worker runs, and 7 records"),
        (status(replica={"behind_ms": 301_000}), "replica behind", "replica copy", "a commit of 5 min 1 s ago"),
        (status(replica={"dead_letters": LETTERS}), "dead letters", "replica copy", "lacks 2 transactions (5 events)"),
        (status(replica={"verified": VERIFIED}), "rows differ", "replica copy", "2 rows differed"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_what_is_not_all_right_is_a_condition(found: StatusDocument, kind: str, subject: str, message: str) -> None:
    (condition,) = conditions(settings(), found)
    assert (condition.kind, condition.subject) == (kind, subject)
    assert message in condition.message


def test_nothing_is_wrong_with_a_replica_that_is_behind_on_purpose() -> None:
    assert conditions(settings(), status()) == []
    assert conditions(settings(lag="1h"), status(replica={"behind_ms": 3_800_000})) == []
    quiet = settings().model_copy(update={"alerts": AlertSettings(behind=0, outbox_age=0, outbox_rows=0)})
    late = status({"rows": 10**6, "oldest_ms": 10**6}, {"behind_ms": 10**6})
    assert conditions(quiet, late) == []


A, B = Condition("no worker", "replica a", "3 records wait"), Condition("no worker", "replica b", "none")


def test_an_alert_fires_once_after_its_time_and_clears_once() -> None:
    memory = AlertMemory(30.0)
    assert memory.look([A], 0) == []
    assert memory.look([], 15) == []  # It begins again.
    assert memory.look([A], 20) == []
    more = Condition(A.kind, A.subject, "9 records wait")
    assert memory.look([more, B], 50) == [Alert(more, 20)]
    assert memory.look([A, B], 70) == []
    assert memory.look([B], 80) == [Alert(more, 20, clears=True), Alert(B, 50)]
    assert memory.look([], 90) == [Alert(B, 50, clears=True)]
    assert memory.look([], 95) == []


def test_an_alert_does_not_clear_while_nothing_is_known_of_it() -> None:
    memory = AlertMemory(0.0)
    stopped = conditions(settings(), status({"parked": 1}, {"state": "stopped", "reason": "a row"}))
    assert len(memory.look(stopped, 0)) == 2
    lost = status(primary={"error": "gone"}, replicas={"copy": {"error": "gone"}})
    kinds = [alert.condition.kind for alert in memory.look(conditions(settings(), lost), 10)]
    assert kinds == ["primary unreachable", "replica unreachable"]
    back = memory.look(conditions(settings(), status()), 20)
    assert all(alert.clears for alert in back)
    assert {alert.condition.kind for alert in back} == {
        "parked transactions", "replica stopped", "primary unreachable", "replica unreachable",
    }  # fmt: skip


@contextmanager
def server(answers: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answer requests with these codes, and then with 200. Yield the URL and the accepted documents."""
    accepted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = answers.pop(0) if answers else 200
            if code == 200:
                accepted.append(orjson.loads(body))
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/services/secret", accepted
        http.shutdown()
        thread.join()


def test_a_webhook_gets_each_alert_once_and_in_order() -> None:
    warnings: list[str] = []
    with server([500, 200, 503]) as (url, accepted):
        delivery = Delivery("shop", [webhook(url)], warnings.append)
        assert not delivery.send([Alert(A, 0)])
        assert not delivery.send([Alert(B, 60)])
        assert delivery.send([Alert(A, 0, clears=True)])
    assert [(one["state"], one["subject"]) for one in accepted] == [
        ("firing", "replica a"), ("firing", "replica b"), ("cleared", "replica a"),
    ]  # fmt: skip
    assert accepted[0] == {
        "text": "replica a of source shop: no worker: 3 records wait",
        "state": "firing",
        "source": "shop",
        "kind": "no worker",
        "subject": "replica a",
        "message": "3 records wait",
        "since": "1970-01-01T00:00:00+00:00",
    }
    assert warnings[0] == "1 alerts wait, because the webhook answered 500 Internal Server Error"
    with pytest.raises(UndeliveredError, match="does not answer") as error:
        webhook(url)("shop", Alert(A, 0))
    assert "secret" not in f"{error.value} {error.value.__cause__}"


def test_a_command_gets_the_document_on_its_input(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    save = f"import sys; open({str(kept)!r}, 'w').write(sys.stdin.read())"
    command([sys.executable, "-c", save])("shop", Alert(A, 0))
    assert orjson.loads(kept.read_bytes())["subject"] == "replica a"
    with pytest.raises(UndeliveredError, match="ended with exit code 3: who are you"):
        command([sys.executable, "-c", "import sys; print('who are you', file=sys.stderr); sys.exit(3)"])(
            "shop", Alert(A, 0)
        )
    with pytest.raises(UndeliveredError, match="/no/such/program cannot be started: No such file"):
        command(["/no/such/program"])("shop", Alert(A, 0))


def test_one_channel_that_fails_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    chosen = channels(AlertSettings.model_validate({"command": ["/no/such/program"], "webhook": "http://127.0.0.1:1"}))
    with caplog.at_level(logging.INFO, "rowcast.alerts"):
        assert not Delivery("shop", chosen).send([Alert(A, 0), Alert(A, 0, clears=True)])
    levels = [(record.levelname, record.message.partition(" of source")[0]) for record in caplog.records]
    assert levels[:2] == [("WARNING", "replica a"), ("INFO", "cleared: replica a")]
    assert "2 alerts wait, because /no/such/program cannot be started" in caplog.text
    assert "2 alerts wait, because the webhook does not answer" in caplog.text
