# One word per need; `make help` lists them. Only Python 3.11+ and make are required.
PYTHON ?= python3
VENV := .venv/bin
# Tests wait more than they compute: two workers per processor.
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
.DEFAULT_GOAL := help
.PHONY: help install install-dev run demo test test-functions test-faults chaos test-conformance test-browser lint types check bench requirements migrations

help: ## List these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: ## Install what running needs into .venv
	@$(PYTHON) scripts/install.py

install-dev: ## Install what tests and checks need, too
	@$(PYTHON) scripts/install.py --dev

run: install ## Run the whole platform here (PORT=8000, DATA_DIR=.data)
	@exec $(VENV)/python manage.py serve

demo: install ## Deploy the example chat app to the running platform
	@$(VENV)/python examples/demo.py

test: install-dev ## Run every test that needs no service, browser or sandbox
	@$(VENV)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not browser and not conformance and not faults and not functions"

test-functions: install-dev ## Run real functions with every driver, hostile ones too
	@$(VENV)/pytest -n auto --dist loadfile -m functions

test-faults: install-dev ## Kill processes at every arrow of the money protocol, and at random
	@$(VENV)/pytest -n 2 -m faults

chaos: install-dev ## Random kills for SECONDS=1800 (SEED=... repeats one; DATABASE_URL chooses)
	@$(VENV)/python -m tests.faults.chaos --seconds $(or $(SECONDS),1800) $(if $(SEED),--seed $(SEED))

test-conformance: ## Hold the gateway to real clients; writes docs/conformance.md
	@$(PYTHON) scripts/install.py --conformance
	@$(VENV)/pytest -m conformance tests/conformance tests/deployments/drivers

test-browser: install-dev ## Run the browser tests (needs Debian's chromium)
	@$(VENV)/pytest -m browser

lint: install-dev ## Check style and import contracts
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/lint-imports

types: install-dev ## Check types
	@$(VENV)/mypy config gateway deployments billing orgs

check: lint types ## Everything CI runs: lint, types, migrations, tests on SQLite and on PostgreSQL + Redis
	@$(VENV)/python manage.py makemigrations --check --dry-run
	@env -u DATABASE_URL -u REDIS_URL $(MAKE) --no-print-directory test
	@env -u DATABASE_URL -u REDIS_URL $(MAKE) --no-print-directory test-functions
	@$(VENV)/python scripts/require_services.py
	@DATABASE_URL=$${DATABASE_URL:-postgresql://postgres@127.0.0.1:5432/postgres} \
	 REDIS_URL=$${REDIS_URL:-redis://127.0.0.1:6379/9} $(MAKE) --no-print-directory test WORKERS=3
	@env -u DATABASE_URL -u REDIS_URL $(MAKE) --no-print-directory test-faults
	@DATABASE_URL=$${DATABASE_URL:-postgresql://postgres@127.0.0.1:5432/postgres} $(MAKE) --no-print-directory test-faults
	@$(MAKE) --no-print-directory test-browser
	@$(MAKE) --no-print-directory test-conformance

bench: install-dev ## Measure CPU per call against the budgets
	@$(VENV)/python -m bench

requirements: install-dev ## Compile *.in into pinned *.txt with hashes
	@for name in requirements requirements-dev; do \
	  $(VENV)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" \
	    -o $$name.txt $$name.in; done
	@$(VENV)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" \
	  --override requirements-overrides.in -o requirements-conformance.txt requirements-conformance.in
	@$(VENV)/uv pip compile -q --no-deps --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" \
	  -o requirements-model.txt requirements-model.in

migrations: install-dev ## Write migrations for changed models (name them: NAME=...)
	@$(VENV)/python manage.py makemigrations -n $(NAME)
