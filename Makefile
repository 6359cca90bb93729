# On a new machine, the first call of a command also installs its tools into .venv and .cache.
#   make demo     the whole pipeline in one terminal, with Python alone and no server
#   make test     everything that CI runs: lint, types, and all tests on real servers
#   make test-quick   lint, types, unit tests, and the capture on SQLite, without a server
#   make campaign     the long campaigns in full, for hours
#   make chaos MINUTES=30 [SEED=1]   faults of every kind at random moments, and no consistent replica may be wrong
#   make test-drivers   the matrix of the capture on every driver
#   make acceptance-apps   large programs that nobody here wrote, captured and mirrored
#   make coverage     all tests once, with the covered lines of each module
#   make bench    the benchmarks on real servers, fsync on
#   make docs     the documentation as a site, in .cache/docs/site
#   make clean    remove everything that the other commands have created

PYTHON ?= python3
UV := $(CURDIR)/.cache/uv-tool/bin/uv
BIN := $(CURDIR)/.venv/bin
BIN_SQLALCHEMY20 := $(CURDIR)/.venv-sa20/bin
export UV
# Tests start hundreds of Python processes. The processes must reuse compiled libraries, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

# The full run waits for servers much of its time, so it has two processes more than the machine has processors.
MORE_PROCESSES = 0
test-all coverage: MORE_PROCESSES = 2
PROCESSES = $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + $(MORE_PROCESSES)))")
# The folders of failed tests stay in .cache until the next run. The folders of passed tests are removed immediately.
PYTEST_OPTIONS = --basetemp=.cache/pytest -o tmp_path_retention_policy=failed
# Each process has separate servers, and takes the next file after a finished file, in the order of conftest.py.
PYTEST_OPTIONS += -n $(PROCESSES) --dist=loadfile --no-loadscope-reorder
# The log lists the slowest tests.
PYTEST_OPTIONS += --durations=30 --durations-min=1
PYTEST_OPTIONS += $(PYTEST)

# Test the parts that depend on SQLAlchemy's version: listeners, statements and compiled SQL, on two engines.
# tests/README.md gives the reasons.
CAPTURE_TESTS := tests/unit/producer/capture tests/integration/matrix tests/integration/instrumentation/test_engines.py
CAPTURE_TESTS += $(addprefix tests/integration/capture/test_,$(addsuffix .py,\
	async before_images bulk_update cascades chosen_rows drivers engine_class masking_and_filters missing_rows same_results \
	sessions statement_targets stored_keys strictness transaction_context transactions))
CAPTURE_TESTS += -k "not mariadb and not mysql and not newest_postgresql and not huge"

# Test the parts that depend on PostgreSQL's version: the drain, triggers, the relay's reads and the worker's writes. The
# matrix runs relay and worker. tests/README.md gives the reasons.
NEWEST_POSTGRESQL_TESTS := $(addprefix tests/integration/, matrix triggers/test_capture.py \
	$(addprefix capture/test_, bulk_update.py commit_pipelining.py))

# Test on SQLite only, because no server starts. The ignored file builds the wheel.
QUICK_TESTS := --without-servers tests/unit tests/api tests/integration/capture
QUICK_TESTS += --ignore=tests/unit/packaging/test_wheel.py -k "not huge"

# The drivers that SQLAlchemy names so, besides psycopg, PyMySQL and sqlite3 of `make test`.
DRIVERS := psycopg_async psycopg2 asyncpg pg8000 mysqlconnector aiomysql asyncmy aiosqlite mysqldb

.PHONY: api-baseline audit chaos demo test bench docs docs-reference sbom clean lint lint-code lint-format lint-imports format types test-sqlalchemy20 test-newest-postgresql test-all test-drivers test-quick campaign coverage servers acceptance-apps programs all-programs

demo: .venv/.synced-demo
	$(BIN)/rowcast demo $(DEMO)

# Each step runs even if an earlier step failed. The summary of the full run comes last. mypy has one process, so it runs
# beside tests.
EACH_STEP = --no-print-directory --keep-going
test:
	@failed=0; \
	$(MAKE) $(EACH_STEP) --jobs=2 --output-sync=line lint types test-sqlalchemy20 || failed=1; \
	$(MAKE) $(EACH_STEP) test-newest-postgresql test-all || failed=1; \
	exit $$failed

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

# Record the public API for the comparison in tests/api. Run this after an intended change of the API.
api-baseline: .venv/.synced
	cd tests && $(BIN)/python -m api.public_api

test-sqlalchemy20: .venv-sa20/.synced servers
	$(BIN_SQLALCHEMY20)/pytest $(PYTEST_OPTIONS) $(CAPTURE_TESTS)

test-newest-postgresql: .venv/.synced servers
	$(BIN)/pytest $(PYTEST_OPTIONS) --newest-postgresql $(NEWEST_POSTGRESQL_TESTS)

test-all: .venv/.synced servers programs
	$(BIN)/pytest $(PYTEST_OPTIONS) tests

test-quick: lint types .venv/.synced
	$(BIN)/pytest $(PYTEST_OPTIONS) $(QUICK_TESTS)

# mysqlclient is compiled on the library of Debian's package libmariadb-dev, so only this command installs it.
test-drivers: .venv/.synced servers
	$(UV) pip install --quiet --python $(BIN)/python 'mysqlclient>=2.2,<3'
	@failed=0; for driver in $(DRIVERS); do \
	echo "driver $$driver"; $(BIN)/pytest $(PYTEST_OPTIONS) --driver $$driver tests/integration/matrix || failed=1; \
	done; exit $$failed

# Capture programs that nobody here wrote, on their own database, each with replicas of three kinds.
acceptance-apps: .venv/.synced servers all-programs
	$(BIN)/pytest $(PYTEST_OPTIONS) --campaign tests/acceptance/test_foreign_programs.py

campaign: .venv/.synced servers all-programs
	$(BIN)/pytest $(PYTEST_OPTIONS) --timeout=0 --campaign -m campaign tests

# Disks can be full only for root, and the clock of a server can jump only with Debian's package libfaketime.
MINUTES = 30
chaos: .venv/.synced servers
	cd tests && $(BIN)/python -m chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(CHAOS)

# Measure the lines that the test process covers, without its child processes.
coverage: .venv/.synced servers programs
	$(BIN)/pytest $(PYTEST_OPTIONS) --cov --cov-report=term-missing:skip-covered --cov-report=html:.cache/coverage tests

servers: .venv/.synced
	cd tests && $(BIN)/python -m servers install

# Install the foreign programs, each into an environment of its own.
programs: .cache/programs/apscheduler/.synced .cache/programs/jupyterhub/.synced

all-programs: programs $(addprefix .cache/programs/,$(addsuffix /.synced, airflow dagster mlflow prefect))

.cache/programs/%/.synced: tests/acceptance/programs/%/requirements.txt pyproject.toml | .venv/.synced
	$(UV) venv --quiet --clear --python $(BIN)/python $(@D)
	VIRTUAL_ENV=$(CURDIR)/$(@D) $(UV) pip install --quiet --requirement $< --editable '.[all]'
	touch $@

bench: .venv/.synced servers
	$(UV) sync --quiet --frozen --inexact --all-extras --group bench
	cd tests && $(BIN)/python -m servers run --durable -- $(BIN)/python -m benchmarks $(BENCH)

# The site generator empties the folder .cache beside its configuration, so it works on a copy.
docs: .venv/.synced
	$(UV) sync --quiet --frozen --inexact --all-extras --group docs
	$(BIN)/python docs/generate.py --check
	rm -rf .cache/docs && mkdir -p .cache/docs
	cp -R docs mkdocs.yml .cache/docs/
	cd .cache/docs && $(BIN)/zensical build --strict

# Generate parts of docs/reference from the code.
docs-reference: .venv/.synced
	$(BIN)/python docs/generate.py

# List the packages of an installation with all extras, in the versions of uv.lock, as CycloneDX.
sbom: $(UV)
	mkdir -p build
	$(UV) export --quiet --frozen --no-default-groups --group sqlalchemy21 --all-extras --format cyclonedx1.5 --output-file build/rowcast.cdx.json

# Compare the locked libraries with the known advisories. Needs an index that has them: a mirror of PyPI without them
# answers "Dependency not found on PyPI". AUDIT="-s osv" asks the database OSV.
audit: $(UV)
	mkdir -p build
	$(UV) export --quiet --frozen --no-default-groups --group sqlalchemy21 --all-extras --no-emit-project --format requirements-txt --output-file build/locked.txt
	$(UV) tool run --from 'pip-audit>=2.9,<3' pip-audit --strict $(AUDIT) --disable-pip --require-hashes --requirement build/locked.txt

clean:
	[ ! -x $(BIN)/python ] || (cd tests && $(BIN)/python -m servers down)
	rm -rf .venv .venv-sa20 .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	rm -rf rowcast-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Install tools and libraries in the versions of uv.lock. The demo needs only some of the tests' packages, so --inexact
# keeps installed packages.
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
