# `make demo` and `make test` are all a new user needs: each sets up .venv by itself.
PYTHON ?= python3
TORCH ?= torch==2.13.0
OUT ?= demo
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint types unit clean help

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, $(PYTHON) is {sys.version.split()[0]}. Say: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"  # first: what needs torch would otherwise bring the newest build
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/ready ## a federation on this machine; DATA=DIR for an unmodified PTB-XL download
	$(BIN)/fl-server demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: lint types unit ## everything that CI runs

lint: .venv/ready ## ruff and the import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready ## mypy --strict
	$(BIN)/mypy

unit: .venv/ready ## all tests; those with whole federations of real processes one after the other
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --ignore tests/integration
	$(BIN)/pytest tests/integration

clean: ## remove what the demo and the tests wrote
	rm -rf $(OUT) runs .pytest_cache .mypy_cache .ruff_cache
