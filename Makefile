# Everything a developer does. Needs Python 3.11 or newer and nothing else; see CONTRIBUTING.md.

PYTHON ?= python3
BIN := .venv/bin
MADE := .venv/.made
OURS := shared services deploy tests bench
QUICK_FAULTS := $(wildcard tests/fault/test_*.py)

.DEFAULT_GOAL := help
.PHONY: help up test check fault hostile bench containers docs lock clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(MADE)  ## Start Kafka, PostgreSQL, the sandbox and every service; Ctrl-C stops all.
	@$(BIN)/courant up

# deptry first holds the services to the packages that their image installs, then everything to the
# packages that pyproject.toml declares.
check: $(MADE)  ## Check without running anything: format, lint, types, imports, packages, pages, words.
	$(BIN)/ruff format --check $(OURS)
	$(BIN)/ruff check $(OURS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry shared services --optional-dependencies-dev-groups local
	$(BIN)/deptry shared services deploy tests bench --ignore DEP004
	$(BIN)/python -m courant_cli.docs --check
	$(BIN)/python -m courant_cli.words

test: $(MADE)  ## Run the tests, and those fault tests that are quick.
	$(BIN)/pytest -n 2 --max-worker-restart 0 --dist worksteal tests/unit tests/simulation tests/twins tests/contract
	$(BIN)/pytest -n 2 --max-worker-restart 0 --dist loadfile tests/integration
	$(if $(QUICK_FAULTS),$(BIN)/pytest tests/fault -m quick)

fault: $(MADE)  ## Run every fault test: real parts, killed and healed.
	$(BIN)/pytest tests/fault

hostile: $(MADE)  ## Send 20,000 hostile requests to a running stack; HOSTILE_SEED=N repeats a run.
	$(BIN)/pytest tests/hostile -s

bench: $(MADE)  ## Measure how fast the whole stack accepts, sends and answers here.
	$(BIN)/python -m bench

containers: $(MADE)  ## Build the image, bring docker-compose.yml up, send through it. Needs Docker.
	@docker info > /dev/null 2>&1 || { echo "make containers: no Docker daemon answers (docker info)"; exit 1; }
	@docker compose version > /dev/null 2>&1 || { echo "make containers: docker compose version 2 is not installed"; exit 1; }
	deploy/containers/stand-ins.sh
	$(BIN)/pytest tests/containers

docs: $(MADE)  ## Write the generated pages.
	$(BIN)/python -m courant_cli.docs

# Both locks are universal, for Python 3.11 on; pip checks the hashes when it makes .venv. The second
# is what the services' image installs: no extra, no group, and the versions that `make test` ran with.
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --quiet \
	--no-header --no-emit-index-url --no-emit-find-links
lock: $(MADE)  ## Upgrade the packages within pyproject.toml's bounds and write both locks.
	$(COMPILE) --all-extras --group dev --upgrade --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraints requirements.lock --upgrade --output-file requirements-run.lock pyproject.toml

clean:  ## Stop the stack; delete its state, .venv and every tool's cache.
	@if [ -x $(BIN)/courant ]; then $(BIN)/courant down; fi
	rm -rf .venv .courant .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(MADE): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Courant needs Python 3.11 or newer; this is %s. Name another: make PYTHON=python3.12" % sys.version.split()[0])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Courant needs Python with venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(MADE)
