# Everything a developer runs. Needs Python 3.11 or newer and make, nothing else; each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: setup demo demo-live screenshots test lint bench bench-clients docs dashboards clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Headrace needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[broker,monitor,s3,parquet,dev]'
	@touch $@

demo: $(SETUP)
	PYTHONHASHSEED=0 $(BIN)/python examples/demo.py

demo-live: $(SETUP)
	@$(BIN)/python examples/demo_live.py

screenshots: $(SETUP)
	$(BIN)/python examples/demo_live.py --port 0 --screenshots docs/images

test: $(SETUP)
	$(BIN)/python -m pytest -m 'not full' --numprocesses 2 tests/unit tests/property stream learners monitors deploy
	$(BIN)/python -m pytest -m 'not full and not alone' --numprocesses 3 tests/integration tests/faults
	$(BIN)/python -m pytest -m 'not full' --numprocesses 2 --dist loadfile tests/browser
	$(BIN)/python -m pytest -m alone tests/faults

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

dashboards: $(SETUP)
	$(BIN)/python -m deploy.grafana.build deploy/grafana/dashboards

clean:
	rm -rf $(VENV) .headrace build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
