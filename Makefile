# MachPay: two commands do everything: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
# Processes that share the tests, each with servers and a chain of its own.
WORKERS ?= 2
# What ruff and mypy look at.
SOURCES := apps machpay_site devnet contracts sdk gateway tests examples bench manage.py
TYPED := apps machpay_site devnet contracts sdk/machpay gateway/machpay_gateway examples bench

.DEFAULT_GOAL := help
.PHONY: help demo test lint types fmt bench program program-verify idl requirements clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}'

$(VENV)/.run: requirements.txt sdk/pyproject.toml gateway/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "MachPay needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@test -x $(VENV)/bin/uv || $(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip install --quiet --python $(PY) -r requirements.txt
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps -e ./sdk -e ./gateway
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing test and lint tools ..."
	@$(VENV)/bin/uv pip install --quiet --python $(PY) -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.run ## Run the whole network here, live; ARGS=--once pays 200 calls, settles, compares and exits
	@exec $(PY) -m devnet $(ARGS)

test: $(VENV)/.dev ## Run all tests, end-to-end and browser included; ARGS="tests/ledger -k name" for some
	@$(PY) -m devnet.browser
	@$(PY) -m tests.anchor.install
	@$(PY) -m tests.x402.install
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/.dev ## ruff, import rules and whether migrations match the models
	@$(VENV)/bin/ruff check $(wildcard $(SOURCES))
	@$(VENV)/bin/ruff format --check $(wildcard $(SOURCES))
	@PYTHONPATH=. $(VENV)/bin/lint-imports
	@MACHPAY_PROFILE=demo $(PY) -m devnet.services --data var/lint --profile test run -- $(PY) manage.py makemigrations --check --dry-run

types: $(VENV)/.dev ## mypy, strict
	@DATABASE_URL=postgresql:///types REDIS_URL=redis://127.0.0.1:1 MACHPAY_PROFILE=demo $(VENV)/bin/mypy $(wildcard $(TYPED))

fmt: $(VENV)/.dev ## Format the code
	@$(VENV)/bin/ruff check --fix --exit-zero --quiet $(wildcard $(SOURCES))
	@$(VENV)/bin/ruff format $(wildcard $(SOURCES))

bench: $(VENV)/.dev ## Measure, as ratios against a peer or a limit in the same run
	@for file in bench/[a-z]*.py; do echo "== $$file"; $(PY) $$file $(ARGS) || exit 1; done

program: $(VENV)/.run ## Build the Solana program from source into contracts/artifacts
	@$(PY) -m contracts.build program

program-verify: $(VENV)/.run ## Rebuild the program and compare it with the committed artifact, byte by byte
	@$(PY) -m contracts.build verify

idl: $(VENV)/.run ## Write the program's Anchor IDL, contracts/idl/machpay.json
	@$(PY) -m contracts.idl

requirements: $(VENV)/.run ## Resolve requirements*.in into pinned requirements*.txt
	@$(VENV)/bin/uv pip compile --quiet --upgrade --python-version 3.11 requirements.in -o requirements.txt
	@$(VENV)/bin/uv pip compile --quiet --python-version 3.11 -c requirements.txt requirements-dev.in -o requirements-dev.txt

clean: ## Remove what the demo and tests left under var/, and build output
	@rm -rf var staticfiles contracts/target .mypy_cache .ruff_cache .pytest_cache
