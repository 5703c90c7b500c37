# Everything a developer runs. Needs Python 3.11 or newer and make, nothing else; each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: setup demo test lint bench bench-clients docs clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Headrace needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[broker,monitor,dev]'
	@touch $@

demo: $(SETUP)
	PYTHONHASHSEED=0 $(BIN)/python examples/demo.py

test: $(SETUP)
	$(BIN)/python -m pytest -m 'not full' --numprocesses 2 tests/unit tests/property stream learners monitors
	$(BIN)/python -m pytest -m 'not full' tests/integration tests/faults

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(SETUP)
	$(BIN)/python -m benchmarks.pipeline

bench-clients: $(SETUP)
	$(BIN)/python -m benchmarks.clients

docs: $(SETUP)
	$(BIN)/python -m stream.reference docs/reference

clean:
	rm -rf $(VENV) .headrace build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
