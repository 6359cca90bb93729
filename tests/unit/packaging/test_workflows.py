"""Check the workflows, hooks and forms of the repository as far as possible without GitHub."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.project import ROOT

WORKFLOWS = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))

# YAML 1.1 reads the key `on` as a boolean.
ON = True


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for file, workflow in WORKFLOWS.items():
        for name, job in workflow["jobs"].items():
            yield file, name, job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for file, name, job in jobs():
        for step in job["steps"]:
            yield f"{file}: {name}", step


def commands(text: str) -> list[str]:
    return [word for call in re.findall(r"\bmake ([\w. -]+)", text) for word in call.split()]


def test_there_is_a_workflow_for_changes_and_one_for_releases() -> None:
    assert set(WORKFLOWS) == {"ci.yml", "release.yml"}


def test_every_make_target_that_a_workflow_calls_exists() -> None:
    called = {target for _, step in steps() for target in commands(step.get("run", ""))}
    called |= {entry["target"] for entry in WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["include"]}
    steps_of_test = re.findall(r"\(EACH_STEP\) (?:--\S+ )*(.+?) \|\|", (ROOT / "Makefile").read_text("utf-8"))
    all_steps = " ".join(steps_of_test).split()
    assert "test-all" in all_steps
    assert {"audit", "docs", "sbom", "servers", "coverage", *all_steps} <= called
    assert called <= TARGETS


def test_the_matrix_has_the_python_versions_of_the_classifiers() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    prefix = "Programming Language :: Python :: "
    versions = [c.removeprefix(prefix) for c in classifiers if re.fullmatch(rf"{prefix}3\.\d+", c)]
    matrix = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == versions
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"


def test_the_matrix_has_a_target_for_each_version_of_sqlalchemy() -> None:
    matrix = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]
    assert [entry["sqlalchemy"] for entry in matrix["include"] if "python" not in entry] == matrix["sqlalchemy"]
    assert {entry.get("python", "3.11") for entry in matrix["include"]} <= set(matrix["python"])
    groups = {name for name in PROJECT["dependency-groups"] if name.startswith("sqlalchemy")}
    assert {f"sqlalchemy{version.replace('.', '')}" for version in matrix["sqlalchemy"]} == groups


def test_the_closing_job_needs_every_other_job() -> None:
    ci = WORKFLOWS["ci.yml"]["jobs"]
    assert set(ci["passed"]["needs"]) == ci.keys() - {"passed"}
    assert ci["passed"]["steps"][0]["run"].count("success") == len(ci) - 1


@pytest.mark.parametrize(("where", "step"), [(where, step) for where, step in steps() if "uses" in step])
def test_every_action_is_pinned_by_its_major_version_at_least(where: str, step: dict[str, Any]) -> None:
    assert re.fullmatch(r"[\w./-]+@(v\d[\w.]*|release/v\d+|[0-9a-f]{40})", step["uses"]), where


@pytest.mark.parametrize(("where", "step"), [(where, step) for where, step in steps() if "run" in step])
def test_no_command_contains_text_that_an_outsider_can_choose(where: str, step: dict[str, Any]) -> None:
    for expression in re.findall(r"\$\{\{(.*?)\}\}", step["run"]):
        assert expression.split(".")[0].strip() in {"matrix", "join(needs"}, where


@pytest.mark.parametrize(("where", "job"), [(f"{file}: {name}", job) for file, name, job in jobs()])
def test_every_job_ends_after_a_time(where: str, job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 60, where


def test_only_the_jobs_that_need_it_may_write_anything() -> None:
    assert WORKFLOWS["ci.yml"]["permissions"] == {"contents": "read"}
    assert WORKFLOWS["release.yml"]["permissions"] == {}
    writing = {
        name: {right for right, kind in job["permissions"].items() if kind == "write"}
        for _, name, job in jobs()
        if "permissions" in job
    }
    assert writing == {"build": set(), "attest": {"attestations", "id-token"}, "publish": {"id-token"}}


def test_a_checkout_leaves_no_credentials_behind() -> None:
    for where, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, where


def test_a_release_is_built_attested_and_published_from_a_tag_without_a_token() -> None:
    release = WORKFLOWS["release.yml"]
    assert list(release[ON]) == ["push"]
    assert list(release[ON]["push"]) == ["tags"]
    publish = release["jobs"]["publish"]
    assert set(publish["needs"]) == {"build", "attest"}
    assert publish["environment"] == {"name": "pypi"}
    assert not [step for _, step in steps() if "secrets." in str(step)]
    assert "make sbom" in str(release["jobs"]["build"])
    attestations = re.findall(r"attest-[\w-]+", str(release["jobs"]["attest"]))
    assert attestations == ["attest-build-provenance", "attest-sbom"]


def test_a_new_commit_stops_the_run_of_a_pull_request_and_never_a_release() -> None:
    assert "pull_request" in WORKFLOWS["ci.yml"]["concurrency"]["cancel-in-progress"]
    assert WORKFLOWS["release.yml"]["concurrency"]["cancel-in-progress"] is False


def test_the_servers_are_cached_under_a_key_that_changes_with_them() -> None:
    caches = [step["with"] for _, step in steps() if step.get("uses", "").startswith("actions/cache@")]
    (key,) = {cache["key"] for cache in caches if cache["path"] == ".cache/servers"}
    patterns = re.findall(r"'([^']+)'", key)
    assert patterns
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)


def test_the_hooks_name_programs_and_files_of_the_project() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    for hook in hooks:
        for word in hook["entry"].split():
            if "/" in word and not word.startswith((".venv/", "\\")):
                assert (ROOT / word).exists(), hook["id"]
    (subject,) = [hook for hook in hooks if hook["id"] == "commit-subject"]
    assert re.search(subject["entry"], "Relay: renew the lease\n\nBecause …")
    assert not re.search(subject["entry"], "x" * 73)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*_*.yml")), ids=lambda path: path.name)
def test_the_issue_forms_are_complete(path: Any) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"].get("label") for field in form["body"] if field["type"] != "markdown")
