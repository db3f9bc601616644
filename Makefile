# Everything runs in .venv, which the first command creates; later ones install nothing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# test processes, one thread each
JOBS ?= 2

.PHONY: demo test test-all test-lowest format lint type docs check clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "era-rl needs Python 3.11 or newer, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version || $(BIN)/python -m ensurepip  # a venv of uv has no pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/era-demo

test: $(STAMP)
	$(BIN)/pytest -n $(JOBS)

test-all: $(STAMP)
	$(BIN)/pytest -n $(JOBS) -m "slow or not slow" --timeout=1800

test-lowest: $(STAMP)
	$(BIN)/uv venv --allow-existing .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n $(JOBS)

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

type: $(STAMP)
	$(BIN)/pyright

# into site/; a broken link or reference is an error
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint type docs

clean:
	rm -rf .venv .venv-lowest runs site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
