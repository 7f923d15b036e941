# Needs make and Python 3.11 or newer; everything else goes into .venv, at the versions of constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

# Threads of torch and of parallel tests would fight for the same cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help setup test lint types demo bench format clean

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "energynet needs Python 3.11 or newer, and there is no '$(PYTHON)';" \
	       "install one, or name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "energynet needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
	       "name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The variable reaches the isolated build of energynet itself as well, which -c does not.
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

test: $(STAMP)  ## Run all that CI runs: lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n $(WORKERS)

lint: $(STAMP)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(STAMP)  ## Learn handwritten digits; look into runs/demo
	$(BIN)/energynet run digits --name demo --overwrite

bench: $(STAMP)  ## Compare speeds within one run
	$(BIN)/pytest benchmarks --benchmark-only -n 0 -o python_functions="bench_*" --benchmark-disable-gc -q

clean:  ## Remove what can be made again, .venv too; keeps runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .benchmarks
	find energynet tests -name __pycache__ -type d -prune -exec rm -rf {} +
