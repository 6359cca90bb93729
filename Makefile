# On a new machine the first call of each also installs what it needs, into .venv and .cache.
#   make demo     the whole pipeline in one terminal; needs Python alone, no server
#   make test     everything that CI runs: lint, types, and all tests on real servers
#   make bench    the benchmarks on real servers, fsync on
#   make clean    removes all that the other commands have made

PYTHON ?= python3
UV := $(CURDIR)/.cache/uv-tool/bin/uv
BIN := $(CURDIR)/.venv/bin
BIN_SQLALCHEMY20 := $(CURDIR)/.venv-sa20/bin
export UV
# Tests start hundreds of Python processes: none shall compile the libraries anew, whatever the machine's settings are.
export PYTHONDONTWRITEBYTECODE :=

# The folders that tests write into stay in .cache until the next run, those of tests that passed not even so long.
PYTEST_OPTIONS := --basetemp=.cache/pytest -o tmp_path_retention_policy=failed
# Each process has servers of its own. It takes the next file when it is done with one, in the order of conftest.py.
PYTEST_OPTIONS += -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
PYTEST_OPTIONS += $(PYTEST)

# What depends on SQLAlchemy's version.
CAPTURE_TESTS := $(wildcard tests/unit/test_capture*.py tests/integration/test_capture*.py) tests/integration/matrix
CAPTURE_TESTS += $(addprefix tests/integration/,test_before.py test_context.py test_leaves.py)

.PHONY: demo test bench clean lint lint-code lint-format lint-imports format types test-sqlalchemy20 test-all servers

demo: .venv/.synced-demo
	$(BIN)/rowcast demo $(DEMO)

# Each step runs even if one before it failed; the closing line of the full run stands last.
test:
	@$(MAKE) --no-print-directory --keep-going lint types test-sqlalchemy20 test-all

lint: lint-code lint-format lint-imports

lint-code: .venv/.synced
	$(BIN)/ruff check

lint-format: .venv/.synced
	$(BIN)/ruff format --check

lint-imports: .venv/.synced
	$(BIN)/lint-imports

format: .venv/.synced
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/.synced
	$(BIN)/mypy
	cd tests && $(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p servers

test-sqlalchemy20: .venv-sa20/.synced servers
	$(BIN_SQLALCHEMY20)/pytest $(PYTEST_OPTIONS) $(CAPTURE_TESTS)

test-all: .venv/.synced servers
	$(BIN)/pytest $(PYTEST_OPTIONS) tests

servers: .venv/.synced
	cd tests && $(BIN)/python -m servers install

bench: .venv/.synced servers
	$(UV) sync --quiet --frozen --inexact --all-extras --group bench
	cd tests && $(BIN)/python -m servers run --durable -- $(BIN)/python -m benchmarks $(BENCH)

clean:
	[ ! -x $(BIN)/python ] || (cd tests && $(BIN)/python -m servers down)
	rm -rf .venv .venv-sa20 .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	rm -rf rowcast-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The tools and libraries, as uv.lock has them. The demo's are a part of the tests', which --inexact leaves in place.
.venv/.synced-demo: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --inexact --no-group dev --extra relay --extra worker
	touch $@

.venv/.synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --all-extras
	touch $@ .venv/.synced-demo

.venv-sa20/.synced: pyproject.toml uv.lock | $(UV)
	UV_PROJECT_ENVIRONMENT=.venv-sa20 $(UV) sync --quiet --frozen --all-extras --no-group sqlalchemy21 --group sqlalchemy20
	touch $@

$(UV):
	$(PYTHON) -m venv .cache/uv-tool
	.cache/uv-tool/bin/pip install --quiet --disable-pip-version-check 'uv>=0.13,<1'
