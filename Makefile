# rlfamily: every command a user needs. `make` alone lists them; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCALE ?= tiny
EXECUTOR ?= local
ARGS ?=
# Cells are processes; one thread each is fastest (and gives the same bytes on every machine).
export OMP_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup reproduce plan report test test-gpu check bench notebooks clean

help: ## list the targets
	@echo "make TARGET [TABLE=topr_tab2] [SCALE=tiny|paper] [SEEDS=0,1,2] [ROWS=all] [EXECUTOR=local] [ARGS='key=value ...']"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv and install the pinned packages (done by the others when needed)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is older than 3.11: install Python 3.11+, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) (once, some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	@touch $(READY)

reproduce: $(READY) ## regenerate a paper table or figure: make reproduce TABLE=topr_tab2
	@$(BIN)/python -m rlfamily.reproduce $(TABLE) scale=$(SCALE) executor=$(EXECUTOR) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(ROWS),"rows=$(ROWS)") $(ARGS)

plan: $(READY) ## show a table's cells, what is missing and a cost forecast; starts nothing
	@$(BIN)/python -m rlfamily.reproduce --plan $(TABLE) scale=$(SCALE) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(ROWS),"rows=$(ROWS)") $(ARGS)

report: $(READY) ## rebuild every table, figure and results/report/index.html from what is on disk
	@$(BIN)/python -m eval --all

test: $(READY) ## run all tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-gpu: $(READY) ## run the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu $(ARGS)

check: $(READY) ## ruff, mypy, import contract
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## measure engine and training step; prints ratios
	@$(BIN)/python -m tests.bench $(ARGS)

notebooks: $(READY) ## execute the notebooks on the results of this checkout
	@$(BIN)/python -m pytest --nbmake results/notebooks

clean: ## remove caches and the environment; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
