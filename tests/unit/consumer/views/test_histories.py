"""Whatever happens at the source, a replica has exactly the rows of its view."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rowcast.shared.config.view_settings import ViewSettings
from rowcast.shared.tables.shape import TableShape
from support.direct_replica import DirectReplica
from support.kafka_source import Line, column, shape

TEAM = shape("team", column("code", "string"), unique=[("code",)])
PERSON = shape(
    "person",
    column("team_id"),
    column("name", "string"),
    column("age", "int32"),
    column("gone", "boolean"),
    column("secret", "string"),
    unique=[("name",)],
    refers=[("team_id", "team")],
)
PAYMENT = shape("payment", column("person_id"), refers=[("person_id", "person")])
VIEWS = {
    "public.person": ViewSettings(
        without=("secret",), name="adult", rename={"name": "nick"}, where="age >= 18 and not gone"
    ),
    "public.team": ViewSettings(mask={"code": "prefix:2"}),
}

Row = dict[str, Any]
Tables = dict[str, dict[int, Row]]


class History:
    """Random transactions that the constraints of the source allow."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = count()
        self.tables: Tables = {"team": {}, "person": {}, "payment": {}}

    def transaction(self) -> list[Line]:
        """Change some rows. Return the events."""
        lines: list[Line] = []
        for _ in range(self._random.randint(1, 6)):
            step = self._random.choice(
                [self._insert, self._insert, self._update, self._update, self._delete, self._swap]
            )
            lines += step()
        return lines

    def _put(self, op: str, name: str, row: Row) -> Line:
        self.tables[name][row["id"]] = row
        return op, name, dict(row)

    def _person(self, number: int, name: str) -> Row:
        team = self._random.choice([None, *self.tables["team"]])
        age, gone = self._random.choice([None, 3, 17, 18, 60]), self._random.random() < 0.3
        return {"id": number, "team_id": team, "name": name, "age": age, "gone": gone, "secret": f"s{number}"}

    def _insert(self) -> list[Line]:
        name, number = self._random.choice(list(self.tables)), self._random.randint(1, 12)
        if number in self.tables[name]:
            return []
        if name == "team":
            return [self._put("c", name, {"id": number, "code": f"code{number}"})]
        if name == "person":
            return [self._put("c", name, self._person(number, f"n{next(self._names)}"))]
        people = list(self.tables["person"])
        return [self._put("c", name, {"id": number, "person_id": self._random.choice(people)})] if people else []

    def _update(self) -> list[Line]:
        if not self.tables["person"]:
            return []
        row = self._random.choice(list(self.tables["person"].values()))
        return [self._put("u", "person", self._person(row["id"], row["name"]))]

    def _swap(self) -> list[Line]:
        """Exchange the unique values of two rows by way of a third value."""
        people = list(self.tables["person"].values())
        if len(people) < 2:
            return []
        one, other = self._random.sample(people, 2)
        return [
            self._put("u", "person", {**one, "name": "between"}),
            self._put("u", "person", {**other, "name": one["name"]}),
            self._put("u", "person", {**one, "name": other["name"]}),
        ]

    def _delete(self) -> list[Line]:
        name = self._random.choice(list(self.tables))
        free = [number for number in self.tables[name] if not self._is_referred(name, number)]
        if not free:
            return []
        number = self._random.choice(free)
        del self.tables[name][number]
        return [("d", name, {"id": number})]

    def _is_referred(self, name: str, number: int) -> bool:
        referring = {"team": ("person", "team_id"), "person": ("payment", "person_id")}
        if name not in referring:
            return False
        other, key = referring[name]
        return any(row[key] == number for row in self.tables[other].values())


def expected(tables: Tables) -> dict[str, list[tuple[Any, ...]]]:
    adults = [row for row in tables["person"].values() if (row["age"] or 0) >= 18 and not row["gone"]]
    return {
        "adult": sorted((row["id"], row["team_id"], row["name"], row["age"]) for row in adults),
        "team": sorted((row["id"], row["code"][:2]) for row in tables["team"].values()),
        "payment": sorted((row["id"], row["person_id"]) for row in tables["payment"].values()),
    }


COLUMNS = {"adult": ("id", "team_id", "nick", "age"), "team": ("id", "code"), "payment": ("id", "person_id")}


def stored(direct: DirectReplica) -> dict[str, list[tuple[Any, ...]]]:
    return {name: sorted(direct.database.rows(name, *names)) for name, names in COLUMNS.items()}


def opened(tmp_path: Path, *shapes: TableShape) -> DirectReplica:
    direct = DirectReplica(f"sqlite:///{tmp_path}/replica.db", view=VIEWS)
    direct.add(*shapes)
    direct.replica.prepare()
    return direct


@pytest.mark.parametrize("seed", range(4))
def test_a_replica_has_the_rows_of_its_view_after_every_transaction(tmp_path: Path, seed: int) -> None:
    history, direct = History(seed), opened(tmp_path, TEAM, PERSON, PAYMENT)
    for number in range(60):
        # The replica loads by key at first.
        by_key = number < 10
        if number == 10:
            assert direct.replica.become_consistent()
        if lines := history.transaction():
            direct.apply(*lines, by_key=by_key)
        if not by_key:
            assert stored(direct) == expected(history.tables), number
        if number == 40:
            direct.restart()
