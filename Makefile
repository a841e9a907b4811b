# Verbs. What they do is in the tools they call.

PYTHON ?= python3
BIN := .venv/bin
NATIVE := streams/native
CARGO := cargo --locked
# Tests wait more than they work, for sessions to expire above all: two at a time. Not the full faults: several
# workers, brokers and their load at once have brokers time out that nobody killed.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
RUST_SOURCES := $(shell find $(NATIVE) -name target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print)

.PHONY: help venv demo test test-faults lint proto bench clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

venv: .venv/installed  ## .venv with everything built and installed

.venv/installed: pyproject.toml $(RUST_SOURCES)
	@PYTHON=$(PYTHON) .ci/prerequisites.sh build
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'maturin>=1.9,<2'
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release --quiet --extras test
	touch $@

demo: venv  ## the main job on a month of real flights
	@$(BIN)/streams demo

test: venv  ## all tests, on a real Kafka too; three kills per transport
	@PYTHON=$(PYTHON) .ci/prerequisites.sh test
	$(PYTEST)

test-faults: venv  ## all kills, cuts and restarts
	@PYTHON=$(PYTHON) .ci/prerequisites.sh test
	STREAMS_TEST_FAULTS=full $(BIN)/python -m pytest tests/faults

lint: venv  ## what CI checks besides tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(NATIVE) && $(CARGO) fmt --all --check
	cd $(NATIVE) && $(CARGO) clippy --release --all-targets -- --deny warnings

proto: venv  ## the generated modules and the copy that the wheel carries, from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. $(shell find proto/streams -name '*.proto' | sort)
	rm -rf streams/contracts
	cp -R proto streams/contracts

bench: venv  ## every benchmark, on a Kafka of its own; the runs are kept in benchmarks/results (an hour)
	@PYTHON=$(PYTHON) .ci/prerequisites.sh test
	$(BIN)/streams bench all

clean:  ## everything that was made here
	rm -rf .venv .cache $(NATIVE)/target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis streams/*.so
