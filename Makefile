# Two commands for a fresh machine: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUNTIME := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-dev

.PHONY: demo test check lint sim clean

demo: $(RUNTIME)
	@$(BIN)/backtalk demo --record demo.wav --report demo.json

test: $(DEVELOP)
	@$(BIN)/python -m pytest

check: lint test sim

lint: $(DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

sim: $(DEVELOP)
	$(BIN)/python -m tests.sim.run --turns 10000

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "backtalk needs Python 3.11 or later; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "python3-venv is missing; try: sudo apt-get install python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("portaudio") is None)' \
		|| { echo "libportaudio2 is missing; try: sudo apt-get install libportaudio2" >&2; exit 2; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing backtalk and what it needs (about 1.6 GB the first time, a minute or two)"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing backtalk with its test tools (about 2 GB the first time, a minute or two)"
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo.wav demo.json
