# Everything starts from nothing but Python >= 3.11 and make. `make help` lists the commands.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
SAM := .venv-sam/bin
LAMBDA := .venv-lambda/bin
BENCH := .venv-bench/bin
CHECKOV := .venv-checkov/bin
AUDIT := .venv-audit/bin
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export SAM_CLI_TELEMETRY := 0

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# ---------------------------------------------------------------------------------------------- environment
# The locks are complete: without --no-deps the pip of Python 3.11 takes coverage[toml] for something that they lack.
$(BIN)/python:
	@python=$${PYTHON:-$$(tools/find-python)} || exit 1; \
	echo "==> environment in $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)

$(VENV)/.local: requirements/local.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what the local stack needs (once, about half a minute)"
	@$(PIP_INSTALL) --no-deps --require-hashes -r requirements/local.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.local
	@echo "==> installing what tests and checks need (once, about half a minute)"
	@$(PIP_INSTALL) --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

$(SAM)/.installed: requirements/sam.txt | $(BIN)/python
	@echo "==> installing the SAM command line into .venv-sam (once, about a minute)"
	@$(BIN)/python -m venv .venv-sam
	@$(SAM)/python -m pip install -qq --no-input --no-deps --require-hashes -r requirements/sam.txt
	@touch $@

$(CHECKOV)/.installed: requirements/checkov.txt | $(BIN)/python
	@echo "==> installing checkov into .venv-checkov (once, about a minute)"
	@$(BIN)/python -m venv .venv-checkov
	@$(CHECKOV)/python -m pip install -qq --no-input --no-deps --require-hashes -r requirements/checkov.txt
	@touch $@

$(AUDIT)/.installed: requirements/audit.txt | $(BIN)/python
	@echo "==> installing pip-audit into .venv-audit (once)"
	@$(BIN)/python -m venv .venv-audit
	@$(AUDIT)/python -m pip install -qq --no-input --no-deps --require-hashes -r requirements/audit.txt
	@touch $@

$(BENCH)/.installed: requirements/bench.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what is measured and compared into .venv-bench (once, about a minute)"
	@$(BIN)/python -m venv .venv-bench
	@$(BENCH)/python -m pip install -qq --no-input --no-deps --require-hashes -r requirements/bench.txt
	@$(BENCH)/python -m pip install -qq --no-input --no-deps --no-build-isolation --editable .
	@touch $@

$(LAMBDA)/.installed: requirements/lambda.txt
	@python=$$(tools/find-python 13) || exit 1; \
	echo "==> installing Lambda's runtime client into .venv-lambda (once)"; \
	$$python -m venv --clear .venv-lambda
	@$(LAMBDA)/python -m pip install -qq --no-input --no-deps --require-hashes --only-binary :all: -r requirements/lambda.txt
	@touch $@

# ------------------------------------------------------------------------------------------------------ local
.PHONY: demo
demo: $(VENV)/.local ## see it work: a run with its rows, then one that is killed and recovered
	@$(BIN)/python -m tools.local demo

.PHONY: dev
dev: $(VENV)/.local ## the whole system on http://127.0.0.1:3000 (PORT, DATABASE_URL, LOOPS_DIR, STEPS_DIR, TRUST_ACTOR_HEADER)
	@$(BIN)/python -m tools.local dev

.PHONY: github
github: $(VENV)/.local ## what behaves as GitHub does, on http://127.0.0.1:3100 (PORT), to try loops/github-delivery with
	@$(BIN)/python -m tests.github

.PHONY: sql
sql: $(VENV)/.local ## a psql prompt on the rows of the running `make dev`
	@$(BIN)/python -m tools.local sql

.PHONY: verify
verify: $(VENV)/.local ## is a running system what this checkout says? (URL, DATABASE_URL; else that of `make dev`)
	@$(BIN)/python -m tools.verify

.PHONY: openapi
openapi: $(VENV)/.dev ## write docs/openapi.json, the contract for machines
	@$(BIN)/python -m tools.openapi

.PHONY: load
load: $(VENV)/.local ## fill the database of `make dev`, or DATABASE_URL, with history (ISSUES, RUNS, DAYS, SEED, FORCE)
	@$(BIN)/python -m tools.load

.PHONY: console
console: $(VENV)/.local ## the console of a deployed API on http://127.0.0.1:3030, signed with your credentials (API_URL, PORT)
	@$(BIN)/python -m tools.console

.PHONY: loop-check
loop-check: $(VENV)/.local ## validate and draw the loops of LOOPS_DIR; FACTS=file.json: an issue's way (LOOP, STATE)
	@$(BIN)/python -m tools.loop_check

# ------------------------------------------------------------------------------------------------ tests, checks
.PHONY: test
test: $(VENV)/.dev $(SAM)/.installed ## every test that needs neither Docker nor AWS (ARGS="-k walk": some; TEST_DATABASE_URL)
	@rm -f .coverage .coverage.*
	$(BIN)/pytest --ignore=tests/e2e --numprocesses=auto --maxprocesses=4 --cov --cov-report= $(ARGS)
ifeq ($(strip $(ARGS)),)
	$(BIN)/coverage report --include='*/loop_runner/run_store.py' --show-missing --fail-under=100
endif

.PHONY: e2e
e2e: $(LAMBDA)/.installed $(VENV)/.dev $(SAM)/.installed ## the functions as SAM builds them, under Lambda's runtime; no Docker (ARGS)
	$(SAM)/sam validate --lint
	$(BIN)/pytest tests/e2e $(ARGS)

.PHONY: bench
bench: $(BENCH)/.installed $(LAMBDA)/.installed $(SAM)/.installed ## what a run costs, beside the floor and others: docs/performance.md (QUICK=1: a minute or two, kept nowhere)
	@$(BENCH)/python -m benchmarks $(if $(QUICK),--quick)

.PHONY: bench-scale
bench-scale: $(VENV)/.dev ## what calls cost at a million runs and ten: docs/scale.md; an hour, 25 GB (LEVELS, ROUNDS, FOLDER, RESULT)
	@$(BIN)/python -m benchmarks.scale

.PHONY: screenshots
screenshots: $(VENV)/.dev ## the pictures of docs/images, of a stack of their own; needs a Chromium (CHROMIUM)
	@$(BIN)/python -m tools.screenshots

.PHONY: soak
soak: $(VENV)/.local ## callers for DURATION seconds (60) while processes are killed and the database restarts
	@$(BIN)/python -m tools.soak

.PHONY: check
check: $(VENV)/.dev $(SAM)/.installed $(CHECKOV)/.installed ## formatting, lint, types, direction of imports, template, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/squawk migrations/*.sql migrations/functions/*.sql
	$(SAM)/cfn-lint template.yaml
	$(CHECKOV)/checkov --config-file .checkov.yaml

# --strict: a package that the service does not know, or a service that does not answer, is no clean bill.
.PHONY: audit
audit: $(AUDIT)/.installed ## known vulnerabilities of what is deployed; asks a service on the internet
	$(AUDIT)/pip-audit --strict --require-hashes --disable-pip --requirement layers/loop_runner/requirements.txt \
		--requirement functions/github_steps/requirements.txt

.PHONY: lock
lock: $(VENV)/.local ## pin the newest dependencies that pyproject.toml allows, with their hashes
	@$(PIP_INSTALL) uv
	tools/lock

.PHONY: clean
clean: ## remove environments, builds and caches; the data in .local stays
	rm -rf $(VENV) .venv-sam .venv-lambda .venv-checkov .venv-audit .venv-bench .aws-sam .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# ------------------------------------------------------------------------------------------------------ build
ARCH ?= arm64
MACHINE_arm64 := aarch64
MACHINE_x86_64 := x86_64
MACHINE = $(or $(MACHINE_$(ARCH)),$(error ARCH is $(ARCH): it must be arm64 or x86_64))

.PHONY: build
build: $(VENV)/.local $(SAM)/.installed ## what is deployed, built and checked in .aws-sam/ARCH/build (ARCH=arm64, or x86_64)
	@$(BIN)/python -m tools.build $(ARCH)

# `sam build` calls these, wherever it was started: it must be told ARCH, the template's parameter does not come here.
# Without the newer platform tag pip would quietly take an older psycopg.
INSTALL_WHEELS = python3.13 -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: --no-compile \
	--implementation cp --python-version 3.13 --platform manylinux_2_28_$(MACHINE) --platform manylinux2014_$(MACHINE)

.PHONY: build-GithubStepsFunction
build-GithubStepsFunction:
	$(INSTALL_WHEELS) --target "$(ARTIFACTS_DIR)" --requirement functions/github_steps/requirements.txt
	rm -rf "$(ARTIFACTS_DIR)/bin"
	cp -R functions/github_steps/app.py functions/github_steps/github_steps "$(ARTIFACTS_DIR)/"
	find "$(ARTIFACTS_DIR)" -name __pycache__ -prune -exec rm -r {} +
	python3.13 -m compileall -q --invalidation-mode unchecked-hash -s "$(ARTIFACTS_DIR)" -p /var/task "$(ARTIFACTS_DIR)"

.PHONY: build-LoopRunnerLayer
build-LoopRunnerLayer:
	$(INSTALL_WHEELS) --target "$(ARTIFACTS_DIR)/python" --requirement layers/loop_runner/requirements.txt
	rm -rf "$(ARTIFACTS_DIR)/python/bin"
	cp -R layers/loop_runner/loop_runner "$(ARTIFACTS_DIR)/python/"
	cp -R loops migrations docs/openapi.json layers/loop_runner/certs "$(ARTIFACTS_DIR)/"
	find "$(ARTIFACTS_DIR)" -name __pycache__ -prune -exec rm -r {} +
	python3.13 -m compileall -q --invalidation-mode unchecked-hash -s "$(ARTIFACTS_DIR)" -p /opt "$(ARTIFACTS_DIR)/python"
