# make demo: everything from nothing, with the bundled data.   make test: the same, then the tests.   make help: the rest.
PYTHON ?= python3
BIN := .venv/bin
DATASET ?= mini
EXPERIMENT ?= smollm2
export DAGSTER_HOME := $(CURDIR)/storage/dagster
export PYTHONWARNINGS := ignore

.PHONY: help setup demo materialize dev test test-slow test-ray check lint picture clean

help:
	@echo "make setup        install into .venv;  the others do so themselves"
	@echo "make demo         train, evaluate and report on the bundled data"
	@echo "make dev          the Dagster UI, at http://localhost:3000"
	@echo "make materialize  every asset of DATASET for EXPERIMENT (default: mini, smollm2)"
	@echo "make test         lint and test (make check: the same);  make lint: without tests"
	@echo "make test-slow    the long tests;  make test-ray: those of Ray, which it installs"
	@echo "make picture      docs/lineage.png anew, of what storage/ holds;  needs Chromium"
	@echo "make clean        remove assets, checkpoints and Dagster's history (not .venv, downloads, feedback)"

setup: .venv/.installed .env

# A constraints file makes the set reproducible; pyproject.toml says what is allowed.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --group dev
	touch $@

# So that a bare `dagster` command in this folder finds the instance.
.env:
	echo "DAGSTER_HOME=$(CURDIR)/storage/dagster" > $@

demo: setup
	@$(MAKE) --no-print-directory materialize DATASET=mini EXPERIMENT=smollm2
	@$(BIN)/t2s report mini/smollm2
	@echo
	@echo "Report with plots: storage/mini/report/smollm2/report.md"
	@echo "Ask it something:  $(BIN)/t2s ask --model mini/smollm2 --ddl 'CREATE TABLE rivers (name TEXT, length_km REAL)' 'how long is the Nile?'"
	@echo "The Dagster UI:    make dev"

# Dagster's own account of each step is DEBUG: the terminal gets what the assets say, the UI keeps both.
QUIET := {"loggers": {"console": {"config": {"log_level": "INFO"}}}}

materialize: setup
	@$(BIN)/dagster asset materialize -m t2s_assets.definitions --select 'group:$(DATASET)' --partition $(EXPERIMENT) --config-json '$(QUIET)'

dev: setup
	$(BIN)/dagster dev -w workspace.yaml

# Two processes of one thread each; conftest.py says which tests stay together.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

# Installs Ray (about 240 MB) beside the rest.
test-ray: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray]'
	T2S_REQUIRE_RAY=1 $(BIN)/python -m pytest -q -m ray

# The README's picture of the lineage, of what storage/ holds. Needs Chromium.
picture: setup
	$(BIN)/python docs/lineage.py --dataset wikisql

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint test

# What people said of answers (storage/<dataset>/feedback) cannot be made again.
clean:
	find storage -mindepth 2 -maxdepth 2 ! -path 'storage/dagster/*' ! -path 'storage/cache/*' ! -name feedback -exec rm -rf {} +
	find storage -mindepth 1 -maxdepth 1 -type d ! -name dagster ! -name cache -empty -delete
	find storage/dagster -mindepth 1 ! -name dagster.yaml -delete
