"""Name the tests of SQLAlchemy that cannot pass with a capture, each with the reason."""

from __future__ import annotations

_TEXT = "looks at the executed text or at SQLAlchemy's plan of it, in which the capture has a RETURNING of the key"
_LISTENERS = "tests an engine without listeners, or counts the calls of listeners or of a mocked driver"
_RECORDER = "records the capture's first question about the table in place of the statement that follows it"
_CACHE = "counts the compiled statements in a cache of its own, in which the capture's statements are too"
_RENAMES = "a listener of the application changes the names of tables in the text: docs/explanation/limits.md"
_AUTOCOMMIT = "changes a captured table in AUTOCOMMIT, which is refused"
_NO_SERVER = "makes an engine for a server that does not run, in which the plugin cannot create the outbox"

EXPECTED: dict[str, str] = {
    "test/dialect/postgresql/test_on_conflict.py::OnConflictTest::test_on_conflict_do_update_bindparam": _TEXT,
    "test/dialect/postgresql/test_query.py::InsertTest::test_autoincrement_insert": _RECORDER,
    "test/dialect/postgresql/test_query.py::InsertTest::test_opt_sequence_insert": _RECORDER,
    "test/dialect/postgresql/test_query.py::InsertTest::test_sequence_insert": _RECORDER,
    "test/dialect/postgresql/test_query.py::InsertTest::test_full_cursor_insertmanyvalues_sql": _TEXT,
    "test/engine/test_execute.py::CompiledCacheTest::test_cache": _CACHE,
    "test/engine/test_execute.py::CompiledCacheTest::test_cache_noleak_on_statement_values": _CACHE,
    "test/engine/test_execute.py::DialectEventTest::test_connect_do_connect": _LISTENERS,
    "test/engine/test_execute.py::DialectEventTest::test_connect_replace_params": _LISTENERS,
    "test/engine/test_execute.py::EngineEventsTest::test_add_event_after_connect": _LISTENERS,
    "test/engine/test_execute.py::EngineEventsTest::test_connection_clslevel_events": _LISTENERS,
    "test/engine/test_execute.py::EngineEventsTest::test_cursor_execute": _LISTENERS,
    "test/engine/test_execute.py::EngineEventsTest::test_force_conn_events_false": _LISTENERS,
    "test/engine/test_execute.py::ExecuteTest::test_generative_engine_event_dispatch_hasevents": _LISTENERS,
    "test/engine/test_execute.py::SetInputSizesTest": _LISTENERS,
    "test/engine/test_parseconnect.py::CreateEngineTest::test_default_driver": _NO_SERVER,
    "test/engine/test_transaction.py::TransactionTest::test_autocommit_isolation_level": _AUTOCOMMIT,
    "test/ext/test_horizontal_shard.py::TableNameConventionShardTest": _RENAMES,
    "test/ext/test_hybrid.py::DMLTest::test_derived_dml_bulk": _RECORDER,
    "test/ext/test_hybrid.py::DMLTest::test_expand_dml_bulk": _RECORDER,
    "test/orm/dml/test_bulk.py::BulkInsertUpdateTest::test_bulk_save_no_defaults": _TEXT,
    "test/orm/dml/test_bulk.py::BulkInsertUpdateTest::test_bulk_save_return_defaults": _TEXT,
    "test/orm/dml/test_bulk.py::BulkIssue6793Test::test_issue_6793": _TEXT,
    "test/orm/dml/test_bulk_statements.py::BulkDMLReturningConcreteInhTest::test_heterogeneous_keys": _TEXT,
    "test/orm/dml/test_bulk_statements.py::BulkDMLReturningJoinedInhTest::test_heterogeneous_keys": _TEXT,
    "test/orm/dml/test_bulk_statements.py::BulkDMLReturningSingleInhTest::test_heterogeneous_keys": _TEXT,
    "test/orm/dml/test_bulk_statements.py::CTETest::test_select_from_insert_cte": _RECORDER,
    "test/orm/dml/test_bulk_statements.py::InsertStmtTest::test_render_nulls": _TEXT,
    "test/orm/test_unitofwork.py::NoRowInsertedTest::test_insert_multi_no_pk_correct_exception": _TEXT,
    "test/orm/test_unitofwork.py::NoRowInsertedTest::test_insert_single_no_pk_correct_exception": _RECORDER,
    "test/orm/test_unitofworkv2.py::EagerDefaultsSettingTest::test_eager_default_setting_inserts": _RECORDER,
    "test/orm/test_unitofworkv2.py::EagerDefaultsSettingTest::test_eager_default_setting_inserts_no_pks": _RECORDER,
    "test/sql/test_insert_exec.py::InsertManyValuesTest::test_insert_returning_values": _TEXT,
}
"""By ``file::class::function``, or by ``file::class`` for all tests of a class."""


def is_expected(name: str) -> bool:
    """Return whether a failure of the test is expected."""
    return name in EXPECTED or name.rpartition("::")[0] in EXPECTED
