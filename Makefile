# The two commands of a fresh machine: `make run` and `make test`. The environment is .venv in this folder.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run env man completion test test-faults test-machine test-all check lint types contracts unit unit-core unit-shell unit-shell-a-m unit-shell-n-z e2e engine e2e-shared e2e-own proto proto-check bench-gateway bench-placement clean

run: .venv/.run
	@exec $(BIN)/python -m syshax_embedded run

# What `python3 cli.py` and `python3 main.py` use.
env: .venv/.run

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

# `make -j2 -O check` runs what does not depend on each other at once.
check: lint types contracts proto-check unit

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

contracts: .venv/.dev
	$(BIN)/lint-imports

unit: unit-shell unit-core

unit-core: .venv/.dev
	$(BIN)/pytest tests/core

# In two halves of about the same length, which `make -j2` runs at once.
unit-shell: unit-shell-a-m unit-shell-n-z

unit-shell-a-m unit-shell-n-z: unit-shell-%: .venv/.dev
	$(BIN)/pytest tests/shell/test_[$*]*.py

# What people use as clients of an endpoint: for tests, in an environment of their own.
.PHONY: clients
clients: build/clients/.done
build/clients/.done:
	@echo "==> installing clients"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'anthropic>=2,<3' 'langchain-openai>=1,<2' 'litellm>=1,<2' 'openai>=3,<4'
	@touch $@

# In two halves of about the same length, which `make -j2` runs at once: tests that share one daemon, and those with
# instances of their own.
E2E_SHARED := $(patsubst %,tests/e2e/test_%.py,clients failure offload openai_api parity several_models)
e2e: e2e-shared e2e-own

engine: .venv/.dev build/clients/.done
	$(BIN)/python -m syshax_embedded prepare --engine-only

e2e-shared: engine
	$(BIN)/pytest $(E2E_SHARED)

e2e-own: engine
	$(BIN)/pytest tests/e2e $(addprefix --ignore=,$(E2E_SHARED))

# Stubs come from the oldest supported generator: they load under newer libraries, while newer stubs don't load under older ones.
PROTOC_ENV := build/protoc
PROTOS := $(wildcard proto/syshaxd/api/v1/*.proto)
protoc = $(PROTOC_ENV)/bin/python -m grpc_tools.protoc -Iproto --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS)

$(PROTOC_ENV)/.done:
	@echo "==> installing the generator of the gRPC stubs"
	@$(PYTHON) -m venv $(PROTOC_ENV)
	@$(PROTOC_ENV)/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.60.*' 'setuptools<81'
	@touch $@

proto: $(PROTOC_ENV)/.done
	$(call protoc,src)

proto-check: $(PROTOC_ENV)/.done
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(call protoc,build/stubs)
	@diff -u -r --exclude=__init__.py --exclude=__pycache__ src/syshaxd/api/v1 build/stubs/syshaxd/api/v1 \
	    || { echo "The gRPC stubs in src/syshaxd/api/v1 are not those of proto/: run \`make proto\` and commit the result." >&2; exit 1; }

# For packages: build/man/PROGRAM.SECTION and build/completion/{bash,zsh,fish}/... DOCS_PYTHON is one that has what sysHAX needs.
DOCS_PYTHON ?= $(BIN)/python
man completion: $(if $(filter $(BIN)/python,$(DOCS_PYTHON)),.venv/.run)
	PYTHONPATH=src $(DOCS_PYTHON) packaging/$@.py build/$@

include packaging/packages.mk

# A real daemon over simulated instances, under load and faults; the table of docs/reliability.md goes to FAULTS_TABLE.
# `FAULTS_SCALE=full` takes the numbers of that page, and half an hour; FAULTS_SEED repeats what was drawn at random.
# `FAULTS_SECURE=1` lets the load have TLS and an API key with limits; the hostile clients are left out then.
FAULTS_SCALE ?= small
FAULTS_TABLE ?= build/faults.md
test-faults: .venv/.dev build/vllm-router/.done build/schemathesis/.done
	FAULTS_SCALE=$(FAULTS_SCALE) FAULTS_TABLE=$(FAULTS_TABLE) $(BIN)/pytest $(if $(FAULTS_SECURE),$(addprefix tests/faults/test_,bodies.py kills.py load.py operators.py soak.py),tests/faults)

# Requests by an OpenAPI document, for a test.
.PHONY: schemathesis
schemathesis: build/schemathesis/.done
build/schemathesis/.done:
	@echo "==> installing schemathesis"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'schemathesis==4.32.5'
	@touch $@

# A router that was made for several vLLM servers: it stands in front of two syshaxd in a test, and beside one in a benchmark.
.PHONY: vllm-router
vllm-router: build/vllm-router/.done
build/vllm-router/.done:
	@echo "==> installing vllm-router"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'vllm-router==0.1.17'
	@touch $@

# Needs root: it installs what it lacks (qemu). MACHINE_ARCH=aarch64 emulates an Arm server instead. Also in two halves.
MACHINE_ARCH ?= x86_64
test-machine: machine-containers machine-package

.PHONY: machine-setup machine-containers machine-package
machine-setup: .venv/.dev
	MAKEFLAGS= tests/machine/setup.sh $(MACHINE_ARCH)

machine-containers: machine-setup engine
	$(BIN)/pytest tests/machine/docker

machine-package: machine-setup
	MACHINE_ARCH=$(MACHINE_ARCH) $(BIN)/pytest tests/machine/package tests/machine/numa tests/machine/shells tests/machine/browser

# All tests, those that take long and rarely break too, with more examples and a longer soak.
test-all: export PYTEST_ADDOPTS := -m "" --hypothesis-profile=thorough
test-all: export FAULTS_SOAK_S := 60
test-all: test test-faults test-machine

# Needs Go and nginx (apt-get install golang-go nginx).
BENCH_OPTIONS ?= --rounds 3
bench-gateway: .venv/.run
	benchmarks/gateway/run.sh build/bench-gateway $(BIN)/syshaxd $(BENCH_OPTIONS)

# Thousands of streams at once on one core; BENCH_OPTIONS='--streams 1000 --rates 5000 --off', say.
.PHONY: bench-streams
bench-streams: private BENCH_OPTIONS =
bench-streams: .venv/.run
	benchmarks/gateway/run.sh build/bench-gateway $(BIN)/syshaxd --streams $(BENCH_OPTIONS)

# Over simulated instances; with BENCH_OPTIONS='--url http://127.0.0.1:8010 --model NAME' against a syshaxd that runs.
bench-placement: private BENCH_OPTIONS =
bench-placement: .venv/.run
	$(BIN)/python benchmarks/placement/replay.py $(BENCH_OPTIONS)

clean:
	rm -rf .venv build dist src/*.egg-info
