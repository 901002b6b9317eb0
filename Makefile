# Two commands: `make serve` and `make test`. Both do all set-up on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
# Empty: torch comes from where pip looks anyway. PyTorch's CPU builds, without CUDA packages:
#   make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0

LOCK := $(if $(shell command -v nvidia-smi),gpu,cpu)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SERVE := $(VENV)/.serve-$(LOCK)
TEST := $(VENV)/.test

.PHONY: serve test lint format lock clean

serve: $(SERVE)
	$(BIN)/rewardd serve --demo $(ARGS)

test: $(TEST)
	$(BIN)/python -m pytest $(ARGS)

lint: $(TEST)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(TEST)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: $(TEST)
	$(PIP) install pip-tools && PYTHON=$(BIN)/python requirements/lock.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The locks are complete, so nothing is resolved (--no-deps) and everything is hashed; torch comes
# first, with what its own build needs.
$(SERVE): requirements/$(LOCK).lock pyproject.toml clients/pyproject.toml | $(BIN)/python
	$(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --no-deps --require-hashes -r requirements/$(LOCK).lock
	$(PIP) install --no-deps --no-build-isolation -e clients -e .
	touch $@

$(TEST): requirements/dev.lock $(SERVE)
	$(PIP) install --no-deps --require-hashes -r requirements/dev.lock
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install hatchling==1.33.0 editables==0.6
