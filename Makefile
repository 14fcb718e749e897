# make train and make test do all the set-up they need on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help train test lint type unit soak bench tensorboard clean

help:  ## list what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# The stamp is written last, so an interrupted installation is begun again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

train: $(READY)  ## set-up, then the main job on the built-in corpus (about 7 minutes on 2 cores); ARGS="--seed 1" adds flags
	$(BIN)/python -m experiments.train $(ARGS)

test: lint type unit  ## set-up, then lint, types and all tests

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)  ## mypy
	$(BIN)/mypy

# A process per core, of one thread each: threads of several processes wait for each other.
unit: $(READY)  ## the tests; ARGS="-m 'not e2e and not learning'" for the fast ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

soak: $(READY)  ## 20,000 decisions of three agents, with flat memory (minutes; no part of make test)
	$(BIN)/python -m pytest tests/soak.py $(ARGS)

bench: $(READY)  ## the performance table, interleaved medians in one run
	$(BIN)/python -m experiments.bench $(ARGS)

tensorboard: $(READY)  ## look at all runs
	$(BIN)/tensorboard --logdir runs

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
