"""The sections of views are complete, and a mistake names the key and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcast.shared.config.settings import load
from rowcast.shared.errors import ConfigurationError

HEAD = 'source = "shop"\n[replicas.eu]\nurl = "sqlite:///eu.db"\n'
SECTION = '[replicas.eu.view."public.customer"]\n'


def test_a_view_is_read_from_the_file_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rowcast.toml"
    file.write_text(HEAD + SECTION + 'schema = "crm"\nrename = { email = "mail" }\nmask = { phone = "null" }\n')
    view = load(file).replica("eu").view["public.customer"]
    assert (view.schema_, view.rename, view.mask) == ("crm", {"email": "mail"}, {"phone": "null"})
    assert load(file).masked()["replicas"]["eu"]["view"]["public.customer"]["schema"] == "crm"
    file.write_text(HEAD)
    monkeypatch.setenv("ROWCAST_REPLICAS__EU__VIEW", '{"public.customer": {"schema": "crm", "columns": ["id"]}}')
    view = load(file).replica("eu").view["public.customer"]
    assert (view.schema_, view.columns) == ("crm", ("id",))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[replicas.eu.view.customer]\nname = "x"',
            "the view of customer matches no table. Name it as events do: schema.",
        ),
        ("colums = []", "unknown key. Did you mean 'columns'?"),
        ('shema = "x"', "unknown key. Did you mean 'schema'?"),
        ('mask = { email = "md5" }', "column email has the unknown mask 'md5'. The masks are `hash`, `null`, `fixed:T"),
        ('mask = { email = "prefix:0" }', "unknown mask 'prefix:0'"),
        ('mask = { email = "hash" }', "the view of public.customer masks by hash, which needs a secret mask_key"),
        ('columns = ["id"]\nwithout = ["x"]', "columns and without exclude each other. Choose one"),
        ('name = "rowcast_table"', "'rowcast_table' would be a table of rowcast. Choose another name"),
        ('rename = { a = "c", b = "c" }', "rename gives two columns the name c"),
        ('name = ""', "at least 1 character"),
    ],
)
def test_a_mistake_in_a_view_is_named(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "rowcast.toml"
    file.write_text(f"{HEAD}{SECTION}{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert fault in str(caught.value)


def test_a_view_of_topics_of_debezium_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rowcast.toml"
    file.write_text(f'format = "debezium"\n{HEAD}{SECTION}name = "client"\n')
    with pytest.raises(ConfigurationError, match=r"replicas\.eu: a view needs the topics of rowcast's relay"):
        load(file)
    file.write_text(f"{HEAD}mask_key = 'short'\n")
    with pytest.raises(ConfigurationError, match="at least 16") as caught:
        load(file)
    assert "short'" not in str(caught.value)
