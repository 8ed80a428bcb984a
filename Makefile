# Every target does all set-up on a machine that has Python 3.11 and nothing else. Stamps in .venv
# remember what is installed, so that a second run starts at once.

PYTHON ?= $(firstword $(shell command -v python3.11 python3))
TORCH := 2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
USER_READY := .venv/.user-ready
DEV_READY := .venv/.dev-ready
FUZZ_READY := .venv/.fuzz-ready

.PHONY: demo test lint bench fuzz chaos docs-test clean

demo: $(USER_READY)
	$(BIN)/syft demo --nodes $(ARGS)

test: $(DEV_READY)
	$(BIN)/pytest $(ARGS)

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_READY)
	$(BIN)/python -m bench $(ARGS)

# Faults at length: tests/chaos with its long tests, and then random faults for ten minutes.
chaos: $(DEV_READY)
	$(BIN)/pytest tests/chaos -m 'long or not long' $(ARGS)
	$(BIN)/python -m tests.chaos.soak --minutes 10

fuzz: $(FUZZ_READY)
	$(BIN)/python -m tests.fuzz.long $(or $(ARGS),100000)

docs-test: $(DEV_READY)
	$(BIN)/pytest tests/docs $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.torch-$(TORCH):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) install torch==$(TORCH)
	touch $@

$(USER_READY): .venv/.torch-$(TORCH) pyproject.toml Makefile
	$(PIP) install --editable '.[demo,nodes]'
	touch $@

$(DEV_READY): .venv/.torch-$(TORCH) pyproject.toml
	$(PIP) install --editable '.[demo,sandbox,nodes,health,ray,dev]'
	touch $@ $(USER_READY)

$(FUZZ_READY): $(DEV_READY)
	$(PIP) install --editable '.[fuzz]'
	touch $@
