# All targets share one virtual environment, which the first one creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test matrix check format clean

help:  ## list the targets
	@grep -hE '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: $(VENV)/.installed  ## create the virtual environment and install hf-ft (about 3 minutes, 6 GB)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: install  ## fine-tune the model that ships here: no Hub access, a few minutes
	$(BIN)/python recipes/quickstart.py --output_dir runs/quickstart --overwrite_output_dir

test: install  ## run the tests (CPU, no network; about 25 minutes on 2 cores)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST)

matrix: install  ## test every architecture; writes the table of docs/architectures.md to runs/matrix
	rm -rf runs/matrix
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 HF_FT_FACTS=runs/matrix \
		$(BIN)/python -m pytest tests/models/test_matrix.py --matrix -n 2 --dist loadgroup -q -r fE
	$(BIN)/python -m tests.support.architectures runs/matrix --write runs/matrix/architectures.md

check: install  ## lint, check format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## apply the format and lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the outputs of runs and tests (not the virtual environment)
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
