.DEFAULT_GOAL := help
.PHONY: help install servers run test bench lint docs lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(shell find bridge downsample -name '_*.pyx' -o -name '_*.pxd')

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with the locked packages and the compiled core

$(VENV)/.packages: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(STAMP): $(VENV)/.packages pyproject.toml setup.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

servers: ## fill .servers/ with the real servers that the tests run against
	@tests/servers/build.sh

run: install ## start the bridge with embedded defaults
	@$(BIN)/prombridge serve

test: install servers ## all tests
	$(BIN)/python -m pytest

bench: install servers ## ingest and reads beside a real Prometheus: BENCH='-n 3 --results FILE'
	$(BIN)/python -m benchmarks.ingest $(BENCH)
	$(BIN)/python -m benchmarks.reads $(BENCH)
	$(BIN)/python -m benchmarks.reads day --flushes 24 $(BENCH)

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks

docs: install ## the option tables of docs/configuration.md
	$(BIN)/python -m docs.make_reference

lock: install ## refresh requirements.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --extra dev -o requirements.lock pyproject.toml

clean: ## remove what was built
	rm -rf $(VENV) .servers build *.egg-info
	find bridge downsample -name "_*.c" -delete -o -name "_*.cpp" -delete -o -name "*.so" -delete
