# Everything a contributor needs. Each target makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak check fix bench docs clean

help: ## show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment with everything in it

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(STAMP)

demo: $(STAMP) ## watch real workflows run across three local nodes
	@$(BIN)/skep demo

test: $(STAMP) ## run all tests, in parallel and in random order
	$(BIN)/python -m pytest -n auto --dist worksteal

soak: $(STAMP) ## run the long property tests and drills (minutes)
	$(BIN)/python -m pytest -n auto tests/engine/test_machine.py --hypothesis-profile=soak
	SKEP_DRILL=full $(BIN)/python -m pytest -n 0 tests/recovery tests/testing/chaos

check: $(STAMP) ## lint, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP) ## mend what the linter and the formatter can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure speed and size on this machine
	@$(BIN)/python -m skep.testing.lab.bench

docs: $(STAMP) ## make the generated parts of the documentation anew
	$(BIN)/python docs/generate.py

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
