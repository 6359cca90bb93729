"""Define the steps of random programs: statements of Core and of the ORM, on the tables of ``models``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from support.same_results.models import Account, Child, Colour, Engineer, Line, Person
from support.same_results.seen import described_result, plain

STEPS: dict[str, Callable[..., Any]] = {}
TABLES: dict[str, sa.Table] = {str(t.name): t for t in Account.metadata.sorted_tables}
_CONSTRUCTS = {"postgresql": postgresql.insert, "sqlite": sqlite.insert, "mysql": mysql.insert}


@dataclass(frozen=True)
class Step:
    """Name a step, and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    def run(self, session: Session) -> Any:
        """Execute the step, and return what the application sees."""
        # SQLAlchemy writes drawn keys into given rows, and the step is run twice.
        return STEPS[self.name](session, **deepcopy(self.arguments))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


def step(**arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a kind of step, with a strategy for each argument."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        STEPS[name] = function
        STRATEGIES.append(st.fixed_dictionaries(arguments).map(lambda given: Step(name, given)))
        return function

    return add


STRATEGIES: list[st.SearchStrategy[Step]] = []

IDS = st.integers(1, 5)
NAMES = st.sampled_from(["a", "b", "c", "d"])
SCORES = st.one_of(st.none(), st.integers(0, 3))
READS = st.sampled_from(["all", "mappings", "scalars", "first", "unique", "partitions"])


def _rows_of(*, key: st.SearchStrategy[bool], many: bool) -> st.SearchStrategy[Any]:
    """Return rows for ``accounts``, all with the same columns."""
    columns = st.tuples(key, st.sampled_from([("name",), ("name", "score"), ("score",), ("name", "colour", "score")]))

    def rows(chosen: tuple[bool, tuple[str, ...]]) -> st.SearchStrategy[Any]:
        values: dict[str, Any] = {"name": st.one_of(st.none(), NAMES), "score": SCORES, "colour": COLOURS, "id": IDS}
        names = (("id",) if chosen[0] else ()) + chosen[1]
        row = st.fixed_dictionaries({name: values[name] for name in names})
        return st.lists(row, min_size=2, max_size=4) if many else row

    return columns.flatmap(rows)


COLOURS = st.one_of(st.none(), st.sampled_from(Colour))
ONE = _rows_of(key=st.booleans(), many=False)
MANY = _rows_of(key=st.booleans(), many=True)
RETURNS = st.sampled_from(["", "", "id", "name", "all", "label", "defaults", "ordered"])


def _returning(session: Session, statement: Any, what: str) -> Any:
    """Add what the application wants to get back, where the engine can return it."""
    dialect, accounts = session.get_bind().dialect, TABLES["accounts"]
    able = {
        "insert": dialect.insert_returning,
        "update": dialect.update_returning,
        "delete": dialect.delete_returning,
    }[statement.__visit_name__]
    match what:
        case "defaults":
            return statement.return_defaults()
        case "id" if able:
            return statement.returning(accounts.c.id)
        case "name" if able:
            return statement.returning(accounts.c.name)
        case "all" if able:
            return statement.returning(accounts)
        case "label" if able:
            return statement.returning(sa.func.coalesce(accounts.c.name, "-").label("id"), accounts.c.score)
        case "ordered" if able and statement.__visit_name__ == "insert":
            return statement.returning(accounts.c.name, sort_by_parameter_order=True)
        case _:
            return statement


OPTIONS = st.sampled_from([{}, {}, {"preserve_rowcount": True}])


def _execute(session: Session, statement: Any, parameters: Any, read: str, options: Any) -> Any:
    result = session.connection().execute(statement, parameters or {}, execution_options=options)
    return described_result(result, read)


# -- Core: INSERT


@step(row=ONE, in_values=st.booleans(), returns=RETURNS, read=READS, inline=st.booleans(), options=OPTIONS)
def insert_one(session: Session, row: Any, in_values: bool, returns: str, read: str, inline: bool, options: Any) -> Any:
    insert = sa.insert(TABLES["accounts"])
    if inline and not returns:
        insert = insert.inline()
    insert = _returning(session, insert.values(row) if in_values else insert, returns)
    return _execute(session, insert, None if in_values else row, read, options)


@step(rows=MANY, returns=RETURNS, read=READS, options=OPTIONS)
def insert_many(session: Session, rows: Any, returns: str, read: str, options: Any) -> Any:
    return _execute(session, _returning(session, sa.insert(TABLES["accounts"]), returns), rows, read, options)


@step(rows=MANY, returns=RETURNS.filter(lambda name: name not in ("ordered", "defaults")), read=READS, options=OPTIONS)
def insert_multi_values(session: Session, rows: Any, returns: str, read: str, options: Any) -> Any:
    return _execute(
        session, _returning(session, sa.insert(TABLES["accounts"]).values(rows), returns), None, read, options
    )


@step(added=st.integers(0, 20), returns=RETURNS.filter(lambda name: name not in ("ordered", "defaults")), read=READS)
def insert_from_select(session: Session, added: int, returns: str, read: str) -> Any:
    accounts = TABLES["accounts"]
    select = sa.select(accounts.c.score + added).where(accounts.c.score.is_not(None)).order_by(accounts.c.id)
    insert = sa.insert(accounts).from_select(["score"], select)
    return _execute(session, _returning(session, insert, returns), None, read, {})


@step(rows=st.lists(st.fixed_dictionaries({"a": IDS, "b": NAMES}), min_size=1, max_size=3), read=READS)
def insert_lines(session: Session, rows: Any, read: str) -> Any:
    return _execute(session, sa.insert(TABLES["positions"]), rows if len(rows) > 1 else rows[0], read, {})


# -- Core: upserts


CONFLICTS = st.sampled_from(["nothing", "update", "update", "excluded", "insert id", "ignore", "replace"])


def _upsert(session: Session, conflict: str, target: str) -> Any:
    name = session.get_bind().dialect.name
    accounts = TABLES["accounts"]
    insert: Any = _CONSTRUCTS[name](accounts)
    if conflict == "replace":
        return insert.prefix_with("OR REPLACE") if name == "sqlite" else insert.prefix_with("IGNORE", dialect="mysql")
    if name == "mysql":
        match conflict:
            case "update":
                # PyMySQL cannot execute a parameter in this clause with many parameter sets.
                return insert.on_duplicate_key_update(score=accounts.c.score + sa.literal_column("1"))
            case "excluded":
                return insert.on_duplicate_key_update(score=insert.inserted.score)
            case "insert id":
                return insert.on_duplicate_key_update(id=sa.func.last_insert_id(accounts.c.id))
            case _:
                return insert.prefix_with("IGNORE")
    match conflict:
        case "update" | "insert id":
            return insert.on_conflict_do_update(index_elements=[target], set_={"score": accounts.c.score + 1})
        case "excluded":
            return insert.on_conflict_do_update(
                index_elements=[target],
                set_={"score": insert.excluded.score},
                where=accounts.c.score.is_distinct_from(insert.excluded.score),
            )
        case _:
            return insert.on_conflict_do_nothing()


TARGETS = st.sampled_from(["id", "name"])


@step(row=ONE, conflict=CONFLICTS, target=TARGETS, in_values=st.booleans(), returns=RETURNS, read=READS)
def upsert_one(session: Session, row: Any, conflict: str, target: str, in_values: bool, returns: str, read: str) -> Any:
    insert = _upsert(session, conflict, target)
    insert = _returning(session, insert.values(row) if in_values else insert, returns)
    return _execute(session, insert, None if in_values else row, read, {})


@step(rows=MANY, conflict=CONFLICTS, target=TARGETS, returns=RETURNS.filter(lambda n: n != "ordered"), read=READS)
def upsert_many(session: Session, rows: Any, conflict: str, target: str, returns: str, read: str) -> Any:
    return _execute(session, _returning(session, _upsert(session, conflict, target), returns), rows, read, {})


@step(
    rows=MANY,
    conflict=CONFLICTS,
    target=TARGETS,
    returns=RETURNS.filter(lambda name: name not in ("ordered", "defaults")),
    read=READS,
)
def upsert_multi_values(session: Session, rows: Any, conflict: str, target: str, returns: str, read: str) -> Any:
    insert = _upsert(session, conflict, target).values(rows)
    return _execute(session, _returning(session, insert, returns), None, read, {})


# -- Core: UPDATE and DELETE


def _condition(kind: str, number: int) -> Any:
    accounts = TABLES["accounts"]
    match kind:
        case "key":
            return accounts.c.id == number
        case "name":
            return accounts.c.name == "abcde"[number - 1]
        case "score":
            return accounts.c.score >= number - 2
        case "empty":
            return accounts.c.id.in_([])
        case "some":
            return accounts.c.id.in_([number, number + 1])
        case "children":
            return accounts.c.id == sa.select(sa.func.max(TABLES["children"].c.account_id)).scalar_subquery()
        case _:
            return sa.true()


CONDITIONS = st.sampled_from(["key", "name", "score", "empty", "some", "all", "children"])
SETS = st.sampled_from([{"score": 2}, {"score": None}, {"name": "a"}, {"colour": Colour.RED, "score": 1}, {"id": 3}])


@step(kind=CONDITIONS, number=IDS, values=SETS, returns=RETURNS, read=READS, options=OPTIONS)
def update(session: Session, kind: str, number: int, values: Any, returns: str, read: str, options: Any) -> Any:
    statement = sa.update(TABLES["accounts"]).where(_condition(kind, number)).values(values)
    return _execute(session, _returning(session, statement, returns), None, read, options)


@step(kind=CONDITIONS, number=IDS, added=st.integers(0, 10), read=READS)
def update_by_expression(session: Session, kind: str, number: int, added: int, read: str) -> Any:
    accounts = TABLES["accounts"]
    statement = sa.update(accounts).where(_condition(kind, number)).values(score=accounts.c.score + added)
    return _execute(session, statement, None, read, {})


@step(
    rows=st.lists(st.fixed_dictionaries({"key": IDS, "score": SCORES}), min_size=1, max_size=3),
    by=st.sampled_from(["id", "score"]),
    read=READS,
)
def update_many(session: Session, rows: Any, by: str, read: str) -> Any:
    accounts = TABLES["accounts"]
    statement = sa.update(accounts).where(accounts.c[by] == sa.bindparam("key"))
    return _execute(session, statement, rows, read, {})


@step(kind=CONDITIONS, number=IDS, returns=RETURNS.filter(lambda n: n != "defaults"), read=READS, options=OPTIONS)
def delete(session: Session, kind: str, number: int, returns: str, read: str, options: Any) -> Any:
    statement = sa.delete(TABLES["accounts"]).where(_condition(kind, number))
    return _execute(session, _returning(session, statement, returns), None, read, options)


@step(keys=st.lists(IDS, min_size=1, max_size=3), read=READS)
def delete_many(session: Session, keys: Any, read: str) -> Any:
    statement = sa.delete(TABLES["accounts"]).where(TABLES["accounts"].c.id == sa.bindparam("key"))
    return _execute(session, statement, [{"key": key} for key in keys], read, {})


@step(a=IDS, b=NAMES, to=NAMES, read=READS)
def update_composite_key(session: Session, a: int, b: str, to: str, read: str) -> Any:
    lines = TABLES["positions"]
    return _execute(session, sa.update(lines).where(lines.c.a == a, lines.c.b == b).values(b=to), None, read, {})


# -- the ORM

_OBJECTS: dict[str, Callable[[], Any]] = {
    "account": Account,
    "named account": lambda: Account(name="b", score=1),
    "account with key": lambda: Account(id=2, colour=Colour.BLUE),
    "account with children": lambda: Account(children=[Child(), Child(text="x")]),
    "person": lambda: Person(name="p"),
    "engineer": Engineer,
    "line": lambda: Line(a=1, b="a"),
}


@step(kinds=st.lists(st.sampled_from(sorted(_OBJECTS)), min_size=1, max_size=4))
def add(session: Session, kinds: Any) -> Any:
    objects = [_OBJECTS[kind]() for kind in kinds]
    session.add_all(objects)
    session.flush()
    return [plain(one) for one in objects]


@step(number=st.integers(0, 2), score=SCORES, child=st.booleans())
def modify(session: Session, number: int, score: Any, child: bool) -> Any:
    accounts = session.scalars(sa.select(Account).order_by(Account.id)).all()
    for account in accounts[number:]:
        account.score = score
        if child:
            account.children.append(Child(text="y"))
    session.flush()
    return [plain(account) for account in accounts]


@step(number=st.integers(0, 2), orphan=st.booleans())
def remove(session: Session, number: int, orphan: bool) -> Any:
    accounts = session.scalars(sa.select(Account).order_by(Account.id)).all()
    for account in accounts[number:]:
        if orphan:
            account.children[:] = account.children[1:]
        else:
            session.delete(account)
    session.flush()
    return [sa.inspect(account).deleted for account in accounts]


@step(rows=MANY, returns=st.sampled_from(["", "model", "column", "ordered"]), strategy=st.sampled_from(["auto", "raw"]))
def orm_insert(session: Session, rows: Any, returns: str, strategy: str) -> Any:
    statement: Any = sa.insert(Account)
    if session.get_bind().dialect.insert_returning:
        match returns:
            case "model":
                statement = statement.returning(Account)
            case "column":
                statement = statement.returning(Account.name)
            case "ordered":
                statement = statement.returning(Account.score, sort_by_parameter_order=True)
    options = {"dml_strategy": strategy} if strategy != "auto" else {}
    result = session.execute(statement, rows, execution_options=options)
    return described_result(result, "all")


@step(names=st.lists(NAMES, min_size=1, max_size=3), returns=st.booleans())
def orm_insert_engineers(session: Session, names: Any, returns: bool) -> Any:
    statement: Any = sa.insert(Engineer)
    if returns and session.get_bind().dialect.insert_returning:
        statement = statement.returning(Engineer.id, Engineer.language, sort_by_parameter_order=True)
    return described_result(session.execute(statement, [{"name": n, "language": n} for n in names]), "all")


SYNCHRONIZE = st.sampled_from(["auto", "fetch", "evaluate", False])


@step(score=SCORES, threshold=st.integers(0, 3), synchronize=SYNCHRONIZE, returns=st.booleans())
def orm_update(session: Session, score: Any, threshold: int, synchronize: Any, returns: bool) -> Any:
    loaded = session.scalars(sa.select(Account).order_by(Account.id)).all()
    statement: Any = sa.update(Account).where(Account.score >= threshold).values(score=score)
    if returns and session.get_bind().dialect.update_returning:
        statement = statement.returning(Account.score, Account.twice)
    result = session.execute(statement, execution_options={"synchronize_session": synchronize})
    return described_result(result, "all"), [plain(account) for account in loaded]


@step(threshold=st.integers(0, 3), synchronize=SYNCHRONIZE)
def orm_delete(session: Session, threshold: int, synchronize: Any) -> Any:
    loaded = session.scalars(sa.select(Account).order_by(Account.id)).all()
    statement = sa.delete(Account).where(Account.score >= threshold)
    result = session.execute(statement, execution_options={"synchronize_session": synchronize})
    return described_result(result, "all"), [sa.inspect(account).deleted for account in loaded]


@step(rows=st.lists(st.fixed_dictionaries({"id": IDS, "score": SCORES}), min_size=1, max_size=3))
def orm_update_by_key(session: Session, rows: Any) -> Any:
    return described_result(session.execute(sa.update(Account), rows), "all")


@step(name=NAMES)
def orm_update_engineers(session: Session, name: str) -> Any:
    statement = sa.update(Engineer).where(Engineer.language != name).values(language=name)
    return described_result(session.execute(statement), "all")


@step(keys=st.lists(IDS, min_size=1, max_size=3, unique=True), name=NAMES)
def orm_update_engineers_by_key(session: Session, keys: Any, name: str) -> Any:
    statement = sa.update(Engineer).values(name=sa.func.lower(name), language=sa.func.upper(name))
    return described_result(session.execute(statement, [{"id": key} for key in keys]), "all")


@step(rows=MANY, defaults=st.booleans(), nulls=st.booleans())
def bulk_insert_mappings(session: Session, rows: Any, defaults: bool, nulls: bool) -> Any:
    session.bulk_insert_mappings(sa.inspect(Account), rows, return_defaults=defaults, render_nulls=nulls)
    return plain(rows)


@step(kinds=st.lists(st.sampled_from(["account", "engineer", "line", "named account"]), max_size=3))
def bulk_save_objects(session: Session, kinds: Any) -> Any:
    objects = [_OBJECTS[kind]() for kind in kinds]
    session.bulk_save_objects(objects, return_defaults=True)
    return [plain(one) for one in objects]


@step(rows=st.lists(st.fixed_dictionaries({"id": IDS, "version": st.just(1), "score": SCORES}), max_size=3))
def bulk_update_mappings(session: Session, rows: Any) -> Any:
    session.bulk_update_mappings(sa.inspect(Account), rows)
    return None


@step(number=IDS)
def merge(session: Session, number: int) -> Any:
    merged = session.merge(Account(id=number, name="abcde"[number - 1]))
    session.flush()
    return plain(merged)
