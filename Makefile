# On a fresh machine with Python 3.11 or newer: `make demo` runs the main job, `make test` the tests.
# Both make the environment they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: install demo test lint docs
install: $(VENV)/installed

# One thread: a model this small is slower on several, and much slower where they are shared.
demo: install
	OMP_NUM_THREADS=1 $(BIN)/modelforge demo

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict
