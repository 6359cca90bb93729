"""What a promotion refuses, and what a promoted replica refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rowcast.consumer import replica_status
from rowcast.consumer.promotion.promote import PromotionOptions, PromotionResult, promote
from rowcast.consumer.promotion.readiness import NotReadyError
from rowcast.consumer.promotion.report import report
from rowcast.consumer.reading import topic_metadata
from rowcast.consumer.replica.promoted import PromotedError
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RetriableError, UnreachableError
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import IdentityShape, IndexShape, Masking, TableShape
from servers import Broker
from support.command_line import rowcast
from support.kafka_source import Source, column, shape
from support.rebuilds import rebuilt
from support.worker_runs import NAME, Database, settings_for, work_once

ITEM = shape("item", column("n"), engine="sqlite")


def promoted(settings: Settings, *, dry_run: bool = False, **options: Any) -> PromotionResult:
    return promote(settings, NAME, PromotionOptions(dry_run=dry_run, **options), stop=threading.Event())


@pytest.fixture
def settings(new_database: Callable[[str], str], kafka: Broker, source_name: str) -> Settings:
    return settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"))


def followed(settings: Settings, *shapes: TableShape) -> Source:
    """Publish shapes with a row each, and apply everything."""
    source = Source(str(settings.kafka["bootstrap.servers"]), settings.source)
    source.add(*shapes)
    rows = [{column.name: 1 if column.name in ("id", "n") else None for column in one.columns} for one in shapes]
    source.transaction(*(("c", one.name, row) for one, row in zip(shapes, rows, strict=True)))
    work_once(settings)
    return source


def test_a_replica_that_no_worker_has_followed_is_not_promoted(settings: Settings) -> None:
    path = Path(settings.replica(NAME).url.get_secret_value().removeprefix("sqlite:///"))
    with pytest.raises(ConfigurationError, match="there is no file"):
        promoted(settings)
    assert not path.exists()
    path.touch()
    with pytest.raises(NotReadyError, match="no worker has ever run"):
        promoted(settings)


def test_a_replica_that_lacks_records_is_promoted_only_with_their_number(settings: Settings) -> None:
    source = followed(settings, ITEM)
    source.transaction(("c", "item", {"id": 2, "n": 2}))
    lost = replica_status(settings, NAME).records
    assert lost > 0
    with pytest.raises(NotReadyError, match=f"--accept-lost {lost}"):
        promoted(settings)
    with pytest.raises(NotReadyError, match=f"--accept-lost {lost}"):
        promoted(settings, accept_lost=str(lost - 1))
    assert replica_status(settings, NAME).state == "consistent"
    assert promoted(settings, accept_lost=str(lost)).lost == f"{lost} records of the topics are lost"
    assert replica_status(settings, NAME).state == "promoted"


def test_without_an_answer_of_kafka_a_replica_is_promoted_only_on_request(
    settings: Settings, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_metadata, "KAFKA_TIMEOUT_S", 1.0)
    followed(settings, ITEM)
    cut_off = settings.model_copy(update={"kafka": {"bootstrap.servers": f"127.0.0.1:{closed_port}"}})
    with pytest.raises(UnreachableError, match="--accept-lost unknown"):
        promoted(cut_off)
    assert "nobody knows" in promoted(cut_off, accept_lost="unknown").lost


@pytest.mark.parametrize("state", ["loading", "suspect"])
def test_a_replica_that_does_not_vouch_for_its_rows_is_never_promoted(settings: Settings, state: str) -> None:
    followed(settings, ITEM)
    Database(settings.replica(NAME).url.get_secret_value()).execute(f"UPDATE rowcast_replica SET state = '{state}'")
    with pytest.raises(NotReadyError, match=f"it is {state}"):
        promoted(settings, accept_lost="unknown")


@pytest.mark.parametrize("text", ["-1", "some", "1.5"])
def test_an_impossible_number_of_records_is_refused(settings: Settings, text: str) -> None:
    followed(settings, ITEM)
    with pytest.raises(ConfigurationError, match="--accept-lost"):
        promoted(settings, accept_lost=text)


def test_a_replica_with_masked_values_is_promoted_only_on_request(settings: Settings) -> None:
    masked = replace(column("n", "text"), masking=Masking(mask="x"))
    source = Source(str(settings.kafka["bootstrap.servers"]), settings.source)
    source.add(shape("item", masked, engine="sqlite"))
    source.transaction(("c", "item", {"id": 1, "n": "x"}))
    work_once(settings)
    with pytest.raises(NotReadyError, match=r"public\.item\.n is masked"):
        promoted(settings)
    assert promoted(settings, accept_partial=True).timeline == 2


def test_a_replica_whose_table_is_gone_is_promoted_only_on_request(settings: Settings) -> None:
    followed(settings, ITEM, shape("other", column("n"), engine="sqlite"))
    replica = Database(settings.replica(NAME).url.get_secret_value())
    replica.execute("DROP TABLE other")
    with pytest.raises(NotReadyError, match=r"table public\.other is gone"):
        promoted(settings)
    assert [one.name for one in promoted(settings, accept_partial=True).shapes] == ["item"]
    assert "other" not in replica.tables()


def test_workers_rebuilds_and_comparisons_refuse_a_promoted_replica(settings: Settings, tmp_path: Path) -> None:
    source = followed(settings, ITEM)
    promoted(settings)
    source.transaction(("c", "item", {"id": 2, "n": 2}))
    for use in (work_once, rebuilt):
        with pytest.raises(PromotedError, match=r"remove \[replicas.copy\]"):
            use(settings)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    assert replica.rows("item") == [(1, 1)]
    assert replica_status(settings, NAME).reason is None
    with pytest.raises(PromotedError, match="primary now"):
        promoted_verify(settings)


def promoted_verify(settings: Settings) -> None:
    from rowcast.consumer.verification.comparison import verify
    from rowcast.shared.config.database_settings import PrimarySettings

    url = settings.replica(NAME).url.get_secret_value()
    verify(settings.model_copy(update={"primary": PrimarySettings(url=url)}), NAME)


def test_a_worker_refuses_a_replica_whose_promotion_was_interrupted(settings: Settings) -> None:
    followed(settings, ITEM)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    replica.execute("UPDATE rowcast_replica SET state = 'promoting'")
    with pytest.raises(PromotedError, match="rowcast promote copy"):
        work_once(settings)
    assert not promoted(settings).was_done
    assert replica_status(settings, NAME).state == "promoted"


def test_two_promotions_at_once_end_with_one(settings: Settings) -> None:
    followed(settings, ITEM)
    results: list[PromotionResult | RetriableError] = []

    def run() -> None:
        try:
            results.append(promoted(settings))
        except RetriableError as error:
            results.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(results) == 2
    assert [result.was_done for result in results if isinstance(result, PromotionResult)] in ([False], [False, True])
    assert promoted(settings).was_done


NUMBERED = shape("item", replace(column("id", nullable=False), identity=IdentityShape()), column("n"), engine="sqlite")


def test_a_dry_run_changes_nothing(settings: Settings) -> None:
    followed(settings, NUMBERED)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    before = replica.tables(), replica.rows("sqlite_master", "sql"), replica.rows("rowcast_replica")
    result = promoted(settings, dry_run=True)
    assert any('"id" INTEGER' in statement for statement in result.statements)
    assert (replica.tables(), replica.rows("sqlite_master", "sql"), replica.rows("rowcast_replica")) == before


def test_texts_of_a_message_become_no_sql(settings: Settings) -> None:
    """A default is quoted or only shown, and the names of indexes and sequences are quoted."""
    evil = "x'); DROP TABLE item; --"
    hostile = shape(
        "item",
        replace(column("n"), default=ServerDefault("other", evil)),
        replace(column("t", "text"), default=ServerDefault("string", evil)),
        engine="sqlite",
    )
    identity = replace(hostile.columns[0], identity=IdentityShape(sequence=evil))
    hostile = replace(
        hostile, columns=(identity, *hostile.columns[1:]), indexes=(IndexShape('i"; DROP TABLE item; --', ("n",)),)
    )
    followed(settings, hostile)
    notes = promoted(settings).notes
    assert any(evil in note for note in notes)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    replica.execute("INSERT INTO item (n) VALUES (7)")
    assert replica.rows("item") == [(1, 1, None), (2, 7, evil)]


def test_a_table_with_columns_and_constraints_of_the_users_keeps_them(settings: Settings) -> None:
    followed(settings, NUMBERED)
    replica = Database(settings.replica(NAME).url.get_secret_value())
    replica.execute("ALTER TABLE item ADD COLUMN mine TEXT CHECK (mine <> 'x')")
    notes = promoted(settings).notes
    assert [note for note in notes if "It lacks: INTEGER PRIMARY KEY of id" in note]
    assert "CHECK (mine <> 'x')" in str(replica.rows("sqlite_master", "sql"))


def test_the_output_has_no_characters_that_a_terminal_obeys(settings: Settings) -> None:
    odd = replace(column("n"), default=ServerDefault("other", "\x1b[2Jnow"))
    followed(settings, shape("item", odd, engine="sqlite"))
    text = "\n".join(report(settings, promoted(settings), dry_run=False))
    assert "has the default ?[2Jnow" in text


def test_the_output_says_what_comes_next_in_80_columns(settings: Settings) -> None:
    followed(settings, ITEM)
    others = {**settings.replicas, "other": ReplicaSettings(url="sqlite:///other.db")}
    settings = settings.model_copy(update={"replicas": others})
    lines = list(report(settings, promoted(settings), dry_run=False))
    text = "\n".join(lines)
    assert "rowcast relay --new-timeline 2" in text
    assert "rowcast rebuild other" in text
    assert all(len(line) <= 80 or " " not in line.strip() for line in lines)


def test_status_and_check_show_a_promoted_replica(settings: Settings, tmp_path: Path) -> None:
    followed(settings, ITEM)
    promoted(settings)
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{settings.source}"\n[kafka]\n"bootstrap.servers" = "{settings.kafka["bootstrap.servers"]}"\n'
        f'[replicas.copy]\nurl = "{settings.replica(NAME).url.get_secret_value()}"\n'
    )
    done = rowcast("status", cwd=tmp_path)
    assert done.returncode == 1
    assert "replica copy is a primary now" in done.stdout
    assert "promoted" in rowcast("check", cwd=tmp_path).stdout
