# The two commands of a fresh machine: `make run` and `make test`. The environment is .venv in this folder.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-machine check lint types contracts unit e2e proto proto-check bench-gateway clean

run: .venv/.run
	@exec $(BIN)/python -m syshax_embedded run

.venv/.run: pyproject.toml
	@echo "==> making the environment in .venv"
	@$(PYTHON) -c 'import sys; sys.exit("sysHAX needs Python 3.11 or later; set PYTHON=python3.11, say") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[speed]'
	@touch $@

.venv/.dev: .venv/.run
	@echo "==> installing what the checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[speed,dev]'
	@touch $@

test: check e2e

check: lint types contracts proto-check unit

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

contracts: .venv/.dev
	$(BIN)/lint-imports

unit: .venv/.dev
	$(BIN)/pytest

e2e: .venv/.dev
	$(BIN)/python -m syshax_embedded prepare --engine-only
	$(BIN)/pytest tests/e2e

# Needs Go and nginx (apt-get install golang-go nginx).
BENCH_OPTIONS ?= --rounds 3
bench-gateway: .venv/.run
	benchmarks/gateway/run.sh build/bench-gateway $(BIN)/syshaxd $(BENCH_OPTIONS)

clean:
	rm -rf .venv build dist src/*.egg-info
