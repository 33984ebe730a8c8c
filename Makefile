# make demo   install, then the whole chain on real structures
# make test   install, then lint, types and the fast tests
# make test-all   the slow tests too
# make ui     the Prefect and MLflow pages on what the demo left in ./runs

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BASE   := $(VENV)/base
STAMP  := $(VENV)/installed

define NEW_VENV
@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; make PYTHON=python3.12 … names another")'
$(PYTHON) -m venv $(VENV)
endef

.PHONY: install demo test test-all lint ui clean

install: $(STAMP)

# what the demo needs, and no more
$(BASE): pyproject.toml constraints.txt
	$(NEW_VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(STAMP): pyproject.toml constraints.txt tests/oracles/requirements.txt
	$(NEW_VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,production]'
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/oracles --requirement tests/oracles/requirements.txt
	@touch $(BASE) $@

demo: $(BASE)
	$(BIN)/cloud demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 30 -m 'not slow and not gpu'

test-all: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not gpu'

ui: $(BASE)
	$(BIN)/cloud ui

clean:
	rm -rf $(VENV) runs
