# Every target sets up what it needs: a virtual environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help:
	@echo "make cluster   run a real cluster under load, killing and restarting servers"
	@echo "make test      run the whole test suite"
	@echo "make check     ruff, mypy --strict"
	@echo "make clean     remove the virtual environment and build products"

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.PHONY: test
test: $(VENV)/.ready
	$(BIN)/python -m pytest -q tests

.PHONY: check
check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy pyraft io_uv

.PHONY: clean
clean:
	rm -rf $(VENV) build dist *.egg-info
